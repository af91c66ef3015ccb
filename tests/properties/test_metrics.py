"""What holds of metrics whatever the numbers, the batches and the processes."""

import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloo import Case, Found, find, find_together
from sharing import compute_once
from synthetic import GENERATORS, NAMES, batches_of, chosen, inputs
from torchsaliency.metrics import collection, create_metric, functional, metric_entry
from torchsaliency.metrics.sufficiency import pool_cells

SCORES = ("ad", "ai", "ag")
MAPS = ("coherency", "complexity", "adcc")

probabilities = st.floats(0, 1)
pairs = st.lists(st.tuples(probabilities, probabilities), min_size=1, max_size=8)
many = settings(max_examples=50)

FUNCTIONS = {
    "adcc": lambda x: functional.adcc(
        *(function_of(part)(x) for part in ("coherency", "complexity", "ad"))
    ),
    "arcc": lambda x: functional.arcc(
        *(function_of(part)(x) for part in ("coherency", "complexity", "road"))
    ),
    "avg-sensitivity": lambda x: functional.sensitivities(x["maps"], x["noisy_maps"]).mean(1),
    "consistency": lambda x: functional.consistency(
        functional.peak_cells(x["maps"]), x["predicted"]
    ),
    "deletion": lambda x: functional.area_under_curve(x["deletion"], x["fractions"]),
    "emprt": lambda x: functional.complexity_rise(x["maps"], x["random_network_maps"]),
    "f1": lambda x: functional.pixel_scores(x["maps"], x["boxes"]).f1,
    "faithfulness-correlation": lambda x: functional.sensitivity_n(
        x["subset_sums"], x["subset_drops"]
    ),
    "hog": lambda x: functional.hog_similarity(x["maps"], x["random_maps"][:, -1]),
    "insertion": lambda x: functional.area_under_curve(x["insertion"], x["fractions"]),
    "max-sensitivity": lambda x: functional.sensitivities(x["maps"], x["noisy_maps"]).amax(1),
    "miou": lambda x: functional.iou_at(x["maps"], x["masks"]),
    "miou-sweep": lambda x: torch.stack(
        [functional.iou_at(x["maps"], x["masks"], cut / 10) for cut in range(4, 10)], 1
    ).mean(1),
    "mprt": lambda x: functional.mean_rank_similarity(x["maps"], x["random_maps"]),
    "precision": lambda x: functional.pixel_scores(x["maps"], x["boxes"]).precision,
    "random-logit": lambda x: functional.ssim_similarity(x["maps"], x["other_class_maps"]),
    "recall": lambda x: functional.pixel_scores(x["maps"], x["boxes"]).recall,
    "aopc": lambda x: functional.aopc(x["regions"]),
    "selectivity": lambda x: functional.selectivity(x["regions"]),
    "saco": lambda x: functional.saco(x["group_sums"], x["group_drops"]),
    "sm": lambda x: functional.saliency_metric(x["maps"], x["crop"]),
    "smprt": lambda x: functional.mean_rank_similarity(x["smooth_maps"], x["smooth_random_maps"]),
    "spearman": lambda x: functional.rank_similarity(x["maps"], x["random_maps"][:, -1]),
    "spearman-abs": lambda x: functional.rank_similarity(
        x["maps"], x["random_maps"][:, -1], absolute=True
    ),
    "ssim": lambda x: functional.ssim_similarity(x["maps"], x["random_maps"][:, -1]),
    "top-k": lambda x: functional.top_k_intersection(x["maps"], x["masks"]),
    "sufficiency": lambda x: functional.sufficiency(pool_cells(x["maps"]), x["predicted"]),
}
"""What a metric is the mean of, where its function has not its class's name and arguments."""


def function_of(name):
    """Return what a metric is the mean of, as a pure function of all inputs.

    It stands beside the class and has its name: `AverageDrop` is the mean of `average_drop`.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    entry = metric_entry(name)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", entry.factory.__name__).lower()
    function = getattr(sys.modules[entry.factory.__module__], words)
    return lambda x: function(*(x[key] for key in entry.inputs))


def assert_same(found: Found, other: Found) -> None:
    """But for rounding, which may depend on where in a batch an image is."""
    assert found.computed == pytest.approx(other.computed, nan_ok=True)
    for name, kept in other.kept.items():
        assert found.kept[name] == pytest.approx(kept, rel=1e-12, abs=1e-12, nan_ok=True), name
        assert found.summaries[name] == pytest.approx(other.summaries[name]), name


def columns(pairs: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.tensor(pairs, dtype=torch.float64)
    return made[:, 0], made[:, 1]


def computed(name: str, *inputs: torch.Tensor) -> float:
    made = create_metric(name)
    made.update(*inputs)
    return float(made.compute())


@pytest.mark.parametrize("name", SCORES)
@given(pairs=pairs)
@many
def test_scores_stay_within_best_and_worst(name, pairs):
    clean, masked = columns(pairs)
    metric = create_metric(name)
    metric.update(clean, masked)
    ends = sorted((metric_entry(name).best, metric_entry(name).worst))
    assert ends[0] <= metric.per_image.min() <= metric.per_image.max() <= ends[1]
    assert ends[0] <= float(metric.compute()) <= ends[1]


@pytest.mark.parametrize("name", MAPS)
@given(count=st.integers(1, 6), seed=st.integers(0, 9999))
def test_scores_of_maps_stay_within_best_and_worst(name, count, seed):
    metric = collection([name])
    metric.update(**inputs(count, seed, [name]))
    assert metric[name].per_image.min() >= 0
    assert metric[name].per_image.max() <= 100
    assert not metric[name].per_image.isnan().any()


@given(p=probabilities, first=probabilities, second=probabilities)
@many
def test_more_probability_left_is_never_worse(p, first, second):
    less, more = sorted((first, second))
    clean, worse, better = (torch.tensor([value]).double() for value in (p, less, more))
    assert computed("ad", clean, better) <= computed("ad", clean, worse)
    assert computed("ai", clean, better) >= computed("ai", clean, worse)
    assert computed("ag", clean, better) >= computed("ag", clean, worse)


@given(pairs=pairs)
@many
def test_an_image_drops_or_gains_but_not_both(pairs):
    clean, masked = columns(pairs)
    drop = functional.average_drop(clean, masked)
    gain = functional.average_gain(clean, masked)
    assert torch.minimum(drop, gain).count_nonzero() == 0
    assert bool((drop[masked > clean] == 0).all())
    assert bool((gain[masked <= clean] == 0).all())


@given(drop=st.floats(0, 100), more=st.floats(0, 100), seed=st.integers(0, 9999))
@many
def test_adcc_falls_when_any_part_worsens(drop, more, seed):
    coherency, complexity = 100 * torch.rand(2, 1, generator=torch.Generator().manual_seed(seed))
    less, more = (torch.tensor([value]) for value in sorted((drop, more)))
    for better, worse in (
        ((coherency, complexity, less), (coherency, complexity, more)),
        ((coherency, less, complexity), (coherency, more, complexity)),
        ((more, coherency, complexity), (less, coherency, complexity)),
    ):
        assert functional.adcc(*better) >= functional.adcc(*worse) - 1e-9


def test_every_generator_of_inputs_is_needed():
    assert set(inputs(1)) == set(GENERATORS), "no metric takes some of what GENERATORS makes"


@pytest.mark.parametrize("name", NAMES)
@given(count=st.integers(1, 9), seed=st.integers(0, 9999))
def test_the_class_is_the_mean_of_the_function(name, count, seed):
    images = inputs(count, seed, [name])
    made = collection([name])
    made.update(**images)
    expected = function_of(name)(images)
    torch.testing.assert_close(made[name].per_image, expected, rtol=0, atol=0, equal_nan=True)
    assert float(made.compute()[name]) == pytest.approx(float(expected.nanmean()))


@given(count=st.integers(1, 9), size=st.integers(1, 4), seed=st.integers(0, 9999))
def test_batches_make_no_difference(count, size, seed):
    images = inputs(count, seed)
    sizes = [min(size, count - start) for start in range(0, count, size)]
    at_once = find(NAMES, [images])
    assert_same(find(NAMES, batches_of(images, sizes)), at_once)
    assert_same(find(NAMES, batches_of(images, [1] * count)), at_once)


@given(count=st.integers(1, 9), seed=st.integers(0, 9999))
def test_the_order_of_images_makes_no_difference(count, seed):
    images = inputs(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    found, mixed = (find(TOGETHER, [one]) for one in (images, chosen(images, order)))
    assert mixed.computed == pytest.approx(found.computed, nan_ok=True)
    for name, kept in found.kept.items():
        assert mixed.kept[name] == pytest.approx([kept[place] for place in order], nan_ok=True)


@given(count=st.integers(1, 5), seed=st.integers(0, 9999), times=st.integers(2, 4))
def test_images_given_again_leave_the_score(count, seed, times):
    images = inputs(count, seed)
    once, often = find(NAMES, [images]), find(NAMES, [images] * times)
    assert often.computed == pytest.approx(once.computed, nan_ok=True)
    for name, summary in once.summaries.items():
        assert often.summaries[name]["count"] == times * summary["count"]
        assert often.summaries[name]["undefined"] == times * summary["undefined"]


TOGETHER = [("adcc", {"mean": "parts"}) if name == "adcc" else name for name in NAMES]
"""Every metric; ADCC in the form that is no mean over images."""

SHARES = {
    "uneven": ([3, 2], [1]),
    "second-empty": ([2, 4], []),
    "first-empty": ([], [4, 1]),
    "one-image": ([1], []),
    "none": ([], []),
}
"""The sizes of each process' batches."""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Cases, and what both processes of a pair found; the pair is started once for all tests."""
    cases = {}
    for seed, (key, (first, second)) in enumerate(SHARES.items()):
        batches = batches_of(inputs(sum(first + second), seed), [*first, *second])
        cases[key] = Case(TOGETHER, (batches[: len(first)], batches[len(first) :]))
    found = compute_once(
        tmp_path_factory.getbasetemp(),
        "together",
        lambda: find_together(list(cases.values()), tmp_path_factory.mktemp("gloo")),
    )
    return {key: (case, both) for (key, case), both in zip(cases.items(), found, strict=True)}


@pytest.mark.parametrize("key", SHARES)
def test_two_processes_find_what_one_finds(together, key):
    case, both = together[key]
    alone = find(case.names, [batch for share in case.shares for batch in share])
    for found, share in zip(both, case.shares, strict=True):
        assert set(found.computed) == set(alone.computed) == set(NAMES)
        assert found.computed == pytest.approx(alone.computed, nan_ok=True)
        for name, told in alone.summaries.items():
            assert found.summaries[name] == pytest.approx(told), name
        # each keeps its own images only, and so may go on
        own = find(case.names, share).kept
        for name, kept in own.items():
            assert found.kept[name] == pytest.approx(kept, rel=0, abs=0, nan_ok=True), name
    assert alone.summaries["ad"]["count"] == sum(map(sum, SHARES[key]))

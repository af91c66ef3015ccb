"""What holds of metrics whatever the numbers, the batches and the processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloo import Case, batches_of, find, find_together
from torchsaliency.metrics import collection, create_metric, functional, metric_entry

SCORES = ("ad", "ai", "ag")
ALL = (*SCORES, "coherency", "complexity", "adcc")

probabilities = st.floats(0, 1)
pairs = st.lists(st.tuples(probabilities, probabilities), min_size=1, max_size=8)
many = settings(max_examples=50)

FUNCTIONS = {
    "ad": lambda images: functional.average_drop(images["clean"], images["masked"]),
    "ai": lambda images: functional.average_increase(images["clean"], images["masked"]),
    "ag": lambda images: functional.average_gain(images["clean"], images["masked"]),
    "coherency": lambda images: functional.coherency(images["maps"], images["masked_maps"]),
    "complexity": lambda images: functional.complexity(images["maps"]),
    "adcc": lambda images: functional.adcc(
        *(FUNCTIONS[part](images) for part in ("coherency", "complexity", "ad"))
    ),
}


def images(count: int, seed: int) -> dict[str, torch.Tensor]:
    """Random maps and probabilities; one map in four is constant."""
    draw = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, count, 5, 6, generator=draw)
    maps[0, ::4] = 0.25
    clean, masked = torch.rand(2, count, generator=draw)
    return {"maps": maps[0], "masked_maps": maps[1], "clean": clean, "masked": masked}


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


@pytest.mark.parametrize("name", ["coherency", "complexity", "adcc"])
@given(count=st.integers(1, 6), seed=st.integers(0, 9999))
def test_scores_of_maps_stay_within_best_and_worst(name, count, seed):
    metric = collection([name])
    metric.update(**images(count, seed))
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


@pytest.mark.parametrize("name", ALL)
@given(count=st.integers(1, 9), seed=st.integers(0, 9999))
def test_the_class_is_the_mean_of_the_function(name, count, seed):
    given_images = images(count, seed)
    made = collection([name])
    made.update(**given_images)
    expected = FUNCTIONS[name](given_images)
    assert torch.equal(made[name].per_image, expected)
    assert float(made.compute()[name]) == pytest.approx(float(expected.mean()))


@given(count=st.integers(1, 9), size=st.integers(1, 4), seed=st.integers(0, 9999))
def test_batches_make_no_difference(count, size, seed):
    given_images = images(count, seed)
    sizes = [min(size, count - start) for start in range(0, count, size)]
    at_once = find(ALL, [given_images])
    assert find(ALL, batches_of(given_images, sizes)) == at_once
    assert find(ALL, batches_of(given_images, [1] * count)) == at_once


@given(count=st.integers(1, 9), seed=st.integers(0, 9999))
def test_the_order_of_images_makes_no_difference(count, seed):
    given_images = images(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    names = [*ALL[:-1], ("adcc", {"mean": "parts"})]
    found = find(names, [given_images])
    mixed = find(names, [{key: value[order] for key, value in given_images.items()}])
    assert mixed.computed == pytest.approx(found.computed)
    for name, kept in found.kept.items():
        assert mixed.kept[name] == pytest.approx([kept[place] for place in order])


@given(count=st.integers(1, 5), seed=st.integers(0, 9999), times=st.integers(2, 4))
def test_images_given_again_leave_the_score(count, seed, times):
    given_images = images(count, seed)
    once, often = find(ALL, [given_images]), find(ALL, [given_images] * times)
    assert often.computed == pytest.approx(once.computed)
    assert often.summaries["ad"]["count"] == times * count


TOGETHER = ("ad", "ai", "ag", ("adcc", {"mean": "parts"}))
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
    """Cases, and what both processes found; two processes are started once for all."""
    cases = {}
    for seed, (key, (first, second)) in enumerate(SHARES.items()):
        batches = batches_of(images(sum(first + second), seed), [*first, *second])
        cases[key] = Case(TOGETHER, (batches[: len(first)], batches[len(first) :]))
    found = find_together(list(cases.values()), tmp_path_factory.mktemp("gloo"))
    return {key: (case, both) for (key, case), both in zip(cases.items(), found, strict=True)}


@pytest.mark.parametrize("key", SHARES)
def test_two_processes_find_what_one_finds(together, key):
    case, both = together[key]
    alone = find(case.names, [batch for share in case.shares for batch in share])
    for found, share in zip(both, case.shares, strict=True):
        assert found.computed == pytest.approx(alone.computed, nan_ok=True)
        for name, told in alone.summaries.items():
            assert found.summaries[name] == pytest.approx(told)
        # each keeps its own images only, and so may go on
        assert found.kept == find(case.names, share).kept
    assert alone.summaries["ad"]["count"] == sum(map(sum, SHARES[key]))

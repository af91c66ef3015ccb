"""AD, AI, AG and ADCC against numbers worked out by hand, and at the ends of their scales."""

import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchsaliency import InputError
from torchsaliency.metrics import create_metric, functional, metric_entry

CLEAN = torch.tensor([0.8, 0.5, 0.2, 0.4], dtype=torch.float64)
MASKED = torch.tensor([0.6, 0.5, 0.5, 0.1], dtype=torch.float64)

CORNER = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
ROW = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
"""Pearson of CORNER and ROW is 1/√3: (3, -1, -1, -1)/4 · (1, 1, -1, -1)/2 = 1/2, norms √3/2, 1."""

half = torch.tensor([0.5])
probabilities = st.floats(0, 1)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def score(name: str, *inputs: torch.Tensor, **options: object) -> float:
    metric = create_metric(name, options)
    metric.update(*inputs)
    return float(metric.compute())


@pytest.fixture
def as_users_run_it():
    """Without the tests' type checker, which would answer a wrong shape before the library does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.parametrize(
    ("name", "images", "mean"),
    [
        ("ad", [25, 0, 0, 75], 25),
        ("ai", [0, 0, 100, 0], 25),
        ("ag", [0, 0, 37.5, 0], 9.375),
    ],
)
def test_by_hand(name, images, mean):
    metric = create_metric(name)
    metric.update(CLEAN, MASKED)
    assert metric.per_image.tolist() == pytest.approx(images)
    assert float(metric.compute()) == pytest.approx(mean)


def test_means_of_ratios_not_ratios_of_means():
    drop, gain = (CLEAN - MASKED).clamp_min(0), (MASKED - CLEAN).clamp_min(0)
    of_means = 100 * drop.mean() / CLEAN.mean(), 100 * gain.mean() / (1 - CLEAN).mean()
    assert [float(value) for value in of_means] == pytest.approx([500 / 19, 100 / 7])
    assert score("ad", CLEAN, MASKED) == pytest.approx(25)
    assert score("ag", CLEAN, MASKED) == pytest.approx(9.375)


def test_a_mask_of_ones_changes_nothing():
    p = torch.tensor([0.0, 1e-30, 0.3, 0.99, 1.0])
    for name in ("ad", "ai", "ag"):
        assert score(name, p, p) == 0


@pytest.mark.parametrize(
    ("p", "o", "ad", "ai", "ag"),
    [
        (0.0, 0.0, 0, 0, 0),
        (0.0, 0.25, 0, 100, 25),
        (0.0, 1.0, 0, 100, 100),
        (1.0, 1.0, 0, 0, 0),
        (1.0, 0.25, 75, 0, 0),
        (1.0, 0.0, 100, 0, 0),
        (1e-45, 0.0, 100, 0, 0),  # the smallest float32
        (1e-45, 1.0, 0, 100, 100),
    ],
)
def test_certainties(p, o, ad, ai, ag):
    pair = torch.tensor([p]), torch.tensor([o])
    assert score("ad", *pair) == pytest.approx(ad)
    assert score("ai", *pair) == ai
    assert score("ag", *pair) == pytest.approx(ag)


@pytest.mark.parametrize("lead", [15, 20, 40])
def test_gain_is_exact_where_float32_rounds_the_probability_to_one(lead):
    """The class leads by `lead`, two others share the rest, and masking adds 2 to the lead."""
    clean, masked = (torch.tensor([[lead + more, 0.0, 0.0]]).softmax(1) for more in (0, 2))
    if lead >= 17:
        assert clean[0, 0] == 1
        assert score("ag", clean[:, 0], masked[:, 0]) == 0  # finite, but the gain is lost
    found = score("ag", clean[:, 0], masked[:, 0], clean[:, 1:].sum(1), masked[:, 1:].sum(1))
    p_rest, o_rest = (2 * math.exp(-lead - m) / (1 + 2 * math.exp(-lead - m)) for m in (0, 2))
    assert found == pytest.approx(100 * (1 - o_rest / p_rest), rel=1e-5)
    assert found == pytest.approx(100 * (1 - math.exp(-2)), rel=1e-5)


def test_gain_is_zero_and_finite_where_nothing_can_be_gained():
    assert score("ag", one(1), one(1), one(0), one(0)) == 0
    assert score("ag", one(1), one(0.4), one(0), one(0.6)) == 0


@given(p=probabilities, o=probabilities)
@settings(max_examples=100)
def test_drop_and_gain_never_both(p, o):
    drop, gain = score("ad", one(p), one(o)), score("ag", one(p), one(o))
    assert min(drop, gain) == 0
    assert max(drop, gain) > 0 or abs(p - o) < 1e-12
    with_rests = score("ag", one(p), one(o), one(1 - p), one(1 - o))
    assert with_rests == pytest.approx(gain, abs=1e-9)


def test_no_increase_of_a_map_that_hides_nothing_in_any_chunk():
    """The odds of the same image, rounded otherwise in each chunk, rise by rounding alone."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4096, 512), torch.nn.ReLU(), torch.nn.Linear(512, 9))
    x = torch.rand(24, 4096)
    with torch.no_grad():
        clean = net(x).softmax(1)
        rounded = False
        for chunk in (1, 2, 3, 5, 8, 24):
            masked = torch.cat([net(part).softmax(1) for part in x.split(chunk)])
            rounded |= bool((masked > clean).any())
            assert not functional.average_increase(clean[:, 0], masked[:, 0]).any()
    assert rounded  # there was something to tolerate


@pytest.mark.parametrize("p", [1e-30, 1e-6, 0.5, 1 - 1e-12])
def test_increase_by_growth_of_the_odds(p):
    for growth, counts in ((0.9, 0), (1, 0), (1 + 9e-5, 0), (1 + 2e-4, 100), (3, 100)):
        odds = growth * p / (1 - p)
        o, o_rest = odds / (1 + odds), 1 / (1 + odds)
        assert score("ai", one(p), one(o), one(1 - p), one(o_rest)) == counts
    assert score("ai", one(0), one(p)) == 100


def test_gain_from_rests_equals_gain_from_probabilities():
    rests = 1 - CLEAN, 1 - MASKED
    assert score("ag", CLEAN, MASKED, *rests) == pytest.approx(9.375)


def test_coherency():
    root = 1 / math.sqrt(3)
    assert score("coherency", CORNER, CORNER) == pytest.approx(100)
    assert score("coherency", CORNER, 1 - CORNER) == pytest.approx(0, abs=1e-12)
    assert score("coherency", CORNER, ROW) == pytest.approx(50 * (1 + root))
    assert score("coherency", CORNER, 0.3 + 0.2 * ROW) == pytest.approx(50 * (1 + root), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_constant_map_is_not_coherent_even_with_itself(value):
    flat = torch.full((1, 2, 2), value)
    assert functional.coherency(flat, flat).tolist() == [0]
    assert functional.coherency(flat, CORNER).tolist() == [0]
    assert functional.coherency(CORNER, flat).tolist() == [0]


def test_complexity():
    maps = torch.cat([CORNER, ROW, torch.full((1, 2, 2), 0.125)])
    assert functional.complexity(maps).tolist() == [25, 50, 12.5]
    assert score("complexity", maps) == pytest.approx(87.5 / 3)


def test_adcc_by_hand():
    """1/Coh = 2 / (1 + 1/√3) = 3 - √3, 1 - Com = 3/4, 1 - AD = 0.6/0.8 = 3/4."""
    expected = 100 * 3 / (3 - math.sqrt(3) + 4 / 3 + 4 / 3)
    assert score("adcc", CORNER, ROW, CLEAN[:1], MASKED[:1]) == pytest.approx(expected)


def test_both_means_of_adcc_by_hand():
    """The second image: Coh = 1, 1 - Com = 3/4, AD = 0, hence 3 / (1 + 4/3 + 1) = 0.9."""
    inputs = CORNER.expand(2, 2, 2), torch.cat([ROW, CORNER]), CLEAN[:2], MASKED[:2]
    first, root = 3 / (3 - math.sqrt(3) + 8 / 3), 1 / math.sqrt(3)
    assert score("adcc", *inputs) == pytest.approx(50 * (first + 0.9))
    of_parts = 3 / (4 / (3 + root) + 4 / 3 + 8 / 7)
    assert score("adcc", *inputs, mean="parts") == pytest.approx(100 * of_parts)
    parts = create_metric("adcc", {"mean": "parts"})
    parts.update(*inputs)
    assert parts.per_image.tolist() == pytest.approx([100 * first, 90])
    told = {key: value.tolist() for key, value in parts.parts.items()}
    assert told["coherency"] == pytest.approx([50 * (1 + root), 100])
    assert told["complexity"] == pytest.approx([25, 25])
    assert told["drop"] == pytest.approx([25, 0])


def test_a_single_image_has_one_adcc_whatever_the_mean():
    inputs = CORNER, ROW, CLEAN[:1], MASKED[:1]
    assert score("adcc", *inputs) == pytest.approx(score("adcc", *inputs, mean="parts"))


@pytest.mark.parametrize(
    ("coherency", "complexity", "drop", "expected"),
    [
        (100, 0, 0, 100),
        (0, 0, 0, 0),
        (100, 100, 0, 0),
        (100, 0, 100, 0),
        (0, 100, 100, 0),
        (50, 50, 50, 50),
        (100, 50, 0, 75),
        (1e-9, 0, 0, 3e-9),  # no step at zero
    ],
)
def test_adcc_of_its_parts(coherency, complexity, drop, expected):
    found = functional.adcc(*(one(value) for value in (coherency, complexity, drop)))
    assert found.tolist() == pytest.approx([expected])


def test_adcc_lies_between_its_smallest_part_and_their_mean():
    parts = 100 * torch.rand(3, 50, generator=torch.Generator().manual_seed(0)).double()
    found = functional.adcc(parts[0], 100 - parts[1], 100 - parts[2])
    assert bool((found >= parts.amin(0) - 1e-9).all())
    assert bool((found <= parts.mean(0) + 1e-9).all())


@pytest.mark.parametrize(
    ("name", "best", "worst"),
    [
        ("ad", (half, half), (half, 0 * half)),
        ("ai", (half, half + 0.01), (half, half)),
        ("ag", (half, 2 * half), (half, half)),
        ("coherency", (CORNER, CORNER), (CORNER, 1 - CORNER)),
        ("complexity", (0 * CORNER,), (torch.ones(1, 2, 2),)),
    ],
)
def test_the_ends_of_the_scale_are_reached(name, best, worst):
    entry = metric_entry(name)
    assert score(name, *best) == pytest.approx(entry.best, abs=1e-9)
    assert score(name, *worst) == pytest.approx(entry.worst, abs=1e-9)


def test_adcc_comes_near_its_best_and_reaches_its_worst():
    """A map needs a pixel to be coherent, and so 1 - Com is 1 - 1/HW at most."""
    point = torch.zeros(1, 100, 100)
    point[0, 3, 4] = 1
    best = score("adcc", point, point, half, half)
    assert best == pytest.approx(100 * 3 / (2 + 1 / (1 - 1e-4)))
    assert 99.99 < best < metric_entry("adcc").best
    for inputs in (
        (point, point, half, 0 * half),
        (0 * point, point, half, half),
        (0 * point + 1, point, half, half),
    ):
        assert score("adcc", *inputs) == metric_entry("adcc").worst == 0


def test_fake_cam_has_no_drop_and_yet_a_bad_adcc():
    """1 everywhere but one pixel: perfectly coherent, and it hides nothing."""
    fake = torch.ones(1, 10, 10)
    fake[0, 0, 0] = 0
    assert score("ad", half, half) == 0
    assert score("adcc", fake, fake, half, half) == pytest.approx(100 * 3 / (2 + 100), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_is_taken_and_float64_is_kept(dtype):
    clean, masked = torch.tensor([0.5, 0.25], dtype=dtype), torch.tensor([0.25, 0.5], dtype=dtype)
    maps = torch.cat([CORNER, ROW]).to(dtype)
    metric = create_metric("adcc")
    metric.update(maps, maps, clean, masked)
    assert metric.per_image.dtype == torch.float64
    assert metric.per_image.tolist() == pytest.approx([100 * 3 / (1 + 4 / 3 + 2), 75])
    assert score("ad", clean, masked) == 25


def test_half_precision_may_round_a_little_above_one():
    assert score("complexity", torch.full((1, 2, 2), 1.00005)) == 100
    assert score("complexity", torch.full((1, 2, 2), -0.00005)) == 0
    assert score("ad", torch.tensor([1.00005]), half) == 50


def test_no_graph_is_kept():
    clean, maps = half.clone().requires_grad_(), CORNER.clone().requires_grad_()
    for name, inputs in {
        "ad": (clean, half),
        "ag": (clean, half),
        "adcc": (maps, maps, clean, half),
        "complexity": (maps,),
    }.items():
        metric = create_metric(name)
        metric.update(*inputs)
        assert not metric.per_image.requires_grad


NAN, INF = float("nan"), float("inf")
two = torch.tensor([0.5, 0.5])
maps = CORNER.expand(2, 2, 2)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("ad", (one(NAN), half), "clean holds NaN"),
        ("ai", (half, one(INF)), "masked holds NaN"),
        ("ag", (half, one(-INF)), "masked holds NaN"),
        ("ad", (one(1.01), half), r"clean reaches from 1\.01 to 1\.01"),
        ("ad", (half, one(-0.01)), "masked reaches from -0.01"),
        ("ag", (torch.tensor([3.0, -1.0]), two), "apply softmax"),
        ("ad", (two, half), r"masked must be \(2,\), and \(1,\)"),
        ("ai", (half, two), r"masked must be \(1,\), and \(2,\)"),
        ("ad", (two[None], two[None]), r"clean must be \(N,\), and \(1, 2\)"),
        ("ag", (half, half, half), "together"),
        ("ag", (half, half, None, half), "together"),
        ("ag", (half, half, one(NAN), half), "clean_rest holds NaN"),
        ("ag", (half, half, half, one(2)), "masked_rest reaches"),
        ("ag", (half, half, half, two), r"masked_rest must be \(1,\)"),
        ("ag", (half, half, two, half), r"clean_rest must be \(1,\)"),
        ("complexity", (NAN * CORNER,), "NaN"),
        ("complexity", (2 * CORNER,), r"from 0 to 2; .*minmax"),
        ("complexity", (-CORNER,), "from -1 to"),
        ("complexity", (CORNER.long(),), r"floats in \[0, 1\], and torch.int64"),
        ("complexity", (CORNER.bool(),), "torch.bool"),
        ("complexity", (CORNER[0][0],), r"\(N, H, W\), .* and \(2,\)"),
        ("complexity", (CORNER[None, None],), r"\(N, H, W\), .* and \(1, 1, 1, 2, 2\)"),
        ("complexity", (torch.zeros(1, 0, 2),), r"and \(1, 0, 2\)"),
        ("coherency", (CORNER, CORNER[:, :1]), r"\(1, 2, 2\) and of \(1, 1, 2\)"),
        ("coherency", (CORNER, maps), "cannot be compared"),
        ("coherency", (CORNER, INF * ROW), "NaN or infinite"),
        ("coherency", (CORNER, 2 * ROW), "from 0 to 2"),
        ("coherency", (CORNER, ROW.long()), "torch.int64"),
        ("adcc", (CORNER, 2 * CORNER, half, half), "from 0 to 2"),
        ("adcc", (CORNER, CORNER, half, one(7)), "masked reaches"),
        ("adcc", (maps, maps, half, half), r"clean must be \(2,\), and \(1,\)"),
        ("adcc", (CORNER, CORNER, two, two), r"clean must be \(1,\), and \(2,\)"),
    ],
)
def test_a_number_is_never_made_of_wrong_inputs(name, inputs, message):
    metric = create_metric(name)
    with pytest.raises(InputError, match=message):
        metric.update(*inputs)
    assert len(metric.per_image) == 0


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((one(NAN), half, half), "coherencies holds NaN"),
        ((half, two, half), r"complexities must be \(1,\)"),
        ((half, half, one(INF)), "drops holds NaN"),
    ],
)
def test_adcc_of_wrong_parts(parts, message):
    with pytest.raises(InputError, match=message):
        functional.adcc(*parts)


def test_a_mean_that_is_none():
    with pytest.raises(ValueError, match=r"adcc\.mean='median'"):
        create_metric("adcc", {"mean": "median"})


def test_no_image_is_no_number():
    empty = torch.empty(0)
    assert functional.average_drop(empty, empty).shape == (0,)
    assert functional.average_gain(empty, empty, empty, empty).shape == (0,)
    none = torch.empty(0, 4, 4)
    assert functional.coherency(none, none).shape == (0,)
    assert functional.complexity(none).shape == (0,)

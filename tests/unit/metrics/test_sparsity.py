"""Gini index, entropy and effective area: one pixel, k equal pixels, flat maps, maps of zeros."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import create_metric, metric_entry, metrics
from torchsaliency.metrics.sparsity import effective_area, entropy, sparseness

FUNCTIONS = {"sparseness": sparseness, "entropy": entropy, "effective-area": effective_area}
EACH = pytest.mark.parametrize("name", FUNCTIONS)

H, W = 5, 8
PIXELS = H * W

maps_of = arrays.arrays(np.float64, (3, H, W), elements=st.floats(0, 1, allow_subnormal=False)).map(
    torch.from_numpy
)


def equal(count, value=1.0, seed=0):
    """A map of which `count` pixels have one value and all others 0."""
    flat = torch.zeros(PIXELS, dtype=torch.float64)
    flat[torch.randperm(PIXELS, generator=torch.Generator().manual_seed(seed))[:count]] = value
    return flat.view(1, H, W)


@pytest.mark.parametrize("value", [1.0, 0.25, 1e-6])
@pytest.mark.parametrize("count", [1, 2, 7, PIXELS])
def test_k_equal_pixels(count, value):
    maps = equal(count, value)
    assert sparseness(maps).item() == pytest.approx(1 - count / PIXELS, abs=1e-12)
    assert entropy(maps).item() == pytest.approx(math.log(count), abs=1e-12)
    assert effective_area(maps).item() == pytest.approx(100 * count / PIXELS)


def test_by_hand():
    maps = torch.tensor([[[0.0, 0.25], [0.75, 1.0]]])
    # rising 0, .25, .75, 1 with weights -3, -1, 1, 3 over 4 · 2
    assert sparseness(maps).item() == pytest.approx((-0.25 + 0.75 + 3) / 8)
    shares = [0.125, 0.375, 0.5]
    assert entropy(maps).item() == pytest.approx(-sum(one * math.log(one) for one in shares))
    assert effective_area(maps).item() == pytest.approx(100 * 4 / (4 * (0.0625 + 0.5625 + 1)))


@given(maps_of)
def test_gini_is_half_the_relative_mean_difference(maps):
    flat = maps.flatten(1)
    total = flat.sum(1)
    gaps = (flat[:, :, None] - flat[:, None]).abs().sum((1, 2))
    found = sparseness(maps)
    some = total > 1e-9
    assert torch.allclose(found[some], (gaps / (2 * PIXELS * total))[some], atol=1e-9)


@given(maps_of)
def test_bounds(maps):
    some = maps.flatten(1).amax(1) > 1e-6
    gini, spread, area = (function(maps)[some] for function in FUNCTIONS.values())
    assert ((gini >= -1e-12) & (gini <= 1 - 1 / PIXELS + 1e-12)).all()
    assert ((spread >= -1e-12) & (spread <= math.log(PIXELS) + 1e-12)).all()
    assert ((area >= 100 / PIXELS - 1e-9) & (area <= 100 + 1e-9)).all()
    # Rényi entropies fall with the order: the effective number of order 2 is the smaller one
    assert (area * PIXELS / 100 <= spread.exp() * (1 + 1e-9)).all()


@EACH
@given(maps=maps_of, factor=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_neither_scale_nor_place_matters(name, maps, factor, seed):
    own = 0.5 * maps + 0.01
    order = torch.randperm(PIXELS, generator=torch.Generator().manual_seed(seed))
    moved = own.flatten(1)[:, order].view_as(own)
    function = FUNCTIONS[name]
    assert torch.allclose(function(own), function(factor * own))
    assert torch.allclose(function(own), function(moved))


@EACH
def test_sharper_maps_are_better(name):
    maps = torch.rand(4, H, W, generator=torch.Generator().manual_seed(0))
    sign = {"higher": 1, "lower": -1}[metric_entry(name).direction]
    found = [FUNCTIONS[name](maps**power) * sign for power in (0.5, 1, 2, 5)]
    assert all((one < other).all() for one, other in itertools.pairwise(found))


@EACH
def test_best_and_worst_by_construction(name):
    """The bounds are met, or reached as the image grows."""
    entry = metric_entry(name)
    sharp, flat = create_metric(name), create_metric(name)
    point = torch.zeros(2, 100, 100)
    point[:, 3, 4] = 1
    sharp.update(point)
    flat.update(torch.full((2, 100, 100), 0.4))
    nearly = {"sparseness": 1e-4, "effective-area": 1e-2}.get(name, 0)
    assert sharp.compute().item() == pytest.approx(entry.best, abs=nearly + 1e-12)
    expected = math.log(10_000) if entry.worst is None else entry.worst
    assert flat.compute().item() == pytest.approx(expected)


@EACH
def test_a_map_of_zeros_is_undefined_and_not_averaged(name):
    made = create_metric(name)
    made.update(torch.cat([equal(4), equal(0), equal(10)]))
    assert made.per_image.isnan().tolist() == [False, True, False]
    both = [FUNCTIONS[name](equal(count)).item() for count in (4, 10)]
    assert made.compute().item() == pytest.approx(np.mean(both))
    summary = made.summary()
    assert (summary.count, summary.undefined) == (2, 1)
    made.reset()
    made.update(equal(0))
    with pytest.warns(UserWarning, match="none defines it"):
        assert made.compute().isnan()


@EACH
def test_batches_add_up(name):
    maps = torch.rand(5, H, W, generator=torch.Generator().manual_seed(1))
    whole, parts = create_metric(name), create_metric(name)
    whole.update(maps)
    for part in maps.split(2):
        parts.update(part)
    assert torch.equal(whole.per_image, parts.per_image)
    assert torch.equal(whole.per_image, FUNCTIONS[name](maps))


@EACH
def test_no_images_are_no_error(name):
    made = create_metric(name)
    made.update(torch.zeros(0, H, W))
    assert made.per_image.shape == (0,)


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_all_float_types_are_accepted(name, dtype):
    found = FUNCTIONS[name](equal(7, 0.5).to(dtype))
    assert found.dtype == torch.float64
    assert torch.equal(found, FUNCTIONS[name](equal(7, 0.5)))


@EACH
@pytest.mark.parametrize("factor", [2.0, -1.0, math.nan])
def test_maps_that_are_none_are_told(name, factor):
    with pytest.raises(InputError, match="maps"):
        create_metric(name).update(equal(3) * factor)


def test_the_registry_knows():
    group = [one for one, entry in metrics().items() if entry.group == "complexity"]
    assert {*FUNCTIONS} <= {*group}
    for name in FUNCTIONS:
        entry = metric_entry(name)
        assert entry.requires == ("maps",)
        sections = ("Formula", "Rewards", "Misleads", "Undefined", "Source")
        assert all(entry.section(key) for key in sections)

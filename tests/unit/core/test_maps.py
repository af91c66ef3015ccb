"""Resizing and normalisations, and their gradients at the edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from torchsaliency import InputError
from torchsaliency.core.maps import is_constant, minmax, normalise, require_maps, upsample


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_minmax_touches_both_ends_and_forgets_scale_and_shift(seed, scale, shift):
    maps = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)).double()
    made = minmax(maps)
    assert made.amin((1, 2)).tolist() == [0, 0, 0]
    assert made.amax((1, 2)).tolist() == [1, 1, 1]
    torch.testing.assert_close(minmax(maps * scale + shift), made)


@pytest.mark.parametrize("kind", ["range", "max", "sigmoid"])
@pytest.mark.parametrize("value", [0.0, -2.0, 3.0, 1e30, -1e30, 1e-30])
def test_constant_maps_have_finite_values_and_gradients(kind, value):
    maps = torch.full((2, 3, 3), value, requires_grad=True)
    made = normalise(maps, kind)
    made.sum().backward()
    assert made.isfinite().all()
    assert maps.grad.isfinite().all()
    assert made.min() >= 0
    assert made.max() <= 1
    if kind == "range":
        assert made.count_nonzero() == 0


@pytest.mark.parametrize("kind", ["range", "max", "sigmoid"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_spoil_their_own_map_only(kind, value):
    maps = torch.rand(2, 3, 3)
    clean = normalise(maps, kind)[1]
    maps[0, 1, 1] = value
    made = normalise(maps, kind)
    assert made.isfinite().all()
    assert torch.equal(made[1], clean)


def test_rounding_is_not_stretched():
    """A constant map that was summed or resized is constant still."""
    noise = 0.1 * (1 + 1e-7 * torch.randn(1, 7, 7))
    assert minmax(noise).count_nonzero() == 0
    assert is_constant(noise).all()
    for value in (0.1, 0.3, 1 / 3, 7.7):
        assert minmax(upsample(torch.full((1, 7, 7), value), (224, 224))).count_nonzero() == 0
    assert minmax(0.1 + 1e-4 * torch.rand(1, 7, 7)).max() == 1
    assert minmax(1e-30 * torch.rand(1, 7, 7)).max() == 1


def test_max():
    made = normalise(torch.tensor([[[-1.0, 2.0, 4.0]], [[-3.0, -2.0, -1.0]]]), "max")
    assert made.tolist() == [[[0, 0.5, 1]], [[0, 0, 0]]]


def test_sigmoid_of_a_non_negative_map_is_at_least_a_half():
    made = normalise(torch.rand(2, 5, 5) * 8, "sigmoid")
    assert made.min() >= 0.5
    assert made.max() < 1
    half = torch.tensor([[[0.0, 1.0, -1.0]]])
    torch.testing.assert_close(normalise(half, "sigmoid"), 1 / (1 + torch.exp(-half)))


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("given", [(3, 4), (1, 1), (64, 5), (65, 5)])
@pytest.mark.parametrize("wanted", [(9, 7), (2, 80)])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_upsampling_is_torchs_bilinear(align, given, wanted, dtype, off):
    maps = torch.rand(2, *given, dtype=dtype, requires_grad=True)
    expected = F.interpolate(maps[:, None], wanted, mode="bilinear", align_corners=align)[:, 0]
    found = upsample(maps, wanted, align_corners=align)
    torch.testing.assert_close(found, expected, atol=off, rtol=0)
    weights = torch.rand_like(expected)
    own, theirs = (torch.autograd.grad(one, maps, weights)[0] for one in (found, expected))
    torch.testing.assert_close(own, theirs, atol=200 * off, rtol=0)  # sums over 80 pixels


def test_upsampling_to_the_same_size_changes_nothing():
    maps = torch.rand(2, 3, 4)
    assert upsample(maps, (3, 4)) is maps


def test_upsampling_rounds_to_no_fewer_digits_under_autocast():
    maps = torch.rand(2, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = upsample(maps, (11, 13))
    torch.testing.assert_close(found, upsample(maps, (11, 13)), atol=1e-6, rtol=0)


def test_upsampling_first_in_inference_mode_spoils_no_later_graph():
    with torch.inference_mode():
        upsample(torch.rand(1, 6, 5), (17, 19))
    maps = torch.rand(1, 6, 5, requires_grad=True)
    upsample(maps, (17, 19)).sum().backward()
    assert maps.grad is not None


def test_a_map_that_is_not_finite_spoils_no_other():
    maps = torch.rand(3, 3, 4)
    good = upsample(maps, (9, 7))
    maps[1, 0, 0] = torch.nan
    found = upsample(maps, (9, 7))
    assert found[1].isnan().any()
    assert torch.equal(found[::2], good[::2])


def test_constancy():
    maps = torch.rand(6, 4, 4)
    maps[1] = 7
    maps[5] = 0
    assert is_constant(maps).nonzero().flatten().tolist() == [1, 5]
    assert is_constant(maps[..., None]).nonzero().flatten().tolist() == [1, 5], "volumes, too"
    assert not is_constant(torch.full((1, 2, 2), torch.nan)).any()


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (torch.zeros(2, 4, 4, dtype=torch.int64), "floats in"),
        (torch.zeros(4), "Maps must be"),
        (torch.full((1, 2, 2), 1.1), "1.1"),
        (torch.full((1, 2, 2), -0.1), "-0.1"),
        (torch.full((1, 2, 2), torch.nan), "nan|finite"),
    ],
)
def test_what_is_no_map_is_refused(maps, said):
    with pytest.raises(InputError, match=said):
        require_maps(maps)


def test_rounding_is_cut_off_maps():
    maps = torch.tensor([[[1 + 1e-7, -1e-8, 0.5]]])
    assert require_maps(maps).tolist() == [[[1, 0, 0.5]]]
    assert require_maps(maps.half()).dtype == torch.float32

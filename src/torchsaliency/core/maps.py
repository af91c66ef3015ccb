"""From a raw map (N, *grid) to a map (N, *size) in [0, 1]: pure functions all methods share."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.space import LINEAR, MOST_SIDES, Size, add_sides, multiply_sides
from torchsaliency.errors import InputError, OptionError

Normalisation = Literal["range", "max", "sigmoid"]

_SMALL = 64
"""Up to so many rows or columns, resizing by two products is faster than by looking up pixels."""

ROUNDING = 1e-4
"""How far above 1 or below 0 half precision may round a map."""


def upcast(tensor: Tensor) -> Tensor:
    """Return half precision as float32, in which sums are formed; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def to_float64(tensor: Tensor) -> Tensor:
    """Return the numbers as float64, on the processor where the device knows no such."""
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64; Apple's graphics processors do not."""
    return device.type != "mps"


def upsample(
    maps: Float[Tensor, " n *grid"], size: Size, *, align_corners: bool = False
) -> Float[Tensor, " n *size"]:
    """Resize maps to `size`: bilinearly to (H, W), trilinearly to (D, H, W), linearly to (T,)."""
    if maps.shape[1:] == size:
        return maps
    if _multiplies(maps):
        pairs = zip(maps.shape[1:], size, strict=True)
        return multiply_sides(
            maps, [_weights(given, wanted, align_corners, maps.dtype) for given, wanted in pairs]
        )
    mode = LINEAR[len(size)]
    return F.interpolate(maps[:, None], size, mode=mode, align_corners=align_corners)[:, 0]


def _multiplies(maps: Tensor) -> bool:
    """Whether to resize by products: on a processor, where nothing rounds them to fewer digits."""
    return (
        maps.device.type == "cpu"
        and maps.dtype in (torch.float32, torch.float64)
        and 0 < max(maps.shape[1:]) <= _SMALL
        and not torch.is_autocast_enabled("cpu")
    )


@functools.lru_cache(maxsize=128)
def _weights(given: int, wanted: int, align_corners: bool, dtype: torch.dtype) -> Tensor:
    """Return the matrix (wanted, given) of linear resizing along one axis."""
    # kept for later calls, some of which record a graph: not a tensor of inference mode
    with torch.inference_mode(mode=False), torch.no_grad():
        ones = torch.eye(given, dtype=dtype, device="cpu")[None]
        return F.interpolate(ones, wanted, mode="linear", align_corners=align_corners)[0].mT


def minmax(maps: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Stretch every map to [0, 1]: n(S) = (S - min S) / (max S - min S).

    A constant map (up to rounding, which must not be stretched) becomes zeros, never NaN, neither
    in the value nor in the gradient (Opti-CAM, after Eq. 6: n(0) = 0); so does, in the value, one
    that is not finite.
    """
    low, high = _extremes(maps)
    span = high - low
    usable = (span > rounding(low, high)) & span.isfinite()
    # The denominator is made safe before the division, or its gradient would be NaN.
    scaled = (maps - low) / torch.where(usable, span, 1)
    if maps.device.type == "cpu" and bool(usable.all()):
        return scaled  # a GPU would have to be waited for
    return torch.where(usable, scaled, 0)


def normalise(maps: Float[Tensor, " n *size"], kind: Normalisation) -> Float[Tensor, " n *size"]:
    """Bring maps into [0, 1] by Opti-CAM's Eq. 16 to 18.

    "range" is `minmax`; "max" is S / max S, negative values cut to 0 and maps without a positive
    value all zeros; "sigmoid" is 1 / (1 + exp(-S)), which for a non-negative map lies in [0.5, 1).
    """
    if kind == "range":
        return minmax(maps)
    if kind == "sigmoid":
        return torch.where(maps.isnan(), 0, maps.sigmoid())
    high = _extremes(maps)[1]
    usable = (high > 0) & high.isfinite()
    return torch.where(usable, (maps / torch.where(usable, high, 1)).clamp_min(0), 0)


Fusion = Literal["mean", "max", "product", "grid-mean", "grid-max", "grid-product"]
"""How maps of several layers become one, see `fuse`."""


def fuse(
    raws: Sequence[Tensor],
    size: Size,
    fusion: Fusion = "mean",
    kind: Normalisation = "range",
) -> Float[Tensor, " n *size"]:
    """Make one map in [0, 1] of the raw maps of one layer or several.

    Each is resized to the image and stretched; then "mean", "max" or "product" of them all is
    stretched again. Of "grid-mean", "grid-max" and "grid-product" each is stretched on its own grid
    first, and then resized: bilinear weights flatten its peak, so a coarse layer counts for less.
    pytorch-grad-cam's order is "grid-mean", torchcam's "grid-max".

    Args:
        raws: of each layer (N, *grid), not normalised.
        size: of the image.
        fusion: the way.
        kind: how each map is stretched, see `normalise`.

    Raises:
        OptionError: an unknown way.
    """
    require_fusion(fusion)
    if len(raws) == 1:
        return normalise(upsample(raws[0], size), kind)
    if fusion.startswith("grid-"):
        maps = [upsample(normalise(raw, kind), size) for raw in raws]
    else:
        maps = [normalise(upsample(raw, size), kind) for raw in raws]
    stacked, way = torch.stack(maps), fusion.removeprefix("grid-")
    if way == "product":
        return minmax(stacked.prod(0))
    return minmax(stacked.amax(0) if way == "max" else stacked.mean(0))


def require_fusion(fusion: str) -> None:
    """Check that a way to fuse exists.

    Raises:
        OptionError: it does not.
    """
    if fusion not in get_args(Fusion):
        known = ", ".join(get_args(Fusion))
        raise OptionError(f"fuse={fusion!r} was given; choose one of {known}.")


def normalise_signed(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n *size"]:
    """Scale every signed map to [-1, 1] with 0 left at 0: S / p, cut at -1 and 1.

    p is the 99th percentile of |S|, as the peaks of a few pixels would leave all others pale; where
    that is 0, the maximum of |S|. A map that is zero everywhere, or not finite, becomes zeros.
    """
    limit = add_sides(signed_peak(maps), maps)
    usable = (limit > 0) & add_sides(maps.detach().flatten(1).isfinite().all(1), maps)
    return torch.where(usable, maps / torch.where(usable, limit, 1), 0).clamp(-1, 1)


def signed_peak(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Return what becomes 1 in `normalise_signed`: of |S| the 99th percentile, or the maximum."""
    flat = maps.detach().abs().flatten(1)
    limit = flat.kthvalue(math.ceil(0.99 * flat.shape[1]), 1).values
    return torch.where(limit > 0, limit, flat.amax(1))


def is_constant(maps: Float[Tensor, " n *size"]) -> Bool[Tensor, " n"]:
    """Say of every map whether all its values are equal, up to rounding."""
    flat = maps.flatten(1)
    low, high = flat.amin(-1), flat.amax(-1)
    return high - low <= rounding(low, high)


def rounding(low: Tensor, high: Tensor) -> Tensor:
    """Return how far equal values may lie apart after sums and resizing, which round them."""
    return 16 * torch.finfo(high.dtype).eps * torch.maximum(low.abs(), high.abs()).detach()


def relative_change(
    values: Float[Tensor, "n ..."], others: Float[Tensor, "n ..."], least: float = 1e-6
) -> Float[Tensor, " n"]:
    """Return ‖(v - w) / v‖ over each row's numbers, in float64; a v of 0 counts as `least`."""
    before, after = to_float64(values).flatten(1), to_float64(others).flatten(1)
    return ((before - after) / torch.where(before == 0, least, before)).norm(dim=1)


def _extremes(maps: Tensor) -> tuple[Tensor, Tensor]:
    dims = tuple(range(1, maps.ndim))
    return maps.amin(dims, keepdim=True), maps.amax(dims, keepdim=True)


def require_maps(maps: Tensor) -> Tensor:
    """Return maps (N, *size), float32 or better, clamped to [0, 1].

    Raises:
        InputError: another shape, values that are not finite, or values outside [0, 1].
    """
    if not 1 <= maps.ndim - 1 <= MOST_SIDES or 0 in maps.shape[1:]:
        raise InputError(
            f"Maps must be (N, H, W), or (N, D, H, W) of volumes, (N, T, H, W) of videos, (N, T) "
            f"of signals, and {tuple(maps.shape)} was given."
        )
    if not maps.is_floating_point():
        raise InputError(f"Maps must be floats in [0, 1], and {maps.dtype} was given.")
    maps = upcast(maps.detach())
    if not bool(maps.isfinite().all()):
        raise InputError(
            "The maps hold NaN or infinite values; give maps as `explain` returns them."
        )
    if len(maps) and not (maps.min() >= -ROUNDING and maps.max() <= 1 + ROUNDING):
        raise InputError(
            f"The maps reach from {float(maps.min()):.4g} to {float(maps.max()):.4g}; metrics need "
            "[0, 1], as `explain` returns them (see torchsaliency.core.maps.minmax)."
        )
    return maps.clamp(0, 1)

"""Arrays of any range and layout as 8-bit images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchsaliency.errors import DataError

_FLOAT_SCALES = (1.0, 255.0)
_INTEGER_SCALES = (65535.0,)
_HALF_A_LEVEL = 0.5 / 255
_FULL_16_BIT = 65535.0
_MOST_CHANNELS = 4
_KINDS = "bool, uint8, uint16, int32 (grey) or floats"


def scaled_to_bytes(values: NDArray[Any], full: float | None) -> NDArray[np.uint8]:
    """Scale values linearly to 0..255.

    Args:
        values: of any shape and number type; those that are not finite become black.
        full: the value that becomes 255, where zero stays zero; None lets the range decide.
            Floating-point values in [0, 1] scale by 1 and in [0, 255] by 255, integers in
            [0, 65535] by 65535, any others from their lowest to their highest. Half a level beyond
            a range, as resampling leaves it, counts as within.
    """
    exact = values.astype(np.float64)
    low, high = _range(exact) if full is None else (0.0, full)
    if full is None:
        scales = _INTEGER_SCALES if np.issubdtype(values.dtype, np.integer) else _FLOAT_SCALES
        if fitting := [scale for scale in scales if _fits(low, high, scale)]:
            low, high = 0.0, fitting[0]
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype.kind == "f":
        exact[~np.isfinite(exact)] = low
    exact -= low  # in place: a large image need not be in memory five times
    exact /= high - low
    np.clip(exact, 0, 1, out=exact)
    exact *= 255
    return np.rint(exact, out=exact).astype(np.uint8)


def image_of(values: NDArray[Any], *, channels_first: bool = False) -> Image.Image:
    """Return an array as an image of 8 bits a channel, mode L, LA, RGB or RGBA.

    Args:
        values: (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels C.
        channels_first: whether (C, H, W) is meant where the shape fits both.

    Raises:
        DataError: another shape, another number type, or colours that no range fits.
    """
    pixels = _with_channels_last(values, channels_first=channels_first)
    grey = pixels.shape[-1] == 1
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind in "bu" and width == 1:
        levels = pixels.astype(np.uint8) * (255 if kind == "b" else 1)
    elif kind == "u" and width == 2:  # noqa: PLR2004 (bytes)
        levels = scaled_to_bytes(pixels, _FULL_16_BIT)
    elif kind == "f" or (kind == "i" and width == 4 and grey):  # noqa: PLR2004 (bytes)
        if not grey:
            _check_colours(pixels)
        levels = scaled_to_bytes(pixels, None)
    else:
        raise DataError(
            f"The photograph is an array of {values.dtype} of shape {values.shape}; give {_KINDS}."
        )
    return Image.fromarray(np.ascontiguousarray(levels[..., 0] if grey else levels))


def _with_channels_last(values: NDArray[Any], *, channels_first: bool) -> NDArray[Any]:
    shape = values.shape
    if 0 not in shape and len(shape) == 2:  # noqa: PLR2004 (height and width)
        return values[..., None]
    if 0 not in shape and len(shape) == 3:  # noqa: PLR2004 (and channels)
        for axis in (0, -1) if channels_first else (-1, 0):
            if shape[axis] <= _MOST_CHANNELS:
                return np.moveaxis(values, axis, -1)
    raise DataError(
        f"The photograph is an array of shape {shape}; give (H, W), (H, W, C) or (C, H, W) with 1 "
        "to 4 channels, and the photographs of a batch as a list."
    )


def _check_colours(pixels: NDArray[Any]) -> None:
    """Refuse colours outside [0, 255], such as a network's normalised input."""
    low, high = _range(pixels)
    if not _fits(low, high, _FLOAT_SCALES[-1]):
        raise DataError(
            f"The photograph's colours run from {low:.4g} to {high:.4g}; give floats in [0, 1] or "
            "[0, 255], before any normalisation."
        )


def _range(values: NDArray[Any]) -> tuple[float, float]:
    finite = np.isfinite(values)
    known = values if finite.all() else values[finite]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def _fits(low: float, high: float, scale: float) -> bool:
    slack = _HALF_A_LEVEL * scale
    return low >= -slack and high <= scale + slack

"""What a page holds of pictures: photographs and maps as data URIs, and their words.

A photograph is a JPEG of bounded bytes, a map an 8-bit PNG on a small grid that the browser
colours. So 100 photographs with 6 maps each stay below 25 MB.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

PIXELS = 560
"""The longer side of a photograph on a page."""

GRID = 112
"""The longer side of a map on a page, which the browser resizes bilinearly."""

_TILE = 240
"""The longer side of a picture of a stack."""

_BYTES = 96_000
_QUALITIES = (84, 70, 55, 40)
_ZERO, _HALF = 128, 127
"""The level of 0 in the PNG of a map with signs, and how far 1 lies above it."""

_THIRD = 1 / 3


def encode_photo(photo: Image.Image) -> str:
    """Return a photograph as the data URI of a JPEG of at most 96,000 bytes."""
    shown = photo.convert("RGB")
    shown.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            shown.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
            if buffer.tell() <= _BYTES:
                return _data_uri("image/jpeg", buffer.getvalue())
        shown = shown.resize((shown.width * 3 // 4, shown.height * 3 // 4))


def encode_stack(pictures: Sequence[Image.Image]) -> str:
    """Return pictures of one size below each other as the data URI of a JPEG."""
    scale = min(1.0, _TILE / max(pictures[0].size))
    width, height = (max(1, round(side * scale)) for side in pictures[0].size)
    strip = Image.new("RGB", (width, height * len(pictures)))
    for place, picture in enumerate(pictures):
        tile = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(tile, (0, height * place))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=_QUALITIES[0], optimize=True)
    return _data_uri("image/jpeg", buffer.getvalue())


def shrink_map(values: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n _ _"]:
    """Return a map whose longer side is 112 at most, each value the mean of those it covers."""
    height, width = values.shape[-2:]
    scale = GRID / max(height, width)
    if scale >= 1:
        return values
    size = max(1, round(height * scale)), max(1, round(width * scale))
    planes = values.reshape(-1, 1, height, width)
    resized: Tensor = F.interpolate(planes, size, mode="area").reshape(*values.shape[:-2], *size)
    return resized


def encode_map(values: Float[Tensor, "*n h w"], *, signed: bool = False) -> str:
    """Return a map as the data URI of a grey PNG of 8 bits.

    Args:
        values: in [0, 1], or in [-1, 1] if signed; several lie below each other.
        signed: whether level 128 stands for 0 and 1 and 255 for -1 and 1, instead of 0 and 255 for
            0 and 1.
    """
    levels = values.clamp(-1, 1) * _HALF + _ZERO if signed else values.clamp(0, 1) * 255
    levels = levels.round().to(torch.uint8).reshape(-1, values.shape[-1])
    picture = Image.fromarray(levels.numpy())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def describe_map(values: Float[Tensor, "h w"], *, signed: bool = False) -> str:
    """Say in words where a map peaks, for those who do not see it.

    Args:
        values: in [0, 1], or in [-1, 1] if signed.
        signed: whether the map has signs.

    Example:
        >>> describe_map(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))  # doctest: +ELLIPSIS
        'The map peaks in the lower right, at 83 % of the width and 75 % of the height; half of…'
    """
    if not bool(values.isfinite().all()):
        return "The map has values that are not finite."
    if float(values.max() - values.min()) == 0:
        return "The map is the same everywhere."
    if not signed:
        return f"The map peaks {_locate_peak(values)}; {_describe_spread(values)}."
    sides = []
    for words, side in (("for", values.clamp_min(0)), ("against", -values.clamp_max(0))):
        if float(side.max()) > 0:
            sides.append(f"what speaks {words} it peaks {_locate_peak(side)}")
    sentence = "; ".join(sides) + "."
    return sentence[0].upper() + sentence[1:]


def _locate_peak(values: Tensor) -> str:
    place = int(values.argmax())
    height, width = values.shape
    x, y = (place % width + 0.5) / width, (place // width + 0.5) / height
    row = "upper" if y < _THIRD else "lower" if y > 2 * _THIRD else "middle"
    column = "left" if x < _THIRD else "right" if x > 2 * _THIRD else "middle"
    where = "centre" if row == column else f"{row} {column}"
    return f"in the {where}, at {x:.0%} of the width and {y:.0%} of the height".replace("%", " %")


def _describe_spread(values: Tensor) -> str:
    sums = values.clamp_min(0).flatten().double().sort(descending=True).values.cumsum(0)
    share = (int((sums < sums[-1] / 2).sum()) + 1) / len(sums)
    return f"half of it lies within {max(share, 0.01):.0%} of the picture".replace("%", " %")


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

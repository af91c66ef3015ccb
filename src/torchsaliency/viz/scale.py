"""The colour scale beside a picture, and one range of values for several maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from torchsaliency.errors import InputError
from torchsaliency.viz.grid import _INK, _PAPER, _font
from torchsaliency.viz.overlay import colourise

MAP_WORDS = ("0", "1")
"""What stands beside the scale of a map in [0, 1]."""

Limits = tuple[float, float]
"""The values that have the first colour and the last."""


def add_scale(
    picture: Image.Image,
    words: Sequence[str] = MAP_WORDS,
    colormap: str | None = None,
    *,
    signed: bool = False,
) -> Image.Image:
    """Put a colour scale on the right of a picture, which stays as it is at the top left.

    Args:
        picture: any.
        words: evenly beside the scale, the lowest value's first; at least two.
        colormap: that of the picture, as in `overlay`.
        signed: whether the picture shows a signed map.

    Returns:
        An RGB image, wider than the picture; higher only where the words would not fit.

    Raises:
        OptionError: the colormap does not exist.

    Example:
        >>> add_scale(Image.new("RGB", (64, 90), "white")).size
        (107, 90)
    """
    type_size = min(22, max(11, round(min(picture.size) / 24)))
    face, gap = _font(type_size), type_size // 2
    height = max(picture.height, 2 * type_size * len(words))
    left = picture.width + 2 * gap
    beside = left + type_size + gap
    width = beside + max(round(face.getlength(word)) for word in words) + 2 * gap
    sheet = Image.new("RGB", (width, height), _PAPER)
    sheet.paste(picture.convert("RGB"))
    ramp = torch.linspace(1, -1 if signed else 0, height, device="cpu")[:, None]
    colours = colourise(ramp.expand(-1, type_size), colormap, signed=signed)
    sheet.paste(Image.fromarray(colours), (left, 0))
    pen = ImageDraw.Draw(sheet)
    for place, word in enumerate(reversed(words)):
        # the outer words stay inside of the sheet
        top = type_size / 2 + place / (len(words) - 1) * (height - type_size)
        pen.text((beside, top), word, fill=_INK, font=face, anchor="lm")
    return sheet


def find_limits(maps: Iterable[Tensor], *, signed: bool = False) -> Limits:
    """Return one range for several maps: from their least value to their greatest.

    Args:
        maps: raw maps of any shape, as methods gave them.
        signed: whether they have signs: the range is then symmetric about 0.

    Raises:
        InputError: there is no map, or one that is not finite.

    Example:
        >>> find_limits([torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 1.0])])
        (-1.0, 2.0)
    """
    ends = [end.item() for values in maps for end in values.detach().float().aminmax()]
    if not ends or not all(map(math.isfinite, ends)):
        raise InputError("A shared scale needs one map at least, and finite values in all of them.")
    most = max(map(abs, ends))
    return (-most, most) if signed else (min(ends), max(ends))


def apply_limits(values: Tensor, limits: Limits, *, signed: bool = False) -> Tensor:
    """Return (v - low) / (high - low) in [0, 1]; signed, v / high in [-1, 1].

    Values beyond the limits are cut; limits without width make zeros.

    Args:
        values: raw or signed, of any shape, which stays.
        limits: the values of the first colour and of the last, as `find_limits` returns them.
        signed: whether the values have signs.

    Example:
        >>> values = torch.tensor([[-1.0, 0.0], [1.0, 3.0]])
        >>> apply_limits(values, find_limits([values]))
        tensor([[0.0000, 0.2500],
                [0.5000, 1.0000]])
    """
    low, high = (0.0, limits[1]) if signed else limits
    if high <= low:
        return torch.zeros_like(values)
    return ((values - low) / (high - low)).clamp(-1 if signed else 0, 1)


def write_limits(limits: Limits, *, signed: bool = False) -> tuple[str, ...]:
    """Return the words beside a scale of these values.

    Args:
        limits: the values of the first colour and of the last, as `find_limits` returns them.
        signed: whether the values have signs.

    Example:
        >>> write_limits(find_limits([torch.tensor([0.0, 2.0])]))
        ('0', '2')
    """
    low, high = limits
    return tuple(
        f"{value:.3g}".replace("-", "−") for value in ((low, 0, high) if signed else (low, high))
    )

"""Concepts over their photograph: which of them is strongest where, and a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from torchsaliency.data import to_rgb
from torchsaliency.errors import InputError, OptionError
from torchsaliency.viz.grid import _INK, _PAPER, _font, _shorten
from torchsaliency.viz.overlay import _resize

_COLOURS = (
    *("#E69F00", "#0072B2", "#009E73", "#CC3311", "#CC79A7", "#56B4E9"),
    *("#F0E442", "#7A4FBF", "#8C6D31", "#4D4D4D"),
)
"""Apart for most eyes; more concepts get hues of their own."""

_GREY = 0.6
"""How much of the photograph's colour goes, so that its colours are not taken for concepts'."""


def concept_colours(count: int) -> list[tuple[int, int, int]]:
    """Return a colour for each concept.

    Example:
        >>> len(set(concept_colours(4)))
        4
    """
    found = [tuple(bytes.fromhex(colour[1:])) for colour in _COLOURS[:count]]
    for number in range(count - len(found)):
        hue = number * 0.618 % 1  # the golden ratio leaves no two near each other
        found.append(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.8)))
    return [(red, green, blue) for red, green, blue in found]


def draw_concepts(
    photo: Image.Image,
    maps: Float[Tensor, "r h w"],
    legend: Sequence[str] = (),
    *,
    alpha: float = 0.75,
) -> Image.Image:
    """Paint every pixel in the colour of its strongest concept, the stronger the more opaque.

    p·(1 - w) + c_r·w, with w = alpha·√(max_r s_r), over the photo p in paler colours.

    Args:
        photo: any.
        maps: one of each concept, in [0, 1]; resized bilinearly to the photo.
        legend: what is written of each concept below the photo; nothing by default.
        alpha: the opacity in [0, 1].

    Returns:
        An RGB image of the photo's width; with a legend it is higher.

    Raises:
        InputError: the maps are not (R, H, W), not finite or outside [0, 1], or the legend has
            another number of lines.
        OptionError: the opacity is outside [0, 1].

    Example:
        >>> draw_concepts(Image.new("RGB", (64, 48), "white"), torch.rand(3, 7, 7)).size
        (64, 48)
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha is {alpha}, an opacity lies in [0, 1]; 0.75 is the default.")
    if maps.ndim != 3 or 0 in maps.shape or not bool(((maps >= 0) & (maps <= 1 + 1e-4)).all()):  # noqa: PLR2004
        raise InputError(
            f"Maps {tuple(maps.shape)} were given; concepts are drawn from maps (R, H, W) in "
            "[0, 1], such as those of one image of dff."
        )
    if legend and len(legend) != len(maps):
        raise InputError(
            f"{len(legend)} lines of legend were given for {len(maps)} concepts; give one each."
        )
    base = to_rgb(photo)
    base = Image.blend(base, base.convert("L").convert("RGB"), _GREY)
    size = base.height, base.width
    placed = torch.stack([_resize(one.detach().cpu().float(), size) for one in maps])
    strongest, which = placed.max(0)
    colours = np.array(concept_colours(len(maps)), dtype=np.uint8)[which.numpy()]
    weights = (255 * alpha * strongest.clamp(0, 1).sqrt()).round().to(torch.uint8).numpy()
    drawn = Image.composite(Image.fromarray(colours), base, Image.fromarray(weights))
    return add_legend(drawn, legend) if legend else drawn


def add_legend(picture: Image.Image, legend: Sequence[str], columns: int = 1) -> Image.Image:
    """Write below a picture what each concept's colour stands for.

    Args:
        picture: any.
        legend: a line a concept, in their order; cut with an ellipsis where it is too long.
        columns: into how many the lines are parted.

    Example:
        >>> picture = Image.new("RGB", (120, 80))
        >>> add_legend(picture, ["cat"]).height > picture.height
        True
    """
    type_size = min(18, max(11, round(picture.width / columns / 28)))
    line, face = round(1.6 * type_size), _font(type_size)
    rows = -(-len(legend) // columns)
    sheet = Image.new("RGB", (picture.width, picture.height + line * rows + type_size), _PAPER)
    sheet.paste(picture.convert("RGB"))
    pen, width = ImageDraw.Draw(sheet), picture.width // columns
    for number, (text, colour) in enumerate(zip(legend, concept_colours(len(legend)), strict=True)):
        left = (number // rows) * width + type_size // 2
        top = picture.height + type_size // 2 + (number % rows) * line
        pen.rectangle((left, top, left + type_size, top + type_size), fill=colour)
        begin = left + round(1.6 * type_size)
        room = width - round(2.2 * type_size)
        pen.text((begin, top), _shorten(text, face, room), fill=_INK, font=face)
    return sheet

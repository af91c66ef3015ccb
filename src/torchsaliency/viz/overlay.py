"""A saliency map laid over its photograph.

Two blends p·(1 - w) + c(s)·w of the photo p and the colour c(s), from a table of 256:

* `"intensity"` (default): w = alpha·√s. Where the map is zero the photo is untouched, so one still
  sees what the network passed over; the root lets middling values show, which w = alpha·s hides.
* `"constant"`: w = alpha, the look of published figures. Every value has a colour, zero included,
  and the whole photo is tinted.

Signed maps s in [-1, 1] have c((1 + s) / 2) of a diverging colormap, and |s| in the place of s in
w. The photo under them is pale and grey, (255 + grey(p)) / 2, for red on a red cup cannot be read.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.data import to_rgb
from torchsaliency.errors import InputError, OptionError, describe_unknown

BLENDS = ("intensity", "constant")
"""The names that `overlay` accepts as `blend`."""

COLORMAP, DIVERGING = "plasma", "bwr"
"""The default colormaps of maps, and of signed maps: blue against the target, red for it.

Plasma is perceptually uniform, and its violet and yellow stay apart for colour-blind readers and
over photographs (docs/colours.md).
"""

_ALPHA, _SIGNED_ALPHA = 0.6, 0.8
"""The default opacities."""

_ROUNDING = 1e-4  # how far a half-precision map may leave [0, 1] before it is called a mistake


def overlay(
    photo: Image.Image,
    saliency: Tensor,
    *,
    alpha: float | None = None,
    colormap: str | None = None,
    blend: str = "intensity",
    signed: bool = False,
) -> Image.Image:
    """Lay a saliency map over a photo, at the photo's own size.

    p·(1 - w) + c(s)·w, with w = alpha·√s (`"intensity"`) or w = alpha (`"constant"`), to within one
    level of 255. Of a signed map, c((1 + s) / 2) and √|s|, over the photo in pale grey.

    Args:
        photo: any; made RGB as `torchsaliency.data.to_rgb` says.
        saliency: (H, W) in [0, 1], in [-1, 1] if signed, any device and precision; resized
            bilinearly to the photo.
        alpha: the opacity in [0, 1]; 0 returns the photo exactly. 0.6 by default, 0.8 if signed.
        colormap: the name of any matplotlib colormap; `COLORMAP` by default, "bwr" if signed.
        blend: `"intensity"` keeps the photo readable, `"constant"` tints all of it.
        signed: whether values have signs, as `torchsaliency.core.maps.normalise_signed` gives them.

    Returns:
        An RGB image of the photo's size.

    Raises:
        InputError: the map is not (H, W), is empty, not finite, or outside its range.
        DataError: the photo has no pixels.
        OptionError: the opacity is outside [0, 1], or the blend or the colormap does not exist.

    Example:
        >>> picture = overlay(Image.new("RGB", (64, 48), "white"), torch.rand(7, 7))
        >>> picture.size
        (64, 48)
    """
    if alpha is None:
        alpha = _SIGNED_ALPHA if signed else _ALPHA
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha is {alpha}, an opacity lies in [0, 1]; 0.6 is the default.")
    if blend not in BLENDS:
        raise OptionError(describe_unknown("blend", blend, BLENDS))
    base = to_rgb(photo)
    if signed:
        base = base.convert("L").point(lambda level: (255 + level) // 2).convert("RGB")
    values = _resize(_check_map(saliency, signed=signed), (base.height, base.width))
    colours = Image.fromarray(_colours(values, colormap, signed=signed))
    ramp = np.sqrt(np.linspace(0, 1, 256)) if blend == "intensity" else np.ones(256)
    weights = np.round(255 * alpha * ramp).astype(np.uint8)[_levels(values.abs())]
    return Image.composite(colours, base, Image.fromarray(weights))


def draw_boxes(
    picture: Image.Image, boxes: Float[Tensor, "b 4"], labels: Sequence[str] = ()
) -> Image.Image:
    """Draw boxes and their labels on a copy of a picture, white on black so that both show.

    Args:
        picture: any.
        boxes: (B, 4), x0 y0 x1 y1 in the picture's pixels; cut at its edges.
        labels: one a box, or none.

    Returns:
        An RGB image.

    Example:
        >>> box = torch.tensor([[8.0, 8, 40, 40]])
        >>> draw_boxes(Image.new("RGB", (64, 48)), box, ["cat"]).getpixel((9, 20))
        (255, 255, 255)
    """
    drawn = picture.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    width = max(1, round(min(drawn.size) / 150))
    font = ImageFont.load_default(max(9.0, min(drawn.size) / 30))
    ends = torch.tensor([drawn.width - 1, drawn.height - 1] * 2)
    corners = boxes.detach().cpu().float().clamp_min(0).minimum(ends).round().int().tolist()
    for place, (left, top, right, bottom) in enumerate(corners):
        draw.rectangle((left, top, right, bottom), outline="black", width=3 * width)
        inner = (left + width, top + width, right - width, bottom - width)
        if inner[0] <= inner[2] and inner[1] <= inner[3]:
            draw.rectangle(inner, outline="white", width=width)
        if labels:
            text = labels[place]
            size = [round(side) + 2 for side in draw.textbbox((0, 0), text, font=font)[2:]]
            across = min(left, max(0, drawn.width - size[0]))
            # above the box if there is room, else below it, else inside
            rows = [top - size[1], bottom + 1, top]
            down = next(row for row in rows if row == top or 0 <= row <= drawn.height - size[1])
            draw.rectangle((across, down, across + size[0], down + size[1]), fill="black")
            draw.text((across + 1, down), text, fill="white", font=font)
    return drawn


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    # a third of the time of Pillow's default level, for a file an eighth larger
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def colourise(
    saliency: Tensor, colormap: str | None = None, *, signed: bool = False
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the colours c(s) of a saliency map, from a table of 256; signed, c((1 + s) / 2).

    Args:
        saliency: (H, W) in [0, 1], in [-1, 1] if signed, any device and precision.
        colormap: the name of any matplotlib colormap; `COLORMAP` by default, "bwr" if signed.
        signed: whether values have signs: 0 has the colour in the middle.

    Returns:
        (H, W, 3), red, green and blue in 0..255.

    Raises:
        InputError: the map is not (H, W), is empty, not finite, or outside its range.
        OptionError: the colormap does not exist; the message names the closest ones.

    Example:
        >>> colourise(torch.tensor([[0.0, 1.0]]), "gray").tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    return _colours(_check_map(saliency, signed=signed), colormap, signed=signed)


def _colours(values: Tensor, colormap: str | None, *, signed: bool) -> UInt8[np.ndarray, "H W 3"]:
    levels = _levels((1 + values) / 2 if signed else values)
    colours: np.ndarray = _table(colormap or (DIVERGING if signed else COLORMAP))[levels]
    return colours


def _check_map(saliency: Tensor, *, signed: bool) -> Tensor:
    """Return the map as float32 on the CPU, or say what is wrong with it."""
    least, remedy = (-1, "scale it by normalise_signed") if signed else (0, "normalise the raw map")
    shape = tuple(saliency.shape)
    if len(shape) != 2 or 0 in shape:  # noqa: PLR2004 (height and width)
        raise InputError(
            f"The saliency map has shape {shape}, one map is (H, W); "
            "give the maps of a batch one by one."
        )
    values = saliency.detach().to("cpu", torch.float32)
    if not values.isfinite().all():
        raise InputError(
            f"The saliency map contains NaN or infinity, and every value must lie in [{least}, 1]; "
            f"{remedy} first."
        )
    low, high = (bound.item() for bound in values.aminmax())
    if low < least - _ROUNDING or high > 1 + _ROUNDING:
        raise InputError(
            f"The saliency map runs from {low:.4g} to {high:.4g}, and every value must lie "
            f"in [{least}, 1]; {remedy} first."
        )
    return values.clamp(least, 1)


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly; shrinking averages, so that a peak between two pixels is not lost."""
    if tuple(values.shape) == size:
        return values
    return F.interpolate(
        values[None, None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0, 0].clamp(-1, 1)


def _levels(values: Tensor) -> UInt8[np.ndarray, "H W"]:
    return values.mul(255).round().to(torch.uint8).numpy()


@lru_cache(maxsize=32)
def _table(colormap: str) -> UInt8[np.ndarray, "256 3"]:
    import matplotlib  # noqa: PLC0415 (importing the library must not cost matplotlib)

    try:
        colours = matplotlib.colormaps[colormap]
    except KeyError:
        raise OptionError(describe_unknown("colormap", colormap, matplotlib.colormaps)) from None
    table: np.ndarray = colours(np.linspace(0, 1, 256), bytes=True)[:, :3].copy()
    table.setflags(write=False)  # it is shared by every caller
    return table

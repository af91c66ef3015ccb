"""A saliency map laid over its photograph.

Two blends p·(1 - w) + c(s)·w of the photo p and the colour c(s), from a table of 256:

* `"intensity"` (default): w = alpha·√s. Where the map is zero the photo is untouched, so one still
  sees what the network passed over; the root lets middling values show, which w = alpha·s hides.
* `"constant"`: w = alpha, the look of published figures. Every value has a colour, zero included,
  and the whole photo is tinted.
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

_ROUNDING = 1e-4  # how far a half-precision map may leave [0, 1] before it is called a mistake


def overlay(
    photo: Image.Image,
    saliency: Tensor,
    *,
    alpha: float = 0.5,
    colormap: str = "turbo",
    blend: str = "intensity",
) -> Image.Image:
    """Lay a saliency map over a photo, at the photo's own size.

    p·(1 - w) + c(s)·w, with w = alpha·√s (`"intensity"`) or w = alpha (`"constant"`), to within one
    level of 255.

    Args:
        photo: any; made RGB as `torchsaliency.data.to_rgb` says.
        saliency: (H, W) in [0, 1], any device and precision; resized bilinearly to the photo.
        alpha: the opacity in [0, 1]; 0 returns the photo exactly.
        colormap: the name of any matplotlib colormap.
        blend: `"intensity"` keeps the photo readable, `"constant"` tints all of it.

    Returns:
        An RGB image of the photo's size.

    Raises:
        InputError: the map is not (H, W), is empty, not finite, or outside [0, 1].
        DataError: the photo has no pixels.
        OptionError: the opacity is outside [0, 1], or the blend or the colormap does not exist.

    Example:
        >>> picture = overlay(Image.new("RGB", (64, 48), "white"), torch.rand(7, 7))
        >>> picture.size
        (64, 48)
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha is {alpha}, an opacity lies in [0, 1]; 0.5 is the default.")
    if blend not in BLENDS:
        raise OptionError(describe_unknown("blend", blend, BLENDS))
    base = to_rgb(photo)
    levels = _levels(_resize(_check_map(saliency), (base.height, base.width)))
    colours = Image.fromarray(_table(colormap)[levels])
    ramp = np.sqrt(np.linspace(0, 1, 256)) if blend == "intensity" else np.ones(256)
    weights = np.round(255 * alpha * ramp).astype(np.uint8)[levels]
    return Image.composite(colours, base, Image.fromarray(weights))


def draw_boxes(
    picture: Image.Image, boxes: Float[Tensor, "b 4"], labels: Sequence[str] = ()
) -> Image.Image:
    """Draw boxes and their labels on a copy of a picture, white on black so that both show.

    Args:
        picture: any.
        boxes: x0 y0 x1 y1 in the picture's pixels; cut at its edges.
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


def colourise(saliency: Tensor, colormap: str = "turbo") -> UInt8[np.ndarray, "H W 3"]:
    """Return the colours c(s) of a saliency map, from a table of 256.

    Args:
        saliency: (H, W) in [0, 1], any device and precision.
        colormap: the name of any matplotlib colormap.

    Returns:
        (H, W, 3), red, green and blue in 0..255.

    Raises:
        InputError: the map is not (H, W), is empty, not finite, or outside [0, 1].
        OptionError: the colormap does not exist; the message names the closest ones.

    Example:
        >>> colourise(torch.tensor([[0.0, 1.0]]), "gray").tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    colours: np.ndarray = _table(colormap)[_levels(_check_map(saliency))]
    return colours


def _check_map(saliency: Tensor) -> Tensor:
    """Return the map as float32 on the CPU, or say what is wrong with it."""
    shape = tuple(saliency.shape)
    if len(shape) != 2 or 0 in shape:  # noqa: PLR2004 (height and width)
        raise InputError(
            f"The saliency map has shape {shape}, one map is (H, W); "
            "give the maps of a batch one by one."
        )
    values = saliency.detach().to("cpu", torch.float32)
    if not values.isfinite().all():
        raise InputError(
            "The saliency map contains NaN or infinity, and every value must lie in [0, 1]; "
            "normalise the raw map first."
        )
    low, high = (bound.item() for bound in values.aminmax())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise InputError(
            f"The saliency map runs from {low:.4g} to {high:.4g}, and every value must lie "
            "in [0, 1]; normalise the raw map first."
        )
    return values.clamp(0, 1)


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly; shrinking averages, so that a peak between two pixels is not lost."""
    if tuple(values.shape) == size:
        return values
    return F.interpolate(
        values[None, None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0, 0].clamp(0, 1)


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

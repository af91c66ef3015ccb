"""Volumes as montages of cuts through the map's maximum, videos as animations."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from torchsaliency.core.maps import upsample
from torchsaliency.errors import InputError
from torchsaliency.viz.grid import Panel, Row, grid
from torchsaliency.viz.overlay import overlay
from torchsaliency.viz.scale import add_scale

_CUTS = 5
_CELL = 192
_LEAST = 20  # milliseconds that viewers show a frame


def montage(
    volume: Tensor,
    saliency: Tensor,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    upright: bool = False,
    alpha: float | None = None,
    colormap: str | None = None,
) -> Image.Image:
    """Draw a map over a volume: three cuts through its maximum, and slices around it.

    Args:
        volume: (C, D, H, W); its range is stretched to grey, three channels in [0, 1] are colours.
        saliency: (d, h, w) in [0, 1]; resized to the volume.
        spacing: of the voxels along D, H and W, for the aspect ratio.
        upright: whether D points up and H to the front, as in a `Scan`; both are drawn upwards.
        alpha: strength of the colour, in [0, 1]; as `overlay`'s by default.
        colormap: any matplotlib name; `COLORMAP` by default.

    Raises:
        InputError: the volume or the map has another number of sides, or values that cannot be.
        OptionError: there is no such colormap.

    Example:
        >>> montage(torch.rand(1, 8, 12, 12), torch.rand(4, 6, 6)).mode
        'RGB'
    """
    values = _fit(volume, saliency)
    peak = _find_peak(values)
    drawer = _Cuts(_pixels(volume), values, spacing, upright, alpha, colormap)
    rows = [Row(tuple(drawer.draw(side, peak[side], "through the maximum") for side in range(3)))]
    depth = values.shape[0]
    if depth > 1:
        near = np.unique(np.linspace(0, depth - 1, min(_CUTS, depth)).round().astype(int))
        rows.append(Row(tuple(drawer.draw(0, int(place)) for place in near)))
    return grid(rows, width=_CELL, columns=_CUTS, colormap=colormap)


def cuts(
    volume: Tensor,
    saliency: Tensor,
    *,
    subtitle: str = "",
    colormap: str | None = None,
) -> tuple[Panel, ...]:
    """Return the three cuts through a map's maximum, as `montage` draws them."""
    values = _fit(volume, saliency)
    peak = _find_peak(values)
    drawer = _Cuts(_pixels(volume), values, (1.0, 1.0, 1.0), False, None, colormap)
    return tuple(drawer.draw(side, peak[side], subtitle=subtitle) for side in range(3))


def animate(
    frames: Sequence[Image.Image],
    saliency: Float[Tensor, "t h w"],
    *,
    seconds: float = 0.1,
    alpha: float | None = None,
    colormap: str | None = None,
    colour_bar: bool = False,
) -> bytes:
    """Draw maps over the frames of a video; return the bytes of a GIF.

    Args:
        frames: pictures of one size.
        saliency: (T, h, w) in [0, 1], one map a frame.
        seconds: that a frame is shown.
        alpha: strength of the colour, in [0, 1]; as `overlay`'s by default.
        colormap: any matplotlib name; `COLORMAP` by default.
        colour_bar: whether a labelled scale is put on the right of every frame.

    Raises:
        InputError: there is another number of frames than maps, or a map that cannot be.
        OptionError: there is no such colormap.

    Example:
        >>> animate([Image.new("RGB", (24, 16))] * 2, torch.rand(2, 4, 6))[:3]
        b'GIF'
    """
    if len(frames) != len(saliency) or not frames:
        raise InputError(
            f"{len(frames)} frames and {len(saliency)} maps were given; give one map a frame."
        )
    drawn = [
        overlay(frame, one, alpha=alpha, colormap=colormap)
        for frame, one in zip(frames, saliency, strict=True)
    ]
    if colour_bar:
        drawn = [add_scale(frame, colormap=colormap) for frame in drawn]
    buffer = io.BytesIO()
    shown = max(_LEAST, round(1000 * seconds))
    drawn[0].save(
        buffer, format="GIF", save_all=True, append_images=drawn[1:], duration=shown, loop=0
    )
    return buffer.getvalue()


@final
@dataclass(frozen=True)
class _Cuts:
    """Draws cuts through a volume (D, H, W, 3) of pixels under its map (D, H, W)."""

    pixels: Tensor
    maps: Tensor
    spacing: Sequence[float]
    upright: bool
    alpha: float | None
    colormap: str | None

    def draw(self, side: int, place: int, title: str = "", subtitle: str = "") -> Panel:
        """Draw the cut at one place of one side, its pixels as long as they are wide."""
        picture, colours = self.pixels.select(side, place), self.maps.select(side, place)
        if self.upright:  # the front of a horizontal cut, or the head of a vertical one, is on top
            picture, colours = picture.flip(0), colours.flip(0)
        drawn = overlay(
            Image.fromarray(picture.contiguous().numpy()),
            colours,
            alpha=self.alpha,
            colormap=self.colormap,
        )
        steps = [step for axis, step in enumerate(self.spacing) if axis != side]
        height, width = (
            max(1, round(length * step / min(steps)))
            for length, step in zip(colours.shape, steps, strict=True)
        )
        stretched = drawn.resize((width, height), Image.Resampling.BILINEAR)
        where = f"{'DHW'[side]} = {place}"
        return Panel(stretched, title, f"{subtitle}\n{where}" if subtitle else where)


def _fit(volume: Tensor, saliency: Tensor) -> Tensor:
    """Return a map at the size of its volume, on the CPU."""
    if volume.ndim != 4 or saliency.ndim != 3 or 0 in (*volume.shape, *saliency.shape):  # noqa: PLR2004
        raise InputError(
            f"A volume of {tuple(volume.shape)} and a map of {tuple(saliency.shape)} were given; "
            "give (C, D, H, W) and (d, h, w)."
        )
    return upsample(saliency[None].detach().float().cpu(), tuple(volume.shape[1:]))[0]


def _find_peak(values: Tensor) -> list[int]:
    return [int(place) for place in np.unravel_index(int(values.argmax()), values.shape)]


def _pixels(volume: Tensor) -> UInt8[Tensor, "d h w 3"]:
    """Return a network's volume or a scan as pixels."""
    values = volume.detach().float().cpu()
    low, high = values.aminmax()
    if low < 0 or high > 1:
        values = (values - low) / (high - low) if high > low else torch.full_like(values, 0.5)
    if len(values) != 3:  # noqa: PLR2004 (red, green, blue)
        values = values.mean(0, keepdim=True).expand(3, -1, -1, -1)
    return values.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()

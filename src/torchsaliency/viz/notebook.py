"""A small strip of overlays as PNG bytes: what a result shows of itself in a notebook.

A notebook holds the network's input, not the photograph, so the input is first made visible again:
with the mean and std of its preprocessing where they are known, otherwise by stretching each image
to its own minimum and maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from torchsaliency.errors import InputError
from torchsaliency.viz.grid import Panel, Row, grid
from torchsaliency.viz.overlay import overlay, png
from torchsaliency.viz.volumes import cuts

_SHOWN = 8
_CELL = 192
_STRIP = 6


def png_bytes(
    images: Tensor,
    maps: Tensor,
    titles: Sequence[str] = (),
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    colormap: str | None = None,
) -> bytes:
    """Draw the first eight images of a batch, each under its map, as one PNG strip.

    Args:
        images: (N, C, H, W), uint8, or floats in [0, 1], or normalised; other than three channels
            show as grey. Volumes and videos (N, C, D, H, W) show as three cuts through the map's
            maximum, signals (N, C, T) as strips.
        maps: (N, h, w) in [0, 1], or of as many sides as the images.
        titles: what stands under each image; empty, or one per image.
        mean: of the normalisation, one per channel; None stretches each image to its own range.
        std: of the normalisation, one per channel; given together with `mean`.
        colormap: the name of any matplotlib colormap; `COLORMAP` by default.

    Returns:
        The bytes of a PNG file.

    Raises:
        InputError: the images are not (N, C, H, W) or not finite, or there is not one map, and one
            title or none, per image.
        OptionError: the colormap does not exist.

    Example:
        >>> png_bytes(torch.randn(2, 3, 32, 32), torch.rand(2, 7, 7), ["cat", "dog"])[1:4]
        b'PNG'
    """
    _check(images, maps, titles)
    shown = range(min(len(images), _SHOWN))
    names = [titles[index] if titles else "" for index in shown]
    if images.ndim == 5:  # noqa: PLR2004
        rows = [
            Row(cuts(images[index], maps[index], subtitle=name, colormap=colormap))
            for index, name in zip(shown, names, strict=True)
        ]
        return png(grid(rows, width=_CELL, colormap=colormap))
    if images.ndim == 3:  # noqa: PLR2004
        strip = max(1, images.shape[2] // _STRIP)
        images = images[:, :, None].expand(-1, -1, strip, -1)
        maps = maps[:, None].expand(-1, strip, -1)
    panels = []
    for index, name in zip(shown, names, strict=True):
        pixels = denormalise_images(images[index], mean, std)
        picture = overlay(Image.fromarray(pixels.numpy()), maps[index], colormap=colormap)
        panels.append(Panel(picture, subtitle=name))
    return png(grid([Row(tuple(panels))], width=_CELL, colormap=colormap))


def draw_maps(
    image: Tensor,
    maps: Mapping[str, Tensor],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Image.Image:
    """Draw a network's input beside its maps by several methods.

    Args:
        image: (C, H, W), made visible as by `png_bytes`; (C, D, H, W) shows as three cuts through
            each map's maximum, (C, T) as a strip.
        maps: heading → map (h, w) in [0, 1], or of as many sides as the image.
        mean: of the normalisation, one per channel, or None.
        std: of the normalisation, one per channel; given together with `mean`.

    Returns:
        An RGB image.

    Example:
        >>> draw_maps(torch.rand(3, 32, 32), {"gradcam": torch.rand(7, 7)}).mode
        'RGB'
    """
    if image.ndim == 4:  # noqa: PLR2004
        rows = [Row(cuts(image, one, subtitle=name)) for name, one in maps.items()]
        return grid(rows, width=_CELL)
    if image.ndim == 2:  # noqa: PLR2004
        strip = max(1, image.shape[1] // _STRIP)
        image = image[:, None].expand(-1, strip, -1)
        maps = {name: one[None].expand(strip, -1) for name, one in maps.items()}
    pixels = denormalise_images(image, mean, std)
    return grid([Row.of(Image.fromarray(pixels.numpy()), maps)], width=_CELL)


def denormalise_images(
    image: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> UInt8[Tensor, "H W 3"]:
    """Return a network's input as pixels.

    x·std + mean if these are known, else x if it lies in [0, 1], else x stretched from its range.

    Args:
        image: (C, H, W), finite; uint8 is taken as it is.
        mean: one per channel, or None.
        std: one per channel, or None.

    Returns:
        (H, W, 3) in 0..255 on the CPU; one value outside [0, 1] everywhere becomes mid-grey.
    """
    pixels = image.detach().to("cpu", torch.float32)
    if not image.is_floating_point():
        pixels = pixels / 255
    elif mean is not None and std is not None:
        pixels = pixels * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    elif pixels.min() < 0 or pixels.max() > 1:
        low, high = pixels.aminmax()
        pixels = (pixels - low) / (high - low) if high > low else torch.full_like(pixels, 0.5)
    if len(pixels) != 3:  # noqa: PLR2004 (red, green, blue)
        pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1)
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def _check(images: Tensor, maps: Tensor, titles: Sequence[str]) -> None:
    if images.ndim not in (3, 4, 5) or images.numel() == 0:
        raise InputError(
            f"The images have shape {tuple(images.shape)}, a batch is (N, C, H, W) with one image "
            "at least (volumes (N, C, D, H, W), signals (N, C, T)); add the missing dimension with "
            "unsqueeze(0)."
        )
    if not images.isfinite().all():
        raise InputError(
            "The images contain NaN or infinity, pixels are finite; look at the preprocessing."
        )
    if len(maps) != len(images) or len(titles) not in {0, len(images)}:
        raise InputError(
            f"There are {len(images)} images, {len(maps)} maps and {len(titles)} titles, "
            "every image has one map, and one title or none; give as many of each."
        )

"""A map over its photograph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from torchsaliency.errors import InputError, OptionError
from torchsaliency.viz.overlay import overlay


def overlay_mask(
    img: Image.Image, mask: Image.Image, colormap: Any = "jet", alpha: float = 0.7
) -> Image.Image:
    """Lay a map over its photograph: alpha · photo + (1 - alpha) · colour of the map.

    Args:
        img: the photograph.
        mask: the map, in [0, 1] (mode "F") or 8 bits; resized bilinearly to the photograph.
        colormap: the name of a matplotlib colormap, or one that is registered.
        alpha: how much of the photograph shows, in [0, 1).

    Raises:
        TypeError: these are no PIL images.
        InputError: the map is of several channels, or out of range.
        OptionError: the opacity is out of range, or the colormap is not registered.
    """
    if not isinstance(img, Image.Image) or not isinstance(mask, Image.Image):
        raise TypeError("img and mask arguments need to be PIL.Image")
    if isinstance(alpha, bool) or not isinstance(alpha, float) or not 0 <= alpha < 1:
        raise OptionError(
            f"alpha is {alpha!r}, how much of the photograph shows; it is a float in [0, 1)."
        )
    if len(mask.getbands()) != 1:
        raise InputError(f"The map is of mode {mask.mode}; give one channel, such as mode F.")
    values = np.array(mask)
    scale = 255 if values.dtype == np.uint8 else 1
    saliency = torch.from_numpy(values.astype(np.float32) / scale)
    name = colormap if isinstance(colormap, str) else colormap.name
    return overlay(img, saliency, alpha=1 - alpha, colormap=name, blend="constant")

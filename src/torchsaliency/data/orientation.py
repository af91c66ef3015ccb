"""How a camera was held: photographs are turned upright, and masks and boxes with them.

EXIF's orientation (CIPA DC-008, tag 0x0112) numbers the eight ways in which the stored pixels of an
upright photograph may lie. Annotations are of the stored pixels, as most programs that draw and
read them know nothing of EXIF, unless the size that they record fits the upright photograph alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""Whether the stored pixels are transposed, then mirrored left to right, then top to bottom."""


@final
@dataclass(frozen=True)
class Frame:
    """The size of an upright photograph, and how its file stores it.

    Attributes:
        size: (width, height) of the upright photograph.
        orientation: EXIF's, 1 to 8; 1 is stored upright.
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Return (width, height) of the stored pixels."""
        transposed, _, _ = _TURNS[self.orientation]
        return self.size[::-1] if transposed else self.size


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of an image that is decoded; 1 where its EXIF block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in _TURNS else 1
    except Exception:  # a damaged EXIF block breaks its parser in many ways and spoils no pixel
        return 1


def turn_pixels(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn the stored pixels (H, W, …) of an image or a mask upright."""
    transposed, across, down = _TURNS[orientation]
    upright = np.swapaxes(pixels, 0, 1) if transposed else pixels
    return np.ascontiguousarray(upright[:: -1 if down else 1, :: -1 if across else 1])


def turn_boxes(boxes: Float[Tensor, "b 4"], frame: Frame) -> Float[Tensor, "b 4"]:
    """Turn boxes x0 y0 x1 y1 in the stored pixels to the upright photograph's."""
    transposed, across, down = _TURNS[frame.orientation]
    x0, y0, x1, y1 = boxes[:, [1, 0, 3, 2] if transposed else [0, 1, 2, 3]].unbind(1)
    if across:
        x0, x1 = frame.size[0] - x1, frame.size[0] - x0
    if down:
        y0, y1 = frame.size[1] - y1, frame.size[1] - y0
    return torch.stack([x0, y0, x1, y1], 1)

"""What metrics accept: maps in [0, 1], boxes in pixels, masks of the maps' size.

A wrong input is told in one sentence; a number is never made from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchsaliency.core.maps import ROUNDING, checked_maps
from torchsaliency.errors import InputError

__all__ = [
    "VOID",
    "checked_boxes",
    "checked_maps",
    "checked_masks",
    "checked_pair",
    "checked_probabilities",
    "checked_values",
]

VOID = 255
"""The label of pixels that count neither as object nor as background (Pascal VOC)."""


def checked_pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps of every image, as `checked_maps`.

    Raises:
        InputError: different numbers or sizes, or what `checked_maps` refuses.
    """
    if maps.shape != others.shape:
        raise InputError(
            f"Maps of {tuple(maps.shape)} and of {tuple(others.shape)} cannot be compared; give "
            "two of the same images and size."
        )
    return checked_maps(maps), checked_maps(others)


def checked_values(name: str, values: Tensor, count: int | None = None) -> Tensor:
    """Return per-image numbers (N,) in float64.

    Raises:
        InputError: another shape or number, or values that are not finite.
    """
    if values.ndim != 1 or (count is not None and len(values) != count):
        wanted = "(N,)" if count is None else f"({count},)"
        raise InputError(f"{name} must be {wanted}, and {tuple(values.shape)} was given.")
    values = values.detach().double()
    if not bool(values.isfinite().all()):
        raise InputError(f"{name} holds NaN or infinite values; look at the network's output.")
    return values


def checked_probabilities(name: str, values: Tensor, count: int | None = None) -> Tensor:
    """Return probabilities (N,) in float64.

    Raises:
        InputError: as `checked_values`, or values outside [0, 1].
    """
    values = checked_values(name, values, count)
    if len(values) and not (values.min() >= 0 and values.max() <= 1 + ROUNDING):
        raise InputError(
            f"{name} reaches from {float(values.min()):.4g} to {float(values.max()):.4g}; "
            "probabilities in [0, 1] are needed (apply softmax to logits)."
        )
    return values.clamp_max(1)


def checked_boxes(boxes: Sequence[Tensor], maps: Tensor) -> list[Tensor]:
    """Return each image's boxes (B, 4) in float64: x0 y0 x1 y1 in the map's pixels.

    A box may reach beyond the image, or lie outside it: cropping does that to annotations.

    Raises:
        InputError: another number of images, an image without a box, a box that is not finite or
            has no area.
    """
    if len(boxes) != len(maps):
        raise InputError(f"Boxes of {len(boxes)} images were given for {len(maps)} maps.")
    return [
        _checked_box(torch.as_tensor(one, device="cpu"), place) for place, one in enumerate(boxes)
    ]


def _checked_box(boxes: Tensor, place: int) -> Tensor:
    boxes = boxes.detach().double().cpu()
    if boxes.ndim == 1:
        boxes = boxes[None]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) == 0:  # noqa: PLR2004
        raise InputError(
            f"The boxes of image {place} are {tuple(boxes.shape)}; give (B, 4), x0 y0 x1 y1 in "
            "pixels, at least one."
        )
    sound = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not bool(sound.all()):
        wrong = [round(value, 3) for value in boxes[~sound][0].tolist()]
        raise InputError(
            f"Image {place} has the box {wrong}; give finite x0 y0 x1 y1 with x0 < x1 and y0 < y1."
        )
    return boxes


def checked_masks(masks: Tensor, maps: Tensor) -> Tensor:
    """Return object masks (N, H, W) as int64: 0 background, 255 void, all else object.

    Raises:
        InputError: another shape than the maps', or values that are not labels.
    """
    if masks.shape != maps.shape:
        raise InputError(
            f"Object masks are {tuple(masks.shape)} and maps {tuple(maps.shape)}; give one mask a "
            "map, of the same size (resize masks with nearest neighbour)."
        )
    if masks.is_floating_point() and not bool((masks == masks.round()).all()):
        raise InputError("Object masks must be labels (0 background, 255 void), not fractions.")
    return masks.long()

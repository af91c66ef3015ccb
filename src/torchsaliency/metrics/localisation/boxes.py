"""Boxes, people's and those that maps predict: their pixels, areas and overlaps.

Boxes are x0 y0 x1 y1 in the map's pixels (x0 y0 z0 x1 y1 z1 in a volume or a video), cut to whole
pixels (towards zero) as the published code does, the maximum side exclusive: pixel x belongs to a
box if x0 ≤ x < x1. Cropping an image may leave a box partly or wholly outside of it. No pixel
belongs to what is outside; a box that is outside wholly is no error, it can only be missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.metrics.checks import check_boxes
from torchsaliency.metrics.components import Integers, largest_component_boxes


def predicted_boxes(
    maps: Float[Tensor, " n *size"], *, short: bool = False
) -> Float[Tensor, "n ends"]:
    """Return the box that a map predicts: of the largest component above the map's mean.

    Components are 4-connected (through faces in a volume) and judged by their number of pixels (the
    first in reading order if several are largest); the box is tight. A constant map predicts an
    empty box, 0 0 0 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        short: leave out the last row and column of the box, as the code behind Opti-CAM's table
            does (erratum L11).

    Raises:
        InputError: maps outside [0, 1].

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> predicted_boxes(maps)
        tensor([[0., 0., 2., 1.]], dtype=torch.float64)
    """
    saliency = to_array(require_maps(maps))
    flat = saliency.reshape(len(saliency), math.prod(saliency.shape[1:]))
    mean = np.maximum(flat.mean(1), flat.min(1))  # rounding must not lift a constant map above it
    boxes = largest_component_boxes(saliency > mean.reshape(-1, *[1] * (saliency.ndim - 1)))
    if short:
        sides = saliency.ndim - 1
        boxes[:, sides:] = np.maximum(boxes[:, sides:] - 1, boxes[:, :sides])
    return to_tensor(boxes, maps)


def box_iou(predicted: Float[Tensor, "n ends"], boxes: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """Return each predicted box's largest IoU, in [0, 1], with any of the image's boxes.

    What a true box has outside the image counts as missed: it is part of the union.

    Args:
        predicted: (N, 4) inside the image.
        boxes: true boxes (B, 4) of every image.

    Raises:
        InputError: boxes that are none.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0, 2, 2]]), [torch.tensor([[0.0, 0, 2, 1]])])
        tensor([0.5000], dtype=torch.float64)
    """
    trues = whole_boxes(boxes, predicted, predicted.shape[1] // 2)
    found = [
        float(box_overlaps(box[None], true).max(initial=0))
        for box, true in zip(to_array(predicted), trues, strict=True)
    ]
    return to_tensor(found, predicted)


def whole_boxes(boxes: Sequence[Tensor], maps: Tensor, sides: int | None = None) -> list[Integers]:
    """Return each image's boxes (B, 4) in whole pixels, towards zero.

    Raises:
        InputError: boxes that are none.
    """
    return [each.trunc().numpy().astype(np.int64) for each in check_boxes(boxes, maps, sides)]


def clip_boxes(boxes: Integers, image: NDArray[Any]) -> Integers:
    """Return boxes (B, 4) without what is outside the image."""
    return np.clip(boxes, 0, np.array(image.shape[::-1] * 2))


def box_areas(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return the areas (...) of boxes (..., 4), 0 where the maximum side is the lower one."""
    low, high = np.split(boxes, 2, axis=-1)
    return np.asarray(np.maximum(high - low, 0).prod(-1))


def inside_boxes(boxes: Integers, image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels of the image are in any of the boxes."""
    mask = np.zeros(image.shape, dtype=bool)
    for ends in clip_boxes(boxes, image):
        low, high = np.split(ends, 2)
        mask[tuple(map(slice, low[::-1], high[::-1]))] = True
    return mask


def box_overlaps(
    predicted: NDArray[Any], boxes: Integers, *, inclusive: bool = False
) -> NDArray[np.float64]:
    """Return the IoU (P, B) of boxes (P, 4) and boxes (B, 4), which may count both their ends."""
    sides = boxes.shape[-1] // 2
    ends = np.repeat([0, 1], sides) * inclusive
    first, second = (predicted + ends)[:, None], (boxes + ends)[None]
    low = np.maximum(first[..., :sides], second[..., :sides])
    high = np.minimum(first[..., sides:], second[..., sides:])
    common = box_areas(np.concatenate([low, high], -1))
    return divide(common, box_areas(first) + box_areas(second) - common)


def divide(above: ArrayLike, below: ArrayLike) -> NDArray[np.float64]:
    """Return above / below, and 0 where below is 0 (there, above is 0 too)."""
    low = np.asarray(below, dtype=np.float64)
    return np.asarray(np.where(low > 0, above / np.where(low > 0, low, 1), 0.0))


def to_array(values: Tensor) -> NDArray[np.float64]:
    """Return a tensor's values in float64, in memory row by row."""
    return np.ascontiguousarray(values.detach().cpu().double().numpy())


def to_tensor(values: Any, like: Tensor) -> Tensor:
    """Return values in float64 on the device of another tensor."""
    return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(like.device)

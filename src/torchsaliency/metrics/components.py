"""Connected components of many binary maps at once, and the boxes around them.

The maps of a stack are laid out below each other on one sheet, a pixel of background around each,
so that one call of scipy labels all of them. Boxes are x0 y0 x1 y1 in pixels, the maximum side
exclusive.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Masks = NDArray[np.bool_]
"""(N, H, W)."""

Integers = NDArray[np.int64]

_NEIGHBOURS = {4: ndimage.generate_binary_structure(2, 1), 8: np.ones((3, 3), bool)}

_CUT = np.array([0, 0.25, 0.5, 0.25, 0])
"""What a 2×2 window with k pixels of a region takes from the area inside its contour.

The contour runs through pixel centres: of a window's k quarters of area it keeps half a window if
k is 3, and nothing if k is 1 or 2.
"""


def component_boxes(
    masks: Masks, *, connectivity: Literal[4, 8] = 8
) -> tuple[Integers, Integers, Integers]:
    """Return every connected component of every mask.

    Args:
        masks: (N, H, W).
        connectivity: 4 where pixels must share a side, 8 where a corner will do.

    Returns:
        (mask it belongs to (K,), box (K, 4), number of pixels (K,)), in reading order.
    """
    labels, count = _label(_sheet(masks), connectivity)
    frame, boxes = _boxes(labels, count, masks.shape[1])
    return frame, boxes, np.bincount(labels.ravel(), minlength=count + 1)[1:]


def largest_component_boxes(masks: Masks) -> Integers:
    """Return the box (N, 4) of each mask's largest 4-connected component by pixels.

    The first in reading order where several are largest, and zeros where the mask is empty. In
    masks (N, D, H, W) or (N, T), pixels must share a face, and boxes have as many ends.
    """
    if masks.ndim != 3:  # noqa: PLR2004
        found = [_largest_component_box(mask) for mask in masks]
        return np.array(found, dtype=np.int64).reshape(len(masks), 2 * (masks.ndim - 1))
    frame, boxes, pixels = component_boxes(masks, connectivity=4)
    return _last(boxes, len(masks), (-np.arange(len(boxes)), pixels, frame))


def _largest_component_box(mask: NDArray[np.bool_]) -> list[int]:
    """Return the low and the high ends of one mask's largest component, the last side first."""
    labels, count = ndimage.label(mask)
    if not count:
        return [0] * (2 * mask.ndim)
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    sides = ndimage.find_objects(labels)[int(pixels.argmax())][::-1]
    return [side.start for side in sides] + [side.stop for side in sides]


def contour_boxes(masks: Masks) -> tuple[Integers, Integers]:
    """Return the box of every contour that OpenCV's `findContours` finds with `RETR_TREE`.

    These are the outer contours of the 8-connected components, and the contours of their holes,
    which are 4-connected; a hole's contour runs on the component, one pixel outside the hole.

    Returns:
        (mask it belongs to (K,), box (K, 4)), the outer contours first.
    """
    sheet = _sheet(masks)
    frame, boxes = _boxes(*_label(sheet, 8), masks.shape[1])
    ground, count = _label(~sheet, 4)
    ground[ground == ground[0, 0]] = 0  # what is connected to the border is no hole
    in_hole, holes = _boxes(ground, count, masks.shape[1])
    grown = holes + np.array([-1, -1, 1, 1])
    return np.concatenate([frame, in_hole]), np.concatenate([boxes, grown])


def largest_contour_boxes(masks: Masks) -> Integers:
    """Return the box (N, 4) of each mask's contour with the largest area.

    The area is that of OpenCV's `contourArea`: of the polygon through the centres of the outermost
    pixels, holes included, 0 for a line. Where several are largest it is the one that begins last
    in reading order, which OpenCV lists first. Zeros where the mask is empty.
    """
    sheet = _sheet(masks)
    labels, count = _label(sheet, 8)
    frame, boxes = _boxes(labels, count, masks.shape[1])
    starts = _changes(labels.ravel())[::-1]
    first = np.zeros(count + 1, dtype=np.int64)
    first[labels.ravel()[starts]] = starts  # of several, the last assigned stays
    area = _areas(labels, _label(~sheet, 4)[0], first)
    return _last(boxes, len(masks), (first[1:], area[1:], frame))


def _areas(labels: NDArray[Any], ground: NDArray[Any], first: Integers) -> NDArray[np.float64]:
    """Return the area inside the contour of every label, label 0 included.

    A component with its holes and all in them is bounded by the background around it, which is
    left of its first pixel. Its pixels are counted along the sides it shares with that background.
    """
    width = labels.shape[1]
    regions, floor, size = labels.ravel(), ground.ravel(), len(first)
    around = floor[first - 1]
    around[0] = -1
    sides = _changes(regions)
    begins = floor[sides - 1] == around[regions[sides]]
    ends = floor[sides] == around[regions[sides - 1]]
    x = sides % width
    area = _sums(regions[sides - 1], ends * x, size) - _sums(regions[sides], begins * x, size)
    there = labels > 0
    mixed = there[:-1, :-1] != there[1:, 1:]
    mixed |= there[:-1, 1:] != there[1:, :-1]
    mixed |= there[:-1, :-1] != there[:-1, 1:]
    row, column = np.nonzero(mixed)
    window = row * width + column + np.array([[0], [1], [width], [width + 1]])
    owner = regions[window].max(0)
    outside = (floor[window] == around[owner]).sum(0)
    return area - _sums(owner, _CUT[4 - outside], size)


def _sums(labels: NDArray[Any], values: NDArray[Any], size: int) -> NDArray[np.float64]:
    return np.bincount(labels.ravel(), values.ravel(), minlength=size).astype(np.float64)


def _sheet(masks: Masks) -> Masks:
    count, height, width = masks.shape
    sheet = np.zeros((count * (height + 2) + 1, width + 2), dtype=bool)
    sheet[:-1].reshape(count, height + 2, width + 2)[:, 1:-1, 1:-1] = masks
    return sheet


def _label(sheet: Masks, connectivity: Literal[4, 8]) -> tuple[NDArray[np.int32], int]:
    labels, count = ndimage.label(sheet, _NEIGHBOURS[connectivity])
    return labels, int(count)


def _changes(labels: NDArray[Any]) -> Integers:
    """Return where a run of equal labels begins, but for the first."""
    return np.flatnonzero(labels[1:] != labels[:-1]) + 1


def _boxes(labels: NDArray[Any], count: int, height: int) -> tuple[Integers, Integers]:
    """Return the mask (K,) and the box (K, 4) of every label, 1 to `count`, that occurs."""
    width = labels.shape[1]
    start = _changes(labels.ravel())
    owner = labels.ravel()[start]
    row, low = np.divmod(start, width)
    high = np.append(start[1:], labels.size) - row * width
    boxes = np.zeros((count + 1, 4), dtype=np.int64)
    boxes[:, 0] = width
    np.minimum.at(boxes[:, 0], owner, low)
    np.maximum.at(boxes[:, 2], owner, high)
    boxes[owner[::-1], 1] = row[::-1]  # of several, the last assigned stays: the topmost
    boxes[owner, 3] = row + 1
    boxes = boxes[1:][boxes[1:, 3] > 0] - 1
    frame = boxes[:, 1] // (height + 2)
    boxes[:, 1::2] -= frame[:, None] * (height + 2)
    return frame, boxes


def _last(boxes: Integers, count: int, keys: tuple[NDArray[Any], ...]) -> Integers:
    """Return each frame's box that comes last by the keys, the last key the frame itself."""
    order = np.lexsort(keys)
    best = np.zeros((count, 4), dtype=np.int64)
    best[keys[-1][order]] = boxes[order]  # of several, the last assigned stays
    return best

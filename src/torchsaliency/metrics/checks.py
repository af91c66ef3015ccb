"""What metrics accept: maps in [0, 1], boxes in pixels, masks of the maps' size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchsaliency.core.maps import ROUNDING, require_maps
from torchsaliency.core.space import describe_size
from torchsaliency.errors import InputError

VOID = 255
"""The label of pixels that count neither as object nor as background (Pascal VOC)."""


def check_pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps of every image, as `require_maps`.

    Raises:
        InputError: different numbers or sizes, or what `require_maps` refuses.
    """
    if maps.shape != others.shape:
        raise InputError(
            f"Maps of {tuple(maps.shape)} and of {tuple(others.shape)} cannot be compared; give "
            "two of the same images and size."
        )
    return require_maps(maps), require_maps(others)


def check_copies(maps: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps (N, *size) and those of copies (N, S, *size) in float64.

    Raises:
        InputError: other shapes, no copies, or what `require_maps` refuses.
    """
    fits = copies.ndim == maps.ndim + 1 and copies.shape[0] == maps.shape[0]
    if not fits or copies.shape[2:] != maps.shape[1:] or copies.shape[1] == 0:
        raise InputError(
            f"Maps of {tuple(maps.shape)} and noisy maps of {tuple(copies.shape)} were "
            "given; give (N, *size) and (N, S, *size) with at least one copy."
        )
    values = require_maps(maps).double()
    return values, require_maps(copies.flatten(0, 1)).double().view(copies.shape)


def check_squares(maps: Tensor, squares: Tensor, drops: Tensor) -> tuple[Tensor, Tensor]:
    """Return the corners (S, 2 sides) of squares, and the score's drops (N, S) in float64.

    Raises:
        InputError: no squares, squares that do not lie inside the maps, or other numbers of drops.
    """
    if drops.shape != (len(maps), len(squares)) or not bool(drops.isfinite().all()):
        raise InputError(
            f"{len(maps)} maps, {len(squares)} squares and drops of {tuple(drops.shape)} were "
            "given; give one finite drop a map and square."
        )
    corners = squares.long().to(maps.device)
    size = tuple(maps.shape[1:])
    limits = torch.tensor(size[::-1] * 2, device=maps.device)
    if len(corners) == 0 or not _lie_inside(corners, limits):
        raise InputError(
            f"{len(corners)} squares were given; accepted are at least one, each with an area and "
            f"inside the maps of {describe_size(size)}."
        )
    return corners, drops.detach().double().to(maps.device)


def _lie_inside(corners: Tensor, limits: Tensor) -> bool:
    """Whether boxes have an area and lie inside an image of these sides."""
    if corners.shape[1] != len(limits):
        return False
    low, high = corners.chunk(2, 1)
    return bool(((corners >= 0) & (corners <= limits)).all() & (high > low).all())


def check_values(name: str, values: Tensor, count: int | None = None) -> Tensor:
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


def check_probabilities(name: str, values: Tensor, count: int | None = None) -> Tensor:
    """Return probabilities (N,) in float64.

    Raises:
        InputError: as `check_values`, or values outside [0, 1].
    """
    values = check_values(name, values, count)
    if len(values) and not (values.min() >= 0 and values.max() <= 1 + ROUNDING):
        raise InputError(
            f"{name} reaches from {float(values.min()):.4g} to {float(values.max()):.4g}; "
            "probabilities in [0, 1] are needed (apply softmax to logits)."
        )
    return values.clamp_max(1)


def check_curves(curves: Tensor) -> Tensor:
    """Return curves (N, S) of probabilities in float64.

    Raises:
        InputError: another shape, or values outside [0, 1].
    """
    if curves.ndim != 2 or curves.shape[1] == 0:  # noqa: PLR2004
        raise InputError(f"Curves must be (N, S), and {tuple(curves.shape)} was given.")
    return check_probabilities("A curve", curves.flatten()).view(curves.shape)


def require_picture_maps(name: str, sides: int) -> None:
    """Check that maps are those of pictures, for what is defined on no other.

    Raises:
        InputError: they have another number of spatial dimensions.
    """
    if sides != 2:  # noqa: PLR2004
        raise InputError(
            f"{name} is defined on maps of pictures (N, H, W), and maps of {sides} spatial "
            "dimensions were given; choose another metric."
        )


def check_boxes(boxes: Sequence[Tensor], maps: Tensor, sides: int | None = None) -> list[Tensor]:
    """Return each image's boxes (B, 4) in float64: x0 y0 x1 y1 in the map's pixels.

    In a volume or a video they are (B, 6), x0 y0 z0 x1 y1 z1, in a signal (B, 2); x is the last
    dimension of the map. A box may reach beyond the image, or lie outside it: cropping does that to
    annotations.

    Raises:
        InputError: another number of images, an image without a box, a box that is not finite or
            has no area.
    """
    if len(boxes) != len(maps):
        raise InputError(f"Boxes of {len(boxes)} images were given for {len(maps)} maps.")
    sides = maps.ndim - 1 if sides is None else sides
    return [_check_image_boxes(item, place, sides) for place, item in enumerate(boxes)]


def _check_image_boxes(boxes: Tensor, place: int, sides: int) -> Tensor:
    boxes = torch.as_tensor(boxes, device="cpu").detach().double()
    if boxes.ndim == 1:
        boxes = boxes[None]
    axes = "xyz"[:sides]
    order = " ".join([f"{axis}0" for axis in axes] + [f"{axis}1" for axis in axes])
    if boxes.ndim != 2 or boxes.shape[1] != 2 * sides or len(boxes) == 0:  # noqa: PLR2004
        raise InputError(
            f"The boxes of image {place} are {tuple(boxes.shape)}; give (B, {2 * sides}), {order} "
            "in pixels, at least one."
        )
    valid = boxes.isfinite().all(1) & (boxes[:, sides:] > boxes[:, :sides]).all(1)
    if not bool(valid.all()):
        wrong = [round(value, 3) for value in boxes[~valid][0].tolist()]
        rising = " and ".join(f"{axis}0 < {axis}1" for axis in axes)
        raise InputError(f"Image {place} has the box {wrong}; give finite {order} with {rising}.")
    return boxes


def check_masks(masks: Tensor, maps: Tensor) -> Tensor:
    """Return object masks (N, *size) as int64: 0 background, 255 void, all else object.

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

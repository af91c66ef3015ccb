"""Images of one, two or three spatial dimensions: signals, pictures, volumes and videos.

Everywhere in the library, the size of an image is its shape without the batch and the channels:
(T,), (H, W), (D, H, W) or, for a video, (T, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, ...]
"""The sides of an image or of a grid of cells."""

MOST_SIDES = 3
"""Torch convolves, pools and resizes up to so many dimensions."""

_MOST_CELLS_OFF = 1.0
"""How many cells a grid may have more or fewer than square ones would make: rounding at a border.

An attention matrix or a head's (tokens, channels) has many more.
"""

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
SIDE_NAMES = {1: "t", 2: "h, w", 3: "d, h, w"}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""By the number of spatial dimensions."""


def size_of(images: Tensor) -> Size:
    """Return the spatial size of images (N, C, *size)."""
    return tuple(images.shape[2:])


def describe_size(size: Sequence[int]) -> str:
    """Return a size in words: 224x224."""
    return "x".join(map(str, size))


def sides_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the spatial dimensions of (N, C, *size)."""
    return tuple(range(2, tensor.ndim))


def format_of(tensor: Tensor) -> torch.memory_format:
    """Return the order in memory that keeps the channels of images or weights together."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats.get(tensor.ndim, torch.contiguous_format)


def add_sides(values: Tensor, like: Tensor) -> Tensor:
    """Return values with a side of 1 for each dimension of `like` that they lack at the end."""
    return values[(..., *[None] * (like.ndim - values.ndim))]


def window_of(share: float | int, size: Sequence[int]) -> Size:
    """Return the sides of a window on an image, in pixels.

    On a picture it is a square, its side a share of the shorter one. Slices, frames and samples are
    no pixels of a picture, so in a volume, a video or a signal it takes that share of each side.
    """
    square = len(size) == 2  # noqa: PLR2004
    return tuple(max(1, round(share * (min(size) if square else side))) for side in size)


def repeat_image(image: Tensor, count: int) -> Tensor:
    """Return one image (C, *size) as a batch of so many, without copying it."""
    return image.expand(count, *image.shape)


def multiply_sides(planes: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply the last dimensions of a tensor by a matrix each.

    Args:
        planes: (…, *size).
        matrices: (wanted, side) each; or (N, wanted, side) for planes (N, *size).
    """
    if len(matrices) == 2:  # noqa: PLR2004 (rows and columns)
        down, across = matrices
        return down @ planes @ across.mT
    for place, matrix in enumerate(matrices, -len(matrices)):
        moved = planes.movedim(place, -1)
        rows = moved.flatten(1, -2) if moved.ndim > 2 else moved[:, None]  # noqa: PLR2004
        planes = (rows @ matrix.mT).reshape(*moved.shape[:-1], -1).movedim(-1, place)
    return planes


def convolve_sides(planes: Tensor, line: Tensor, *, repeat: bool) -> Tensor:
    """Convolve the spatial dimensions of (N, C, *size) by one symmetric kernel each.

    Args:
        planes: images or maps.
        line: the kernel, of an odd length.
        repeat: whether pixels outside repeat the border; else they are zero.
    """
    sides = planes.ndim - 2
    radius = len(line) // 2
    found = planes.flatten(0, 1)[:, None]
    for place in reversed(range(sides)):
        reach = [radius if side == place else 0 for side in range(sides)]
        kernel = line.view(1, 1, *[-1 if side == place else 1 for side in range(sides)])
        if repeat:
            ends = [by for by in reversed(reach) for _ in range(2)]
            found = CONVOLVE[sides](F.pad(found, ends, "replicate"), kernel)
        else:
            found = CONVOLVE[sides](found, kernel, padding=tuple(reach))
    return found.view_as(planes)


def cells_off(grid: Sequence[int], size: Sequence[int]) -> float:
    """Return how many cells a grid over an image is off from square ones.

    Of three sides, the two that fit best are compared: frames and slices have a stride of their
    own. A grid that is finer than the image is off by infinity.
    """
    if not all(0 < cells <= side for cells, side in zip(grid, size, strict=True)):
        return math.inf
    return min((off for off, _ in _pairs_off(grid, size)), default=0.0)


def is_square(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid's cells are square on the image, up to rounding at a border.

    A square image has nothing to round: 65 tokens x 64 numbers of a head are no map of it.
    """
    if cells_off(grid, size) == math.inf:
        return False
    pairs = _pairs_off(grid, size)
    return not pairs or any(off <= (0 if even else _MOST_CELLS_OFF) for off, even in pairs)


def _pairs_off(grid: Sequence[int], size: Sequence[int]) -> list[tuple[float, bool]]:
    """Return of every two sides how many cells they are off, and whether the image is square."""
    pairs = combinations(zip(grid, size, strict=True), 2)
    return [(min(abs(a - b * h / w), abs(b - a * w / h)), h == w) for (a, h), (b, w) in pairs]

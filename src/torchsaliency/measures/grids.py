"""Maps of mosaics: each image beside others of other classes, explained for its own class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.explanation import Explanation
from torchsaliency.core.space import describe_size, size_of
from torchsaliency.core.target import ClassTarget
from torchsaliency.errors import InputError, OptionError, TargetError
from torchsaliency.measures.again import Again, Layers


@final
@dataclass(frozen=True, eq=False)
class GridMaps:
    """Maps of mosaics, and where in them the image is.

    Attributes:
        maps: (N, *size) of the mosaics, for the class of each image; zeros where the batch has too
            few images for a mosaic.
        cells: (N, 4) the cell of each image, x0 y0 x1 y1 in pixels; (N, same, 4) the cells of its
            class, where a mosaic has several of them.
    """

    maps: Tensor
    cells: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"grid_maps": self.maps, "cells": self.cells}


def grid_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    grid: int = 2,
    shrink: bool = True,
    same: int = 1,
    layer: Layers = None,
    chunk: int | None = None,
) -> GridMaps:
    """Explain mosaics of grid x grid images of different classes by the same method.

    The mosaic of image i has it at cell i mod grid², and in the other cells the next images of the
    batch, in a circle, whose classes differ from its own and from each other. With `same` above 1,
    so many images are of its class, and the others of any other; all are there in turn.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it, for one class an image.
        grid: cells a side.
        shrink: images are shrunk, so that the mosaic has the size of one image, which every network
            takes; without, it is grid times as high and wide, as published.
        same: how many images of a mosaic have the class that is explained.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: mosaics in one pass; None finds it.

    Raises:
        InputError: the images are no pictures, or smaller than the grid.
        OptionError: a grid of less than two cells a side, or of one class alone.
        TargetError: what was explained is no class.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(4, 3, 64, 64)
        >>> found = torchsaliency.explain(net, x, "gradcam", [0, 1, 2, 3])["gradcam"]
        >>> grid_maps(net, found).maps.shape
        torch.Size([4, 64, 64])
    """
    images, target = explanation.images, explanation.target
    if grid < 2:  # noqa: PLR2004
        raise OptionError(f"A grid of {grid} was given; give at least two cells a side.")
    if not 0 < same < grid**2:
        raise OptionError(f"same={same} was given; give 1 to {grid**2 - 1} of {grid**2} cells.")
    if not isinstance(target, ClassTarget):
        raise TargetError(
            f"A {type(target).__name__} was explained, and mosaics are of images of different "
            "classes; explain class indices, or None for the predicted class."
        )
    size = size_of(images)
    if len(size) != 2 or min(size) < grid:  # noqa: PLR2004
        raise InputError(
            f"Images of {describe_size(size)} were given; mosaics are of pictures (N, C, H, W) of "
            f"at least {grid} pixels a side."
        )
    height, width = (side // grid for side in size) if shrink else size
    tiles = images
    if shrink:
        tiles = F.interpolate(images.float(), (height, width), mode="area").to(images.dtype)
    partners, places = _partners(target.labels.cpu(), grid * grid, same)
    possible = (partners >= 0).all(1).to(images.device)
    sides = size if shrink else (grid * height, grid * width)
    whole = torch.zeros(len(images), *sides, dtype=torch.float32, device=images.device)
    rows = possible.nonzero()[:, 0]
    again = Again(model, explanation, layer, chunk)
    for part in again.parts(len(rows)) if len(rows) else ():
        index = rows[part]
        mosaics = images.new_zeros(len(index), images.shape[1], *whole.shape[1:])
        chosen = tiles[partners.to(images.device)[index]]  # (m, cells, C, h, w)
        for cell in range(grid * grid):
            top, left = cell // grid * height, cell % grid * width
            mosaics[..., top : top + height, left : left + width] = chosen[:, cell]
        whole[index] = again.explain(mosaics, index).map.to(whole)
    own = places.to(images.device)
    corner = torch.stack([own % grid * width, own // grid * height], 2)
    ends = corner + torch.tensor([width, height], device=images.device)
    cells = torch.cat([corner, ends], 2)
    return GridMaps(whole, cells[:, 0] if same == 1 else cells)


def _partners(
    labels: Int[Tensor, " n"], cells: int, same: int
) -> tuple[Int[Tensor, "n cells"], Int[Tensor, "n same"]]:
    """Return the image in each cell of each image's mosaic, and the cells of its class.

    The images are -1 where the batch has none left.
    """
    classes = labels.tolist()
    count = len(classes)
    found = torch.full((count, cells), -1, device="cpu")
    places = torch.zeros(count, same, dtype=torch.int64, device="cpu")
    for own in range(count):
        seen: set[int] = {classes[own]}
        twins: list[int] = []
        others: list[int] = []
        for step in range(1, count):
            other = (own + step) % count
            if classes[other] == classes[own] and len(twins) < same - 1:
                twins.append(other)
            elif classes[other] not in seen and len(others) < cells - same:
                others.append(other)
                if same == 1:
                    seen.add(classes[other])
        turn, place = own // cells % (len(others) + 1), own % cells
        rest = [*others[:turn], *twins, *others[turn:]]
        row = [*rest[:place], own, *rest[place:]]
        if len(row) == cells:
            found[own] = torch.tensor(row, device="cpu")
            places[own] = torch.tensor([row.index(one) for one in (own, *twins)], device="cpu")
    return found, places

"""Does the map of a mosaic lie on the image whose class is explained?"""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.localisation.pointing import energy_pointing_game


def grid_pointing_game(
    grid_maps: Float[Tensor, "n h w"], cells: Int[Tensor, "n ends"]
) -> Float[Tensor, " n"]:
    """Return 100 · Σ_cell S / ΣS of every mosaic's map, in [0, 100].

    NaN (undefined) for a map of zeros.

    Args:
        grid_maps: S (N, H, W) in [0, 1], of mosaics for the class of one of their images.
        cells: (N, 4) where that image is, x0 y0 x1 y1 in pixels.

    Raises:
        InputError: maps outside [0, 1], or cells that are no boxes.

    Example:
        >>> mosaic = torch.zeros(1, 4, 4)
        >>> mosaic[0, 0, 0], mosaic[0, 3, 3] = 0.75, 0.25
        >>> grid_pointing_game(mosaic, torch.tensor([[0, 0, 2, 2]]))
        tensor([75.], dtype=torch.float64)
    """
    return focus(grid_maps, cells[:, None])


def focus(
    focus_maps: Float[Tensor, "n h w"], target_cells: Int[Tensor, "n b ends"]
) -> Float[Tensor, " n"]:
    """Return 100 · Σ_cells S / ΣS of every mosaic's map, in [0, 100].

    NaN (undefined) for a map of zeros.

    Args:
        focus_maps: S (N, H, W) in [0, 1], of mosaics for the class of some of their images.
        target_cells: (N, B, 4) where these images are, x0 y0 x1 y1 in pixels.

    Raises:
        InputError: maps outside [0, 1], or cells that are no boxes.

    Example:
        >>> mosaic = torch.zeros(1, 4, 4)
        >>> mosaic[0, 0, 0], mosaic[0, 3, 3] = 0.75, 0.25
        >>> focus(mosaic, torch.tensor([[[0, 0, 2, 2]]]))
        tensor([75.], dtype=torch.float64)
    """
    found = energy_pointing_game(focus_maps, [*target_cells])
    empty = require_maps(focus_maps).flatten(1).amax(1) == 0
    return torch.where(empty.to(found.device), torch.nan, found)


@final
@metric(
    "grid-pointing-game",
    group="localisation",
    cite="bohle2021",
    requires="grid_maps",
    direction="higher",
)
class GridPointingGame(SaliencyMetric):
    """Grid pointing game: how much of a mosaic's map is on the image whose class is explained?

    Formula: 100/N · Σ_i Σ_{cell i} S_i / ΣS_i, S_i the map, for the class of image i, of a mosaic
    of 2 x 2 images of different classes with image i in one cell. No annotations are needed.

    Rewards: methods that tell apart which pixels speak for which class.

    Misleads: a map of ones scores 25, not 0. The borders of the cells and the shrunk images are
    like nothing the network was trained on, and images of which it is unsure say little.

    Undefined: where the map is zero, and where the batch has fewer than four classes. The partners
    are images of the same batch, so the number depends on how images are batched: mix the classes.

    Differs: 2 x 2 images shrunk to the size of one, which every network takes; shrink=False and
    grid=3 are the published mosaics, of the most confident images.

    Source: Böhle, Fritz and Schiele (CoDA Nets), CVPR 2021.

    Args:
        grid: cells a side; at least 2.
        shrink: whether images are shrunk so that the mosaic keeps the network's size.
    """

    def __init__(self, grid: int = 2, shrink: bool = True, **options: Any) -> None:
        self.grid, self.shrink = grid, shrink
        super().__init__(**options)

    def update(self, grid_maps: Tensor, cells: Tensor) -> None:
        """Add images: maps (N, H, W) of their mosaics, and their cells (N, 4)."""
        self._record(grid_pointing_game(grid_maps, cells))


@final
@metric(
    "focus", group="localisation", cite="ariasduarte2022", requires="focus_maps", direction="higher"
)
class Focus(SaliencyMetric):
    """Focus: how much of a mosaic's map is on the two images whose class is explained?

    Formula: 100/N · Σ_i Σ_{cells of c_i} S_i / ΣS_i, S_i the map, for the class c_i of image i, of
    a mosaic of 2 x 2 images: image i, another of its class, and two of other classes. No
    annotations are needed.

    Rewards: methods that tell apart which pixels speak for which class, and see the class in every
    image that has it.

    Misleads: a map of ones scores 50, not 0, and so does a map of one of the two images of the
    class with as much of another class. The shrunk images and the borders of the cells are like
    nothing the network was trained on.

    Undefined: where the map is zero, and where the batch has no other image of the class, or fewer
    than two of others. The partners are images of the same batch, so the number depends on how
    images are batched: give at least two of each class.

    Differs: images shrunk to keep the mosaic's size; shrink=False is the published mosaic. The
    partners are the next images in the batch, where the paper draws them.

    Source: Arias-Duarte et al., "Focus! Rating XAI Methods and Finding Biases", 2022.

    Args:
        shrink: whether images are shrunk so that the mosaic keeps the network's size.
    """

    def __init__(self, shrink: bool = True, **options: Any) -> None:
        self.shrink = shrink
        super().__init__(**options)

    def update(self, focus_maps: Tensor, target_cells: Tensor) -> None:
        """Add images: maps (N, H, W) of their mosaics, and their class' cells (N, 2, 4)."""
        self._record(focus(focus_maps, target_cells))

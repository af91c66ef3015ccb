"""Do images with alike maps have the same prediction? Sufficiency, over a set of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.maps import require_maps, to_float64
from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric

_CELLS = 64
"""Numbers that are kept of a map: means of 8 x 8 cells, of 4 x 4 x 4 in a volume."""

_POOLS: Mapping[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}

_PART = 256
"""Images whose distances to all others are held at once."""


def sufficiency(
    maps: Float[Tensor, " n *size"],
    predicted: Int[Tensor, " n"],
    *,
    threshold: float = 0.6,
    itself: bool = True,
) -> Float[Tensor, " n"]:
    """Return 100 · the share of an image's neighbours with its predicted class, in [0, 100].

    Neighbours are the images at a distance of at most `threshold` times the largest distance in the
    set; distances are Euclidean with each pixel divided by its standard deviation over the set.

    Args:
        maps: (N, *size) in [0, 1].
        predicted: (N,) the class that the network predicts of each image.
        threshold: in [0, 1].
        itself: whether an image is its own neighbour; without, NaN where it has no other.

    Raises:
        InputError: maps outside [0, 1], or another number of classes.

    Example:
        >>> maps = torch.zeros(2, 8, 8)
        >>> maps[0, 0, 0], maps[1, 7, 7] = 1.0, 1.0
        >>> sufficiency(maps, torch.tensor([3, 3]))
        tensor([100., 100.], dtype=torch.float64)
    """
    values = to_float64(require_maps(maps)).flatten(1)
    if predicted.shape != (len(values),):
        raise InputError(
            f"Predicted classes of {tuple(predicted.shape)} were given for {len(values)} maps; "
            "give one an image."
        )
    if len(values) == 0:
        return values.new_zeros(0)
    spread = values.std(0, correction=0)
    points = torch.where(spread > 0, values / torch.where(spread > 0, spread, 1), 0)
    labels = predicted.to(values.device)
    parts = torch.arange(len(points), device=points.device).split(_PART)
    # exact distances: those by matrix products are not 0 between equal maps
    exact = "donot_use_mm_for_euclid_dist"
    largest = torch.stack(
        [torch.cdist(points[part], points, compute_mode=exact).amax() for part in parts]
    ).amax()
    found = []
    for part in parts:
        near = torch.cdist(points[part], points, compute_mode=exact) <= threshold * largest
        if not itself:
            near[torch.arange(len(part), device=part.device), part] = False
        same = near & (labels[part, None] == labels)
        found.append(same.sum(1) / near.sum(1))  # NaN without a neighbour
    return 100 * torch.cat(found).double()


@final
@metric(
    "sufficiency",
    group="faithfulness",
    cite="dasgupta2022",
    requires="predicted_classes",
    direction="higher",
)
class Sufficiency(SaliencyMetric):
    """Sufficiency: do images with alike maps have the same predicted class?

    Formula: 100/N · Σ_i |{j near i : ŷ_j = ŷ_i}| / |{j near i}|, j near i if d(S_i, S_j) is at most
    0.6 of the largest distance in the set (i is near itself); d Euclidean, each of 64 cells of the
    map divided by its standard deviation over the set.

    Rewards: maps that differ where the predictions differ.

    Misleads: a set of one class, and a set of maps that are all unlike, are perfect. It is a number
    of a set: each image's value depends on the others, and sets of other sizes cannot be compared.

    Undefined: never.

    Differs: an image is among those with its explanation, as in the definition over a distribution;
    itself=False leaves it out, as Quantus does, and is undefined where Quantus gives 0 (erratum
    Q15). Maps are averaged to 8 x 8 cells (4 x 4 x 4 in volumes), whatever the batches.

    Source: Dasgupta, Frost and Moshkovitz, ICML 2022.

    Args:
        threshold: of the largest distance up to which images are near, in [0, 1].
        itself: whether an image is near itself.
    """

    width = 1 + _CELLS

    def __init__(self, threshold: float = 0.6, itself: bool = True, **options: Any) -> None:
        self.threshold, self.itself = threshold, itself
        super().__init__(**options)

    def update(self, maps: Tensor, predicted: Tensor) -> None:
        """Add images: maps (N, H, W) in [0, 1], and the predicted classes (N,)."""
        if predicted.shape != maps.shape[:1]:
            raise InputError(
                f"Predicted classes of {tuple(predicted.shape)} were given for {len(maps)} maps; "
                "give one an image."
            )
        cells = pool_cells(maps).flatten(1)
        self._record(torch.cat([predicted.to(cells)[:, None], cells], 1))

    def image_values(self, rows: Tensor) -> Tensor:
        """Return the share of each image's neighbours, among these rows, with its class."""
        return sufficiency(
            rows[:, 1:], rows[:, 0].long(), threshold=self.threshold, itself=self.itself
        )


def pool_cells(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n *cells"]:
    """Return the means of 64 cells of every map in float64."""
    sides = maps.ndim - 1
    values = to_float64(require_maps(maps))[:, None]
    side = round(_CELLS ** (1 / sides))
    pooled: Tensor = _POOLS[sides](values, (side,) * sides)[:, 0]
    return pooled.clamp(0, 1)

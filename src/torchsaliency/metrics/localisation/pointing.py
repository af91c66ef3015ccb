"""Does the map point at the object? Its maximum, and its energy, in the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import require_picture_maps
from torchsaliency.metrics.components import Integers
from torchsaliency.metrics.localisation.boxes import (
    box_areas,
    clip_boxes,
    divide,
    inside_boxes,
    to_array,
    to_tensor,
    whole_boxes,
)

Ties = Literal["any", "expected"]


def pointing_game(
    maps: Float[Tensor, " n *size"],
    boxes: Sequence[Tensor],
    *,
    ties: Ties = "any",
    tolerance: float | int = 0,
) -> Float[Tensor, " n"]:
    """Return 100 where the map's maximum is in a box, else 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        ties: what holds if several pixels are maximal: "any" of them hits, or the "expected" hit
            of one drawn at random, which is the share of those that hit.
        tolerance: a pixel nearer than this to a pixel of a box hits, too.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
        OptionError: a tolerance below 0.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> box = [torch.tensor([[0.0, 0, 1, 1]])]
        >>> pointing_game(maps, box)
        tensor([100.], dtype=torch.float64)
    """
    _check_tolerance(tolerance)
    saliency = to_array(require_maps(maps))
    found = []
    for image, true in zip(saliency, whole_boxes(boxes, maps), strict=True):
        peaks = np.argwhere(image == image.max())[:, ::-1]
        distance = _distance(peaks, clip_boxes(true, image))
        hits = (distance == 0) | (distance < tolerance)
        found.append(hits.any() if ties == "any" else hits.mean())
    return 100 * to_tensor(found, maps)


def energy_pointing_game(
    maps: Float[Tensor, " n *size"], boxes: Sequence[Tensor], *, published: bool = False
) -> Float[Tensor, " n"]:
    """Return 100 · Σ_U S / ΣS of every image, U the union of its boxes; 0 for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        published: take the pixels that the published code takes: rows x0 to x1 and columns y0 to
            y1, where negative numbers count from the end (erratum O6).

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> box = [torch.tensor([[0.0, 0, 1, 1]])]
        >>> energy_pointing_game(maps, box)
        tensor([58.8235], dtype=torch.float64)
    """
    saliency = to_array(require_maps(maps))
    region = _find_published_region if published else inside_boxes
    found = [
        float(divide((image * region(true, image)).sum(), image.sum()))
        for image, true in zip(saliency, whole_boxes(boxes, maps), strict=True)
    ]
    return 100 * to_tensor(found, maps)


@final
@metric("sp", group="localisation", cite="zhang2018", annotations="boxes", direction="higher")
class PointingGame(SaliencyMetric):
    """Standard pointing game: is the map's maximum on the object?

    Formula: SP = 100/N · Σ_i 1[argmax S in any box].

    Rewards: maps with their peak on the object; all else is free.

    Misleads: one pixel decides. With ties="any", a map with many maxima wins wherever the object
    is (Fake-CAM: 99.8; erratum O9); ties="expected" is fair to all.

    Undefined: never. A box outside the image is missed.

    Differs: a mean over images, not over classes. TorchRay and Zhang et al. allow 15 pixels:
    tolerance=15.

    Source: Zhang et al., IJCV 2018; Opti-CAM, Eq. B.6.

    Args:
        ties: of several maxima "any" hits, or the "expected" hit of one drawn at random counts.
        tolerance: a maximum nearer than this to a box hits, in pixels; 0 or more.
    """

    def __init__(self, ties: Ties = "any", tolerance: float | int = 0, **options: Any) -> None:
        _check_tolerance(tolerance)
        self.ties, self.tolerance = ties, tolerance
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(pointing_game(maps, boxes, ties=self.ties, tolerance=self.tolerance))


@final
@metric("ep", group="localisation", cite="wang2020", annotations="boxes", direction="higher")
class EnergyPointingGame(SaliencyMetric):
    """Energy pointing game: how much of the map's mass is on the object.

    Formula: EP = 100/N · Σ_i Σ_U S / ΣS, U the union of the true boxes within the image.

    Rewards: maps without mass outside the boxes.

    Misleads: a single pixel in the box is perfect, and a map of ones scores the share of the image
    that the boxes take.

    Undefined: never. A map of zeros scores 0.

    Differs: the code behind Opti-CAM's table swaps the axes and lets negative coordinates wrap
    around, so that its whole column is wrong (Fake-CAM: 28.5 printed, 53.6 by the definition;
    erratum O6); published=True computes that, to compare. Score-CAM's protocol also takes only
    images with one box below half of the image.

    Source: Wang et al. (Score-CAM), CVPRW 2020; Opti-CAM, Appendix B.

    Args:
        published: whether the pixels are those of the published code (erratum O6).
    """

    def __init__(self, published: bool = False, **options: Any) -> None:
        self.published = published
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(energy_pointing_game(maps, boxes, published=self.published))


def _distance(points: Integers, boxes: Integers) -> NDArray[np.float64]:
    """Return how far points (K, sides) are from the boxes' nearest pixel, infinity if none."""
    boxes = boxes[box_areas(boxes) > 0]
    low, high = np.split(boxes, 2, axis=1)
    before = low - points[:, None]
    after = points[:, None] - (high - 1)
    gaps = np.maximum(np.maximum(before, after), 0)
    away = reduce(np.hypot, np.moveaxis(gaps, -1, 0))
    return np.asarray(np.min(away, 1, initial=np.inf))


def _find_published_region(boxes: Integers, image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels of erratum O6: axes swapped, negative numbers counted from the end."""
    require_picture_maps("The published energy pointing game", image.ndim)
    mask = np.zeros(image.shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[x0:x1, y0:y1] = True
    return mask


def _check_tolerance(tolerance: float | int) -> None:
    if tolerance < 0:
        raise OptionError(f"A tolerance of {tolerance} was given; give 0 or more pixels.")

"""Does a level set of the map have the object's box? Box accuracy over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import require_picture_maps
from torchsaliency.metrics.components import Integers, contour_boxes, largest_contour_boxes
from torchsaliency.metrics.localisation.boxes import box_overlaps, to_tensor, whole_boxes

Contours = Literal["all", "largest"]

_PIXELS = 2**23
"""Pixels of a stack of thresholded maps: about 0.1 GB with its labels."""


def box_hits(
    maps: Float[Tensor, " n *size"],
    boxes: Sequence[Tensor],
    *,
    step: float | int = 0.01,
    overlaps: tuple[float | int, ...] = (0.3, 0.5, 0.7),
    contours: Contours = "all",
) -> Float[Tensor, "n t d"]:
    """Return 1 where the map, cut at threshold τ, finds the object with overlap δ, else 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        step: of the thresholds τ = 0, step, … below 1, parts of the map's maximum.
        overlaps: δ, the smallest IoU that counts.
        contours: "all" may find the object (MaxBoxAccV2), or the "largest" alone (MaxBoxAcc).

    Returns:
        (N, thresholds, overlaps).

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
        OptionError: a step or an overlap outside (0, 1].

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> box = [torch.tensor([[0.0, 0, 1, 1]])]
        >>> box_hits(maps, box, step=0.5).shape
        torch.Size([1, 2, 3])
    """
    _check_accuracy(step, overlaps)
    require_picture_maps("Box accuracy", maps.ndim - 1)
    # in the map's own precision, as the official code has it
    levels = (require_maps(maps) * 255).to(torch.uint8).cpu().numpy()
    hits = [
        _best_overlap(image, true, _thresholds(step), contours)[:, None] >= np.array(overlaps)
        for image, true in zip(levels, whole_boxes(boxes, maps), strict=True)
    ]
    shape = -1, len(_thresholds(step)), len(overlaps)
    return to_tensor(np.reshape(hits, shape).astype(float), maps)


def max_box_accuracy(
    maps: Float[Tensor, " n *size"],
    boxes: Sequence[Tensor],
    *,
    step: float | int = 0.01,
    overlaps: tuple[float | int, ...] = (0.3, 0.5, 0.7),
    contours: Contours = "all",
) -> Float[Tensor, " n"]:
    """Return 100 · mean_δ 1[found at the best τ] of every image; their mean is MaxBoxAccV2.

    The best threshold τ of each overlap δ is that which finds most of these images.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        step: as in `box_hits`.
        overlaps: as in `box_hits`.
        contours: as in `box_hits`.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
        OptionError: a step or an overlap outside (0, 1].

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> box = [torch.tensor([[0.0, 0, 1, 1]])]
        >>> max_box_accuracy(maps, box)
        tensor([100.], dtype=torch.float64)
    """
    return _at_best(box_hits(maps, boxes, step=step, overlaps=overlaps, contours=contours))


@final
@metric("ba", group="localisation", cite="choe2020", annotations="boxes", direction="higher")
class MaxBoxAccuracy(SaliencyMetric):
    """MaxBoxAccV2: how often the map, cut at the best threshold, gives the object's box.

    Formula: BA = 100 · mean_δ max_τ 1/N · Σ_i 1[max_{B, b} IoU(B, b) ≥ δ], B the boxes of the
    contours of ⌊255 S⌋ > ⌊τ max⌊255 S⌋⌋, holes included, δ = 0.3, 0.5, 0.7, τ = 0, step, … < 1.

    Rewards: maps with a level set that has the extent of the object, whatever the level.

    Misleads: the threshold is chosen on the images it is judged on, one for all. Noise has so many
    contours that one may fit. An image's own number depends on the threshold of all images.

    Undefined: never. Where nothing is above the threshold, the box is the first pixel.

    Differs: contours="largest" is what Opti-CAM's table used; with overlaps=(0.5,) too, it is the
    first version, MaxBoxAcc. Boxes count both their ends, as in the official code, so that a
    predicted box is a pixel too large, but for the image's border (erratum L11). True boxes are
    clipped below at 0 (erratum O8), and missed if wholly outside. Of contours of equal area, the
    one that begins last in reading order is the largest.

    Source: Choe et al., CVPR 2020; Opti-CAM, Eq. B.5.

    Args:
        step: between the thresholds τ, in (0, 1].
        overlaps: δ, the smallest IoU that counts, each in (0, 1].
        contours: which regions may find the object: "all" (MaxBoxAccV2), or the "largest"
            (MaxBoxAcc).
    """

    def __init__(
        self,
        step: float | int = 0.01,
        overlaps: tuple[float | int, ...] = (0.3, 0.5, 0.7),
        contours: Contours = "all",
        **options: Any,
    ) -> None:
        _check_accuracy(step, overlaps)
        self.step, self.overlaps, self.contours = step, tuple(overlaps), contours
        self.width = len(_thresholds(step)) * len(overlaps)
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(box_hits(maps, boxes, **self.settings).flatten(1))

    def terms(self, rows: Tensor) -> Tensor:
        """Return whether each threshold and overlap is reached."""
        return rows

    def of_mean(self, mean: Tensor) -> Tensor:
        """Return the accuracy at the best threshold of each overlap, averaged over overlaps."""
        best = mean.reshape(*mean.shape[:-1], -1, len(self.overlaps)).amax(-2)
        return 100 * best.mean(-1)

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's share of overlaps reached, at the best thresholds of all images."""
        return _at_best(
            rows.reshape(len(rows), self.width // len(self.overlaps), len(self.overlaps))
        )


def _thresholds(step: float | int) -> NDArray[np.float64]:
    return np.arange(0.0, 1.0, step)


def _best_overlap(
    levels: NDArray[np.uint8], boxes: Integers, thresholds: NDArray[np.float64], contours: Contours
) -> NDArray[np.float64]:
    """Return the best IoU (T,) of any contour of the map above each threshold with any box.

    Thresholds between the same two of the map's levels select the same pixels, and only one of
    them is computed.
    """
    height, width = levels.shape
    known = np.unique(levels)
    cuts = (thresholds * levels.max()).astype(np.int64)
    ranks, place = np.unique(np.searchsorted(known, cuts, side="right"), return_inverse=True)
    bounds = np.append(known.astype(np.int64), 256)[ranks]  # foreground: the level is at least this
    seen = boxes[(boxes[:, 2:] > 0).all(1)]
    truth = np.maximum(seen, 0)
    last = np.array([width, height, width, height]) - 1
    best = []
    for part in np.array_split(bounds, -(-len(bounds) * levels.size // _PIXELS)):
        frame, found = _contours(levels >= part[:, None, None], contours)
        overlap = box_overlaps(np.minimum(found, last), truth, inclusive=True).max(1, initial=0)
        best.append(np.zeros(len(part)))
        np.maximum.at(best[-1], frame, overlap)
    return np.concatenate(best)[place]


def _contours(masks: NDArray[np.bool_], contours: Contours) -> tuple[Integers, Integers]:
    """Return the masks (K,) and boxes (K, 4); a mask without contour has the box 0 0 0 0."""
    if contours == "largest":
        return np.arange(len(masks)), largest_contour_boxes(masks)
    frame, found = contour_boxes(masks)
    bare = np.setdiff1d(np.arange(len(masks)), frame)
    none = np.zeros((len(bare), 4), dtype=np.int64)
    return np.concatenate([frame, bare]), np.concatenate([found, none])


def _at_best(hits: Float[Tensor, "n t d"]) -> Float[Tensor, " n"]:
    """Return 100 · the mean over d of the hits at each d's best t of all n."""
    if len(hits) == 0:
        return hits.new_zeros(0)
    best = hits.mean(0).argmax(0)
    return 100 * hits[:, best, torch.arange(len(best), device=best.device)].mean(1)


def _check_accuracy(step: float | int, overlaps: tuple[float | int, ...]) -> None:
    if not 0 < step <= 1 or not overlaps or not all(0 < overlap <= 1 for overlap in overlaps):
        raise OptionError(
            f"A step of {step} and overlaps {overlaps} were given; accepted are a step and at "
            "least one overlap above 0 and at most 1."
        )

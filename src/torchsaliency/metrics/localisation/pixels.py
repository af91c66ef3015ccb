"""Is the map's mass in the object's box? Precision, recall and F1, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.localisation.boxes import (
    box_areas,
    divide,
    inside_boxes,
    to_array,
    to_tensor,
    whole_boxes,
)


class PixelScores(NamedTuple):
    """How a map's mass and a box fit, in percent, (N,) each.

    Attributes:
        precision: share of the map's mass that is in the box.
        recall: share of the box that the map's mass covers.
        f1: their harmonic mean.

    Returned by `pixel_scores`.
    """

    precision: Tensor
    recall: Tensor
    f1: Tensor


def pixel_scores(
    maps: Float[Tensor, " n *size"], boxes: Sequence[Tensor], *, union: bool = False
) -> PixelScores:
    """Return precision, recall and F1 of the map's mass in the box, in percent.

    P = Σ_box S / ΣS, R = Σ_box S / |box|, F1 = 2PR / (P + R); 0 where a denominator is 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        union: judge the union of the boxes, which counts its pixels in the image; otherwise the
            single box with the best F1, which counts all its area, outside the image too.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> box = [torch.tensor([[0.0, 0, 1, 1]])]
        >>> pixel_scores(maps, box).recall
        tensor([100.], dtype=torch.float64)
    """
    saliency = to_array(require_maps(maps))
    rows = []
    for image, true in zip(saliency, whole_boxes(boxes, maps), strict=True):
        inside = np.stack([inside_boxes(box[None], image) for box in true])
        areas = box_areas(true)
        if union:
            inside = np.array([inside.any(0)])
            areas = inside.sum(tuple(range(1, inside.ndim)))
        mass = (image * inside).sum(tuple(range(1, inside.ndim)))
        precision, recall = divide(mass, image.sum()), divide(mass, areas)
        f1 = divide(2 * precision * recall, precision + recall)
        best = f1.argmax()
        rows.append([precision[best], recall[best], f1[best]])
    return PixelScores(*to_tensor(np.reshape(rows, (-1, 3)) * 100, maps).unbind(1))


class _PixelMetric(SaliencyMetric):
    """One of the pixel scores.

    Args:
        union: whether the union of the boxes is judged, or the best single box.
    """

    score: ClassVar[Literal["precision", "recall", "f1"]]

    def __init__(self, union: bool = False, **options: Any) -> None:
        self.union = union
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(getattr(pixel_scores(maps, boxes, union=self.union), self.score))


@final
@metric("f1", group="localisation", cite="zhang2024", annotations="boxes", direction="higher")
class PixelF1(_PixelMetric):
    """Pixel-wise F1: are the map's mass and the object's box the same?

    Formula: F1 = 100/N · Σ_i max_b 2PR / (P + R), P = Σ_b S / ΣS, R = Σ_b S / |b|, |b| the area of
    the whole box, outside the image too.

    Rewards: maps that are 1 in the box and 0 elsewhere.

    Misleads: boxes hold background. A map of ones scores high wherever objects are large (Fake-CAM:
    57.7), and the scale of the map counts: S² is another score.

    Undefined: never. A map of zeros, or a box outside the image, scores 0.

    Differs: Opti-CAM prints the union of the boxes, but its numbers are of the best single box
    (erratum O5); union=True is the print. Denominators carry no 1e-6.

    Source: Opti-CAM, CVIU 2024, Eq. B.3 and B.4.
    """

    score = "f1"


@final
@metric(
    "precision", group="localisation", cite="zhang2024", annotations="boxes", direction="higher"
)
class PixelPrecision(_PixelMetric):
    """Pixel-wise precision: how much of the map's mass is in the object's box.

    Formula: 100/N · Σ_i Σ_b S / ΣS, b the box with the best F1.

    Rewards: maps without mass outside the box.

    Misleads: a single pixel in the box is perfect; read it with recall.

    Undefined: never. A map of zeros, or a box outside the image, scores 0.

    Differs: Opti-CAM prints the union of the boxes; union=True is the print, and is then what the
    energy pointing game should be.

    Source: Opti-CAM, CVIU 2024, Eq. B.3.
    """

    score = "precision"


@final
@metric("recall", group="localisation", cite="zhang2024", annotations="boxes", direction="higher")
class PixelRecall(_PixelMetric):
    """Pixel-wise recall: how much of the object's box the map covers.

    Formula: 100/N · Σ_i Σ_b S / |b|, b the box with the best F1, |b| the area of the whole box.

    Rewards: maps that are 1 in all of the box.

    Misleads: a map of ones is perfect; read it with precision. Of a box that reaches outside the
    image, that part can never be covered.

    Undefined: never. A map of zeros, or a box outside the image, scores 0.

    Differs: Opti-CAM prints the union of the boxes; union=True is the print, within the image.

    Source: Opti-CAM, CVIU 2024, Eq. B.4.
    """

    score = "recall"

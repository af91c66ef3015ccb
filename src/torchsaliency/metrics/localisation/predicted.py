"""Does the box that the map predicts find the object? Official metric, localisation error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.localisation.boxes import box_iou, predicted_boxes

OVERLAP = 0.5
"""Of a predicted box and a true one, above which the object counts as found."""


def localisation_error(
    maps: Float[Tensor, " n *size"],
    boxes: Sequence[Tensor],
    *,
    continuous: bool = False,
    short: bool = False,
) -> Float[Tensor, " n"]:
    """Return 100 · (1 - max_b 1[IoU(B_p, b) > 0.5]) of every image: 0 where the object is found.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        continuous: 100 · (1 - max_b IoU), as Opti-CAM prints it, instead.
        short: as in `predicted_boxes`.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> box = [torch.tensor([[0.0, 0, 1, 1]])]
        >>> localisation_error(maps, box)
        tensor([100.], dtype=torch.float64)
    """
    return 100 * (1 - _found(maps, boxes, continuous=continuous, short=short))


def official_metric(
    maps: Float[Tensor, " n *size"],
    boxes: Sequence[Tensor],
    correct: Tensor,
    *,
    continuous: bool = False,
    short: bool = False,
) -> Float[Tensor, " n"]:
    """Return the localisation error of every image, and 100 where the network's class is wrong.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        correct: bool (N,), whether the network's top class is the image's.
        continuous: as in `localisation_error`.
        short: as in `predicted_boxes`.

    Raises:
        InputError: maps outside [0, 1], boxes that are none, or `correct` of another length or
            type.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> box = [torch.tensor([[0.0, 0, 1, 1]])]
        >>> official_metric(maps, box, torch.tensor([True]))
        tensor([100.], dtype=torch.float64)
    """
    if correct.shape != maps.shape[:1] or correct.dtype != torch.bool:
        raise InputError(
            f"correct is {correct.dtype} {tuple(correct.shape)}; give bool ({len(maps)},): whether "
            "the network's top class is the image's."
        )
    found = _found(maps, boxes, continuous=continuous, short=short)
    return 100 * (1 - found * correct.to(found.device))


class _PredictedBoxMetric(SaliencyMetric):
    """A metric of the predicted box's overlap.

    Args:
        continuous: whether the mean overlap is reported in place of the share of errors.
        short: whether the box is a pixel too short, as in the published code.
    """

    def __init__(self, continuous: bool = False, short: bool = False, **options: Any) -> None:
        self.continuous, self.short = continuous, short
        super().__init__(**options)


@final
@metric(
    "om",
    group="localisation",
    cite="russakovsky2015",
    requires="predictions",
    annotations="boxes",
    direction="lower",
)
class OfficialMetric(_PredictedBoxMetric):
    """Official metric: how often the class is wrong, or the map's box misses the object.

    Formula: OM = 100/N · Σ_i (1 - max_b 1[IoU(B_p, b) > 0.5] · 1[c_p = c]), B_p the tight box of
    the largest 4-connected component of S > mean(S), b the true boxes, c_p the network's top class.

    Rewards: maps whose part above the mean has the extent of the object.

    Misleads: the network's errors are in it, whatever the map; compare methods on one network only.
    One box judges a map of many parts, and explaining is not localising.

    Undefined: never. A constant map predicts no box, and misses.

    Differs: Opti-CAM prints the continuous IoU, but its numbers are thresholded at 0.5 (erratum
    O5); continuous=True is the print. Its box is one pixel short (erratum L11): short=True.

    Source: Russakovsky et al. (ILSVRC), IJCV 2015; Opti-CAM, Eq. B.1.
    """

    def update(self, maps: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> None:
        """Add images: S (N, H, W), boxes (B, 4) of each, bool (N,): is the top class right?"""
        self._record(
            official_metric(maps, boxes, correct, continuous=self.continuous, short=self.short)
        )


@final
@metric("le", group="localisation", cite="cao2015", annotations="boxes", direction="lower")
class LocalisationError(_PredictedBoxMetric):
    """Localisation error: how often the map's box misses the object.

    Formula: LE = 100/N · Σ_i (1 - max_b 1[IoU(B_p, b) > 0.5]), B_p the tight box of the largest
    4-connected component of S > mean(S), b the true boxes.

    Rewards: maps whose part above the mean has the extent of the object.

    Misleads: a map that is 1 everywhere but in one pixel predicts the whole image, and finds the
    object in almost half of ImageNet's images (Fake-CAM: 54.0). A map that shows only the
    telling part of the object misses.

    Undefined: never. A constant map predicts no box, and misses.

    Differs: Opti-CAM prints the continuous IoU, but its numbers are thresholded at 0.5 (erratum
    O5); continuous=True is the print. Its box is one pixel short (erratum L11): short=True.

    Source: Cao et al., ICCV 2015; Opti-CAM, Eq. B.2.
    """

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(localisation_error(maps, boxes, continuous=self.continuous, short=self.short))


def _found(
    maps: Tensor, boxes: Sequence[Tensor], *, continuous: bool, short: bool
) -> Float[Tensor, " n"]:
    overlap = box_iou(predicted_boxes(maps, short=short), boxes)
    return overlap if continuous else (overlap > OVERLAP).double()

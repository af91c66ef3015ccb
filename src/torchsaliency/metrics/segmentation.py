"""Does the map cover the object's mask? Intersection over union at one threshold and at many.

The Multivector Tucker Saliency Maps paper, Eq. 10 and Fig. 7.
"""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import VOID, check_masks

Void = Literal["ignore", "background"]

THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the sweep in Fig. 7 of the paper."""


def iou_at(
    maps: Float[Tensor, " n *size"],
    masks: Tensor,
    threshold: float | int = 0.5,
    *,
    void: Void = "ignore",
) -> Float[Tensor, " n"]:
    """Return 100 · IoU(B, O) of every image, B = 1[S ≥ T] and O the object's pixels.

    NaN where both are empty: there is nothing to find, and nothing was found.

    Args:
        maps: S (N, H, W) in [0, 1].
        masks: O (N, H, W): 0 background, 255 void, all else object.
        threshold: T, in [0, 1].
        void: whether void pixels are left out ("ignore") or count as "background".

    Raises:
        InputError: maps outside [0, 1], or masks of another size or without labels.
        OptionError: a threshold outside [0, 1].

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> mask = torch.tensor([[[1, 0], [0, 0]]])
        >>> iou_at(maps, mask, 0.4)
        tensor([50.], dtype=torch.float64)
    """
    _check_threshold(threshold)
    saliency = require_maps(maps)
    labels = check_masks(masks, saliency).to(saliency.device)
    judged = (labels != VOID) | (void == "background")
    found = (saliency >= threshold) & judged
    there = (labels != 0) & (labels != VOID)
    common = (found & there).flatten(1).sum(1).double()
    either = (found | there).flatten(1).sum(1).double()
    return 100 * common / either  # 0 / 0 is NaN, as promised


@final
@metric("miou", group="segmentation", cite="bouayed2025", annotations="masks", direction="higher")
class MeanIoU(SaliencyMetric):
    """mIoU: does the map, cut at a threshold, cover the object's mask?

    Formula: 100/N · Σ_i |B_i ∩ O_i| / (|B_i| + |O_i| - |B_i ∩ O_i|), B = 1[S ≥ T] and O the pixels
    of any object; a mean over images of the foreground's IoU, not over classes.

    Rewards: maps that are high on the whole object and low beside it.

    Misleads: a network may rightly look at a part only. The threshold judges the scale of the map
    as much as its shape: S and its square root differ.

    Undefined: where there is no object and the map is below T everywhere.

    Differs: Eq. 10 of the paper prints S ≤ T, which selects the background (erratum T4). Void
    pixels, of which the paper says nothing, are left out; void="background" counts them.

    Source: Multivector Tucker Saliency Maps, TMLR 2025, Eq. 10.

    Args:
        threshold: T, in [0, 1].
        void: whether void pixels are left out ("ignore") or count as "background".
    """

    def __init__(self, threshold: float | int = 0.5, void: Void = "ignore", **options: Any) -> None:
        _check_threshold(threshold)
        self.threshold, self.void = threshold, void
        super().__init__(**options)

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1] and the object masks (N, H, W)."""
        self._record(iou_at(maps, masks, self.threshold, void=self.void))


@final
@metric(
    "miou-sweep", group="segmentation", cite="bouayed2025", annotations="masks", direction="higher"
)
class MeanIoUSweep(SaliencyMetric):
    """mIoU sweep: mIoU averaged over thresholds, so that no one threshold decides.

    Formula: 1/|T| · Σ_T mIoU(T), T = 0.4, 0.5, …, 0.9; the property `curve` has every mIoU(T).

    Rewards: maps that are high on the whole object with a sharp edge.

    Misleads: smooth maps lose at high thresholds however well they are placed. A mean hides where
    the curves of two methods cross.

    Undefined: where there is no object and the map is below one of the thresholds everywhere.

    Differs: the paper shows the curve only; the mean over thresholds is ours.

    Source: Multivector Tucker Saliency Maps, TMLR 2025, Fig. 7.

    Args:
        thresholds: T, each in [0, 1].
        void: whether void pixels are left out ("ignore") or count as "background".
    """

    def __init__(
        self,
        thresholds: tuple[float | int, ...] = THRESHOLDS,
        void: Void = "ignore",
        **options: Any,
    ) -> None:
        if not thresholds:
            raise OptionError("No threshold was given; give at least one in [0, 1].")
        for threshold in thresholds:
            _check_threshold(threshold)
        self.thresholds, self.void = tuple(thresholds), void
        self.width = len(self.thresholds)
        super().__init__(**options)

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1] and the object masks (N, H, W)."""
        rows = [iou_at(maps, masks, threshold, void=self.void) for threshold in self.thresholds]
        self._record(torch.stack(rows, 1))

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's mean over thresholds."""
        return rows.mean(1)

    @property
    def curve(self) -> dict[float, float]:
        """The mIoU by threshold, over the images that define all of them."""
        return dict(zip(self.thresholds, self.defined_rows.mean(0).tolist(), strict=True))


def _check_threshold(threshold: float | int) -> None:
    if not 0 <= threshold <= 1:
        raise OptionError(f"A threshold of {threshold} was given; maps need one in [0, 1].")

"""Is the map's box small, and does what is in it still say the class? The saliency metric."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_probabilities
from torchsaliency.metrics.localisation.boxes import predicted_boxes

SMALLEST = 0.05
"""Share of the image below which the saliency metric does not reward smaller boxes."""

_LOW = math.log(SMALLEST)


def saliency_metric(
    maps: Float[Tensor, " n *size"], crop: Tensor, *, short: bool = False
) -> Float[Tensor, " n"]:
    """Return log max(0.05, |B_p| / HW) - log p of every image, in nats.

    NaN where p is exactly 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        crop: p (N,), the class probability of the image cut to the predicted box B_p and resized.
        short: as in `predicted_boxes`.

    Raises:
        InputError: maps outside [0, 1], or values that are no probabilities.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> saliency_metric(maps, torch.tensor([1.0]))
        tensor([-0.6931], dtype=torch.float64)
    """
    probability = check_probabilities("crop", crop, len(maps)).to(maps.device)
    edges = predicted_boxes(maps, short=short)
    low, high = edges.chunk(2, 1)
    share = (high - low).prod(1) / math.prod(maps.shape[1:])
    found = share.clamp_min(SMALLEST).log() - probability.log()
    return torch.where(probability > 0, found, torch.nan)


@final
@metric(
    "sm",
    group="localisation",
    cite="dabkowski2017",
    requires="crop_scores",
    direction="lower",
    unit="nats",
    best=_LOW,
)
class SaliencyCropMetric(SaliencyMetric):
    """Saliency metric: is the map's box small, and does its crop still say the class?

    Formula: SM = 1/N · Σ_i log max(0.05, |B_p| / HW) - log p_i, B_p the tight box of the largest
    4-connected component of S > mean(S), p the class probability of the crop of B_p, resized to
    the image's size.

    Rewards: small boxes of which the network is sure; log 0.05 = -3.0 is perfect.

    Misleads: only the box counts. A crop enlarges what is in it, which can raise or lower p for
    reasons that have nothing to do with the map, and one p near 0 outweighs many images.

    Undefined: where p is exactly 0.

    Source: Dabkowski and Gal, NeurIPS 2017; Opti-CAM, Eq. B.7.

    Args:
        short: whether the box is a pixel too short, as published (erratum L11).
    """

    def __init__(self, short: bool = False, **options: Any) -> None:
        self.short = short
        super().__init__(**options)

    def update(self, maps: Tensor, crop: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1], and the class probability p (N,) of the crops."""
        self._record(saliency_metric(maps, crop, short=self.short))

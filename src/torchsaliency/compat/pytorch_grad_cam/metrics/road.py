"""ROAD: pixels are removed by the map and imputed from their neighbours.

Source: Rong et al., ICML 2022. The library's own `road` scores probabilities of a class; here any
target is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import Array, OneTarget
from torchsaliency.compat.pytorch_grad_cam.metrics.perturbation_confidence import (
    AveragerAcrossThresholds,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from torchsaliency.measures.imputation import impute_neighbours

_PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class NoisyLinearImputer:
    """Replaces removed pixels by the weighted mean of their eight neighbours, and adds noise.

    Args:
        noise: its standard deviation; drawn from torch's own generator.
    """

    def __init__(self, noise: float = 0.01) -> None:
        self.noise = noise

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:
        """Return the image (C, H, W) with its pixels where the mask (H, W) is 0 imputed."""
        removed = mask == 0
        filled = impute_neighbours(img[None], removed[None])[0]
        grain = torch.randn(len(img), int(removed.sum()), dtype=torch.float32, device="cpu")
        filled[:, removed] += self.noise * grain.to(filled)
        return filled


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score without the pixels from a percentile of the map on."""

    def __init__(self, percentile: Any = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score without the pixels from a percentile of 1 - S on."""

    def __init__(self, percentile: Any = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """`ROADMostRelevantFirst`, averaged over percentiles."""

    def __init__(self, percentiles: Sequence[float | int] = _PERCENTILES) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """`ROADLeastRelevantFirst`, averaged over percentiles."""

    def __init__(self, percentiles: Sequence[float | int] = _PERCENTILES) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """Half the difference of the two averages, least relevant minus most relevant."""

    def __init__(self, percentiles: Sequence[float | int] = _PERCENTILES) -> None:
        self.percentiles = percentiles
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)

    def __call__(
        self,
        input_tensor: Tensor,
        cams: Array,
        targets: Sequence[OneTarget],
        model: nn.Module,
    ) -> Array:
        """Return one number an image; arguments as `PerturbationConfidenceMetric`."""
        least = self.lerf_averager(input_tensor, cams, targets, model)
        most = self.morf_averager(input_tensor, cams, targets, model)
        return (least - most) / 2

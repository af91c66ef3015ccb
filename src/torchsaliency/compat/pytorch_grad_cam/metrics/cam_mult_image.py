"""How a score changes when the normalised image is multiplied by its map."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from torchsaliency.compat._shared import Array
from torchsaliency.compat.pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
)


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """Return the image (C, *size) times its map (*size)."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """The score of the image times its map, minus that of the image."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """By how much the score falls, 0 where it rises."""

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return max(0, clean - masked) of each image; arguments as the base class."""
        change: Array = super().__call__(*args, **kwargs)
        return np.maximum(-change, 0)


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """Whether the score rises."""

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return 1 where the masked image scores higher, else 0; arguments as the base class."""
        change: Array = super().__call__(*args, **kwargs)
        return (change > 0).astype(np.float32)

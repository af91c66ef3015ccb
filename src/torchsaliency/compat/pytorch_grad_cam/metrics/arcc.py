"""ARCC: the harmonic mean of coherency, 1 - complexity and ROAD.

Source: Domeniconi et al., 2026 (RefineCAM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import Array, OneTarget
from torchsaliency.compat.pytorch_grad_cam.metrics.road import ROADCombined
from torchsaliency.metrics.functional import coherency, complexity

Method = Callable[..., Array]


class Complexity:
    """The mean of a map, in [0, 1]."""

    def __call__(self, grayscale_cams: Array) -> Array:
        """Return Σ|S| / (HW) of each map (N, H, W)."""
        return complexity(torch.from_numpy(np.asarray(grayscale_cams))).numpy() / 100


class Coherency:
    """(r + 1) / 2, r the correlation of a map with that of the image times the map."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: Array,
        targets: Sequence[OneTarget],
        model: nn.Module,  # noqa: ARG002 (the method has it)
        base_method: Method,
    ) -> Array:
        """Return the coherency of each map; 0 of a constant one."""
        maps = torch.from_numpy(np.asarray(grayscale_cams))
        masked = input_tensor * maps.to(input_tensor)[:, None]
        again = base_method(input_tensor=masked, targets=targets)
        return coherency(maps, torch.from_numpy(again)).numpy() / 100


class ARCC:
    """The harmonic mean of coherency, 1 - complexity and ROAD, in [0, 1].

    ROAD, in [-1/2, 1/2] for a probability, is doubled and cut to [0, 1].

    Args:
        base_method: a CAM object, which explains the masked image again.
        road_percentiles: as `ROADCombined`.
    """

    def __init__(
        self, base_method: Method, road_percentiles: Sequence[float | int] = (20, 40, 60, 80)
    ) -> None:
        self.base_method = base_method
        self.complexity, self.coherency = Complexity(), Coherency()
        self.road = ROADCombined(road_percentiles)

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: Array,
        targets: Sequence[OneTarget],
        model: nn.Module,
    ) -> Array:
        """Return one number an image; arguments as `PerturbationConfidenceMetric`."""
        parts = np.stack(
            [
                self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method),
                1 - self.complexity(grayscale_cams),
                np.clip(2 * self.road(input_tensor, grayscale_cams, targets, model), 0, 1),
            ]
        )
        return 3 / (1 / (parts + 1e-8)).sum(0)

"""How a score changes when an image is changed by its map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import Array, OneTarget, score_variants, to_numpy
from torchsaliency.errors import InputError, OptionError

Perturbation = Callable[[Tensor, Tensor], Tensor]
"""Changes an image (C, *size) by its map (*size)."""


class PerturbationConfidenceMetric:
    """The score of the changed image, minus that of the image.

    Args:
        perturbation: changes an image (C, *size) by its map (*size).
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def __call__(
        self,
        input_tensor: Tensor,
        cams: Array,
        targets: Sequence[OneTarget],
        model: nn.Module,
        return_visualization: bool = False,
        return_diff: bool = True,
    ) -> Any:
        """Return one number an image (N,), and the changed images if they are wanted.

        Args:
            input_tensor: images (N, C, *size).
            cams: their maps (N, *size).
            targets: a callable for each image.
            model: the network, which is not changed.
            return_visualization: whether the changed images (N, C, *size) are returned, too.
            return_diff: whether the score of the clean image is taken off.

        Raises:
            InputError: maps and images do not fit.
            TargetError: another number of targets than images.
        """
        images = input_tensor.detach()
        if len(cams) != len(images) or tuple(np.shape(cams)[1:]) != tuple(images.shape[2:]):
            raise InputError(
                f"Maps of {np.shape(cams)} were given for images of {tuple(images.shape)}; give "
                "one map of the same size for each image."
            )
        changed = torch.stack(
            [
                self.perturbation(image, torch.from_numpy(np.asarray(cam)))
                for image, cam in zip(images.cpu(), cams, strict=True)
            ]
        ).to(images)
        stages = torch.stack([changed, images], 1) if return_diff else changed[:, None]
        scores = score_variants(
            model, images, targets, stages.shape[1], lambda image, place: stages[image, place]
        )
        found = scores[:, 0] - scores[:, 1] if return_diff else scores[:, 0]
        numbers = to_numpy(found)
        return (numbers, changed) if return_visualization else numbers


class RemoveMostRelevantFirst:
    """Imputes the pixels of the map's highest values.

    Args:
        percentile: of the map, from which on pixels are removed; "auto" finds Otsu's threshold.
        imputer: given an image (C, H, W) and a mask (H, W), 0 where a pixel is removed.
    """

    def __init__(self, percentile: float | int | Literal["auto"], imputer: Perturbation) -> None:
        self.percentile, self.imputer = percentile, imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """Return the image without the pixels at and above the threshold."""
        values = mask.cpu().numpy()
        threshold: Any
        if self.percentile == "auto":
            from skimage.filters import threshold_otsu  # noqa: PLC0415 (slow to import)

            kept = values <= threshold_otsu(values)
        else:
            if not 0 <= self.percentile <= 100:  # noqa: PLR2004
                raise OptionError(f"A percentile lies in [0, 100], not {self.percentile}.")
            threshold = np.percentile(values, self.percentile)
            kept = values < threshold
        return self.imputer(input_tensor, torch.from_numpy(kept).float().to(mask.device))


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """Imputes the pixels of the map's lowest values; arguments as `RemoveMostRelevantFirst`."""

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """Return the image without the pixels whose 1 - S is at and above the threshold."""
        return super().__call__(input_tensor, 1 - mask)


class AveragerAcrossThresholds:
    """The mean of a metric over several percentiles.

    Args:
        imputer: makes the metric of a percentile.
        percentiles: which.
    """

    def __init__(
        self,
        imputer: Callable[[float | int], PerturbationConfidenceMetric],
        percentiles: Sequence[float | int] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
    ) -> None:
        self.imputer, self.percentiles = imputer, percentiles

    def __call__(
        self, input_tensor: Tensor, cams: Array, targets: Sequence[OneTarget], model: nn.Module
    ) -> Array:
        """Return one number an image; arguments as `PerturbationConfidenceMetric`."""
        scores = [
            self.imputer(percentile)(input_tensor, cams, targets, model)
            for percentile in self.percentiles
        ]
        return np.stack(scores).mean(axis=0)

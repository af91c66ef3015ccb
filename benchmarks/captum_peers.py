"""The attributions of captum that the scoreboard measures, of the images of a `Bench`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import Bench


def integrate_gradients(few: Bench) -> Tensor:
    """Return integrated gradients of 50 steps."""
    from captum.attr import IntegratedGradients

    found: Tensor = IntegratedGradients(few.net).attribute(
        few.x.clone(), target=few.labels, n_steps=50, internal_batch_size=16
    )
    return found


def smooth_gradients(few: Bench) -> Tensor:
    """Return SmoothGrad of 50 samples."""
    from captum.attr import NoiseTunnel, Saliency

    spread = 0.15 * float(few.x.max() - few.x.min())
    found: Tensor = NoiseTunnel(Saliency(few.net)).attribute(
        few.x.clone(), nt_samples=50, nt_samples_batch_size=10, stdevs=spread, target=few.labels
    )
    return found


def gradient_shap(few: Bench) -> Tensor:
    """Return GradientSHAP of 50 samples."""
    from captum.attr import GradientShap

    found: Tensor = GradientShap(few.net).attribute(
        few.x.clone(), baselines=few.x * 0, n_samples=50, stdevs=1e-4, target=few.labels
    )
    return found


def _squares(few: Bench) -> Tensor:
    """Number the 7 x 7 squares of an image."""
    side = torch.arange(few.x.shape[2]) * 7 // few.x.shape[2]
    return (side[:, None] * 7 + side)[None, None]


def kernel_shap(few: Bench) -> Tensor:
    """Return KernelSHAP of 500 coalitions of squares."""
    from captum.attr import KernelShap

    return _by_segments(KernelShap(few.net), few, 500)


def lime(few: Bench) -> Tensor:
    """Return LIME of 1000 samples of squares."""
    from captum.attr import Lime

    return _by_segments(Lime(few.net), few, 1000)


def _by_segments(method: Any, few: Bench, samples: int) -> Tensor:
    found: Tensor = method.attribute(
        few.x.clone(),
        target=few.labels,
        feature_mask=_squares(few),
        n_samples=samples,
        perturbations_per_eval=16,
    )
    return found

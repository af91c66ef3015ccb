"""First principal components of feature maps, in NumPy."""

from __future__ import annotations

import numpy as np
import torch

from torchsaliency.compat._shared import Array, to_numpy
from torchsaliency.compat.pytorch_grad_cam.base_cam import first_component
from torchsaliency.methods.tucker import KPCACAM


def get_2d_projection(activation_batch: Array) -> Array:
    """Return the projection (N, *grid) of features (N, C, *grid) on their first singular vector.

    Each channel is centred, NaN is 0, and the largest absolute value is positive.
    """
    features = torch.from_numpy(np.nan_to_num(activation_batch, posinf=np.inf, neginf=-np.inf))
    return to_numpy(first_component(features))


get_2d_projection_with_sign_correction = get_2d_projection
"""The same: every projection here has its sign."""


def get_2d_projection_kernel(
    activation_batch: Array, kernel: str = "sigmoid", gamma: float | None = None
) -> Array:
    """Return the first principal component (N, *grid) under a kernel; see `kpcacam`."""
    method = KPCACAM(kernel, gamma)  # type: ignore[arg-type]
    features = torch.from_numpy(np.nan_to_num(activation_batch, posinf=np.inf, neginf=-np.inf))
    return to_numpy(method.project(features))

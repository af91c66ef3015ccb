"""Random numbers that depend on a seed alone: not on the device, the default device or type."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Return float32 numbers from [0, 1) on the processor."""
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Return standard normal float32 numbers on the processor."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

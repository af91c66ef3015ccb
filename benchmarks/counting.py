"""What does not depend on the machine's mood: images through the network, and peak memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Count:
    """How much went through the network.

    Attributes:
        images: rows that entered it.
        calls: how often it was called.
    """

    images: int = 0
    calls: int = 0


@contextmanager
def counted(net: nn.Module) -> Iterator[Count]:
    """Count what enters a network.

    A method that grows the batch inside the network (Ablation-CAM here) is counted by what enters.
    """
    count = Count()

    def before(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001 (torch's signature)
        images = next(part for part in inputs if isinstance(part, Tensor))
        count.images += len(images)
        count.calls += 1

    handle = net.register_forward_pre_hook(before)
    try:
        yield count
    finally:
        handle.remove()


def peak_megabytes(device: torch.device) -> float:
    """Return the most memory this process ever held: on the GPU if that is where the work was.

    The peak of a process never falls, so each side is asked for in a process of its own.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

"""What the library needs of the process and its devices: time, random numbers, memory, silence."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_warning_filters = threading.RLock()


def seconds_now(device: torch.device) -> float:
    """Return a reading of a steady clock in seconds, after the device's work so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def draw_uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw float32 numbers from [0, 1) on the processor: the seed alone decides them."""
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")


def draw_normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw standard normal float32 numbers on the processor: the seed alone decides them."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def empty_caches() -> None:
    """Free the memory that the accelerators' allocators keep in reserve."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress warnings inside the context, one thread at a time.

    The filters of `warnings` belong to the process: threads that change and restore them at the
    same time would leave one of their states behind.
    """
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

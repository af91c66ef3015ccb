"""The time, once the device has done what it was given."""

from __future__ import annotations

import time

import torch


def seconds_now(device: torch.device) -> float:
    """Return a reading of a steady clock in seconds, after the device's work so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()

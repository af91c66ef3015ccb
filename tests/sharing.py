"""What takes long to compute is computed by one of the tests' processes, and read by the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock

T = TypeVar("T")


def compute_once(basetemp: Path, name: str, compute: Callable[[], T]) -> T:
    """Return what `compute` returns; the first process of the run that asks computes it.

    Args:
        basetemp: of this process, as `tmp_path_factory` gives it; the run's is the folder above.
        name: of the file in which the value lies.
        compute: is called by one process; others wait for it.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return compute()
    file = basetemp.parent / f"{name}.pt"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            unfinished = file.with_suffix(".unfinished")
            torch.save(compute(), unfinished)
            unfinished.replace(file)
    return torch.load(file, weights_only=False)

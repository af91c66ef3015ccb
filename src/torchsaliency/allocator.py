"""Freed memory that stays with the process, so that no layer's output is mapped and zeroed anew.

By default glibc gives a tensor of more than 32 MiB back to the system as soon as it is freed; the
next layer's output is then mapped and zeroed page by page. This module does not import torch.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings, from malloc.h."""

_MMAP_VARIABLE, _TRIM_VARIABLE = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"

_CHOSEN = {_MMAP_VARIABLE, _TRIM_VARIABLE, "GLIBC_TUNABLES", "LD_PRELOAD"}
"""Variables by which a user chooses otherwise, or another allocator."""

_KEPT, _TRIMMED = 2**30, 2**31 - 1

_COSTLY = 64 * 2**20
"""Bytes of a layer's output above which the default costs as much as the network, measured."""

_warned = False


def tune_allocator() -> bool:
    """Let this process keep the memory that it frees, for passes of large batches on a processor.

    Sets glibc's mmap threshold to 1 GiB and its trim threshold to 2 GiB (`mallopt`), and the
    environment variables that say the same to processes that this one starts; automatic chunks
    then grow, too. The numbers do not change; the process holds its peak of memory until it ends.
    The command line does so by itself.

    It does nothing where glibc is not the C library (macOS, Windows, musl), or where the user chose
    already, by MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES or LD_PRELOAD; the
    log of "torchsaliency" states the reason at the level INFO.

    Returns:
        Whether it was set, by this call or an earlier one.

    Example:
        >>> import torchsaliency
        >>> torchsaliency.tune_allocator()  # doctest: +SKIP
        True
    """
    if _is_tuned():
        return True
    chosen, mallopt = sorted(os.environ.keys() & _CHOSEN), _find_mallopt()
    if mallopt is None:
        why = "the C library of this process has none of glibc's settings"
    elif chosen:
        why = f"{', '.join(chosen)} is set, and the user's settings have priority"
    elif mallopt(_MMAP_THRESHOLD, _KEPT) and mallopt(_TRIM_THRESHOLD, _TRIMMED):
        # for the processes that this one starts, and for the size of a chunk (core.memory)
        os.environ[_MMAP_VARIABLE], os.environ[_TRIM_VARIABLE] = str(_KEPT), str(_TRIMMED)
        return True
    else:
        why = "glibc refused the thresholds"
    logging.getLogger("torchsaliency").info("The allocator stays as it is: %s.", why)
    return False


def kept_bytes() -> int:
    """Return how many bytes a freed tensor may have that the process was told to keep, or 0."""
    kept = os.environ.get(_MMAP_VARIABLE, "")
    return int(kept) if kept.isdecimal() else 0


def warn_of_allocator(largest: int) -> None:
    """Warn once a process whose layers are so large that its allocator slows them down.

    Args:
        largest: bytes of the largest output of a layer in one pass on a processor.
    """
    global _warned  # noqa: PLW0603 (a process has one allocator)
    untouched = not os.environ.keys() & _CHOSEN
    if largest < _COSTLY or _warned or not untouched or _find_mallopt() is None:
        return
    _warned = True
    warnings.warn(
        f"A layer's output has {largest / 2**20:.0f} MiB in this pass, and glibc maps such memory "
        "anew in each layer, which can take longer than the network; call "
        "torchsaliency.tune_allocator() once, or give fewer images at a time.",
        stacklevel=2,
    )


def _is_tuned() -> bool:
    return os.environ.get(_MMAP_VARIABLE) == str(_KEPT) and os.environ.get(_TRIM_VARIABLE) == str(
        _TRIMMED
    )


def _find_mallopt() -> Callable[[int, int], int] | None:
    if sys.platform != "linux":
        return None
    # other C libraries have no such function
    found: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return found

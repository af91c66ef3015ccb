"""How the process waits and keeps memory; set before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings, from malloc.h."""


def prepare() -> None:
    """Let waiting threads sleep, freed memory stay, and other libraries be silent.

    Threads that spin while they wait take the processor from each other wherever anything else
    runs: 3 to 18 times slower, measured. And glibc gives every large tensor back to the system as
    soon as it is freed, so that each layer of each pass has its memory mapped and zeroed anew: a
    forward pass of 32 images took 2.5 times as long, measured.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # what Pillow and pydicom find odd in a file is either mended here or told as an error
    for module in ("PIL", "pydicom"):
        warnings.filterwarnings("ignore", module=rf"{module}\b")
    if os.environ.get("TORCHSALIENCY_MAX_PIXELS"):
        from PIL import Image  # noqa: PLC0415 (slow, and seldom needed so early)

        Image.MAX_IMAGE_PIXELS = None  # our own limit holds
    if sys.platform == "linux" and not os.environ.keys() & _OWN_CHOICE:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, 2**30)
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)
            # for the processes that this one starts, and for the size of a chunk (core.memory)
            os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**30)
            os.environ["MALLOC_TRIM_THRESHOLD_"] = str(2**31 - 1)


_OWN_CHOICE = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"}
"""Variables by which a user chooses otherwise, or another allocator."""

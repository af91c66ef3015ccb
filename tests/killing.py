"""Processes killed at random moments, as a cluster or a careless colleague kills them."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

_MOST = 200  # a machine on which so many starts give too few kills is broken


def kill_at_random(
    work: Callable[[Path], None], place: Path, *, times: int, seen: Callable[[Path], None]
) -> Path:
    """Kill `work(folder)` until `times` processes died of it, and return the last folder.

    A process that gets through between two kills did its work: `seen` looks at its folder, and the
    next one begins another. So the number of kills is certain whatever the machine's speed; only
    their moments are random.

    Args:
        work: goes on in its folder where the process before it stopped.
        place: where the folders come to be.
        times: how many processes are to be killed.
        seen: called with the folder after each end, killed or not.
    """
    context, rng = multiprocessing.get_context("fork"), random.Random(0)
    begun = time.monotonic()
    undisturbed = context.Process(target=work, args=(place / "timed",))
    undisturbed.start()
    undisturbed.join()
    assert undisturbed.exitcode == 0
    length = time.monotonic() - begun
    killed, folder = 0, place / "killed-0"
    for attempt in range(1, _MOST):
        process = context.Process(target=work, args=(folder,))
        process.start()
        process.join(rng.uniform(0.02, 0.2) * length)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        killed += process.exitcode == -signal.SIGKILL
        seen(folder)
        if killed == times:
            return folder
        if process.exitcode == 0:
            folder = place / f"killed-{attempt}"
    raise AssertionError(f"{killed} of {times} processes were killed in {_MOST} starts")

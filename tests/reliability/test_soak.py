"""Thousands of images: memory and open files stay where they were after the first hundreds."""

import os
import sys
from pathlib import Path

import pytest
import torch

from commands import photographs
from torchsaliency.evaluation import Progress, evaluate, make_plan

_GROWS = 24.0
"""Megabytes by which a process may grow between the fifth of the way and its end."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_handles_stay_flat(tmp_path, trials, tally):
    """An evaluation of photographs and one of drawn shapes, read by the process and by workers."""
    images = trials(120, 3000)
    torch.set_num_threads(1)
    base = photographs(tmp_path / "photos", 40)
    for number in range(40, images):  # links: a file each, and little of the disk
        os.link(base / f"{number % 40:03d}.png", base / f"copy-{number:05d}.png")
    for data, workers in ((f"shapes:{images}", 0), (str(base), 1)):
        plan = make_plan(
            {"data": data, "model": "builtin/shapes_cnn", "methods": "gradcam,tsm,layercam",
             "metrics": "ad,ai,ag", "batch_size": 16, "workers": workers}
        )  # fmt: skip
        seen: dict[int, tuple[float, int]] = {}

        def watch(now: Progress, seen=seen) -> None:
            seen[now.done] = resident(), len(os.listdir("/proc/self/fd"))

        evaluate(plan, tmp_path / f"run-{workers}", watch=watch)
        early = [one for done, one in seen.items() if images / 5 <= done < images * 2 / 5]
        late = [one for done, one in seen.items() if done >= images * 4 / 5]
        assert max(held for held, _ in late) - max(held for held, _ in early) < _GROWS
        assert max(handles for _, handles in late) <= max(handles for _, handles in early)
        tally("soak", "images of one evaluation", images, images, "memory and open files stay flat")


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

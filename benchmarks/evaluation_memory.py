"""Memory of an evaluation over 2000 images: `python benchmarks/evaluation_memory.py`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from torchsaliency.evaluation import Progress, evaluate, make_plan

COUNT = 2000


def resident() -> float:
    """Return what the process holds now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def main(count: int = COUNT) -> None:
    """Evaluate, and print the memory every tenth of the way, as JSON."""
    plan = make_plan(
        {
            "data": f"shapes:{count}",
            "model": "builtin/shapes_cnn",
            "methods": "gradcam,tsm,mtsm,layercam",
            "metrics": "ad,ai,ag,ep,miou",
            "batch_size": 16,
            "workers": 0,
        }
    )
    folder = Path(tempfile.mkdtemp())
    seen: dict[int, float] = {}

    def watch(now: Progress) -> None:
        if now.done and now.done % (count // 10) < plan.batch_size:
            seen[now.done] = round(resident(), 1)

    try:
        evaluate(plan, folder / "run", watch=watch)
    finally:
        shutil.rmtree(folder)
    print(json.dumps({"images": count, "megabytes": seen}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

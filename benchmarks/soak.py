"""Many images on an engine whose processes are killed: `python -m benchmarks.soak --engine ray`.

Every so many seconds a random process that computes is killed. Printed is JSON: the time, how many
were killed, the memory of this process and of all that it started, early and late, and a digest of
the table, which must be that of every other engine with as many threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from torchsaliency.evaluation import Results, evaluate, make_plan


def main() -> None:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kill", type=float, default=60.0, metavar="SECONDS")
    given = parser.parse_args()
    facts: dict[str, Any] = {
        "data": f"shapes:{given.images}",
        "model": "builtin/shapes_cnn",
        "methods": "gradcam,tsm",
        "metrics": "ad,ag,ep",
        "batch_size": 16,
        "engine": given.engine,
    }
    if given.engine == "local":
        facts["workers"] = 1
    else:
        facts["actors"] = 2
    watched = Watch(given.kill if given.engine != "local" else 0.0)
    with tempfile.TemporaryDirectory() as folder, watched:
        begun = time.monotonic()
        results = evaluate(make_plan(facts), Path(folder) / "run")
        seconds = time.monotonic() - begun
    third = max(1, len(watched.memory) // 3)
    print(
        json.dumps(
            {
                "engine": given.engine,
                "images": len(results.samples),
                "rows": len(results.frame),
                "seconds": round(seconds, 1),
                "killed": watched.killed,
                "megabytes, first third": [
                    max(one) for one in zip(*watched.memory[:third], strict=True)
                ],
                "megabytes, last third": [
                    max(one) for one in zip(*watched.memory[-third:], strict=True)
                ],
                "table": digest(results),
            },
            indent=1,
        )
    )


class Watch(threading.Thread):
    """Kills now and then, and measures the memory of this process and of its children."""

    def __init__(self, every: float) -> None:
        super().__init__(daemon=True)
        self.every, self.killed = every, 0
        self.memory: list[tuple[int, int]] = []
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Go on until the evaluation has ended."""
        draw, mine = random.Random(0), psutil.Process()
        killed = time.monotonic()
        while not self._ended.wait(5.0):
            started = mine.children(recursive=True)
            memory = 0
            for one in started:
                with suppress(psutil.Error):
                    memory += one.memory_info().rss
            self.memory.append((mine.memory_info().rss >> 20, memory >> 20))
            if self.every and time.monotonic() - killed >= self.every:
                killed = time.monotonic()
                if computing := [one for one in started if _is_computing(one)]:
                    with suppress(psutil.Error):
                        draw.choice(computing).kill()
                        self.killed += 1


def _is_computing(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        words = " ".join(process.cmdline())
        # the server itself is the parent of those that it forks
        parent = process.parent()
        forked = parent is not None and "forkserver" in " ".join(parent.cmdline())
        return "ray::MapWorker" in words or ("forkserver" in words and forked)
    return False


def digest(results: Results) -> str:
    """Return a digest of every number but the times."""
    found = hashlib.sha256()
    frame = results.frame.sort_values(["sample", "method", "metric"])
    for line in zip(frame["sample"], frame["method"], frame["metric"], frame["row"], strict=True):
        found.update(repr((*line[:3], [float(part) for part in line[3]])).encode())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    main()

"""Overhead and efficiency of engines on networks that sleep: `python -m benchmarks.scaling`.

A batch of two images takes two passes, each of 1, 10 or 100 ms. The clock runs from the moment
when a quarter of the batches is done, so that processes have started, to the last one. The
overhead of a batch is what an actor needs longer than the engine local, which reads images and
computes in turn; it is below zero where reading the next images meanwhile saves more. The
efficiency is local's time over that of all actors together. Of several rounds the fastest counts:
other programs of the machine only add to a time.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import report
from benchmarks.sleeping import make_network
from torchsaliency.evaluation import Progress, evaluate, make_plan
from torchsaliency.evaluation.engines.ray_cluster import connect

BATCHES = {1: 400, 10: 200, 100: 40}
"""Batches, by the milliseconds of a pass."""

ACTORS = (1, 2, 4)
_BATCH = 2


def measure(milliseconds: int, engine: str, actors: int | None) -> tuple[float, float]:
    """Return the seconds between two batches, and the driver's of the processor in them."""
    count = BATCHES[milliseconds] * _BATCH
    plan = make_plan(
        {
            "data": f"shapes:{count}",
            "model": "builtin/shapes_cnn",  # the one below is used in its place
            "methods": "gradcam",
            "metrics": "ad",
            "layers": "features",
            "target": "0",
            "batch_size": _BATCH,
            "workers": 0,
            "engine": engine,
            "actors": actors,
        }
    )
    seen: list[tuple[int, float, float]] = []

    def watch(now: Progress) -> None:
        if now.done >= count / 4:
            seen.append((now.done, time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        evaluate(plan, Path(folder) / "run", model=make_network(milliseconds / 1000), watch=watch)
    (first, begun, idle), (last, ended, busy) = seen[0], seen[-1]
    count = (last - first) / _BATCH
    return (ended - begun) / count, (busy - idle) / count


def main(
    output: Annotated[Path, typer.Option(help="JSON file of the results")] = Path("scaling.json"),
    rounds: Annotated[int, typer.Option(help="of which the fastest counts")] = 3,
) -> None:
    """Measure, and write the results."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        stack.enter_context(connect(None, max(ACTORS)))
        for milliseconds in BATCHES:
            alone, _ = min(measure(milliseconds, "local", None) for _ in range(rounds))
            for engine in ("processes", "ray"):
                for actors in ACTORS:
                    found, busy = min(measure(milliseconds, engine, actors) for _ in range(rounds))
                    row = {
                        "ms a pass": milliseconds,
                        "engine": engine,
                        "actors": actors,
                        "ms a batch, local": round(alone * 1000, 2),
                        "ms a batch": round(found * 1000, 2),
                        "driver's processor, ms a batch": round(busy * 1000, 2),
                        "overhead, ms": round((found * actors - alone) * 1000, 2),
                        "efficiency": round(alone / (found * actors), 3),
                    }
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    facts = {**report.facts("cpu"), "threads": 1}
    output.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

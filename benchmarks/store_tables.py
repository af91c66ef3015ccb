"""The store of a large run: rows that nobody computed are written, tabulated, compacted.

`python benchmarks/store_tables.py [ROWS] [FOLDER]` writes ROWS lines (20 million), as `evaluate`
writes them, and measures in a process each: a table, compaction, a table again, and what is done.
Peaks are those of the whole process, with all that it imports.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from torchsaliency.evaluation import Plan, Store, compaction, load_results, make_plan
from torchsaliency.evaluation.shards import SCHEMA, encode_shard
from torchsaliency.report import table

METHODS, METRICS, SHARD_ROWS = 20, 20, 10_000
RESAMPLES = 10
"""The bootstrap's default takes most of the time of a table, and constant memory."""

WIDE = 20
"""Every so many metrics one is insertion, which keeps 102 numbers of an image."""


def make_large_plan() -> Plan:
    """Return a plan whose methods and metrics are the same ones under many names."""
    names = ["insertion" if number % WIDE == 0 else "ad" for number in range(METRICS)]
    return make_plan(
        {
            "methods": [{"name": "gradcam", "label": f"method-{n}"} for n in range(METHODS)],
            "metrics": [{"name": name, "label": f"{name}-{n}"} for n, name in enumerate(names)],
        }
    )


def write_run(folder: Path, rows: int) -> dict[str, Any]:
    """Write a run in shards of 10,000 lines."""
    plan, store, rng = make_large_plan(), Store(folder), np.random.default_rng(0)
    metrics = plan.create_metrics()
    widths = np.array([metric.width for metric in metrics.values()])
    samples = [f"val/ILSVRC2012_val_{n:08d}.JPEG" for n in range(rows // (METHODS * METRICS))]
    facts = {
        "identity": {},
        "methods": plan.method_identity(),
        "plan": plan.model_dump(mode="json"),
        "session": {"begun": "2026-11-30"},
        "samples": samples,
    }
    began = time.perf_counter()
    with store.lock():
        store.write(store.begin(facts, plan.to_yaml()))
        share = SHARD_ROWS // (METHODS * METRICS)
        for start in range(0, len(samples), share):
            names = samples[start : start + share]
            pairs, lines = len(names) * METHODS, len(names) * METHODS * METRICS
            lengths = np.tile(widths, pairs)
            values = rng.random(int(lengths.sum()))
            ends = np.concatenate([[0], lengths.cumsum()])
            cost = np.repeat(rng.random(pairs), METRICS)
            columns = [
                pa.array(np.repeat(names, METHODS * METRICS)),
                pa.array(np.tile(np.repeat([*plan.create_methods()], METRICS), len(names))),
                pa.array(np.tile([*metrics], pairs)),
                pa.array(values[ends[:-1]]),
                pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values)),
                pa.array(cost),
                pa.array(np.full(lines, 2.0)),
                pa.array(np.full(lines, 1.0)),
            ]
            store.add_shard(encode_shard(pa.table(columns, schema=SCHEMA)))
    seconds = time.perf_counter() - began
    return {"rows per second": round(rows / seconds), "numbers": int(rows * widths.mean())}


def write_table(folder: Path) -> dict[str, Any]:
    """Make a table."""
    made = table(load_results(folder), resamples=RESAMPLES)
    return {"cells": len(made.frame)}


def compact(folder: Path) -> dict[str, Any]:
    """Compact."""
    found = compaction.compact(Store(folder))
    return {"before": found.before, "after": found.after, "rows": found.rows}


def list_done(folder: Path) -> dict[str, Any]:
    """Find out what is done, as a session that goes on does."""
    return {"pairs": len(Store(folder).done())}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "table": write_table,
    "compact": compact,
    "done": list_done,
    "import": lambda folder: {"exists": folder.exists()},
}


def measure(part: str, folder: Path) -> None:
    """Do one part in this process, and print seconds and peak as JSON."""
    began = time.perf_counter()
    found = PARTS[part](folder)
    seconds = round(time.perf_counter() - began, 1)
    # not ru_maxrss, which begins with the memory of the process that started this one
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10
    print(json.dumps({**found, "seconds": seconds, "peak MiB": round(peak)}))


def main(rows: int = 20_000_000, folder: Path | None = None) -> None:
    """Write a run, and measure each part in a process of its own."""
    place = folder or Path(tempfile.mkdtemp())
    run, found = place / "run", {"rows": rows, "methods": METHODS, "metrics": METRICS}
    try:
        found["write"] = write_run(run, rows)
        for name in ("import", "done", "table", "compact", "done again", "table again"):
            part = name.removesuffix(" again")
            command = [sys.executable, __file__, "--part", part, str(run)]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            size = sum(path.stat().st_size for path in run.glob("rows/*"))
            found[name] = {**json.loads(ended.stdout), "MB": round(size / 1e6)}
            print(json.dumps({name: found[name]}), file=sys.stderr)
    finally:
        shutil.rmtree(run)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:2]), *map(Path, sys.argv[2:3]))

"""One scoreboard: methods and metrics done exactly, done fast with the error, and by a peer.

Run: `uv run --group bench python -m benchmarks.scoreboard`, or `--only ROW --network NETWORK` for a
single row (`benchmarks/contests.py` has them). All sides of a row run in turn in one process,
three rounds; a side whose first run takes longer than `--long` seconds runs once. Rows are merged
into the JSON, of which `scripts/scoreboard_page.py` makes the tables of the documentation.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import torchsaliency as ts
from benchmarks.board import BUILT_IN, LARGE, Goal, Row
from benchmarks.comparisons import Side
from benchmarks.contests import ROWS
from benchmarks.networks import Bench, bench
from benchmarks.report import facts
from benchmarks.row import run_sides
from benchmarks.timing import paired_ratio

RESULTS = Path(__file__).parent / "results" / "2026-12-01-scoreboard-cpu.json"
CPU = torch.device("cpu")


def measure_row(row: Row, bench: Bench, *, repeats: int = 3, long: float = 5.0) -> dict[str, Any]:
    """Return what all sides of a row took, how far off the fast ones are, and the goal's result.

    Args:
        row: what is measured.
        bench: the network and its images.
        repeats: rounds.
        long: seconds after which a side is not repeated.
    """
    contest = row.contest(bench)
    outputs: dict[str, Any] = {}

    def keep(side: Side) -> Callable[[], object]:
        return lambda: outputs.__setitem__(side.name, side.work())

    kept = [replace(side, work=keep(side)) for side in contest.sides]
    counts, seconds = run_sides(kept, bench.net, repeats=repeats, device=CPU, long=long)
    if contest.reference is not None:
        outputs["reference"] = contest.reference()
    target = "exact" if contest.reference is None else "reference"
    sides = {}
    for side in contest.sides:
        kind = "peer" if side is contest.peer else "exact" if side is contest.exact else "fast"
        found = {"kind": kind, **counts[side.name]}
        found["seconds_per_image"] = [float(f"{one:.4g}") for one in seconds[side.name]]
        if contest.error is not None and kind != "peer" and side.name != target:
            found["error"] = float(f"{contest.error(outputs[target], outputs[side.name]):.3g}")
        sides[side.name] = found
    made: dict[str, Any] = {"title": row.title, "unit": row.unit, "sides": sides}
    if row.goal is not None:
        passes = contest.passes(outputs) if contest.passes else _least_passes(sides)
        result, by = _result(row.goal, sides, seconds, passes)
        met = result is not None and _meets(row.goal, result)
        made["goal"] = {**asdict(row.goal), "result": result, "by": by, "met": met}
    return made


def _least_passes(sides: dict[str, dict[str, Any]]) -> float:
    return min(one["passes_per_image"] for one in sides.values() if one["kind"] != "peer")


def _result(
    goal: Goal, sides: dict[str, Any], seconds: dict[str, list[float]], passes: float | None
) -> tuple[float | None, str]:
    """Return the number that the goal is about, and the side of ours that reached it."""
    if goal.kind == "passes":
        return passes, ""
    (peer,) = (name for name, side in sides.items() if side["kind"] == "peer")
    if goal.kind == "cost":
        return round(paired_ratio(seconds["exact"], seconds[peer]), 3), "exact"
    ours = [name for name, side in sides.items() if side["kind"] != "peer"]
    best = min(ours, key=lambda name: statistics.median(seconds[name]))
    return float(f"{paired_ratio(seconds[peer], seconds[best]):.3g}"), best


def _meets(goal: Goal, result: float) -> bool:
    return result >= goal.bound if goal.kind == "speed" else result <= goal.bound


def merge(path: Path, row: dict[str, Any], versions: dict[str, str]) -> None:
    """Put a row in the file, in place of the one of the same name and network."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    rows = {(one["name"], one["network"]): one for one in [*known["rows"], row]}
    order = {name: place for place, name in enumerate(ROWS)}
    networks = (BUILT_IN, *LARGE)
    found = sorted(
        rows.values(), key=lambda one: (order[one["name"]], networks.index(one["network"]))
    )
    missing = [
        [name, network]
        for name, other in ROWS.items()
        for network in other.networks
        if (name, network) not in rows
    ]
    made = {"versions": versions, "not_measured": missing, "rows": found}
    text = json.dumps(made, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def main(
    only: Annotated[list[str] | None, typer.Option(help="rows; all by default")] = None,
    network: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    repeats: Annotated[int, typer.Option(help="rounds")] = 3,
    long: Annotated[float, typer.Option(help="seconds: a longer side runs once")] = 5.0,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    output: Annotated[Path, typer.Option(help="the JSON that rows are merged into")] = RESULTS,
) -> None:
    """Measure rows and merge them into the JSON."""
    unknown = set(only or ()) - set(ROWS) | set(network or ()) - {BUILT_IN, *LARGE}
    if unknown:
        known = ", ".join([*ROWS, BUILT_IN, *LARGE])
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is not known; choose of {known}.")
    torch.set_num_threads(threads)
    ts.tune_allocator()
    where = facts("cpu")  # the commit is that of the code that was imported
    versions = where.pop("versions")
    for place in network or (BUILT_IN, *LARGE):
        made = bench(place, 8 if place == BUILT_IN else 4, CPU, quick=place != BUILT_IN)
        ts.explain(made.net, made.x, "gradcam", made.labels, made.layer)  # the layout is found once
        for name in only or ROWS:
            if place not in ROWS[name].networks:
                continue
            begun = time.perf_counter()
            row = measure_row(ROWS[name], made, repeats=repeats, long=long)
            load = facts("cpu")["load"]
            row = {"name": name, "network": place, **row, "where": {**where, "load": load}}
            merge(output, row, versions)
            print(f"{name}, {place}: {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    typer.run(main)

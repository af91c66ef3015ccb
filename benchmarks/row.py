"""One row in a process of its own, as JSON: `python -m benchmarks.row NAME NETWORK`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer

from benchmarks.comparisons import Comparison, Side
from benchmarks.counting import counted, peak_megabytes
from benchmarks.networks import bench
from benchmarks.programs import ROWS
from benchmarks.timing import Spread, interleaved, paired_ratio, seconds_of

THREADS = 2


def measure(
    comparison: Comparison, sides: list[Side], net: torch.nn.Module, **how: Any
) -> dict[str, Any]:
    """Warm up and count, measure in turns, and compare the first side with the second.

    Args:
        comparison: what the row is.
        sides: ours first.
        net: whose passes are counted.
        how: `repeats` and `device`.
    """
    rows, seconds = run_sides(sides, net, **how)
    for name, found in seconds.items():
        rows[name]["seconds_per_image"] = asdict(Spread.of(found))
    ours, other = (seconds[side.name] for side in sides[:2])
    longer, shorter = (ours, other) if comparison.ceiling else (other, ours)
    ratio = paired_ratio(longer, shorter)
    return {
        "title": comparison.title,
        "sides": rows,
        "ratio": ratio,
        "ratio_of_least": min(longer) / min(shorter),
        "goal": comparison.goal,
        "ceiling": comparison.ceiling,
        "met": _met(comparison, ratio),
    }


def run_sides(
    sides: list[Side],
    net: torch.nn.Module,
    *,
    repeats: int,
    device: torch.device,
    long: float = math.inf,
) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    """Return each side's images and passes, and its seconds per image in every round, by name.

    Args:
        sides: what is run; their first runs warm up and are counted.
        net: whose passes are counted.
        repeats: rounds after that.
        device: where the work happens.
        long: seconds of a first run after which a side is not repeated: that run counts.
    """
    seconds: dict[str, list[float]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for side in sides:
        if side.counted:
            with counted(net) as count:
                first = seconds_of(side.work, device)
            passes = round(count.images / side.images, 2)
        else:
            passes = rows[sides[0].name]["passes_per_image"]
        if side.accelerated or not side.counted:
            side.work()
            first = seconds_of(side.work, device) if long < math.inf else first
        rows[side.name] = {"images": side.images, "passes_per_image": passes}
        if side.once or first > long:
            seconds[side.name] = [first / side.images]
    again = {side.name: side.work for side in sides if side.name not in seconds}
    sizes = {side.name: side.images for side in sides}
    if again:
        for name, found in interleaved(again, repeats, device).items():
            seconds[name] = [one / sizes[name] for one in found]
    return rows, seconds


def _met(comparison: Comparison, ratio: float) -> bool | None:
    if comparison.goal is None:
        return None
    return ratio <= comparison.goal if comparison.ceiling else ratio >= comparison.goal


def main(
    name: str,
    network: str,
    batch: Annotated[int, typer.Option()] = 8,
    repeats: Annotated[int, typer.Option()] = 7,
    device: Annotated[str, typer.Option()] = "cpu",
    quick: Annotated[bool, typer.Option("--quick")] = False,
    side: Annotated[int | None, typer.Option(help="print this side's peak memory alone")] = None,
) -> None:
    """Measure one row, or the memory of one of its sides."""
    torch.set_num_threads(THREADS)
    place = torch.device(device)
    comparison = ROWS[name]
    made = bench(network, batch, place, quick=quick)
    sides = comparison.sides(made)
    if side is not None:
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place)
        sides[side].work()
        print(json.dumps({"peak_megabytes": round(peak_megabytes(place))}))
        return
    row = measure(comparison, sides, made.net, repeats=repeats, device=place)
    row |= {"name": name, "network": network, "device": device}
    row |= {"batch": batch, "reduced": comparison.reduced if quick else ""}
    print(json.dumps(row))


if __name__ == "__main__":
    typer.run(main)

"""Measure this library beside its peers: `uv run --group bench python -m benchmarks`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import report
from benchmarks.networks import NAMES
from benchmarks.programs import ROWS
from benchmarks.row import THREADS

# Threads that wait must sleep and freed memory must stay, or shared machines measure the others.
_CALM = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
}
_LONG = 20.0
"""Seconds after which a side is not run again for its memory in a quick run."""


def main(  # noqa: PLR0913, PLR0917 (a command's options)
    only: Annotated[list[str] | None, typer.Option(help="comparisons; all by default")] = None,
    networks: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    batch: Annotated[int | None, typer.Option(help="images; 8, or 4 if quick")] = None,
    repeats: Annotated[int | None, typer.Option(help="rounds; 7, or 3 if quick")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="less work a row")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; both if there is one")] = None,
    memory: Annotated[bool, typer.Option(help="measure peak memory, too: a process a side")] = True,
    output: Annotated[Path, typer.Option(help="folder of the results")] = Path("bench-results"),
) -> None:
    """Measure, a process a row, and write `results.json` and `results.md`."""
    unknown = set(only or ()) - set(ROWS) | set(networks or ()) - set(NAMES)
    if unknown:
        known = ", ".join([*ROWS, *NAMES])
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is not known; choose of {known}.")
    output.mkdir(parents=True, exist_ok=True)
    devices = [device] if device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    where = report.facts(devices[-1]) | {"threads": THREADS}
    options = ["--batch", str(batch or (4 if quick else 8))]
    options += ["--repeats", str(repeats or (3 if quick else 7)), *(["--quick"] if quick else [])]
    rows: list[dict[str, Any]] = []
    for place in devices:
        for name in only or ROWS:
            for network in networks or NAMES:
                allowed = ROWS[name].networks
                if allowed and network not in allowed:
                    continue
                rows.append(
                    _row(name, network, [*options, "--device", place], quick=quick, memory=memory)
                )
                _write(output, rows, where)
                print(report.markdown(rows[-1:], where).splitlines()[2], flush=True)
    print(f"\n{output / 'results.md'}, {output / 'results.json'}")


def _row(
    name: str, network: str, options: list[str], *, quick: bool, memory: bool
) -> dict[str, Any]:
    """Measure one row, then the memory of its sides, each in a process of its own."""
    row = _ask(name, network, options)
    # Opti-CAM's sides are made by running both: their memory cannot be told apart.
    if not memory or "error" in row or name.startswith("opticam"):
        return row
    for number, side in enumerate(row["sides"].values()):
        if not quick or side["seconds_per_image"]["median"] * side["images"] < _LONG:
            side.update(_ask(name, network, [*options, "--side", str(number)]))
    return row


def _ask(name: str, network: str, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.row", name, network, *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **_CALM}
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"name": name, "network": network, "error": lines[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _write(output: Path, rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    (output / "results.json").write_text(
        json.dumps({"where": where, "rows": rows}, indent=2, ensure_ascii=False), encoding="utf-8"
    )
    (output / "results.md").write_text(report.markdown(rows, where), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

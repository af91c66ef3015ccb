"""Write docs/reliability.md: run tests/reliability with every trial, and count what held.

`uv run python scripts/reliability_page.py` takes five to ten minutes on two cores; each number of
the page is counted by a test while it tries.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"

START = """# Reliability

Made by `uv run python scripts/reliability_page.py`, which runs `tests/reliability` with every
trial; each number is counted by the test that tried. Every run of the tests makes fewer of the same
trials.

What is promised: a map or a number is right, or there is an error that names what is wrong, or its
status says why it cannot be trusted; one bad image never ends a run; a run that was killed goes on
and ends the same; no file is deleted, overwritten or written through that was not written by the
same command; a network, torch's settings and all random numbers are as they were before.
"""

KINDS = {
    "copies": "Copies of the network (`accelerate`)",
    "rules": "Methods that watch operations",
    "batches": "Batches",
    "threads": "Threads",
    "files": "Files and folders",
    "isolation": "One image of many",
    "images": "Image files",
    "pixels": "The same pixels by every door",
    "labels": "Labels, classes and scores",
    "status": "Statuses",
    "weights": "Weights files",
    "downloads": "Downloads",
    "plans": "Plans",
    "terminals": "Terminals and spreadsheets",
    "environment": "Settings of torch, and other devices",
    "soak": "Long runs",
}


def page(rows: Iterable[Mapping[str, Any]], told: str) -> str:
    """Return the page.

    Args:
        rows: what the tests noted: kind, what, tried, held, happens.
        told: on what machine, and when.
    """
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        sums[row["kind"], row["what"], row["happens"]][0] += row["tried"]
        sums[row["kind"], row["what"], row["happens"]][1] += row["held"]
    kinds = [*KINDS, *sorted({kind for kind, _, _ in sums} - {*KINDS})]
    lines = [START]
    for kind in kinds:
        own = {key: counts for key, counts in sums.items() if key[0] == kind}
        if not own:
            continue
        lines += [f"## {KINDS.get(kind, kind.capitalize())}", ""]
        lines += [
            "| fault or bad input | tried | held | what happens |",
            "| --- | --: | --: | --- |",
        ]
        for (_, what, happens), (tried, held) in sorted(own.items()):
            lines.append(f"| {what} | {tried:,} | {held:,} | {happens} |")
        lines.append("")
    tried = sum(counts[0] for counts in sums.values())
    held = sum(counts[1] for counts in sums.values())
    lines += [f"In all {tried:,} trials, of which {held:,} held.", "", told]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the tests, and write the page if all passed."""
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally.jsonl"
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/reliability", *sys.argv[1:]],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", **os.environ, "FULL": "1", "TALLY": str(tally)},
            check=False,
        )
        if ended.returncode:
            sys.exit("Not every trial held; the page stays as it was.")
        rows = [json.loads(line) for line in tally.read_text(encoding="utf-8").splitlines()]
    libraries = ", ".join(f"{one} {version(one)}" for one in ("torch", "torchvision", "pillow"))
    today = datetime.datetime.now(tz=datetime.UTC).date()
    told = f"{today}, {platform.system()}, Python {platform.python_version()}, {libraries}."
    PAGE.write_text(page(rows, told), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()

"""Write docs/reliability.md: run tests/reliability with every trial, and count the results.

`uv run python scripts/reliability_page.py` takes five to ten minutes on two cores.
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

This page counts the faults and bad inputs that the tests tried.
`uv run python scripts/reliability_page.py` generates it: it runs `tests/reliability` with every
trial, and each test counts its own trials. An ordinary run of the tests makes fewer of the same
trials.

The library guarantees: a map or a number is right, or an error names what is wrong, or its status
states why it cannot be trusted; one bad image never ends a run; a killed run continues and gives
the same results; a command never deletes, overwrites or writes through a file that it did not
write; a network, torch's settings and all random states are unchanged afterwards.
"""

KINDS = {
    "copies": "Copies of the network (`accelerate`)",
    "rules": "Methods that watch operations",
    "batches": "Batches",
    "threads": "Threads",
    "files": "Files and folders",
    "stores": "Stores at addresses, and compaction",
    "isolation": "Failures of single images",
    "images": "Image files",
    "pixels": "The same pixels from every reader",
    "labels": "Labels, classes and scores",
    "status": "Statuses",
    "weights": "Weights files",
    "downloads": "Downloads",
    "plans": "Plans",
    "terminals": "Terminals and spreadsheets",
    "engines": "Engines: processes that die, and several on one store",
    "environment": "Settings of torch, and other devices",
    "app": "The page of the app",
    "soak": "Long runs",
}


def page(rows: Iterable[Mapping[str, Any]], facts: str) -> str:
    """Return the page.

    Args:
        rows: the records of the tests: kind, what, tried, held, happens.
        facts: date, system and versions.
    """
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        sums[row["kind"], row["what"], row["happens"]][0] += row["tried"]
        sums[row["kind"], row["what"], row["happens"]][1] += row["held"]
    kinds = [*KINDS, *sorted({kind for kind, _, _ in sums} - {*KINDS})]
    lines = [START]
    for kind in kinds:
        counted = {key: counts for key, counts in sums.items() if key[0] == kind}
        if not counted:
            continue
        lines += [f"## {KINDS.get(kind, kind.capitalize())}", ""]
        lines += [
            "| fault or bad input | tried | held | what happens |",
            "| --- | --: | --: | --- |",
        ]
        for (_, what, happens), (tried, held) in sorted(counted.items()):
            lines.append(f"| {what} | {tried:,} | {held:,} | {happens} |")
        lines.append("")
    tried = sum(counts[0] for counts in sums.values())
    held = sum(counts[1] for counts in sums.values())
    lines += [f"In all {tried:,} trials, of which {held:,} held.", "", facts]
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
            sys.exit("A trial failed; the page was not changed.")
        rows = [json.loads(line) for line in tally.read_text(encoding="utf-8").splitlines()]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow"))
    today = datetime.datetime.now(tz=datetime.UTC).date()
    facts = f"{today}, {platform.system()}, Python {platform.python_version()}, {libraries}."
    PAGE.write_text(page(rows, facts), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()

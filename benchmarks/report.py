"""What was measured, where, and with which versions: as JSON and as a Markdown table."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "grad-cam",
    "torchcam",
    "captum",
    "quantus",
    "tensorly",
    "onnxruntime",
)
_HEAD = (
    "| what | network | against | s/image, ours | s/image, theirs | passes, ours | passes, theirs "
    "| MB, ours | MB, theirs | ratio (of least) | goal | met |"
)


def facts(device: str) -> dict[str, Any]:
    """Return the hardware, the versions and the commit."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def markdown(rows: Sequence[dict[str, Any]], where: dict[str, Any]) -> str:
    """Return the table, the hardware below it, and what was cut short."""
    columns = _HEAD.count("|") - 1
    lines = [_HEAD, "|" + " --- |" * 3 + " --: |" * (columns - 4) + " --- |"]
    lines += [_line(row) for row in rows]
    packages = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    place = (
        where.get("gpu")
        or f"{where['processor']}, {where['cores']} cores, {where['threads']} threads"
    )
    lines += [
        "",
        f"{where['date']}, commit {where['commit']}, {place}, load {where['load']}, Python "
        f"{where['python']}; {packages}.",
    ]
    cut = {row["name"]: row["reduced"] for row in rows if row.get("reduced")}
    if cut:
        lines += [
            "",
            "Cut short: " + "; ".join(f"{name} ({how})" for name, how in cut.items()) + ".",
        ]
    failed = [row for row in rows if "error" in row]
    lines += [
        f"\nNot measured: {row['name']} on {row['network']}: {row['error']}" for row in failed
    ]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {row['name']} | {row['network']} |" + " |" * (_HEAD.count("|") - 3)
    (mine, ours), (name, theirs) = list(row["sides"].items())[:2]
    against = name if mine == "torchsaliency" else f"{name} ({mine})"
    cells = [row["title"], row["network"].removeprefix("builtin/"), against]
    cells += [_seconds(side["seconds_per_image"]) for side in (ours, theirs)]
    cells += [f"{side['passes_per_image']:g}" for side in (ours, theirs)]
    cells += [str(side.get("peak_megabytes", "")) for side in (ours, theirs)]
    cells += [f"{row['ratio']:.3g} ({row['ratio_of_least']:.3g})"]
    sign = "≤" if row["ceiling"] else "≥"
    cells += ["" if row["goal"] is None else f"{sign} {row['goal']:g}"]
    cells += [{None: "", True: "yes", False: "no"}[row["met"]]]
    return "| " + " | ".join(cells) + " |"


def _seconds(spread: dict[str, float]) -> str:
    """Write the median with the quartiles' distance, if it was measured more than once."""
    if spread["repeats"] == 1:
        return f"{spread['median']:.3g} (once)"
    return f"{spread['median']:.3g} ± {(spread['high'] - spread['low']) / 2:.2g}"


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    if known.exists():
        for line in known.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"

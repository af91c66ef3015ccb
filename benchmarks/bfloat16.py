"""What bfloat16 changes: every method and metric on a trained network, against float32.

`python benchmarks/bfloat16.py FOLDER [PHOTOS] [OUTPUT.json]`: FOLDER has MobileNetV1, as of
`opticam_passes.py`, and `photos/`. Methods with many passes take fewer of them, the same in both.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torchsaliency as ts
from benchmarks.opticam_passes import Subject, mobilenet
from benchmarks.report import facts
from torchsaliency.core.method import methods
from torchsaliency.evaluation import score
from torchsaliency.metrics.base import metrics
from torchsaliency.metrics.similarity import spearman

FEW = {"samples": 50, "iterations": 10, "steps": 4, "passes": 50}
"""Options that make a method quick, wherever it has them."""

LEFT_OUT = {"sscam", "iscam"}
"""Score-CAM ten times over."""


def compare_methods(subject: Subject, x: Tensor) -> dict[str, Any]:
    """Return of each method how well its maps agree, and its seconds in both."""
    found = {}
    needs = ts.Needs.ATTENTION | ts.Needs.DETECTIONS
    for name, entry in methods().items():
        if entry.needs & needs or name in LEFT_OUT:
            continue
        method = ts.create(name, {key: FEW[key] for key in FEW if key in entry.options})
        try:
            made = {mode: _explain(subject, x, method, mode) for mode in ("off", "bf16")}
        except ts.TorchSaliencyError as error:
            found[name] = {"error": str(error)}
            continue
        exact, rounded = made["off"][0], made["bf16"][0]
        ranks = spearman(exact.map, rounded.map)
        found[name] = {
            "passes": exact.passes,
            "rank_correlation": _range(ranks),
            "largest_difference": _number((exact.map - rounded.map).abs().amax()),
            "seconds": _number(made["off"][1]),
            "seconds_bf16": _number(made["bf16"][1]),
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def compare_metrics(subject: Subject, x: Tensor) -> dict[str, Any]:
    """Return of each metric the largest difference of an image's score of Grad-CAM."""
    explanation = ts.explain(subject.net, x, "gradcam")["gradcam"]
    found: dict[str, Any] = {}
    for name in metrics():
        values, seconds = {}, {}
        try:
            for mode in ("off", "bf16"):
                begun = time.perf_counter()
                metric = score(subject.net, explanation, [name], accelerate=mode)[name]
                seconds[mode] = time.perf_counter() - begun
                values[mode] = metric.per_image.double()
        except ts.TorchSaliencyError as error:  # it needs boxes, or masks
            found[name] = {"error": str(error)}
            continue
        found[name] = {
            "mean": _number(values["off"].mean()),
            "largest_difference": _number((values["off"] - values["bf16"]).abs().amax()),
            "seconds": _number(seconds["off"]),
            "seconds_bf16": _number(seconds["bf16"]),
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def compare_passes(subject: Subject, x: Tensor) -> dict[str, Any]:
    """Return the seconds of a forward pass in each mode, least of five, and what it changes."""
    found: dict[str, Any] = {}
    with torch.no_grad():
        exact = subject.net(x)
        for mode in ("off", "channels-last", "bf16"):
            with ts.tracing(subject.net, x, gradients=False) as view, ts.accelerated(mode):
                index, seconds = torch.arange(len(x)), []
                output = view.session.run_accelerated(x, index)
                for _ in range(5):
                    begun = time.perf_counter()
                    output = view.session.run_accelerated(x, index)
                    seconds.append(time.perf_counter() - begun)
            extent = exact.amax(1) - exact.amin(1)
            off = ((output - exact).abs().amax(1) / extent).amax()
            found[mode] = {"seconds": _number(min(seconds)), "off_of_extent": _number(off)}
    return found


def _explain(
    subject: Subject, x: Tensor, method: ts.Method, mode: str
) -> tuple[ts.Explanation, float]:
    begun = time.perf_counter()
    made = ts.explain(subject.net, x, method, accelerate=mode)
    return made[method.name], time.perf_counter() - begun


def _number(value: Tensor | float) -> float:
    return float(f"{float(value):.4g}")


def _range(values: Tensor) -> dict[str, float]:
    return {"mean": _number(values.mean()), "least": _number(values.amin())}


def main() -> None:
    """Compare, and write the file after each part."""
    ts.tune_allocator()
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 4
    subject = mobilenet(folder)
    x = subject.prepare(sorted((folder / "photos").iterdir())[:count])
    flags = set(Path("/proc/cpuinfo").read_text().split())
    found: dict[str, Any] = {
        "where": {**facts("cpu"), "threads": torch.get_num_threads()},
        "units": sorted({"amx_bf16", "avx512_bf16"} & flags),
        "network": subject.name,
        "photos": count,
    }
    for key, part in {
        "pass": compare_passes,
        "methods": compare_methods,
        "metrics": compare_metrics,
    }.items():
        found[key] = part(subject, x)
        text = json.dumps(found, indent=1)
        Path(sys.argv[3]).write_text(text + "\n") if len(sys.argv) > 3 else print(text)


if __name__ == "__main__":
    main()

"""Where the time of each hot path goes: `python -m benchmarks.profiles`, a Markdown table.

Self time of torch's operators on one thread pool, by torch's own profiler; what no operator did
(Python between them) is the rest of the wall clock. One path is warmed up, then profiled once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch.profiler import ProfilerActivity, profile

import torchsaliency as ts
from benchmarks.comparisons import NARROW, NINE
from benchmarks.networks import NAMES, Bench, bench
from torchsaliency.measures import noisy_maps, perturbation_curve, region_curve

_NETWORK = (
    "convolution",
    "addmm",
    "linear",
    "batch_norm",
    "relu",
    "hardtanh",
    "clamp_min_",
    "pool",
    "scaled_dot_product",
    "layer_norm",
    "gelu",
    "threshold_backward",
)
"""Parts of the names of operators that only a network's layers use here."""


def paths(made: Bench) -> dict[str, Callable[[], object]]:
    """Return the hot paths by name."""
    one = made.first(1)
    maps = torch.rand(1, *made.x.shape[2:], generator=torch.Generator().manual_seed(0))

    def explained(
        methods: str | ts.Method | tuple[str, ...], few: Bench = made
    ) -> Callable[[], object]:
        chosen = list(methods) if isinstance(methods, tuple) else methods
        return lambda: ts.explain(few.net, few.x, chosen, few.labels, few.layer)

    passes, masks, steps = (5, 32, 28) if made.quick else (20, 320, 224)
    narrow = NARROW.get(made.name) if made.quick or made.name.startswith("builtin/") else None
    scored = one.at(narrow) if narrow else one
    trust = ts.OptiCAM(solver="trust-region", iterations=passes, keep="best")
    known = ts.explain(one.net, one.x, "gradcam", one.labels, one.layer)["gradcam"]
    return {
        "Grad-CAM": explained("gradcam"),
        "nine maps": explained(NINE),
        f"Score-CAM{f' at {narrow}' if narrow else ''}": explained("scorecam", scored),
        "Ablation-CAM": explained("ablationcam", one),
        f"RISE, {masks} masks": explained(ts.create("rise", {"samples": masks}), one),
        f"Opti-CAM, trust region, {passes} passes": explained(trust),
        f"insertion, {steps} steps": lambda: perturbation_curve(
            one.net, one.x, maps, one.labels, budget=steps
        ),
        "AOPC": lambda: region_curve(one.net, one.x, maps, one.labels, patch=14, regions=10),
        "Max-Sensitivity of Grad-CAM": lambda: noisy_maps(one.net, known, samples=10),
    }


def line(name: str, work: Callable[[], object]) -> str:
    """Profile one path and return its row."""
    work()
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        begun = time.perf_counter()
        work()
        whole = time.perf_counter() - begun
    own = {one.key: one.self_cpu_time_total / 1e6 / whole for one in seen.key_averages()}
    network = sum(share for key, share in own.items() if any(part in key for part in _NETWORK))
    others = sorted(
        ((share, key) for key, share in own.items() if not any(part in key for part in _NETWORK)),
        reverse=True,
    )
    rest = max(0.0, 1 - sum(own.values()))
    largest = ", ".join(f"`{key.removeprefix('aten::')}` {share:.1%}" for share, key in others[:4])
    return f"| {name} | {seconds:.3g} | {network:.0%} | {largest} | {rest:.0%} |"


def main(
    network: Annotated[str, typer.Option(help="one of the benchmarks' networks")] = NAMES[0],
    batch: Annotated[int, typer.Option(help="images of the paths that take a batch")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="fewer channels, masks, passes")] = False,
    skip: Annotated[list[str] | None, typer.Option(help="paths, by how they begin")] = None,
) -> None:
    """Print the table of one network."""
    torch.set_num_threads(2)
    made = bench(network, batch, torch.device("cpu"), quick=quick)
    print("| path | seconds | the network's layers | largest others | Python |")
    print("| --- | --: | --: | --- | --: |")
    for name, work in paths(made).items():
        if name.startswith(tuple(skip or ())):
            continue
        print(line(name, work), flush=True)


if __name__ == "__main__":
    typer.run(main)

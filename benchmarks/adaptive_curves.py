"""Passes that curves take until their number is known to an error, and how far off it is then.

Run: `python -m benchmarks.adaptive_curves --photos FOLDER --mobilenet FOLDER`, folders as in
`benchmarks.opticam_passes`. Insertion, deletion and AOPC of five methods are computed exactly once,
in `--curves FILE`, which a later run continues; then every error is tried on the known curves, as
networks give the same numbers each time. `--verify` photographs, 2 or none, take the real way, too:
passes and numbers have to be the same. JSON goes to `--output`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import torchsaliency as ts
from benchmarks.opticam_passes import Subject, built_in, mobilenet
from benchmarks.report import facts
from torchsaliency.core.method import create
from torchsaliency.evaluation import score
from torchsaliency.measures import perturbation_curve, refine_curves, region_curve
from torchsaliency.measures.refinement import SAFETY, Refinement
from torchsaliency.metrics import create_metric, functional

METHODS: dict[str, dict[str, Any]] = {
    "gradcam": {},
    "opticam": {"solver": "trust-region", "iterations": 8},
    "rise": {"samples": 100},
    "saliency": {},
    "fakecam": {},
}
METRICS = ("insertion", "deletion", "aopc", "selectivity")
ERRORS = (1.0, 0.5, 0.1)

Curves = dict[tuple[int, str, str], Tensor]
"""By photograph, method and metric: the exact curve (S + 1,)."""


def explain(subject: Subject, x: Tensor) -> dict[str, ts.Explanation]:
    """Return the maps of all methods for the predicted classes."""
    return ts.explain(
        subject.net, x, {name: create(name, options) for name, options in METHODS.items()}
    )


def compute_exactly(
    subject: Subject, photos: list[Path], known: Curves, few: int, batch: int = 2
) -> Iterator[Curves]:
    """Yield more and more exact curves of photographs; selectivity, the longest, of a few."""
    for start in range(0, len(photos), batch):
        wanted = [
            metric
            for metric in METRICS
            if (start < few or metric != "selectivity")
            and any((start, name, metric) not in known for name in METHODS)
        ]
        if not wanted:
            continue
        x = subject.prepare(photos[start : start + batch])
        with ts.accelerated("onnx"):
            for name, made in explain(subject, x).items():
                for metric in wanted:
                    for place, curve in enumerate(curves_of(metric, subject, x, made)):
                        known[start + place, name, metric] = curve.clone()
        yield known


def curves_of(metric: str, subject: Subject, x: Tensor, made: ts.Explanation) -> Tensor:
    """Return a metric's exact curves (N, S + 1)."""
    about: Any = (subject.net, x, made.map, made.output.argmax(1))
    if metric == "aopc":
        return region_curve(*about, clean=made.output).probabilities
    if metric == "selectivity":
        blocks: Any = {"patch": 8, "regions": None, "placement": "grid"}
        return region_curve(*about, **blocks, clean=made.output).probabilities
    order: Any = metric
    return perturbation_curve(*about, order=order, clean=made.output).probabilities


def number(metric: str, curves: Tensor) -> Tensor:
    """Return the metric (N,) of curves."""
    if metric == "aopc":
        return functional.aopc(curves)
    return functional.area_under_curve(curves, places_of(curves))


def places_of(curves: Tensor) -> Tensor:
    """Return the evenly spaced nodes of curves."""
    return torch.linspace(0, 1, curves.shape[1], dtype=torch.float64)


def replay(metric: str, curves: Tensor, error: float) -> tuple[Tensor, Refinement]:
    """Return curves as an error would have left them, from those that are known."""
    known = torch.full_like(curves, torch.nan)
    clean = -1 if metric == "insertion" else 0
    known[:, clean] = curves[:, clean]
    places = places_of(curves)
    return refine_curves(
        known,
        lambda image, node: curves[image, node],
        places,
        points=100 * float(places.diff().max()),
        error=error,
    )


def describe(metric: str, error: float, curves: Tensor, methods: list[str]) -> dict[str, Any]:
    """Return the line of a metric and an error."""
    found, about = replay(metric, curves, error)
    signed = number(metric, found) - number(metric, curves)
    off = signed.abs()
    by_method = {
        name: [place for place, other in enumerate(methods) if other == name] for name in METHODS
    }
    return {
        "metric": metric,
        "error": error,
        "curves": len(curves),
        "passes_exact": int(about.steps[0]),
        "passes_mean": round(float(about.passes.mean()), 1),
        "passes_most": int(about.passes.max()),
        "passes_by_method": {
            name: round(float(about.passes[own].mean()), 1) for name, own in by_method.items()
        },
        "error_mean": round(float(off.mean()), 4),
        "error_most": round(float(off.max()), 4),
        "held": round(float((off <= error).double().mean()), 4),
        "held_estimate": round(float((off <= about.errors + 1e-9).double().mean()), 4),
        "error_of_means": {
            name: round(float(signed[own].mean()), 4) for name, own in by_method.items()
        },
    }


def verify(subject: Subject, photos: list[Path], known: Curves) -> dict[str, Any]:
    """Take the real way through `score` and compare it with what was replayed.

    Photographs are explained as in `compute_exactly`, or Opti-CAM's rounding makes other maps.
    """
    worst, same, tried = 0.0, 0, 0
    x = subject.prepare(photos)
    with ts.accelerated("onnx"):
        for name, made in explain(subject, x).items():
            for metric in METRICS:
                if (0, name, metric) not in known:
                    continue
                one = create_metric(metric, {"error": ERRORS[0]})
                score(subject.net, made, [one])
                curves = torch.stack([known[place, name, metric] for place in range(len(photos))])
                found, about = replay(metric, curves, ERRORS[0])
                worst = max(worst, float((one.per_image - number(metric, found)).abs().max()))
                same += int((one.passes == about.passes).sum())
                tried += len(photos)
    return {"tried": tried, "same_passes": same, "largest_difference": worst}


def study(
    subject: Subject, photos: list[Path], store: Path | None, few: int, real: int
) -> dict[str, Any]:
    """Return all lines of a network."""
    known: Curves = torch.load(store) if store is not None and store.exists() else {}
    for curves in compute_exactly(subject, photos, known, few):
        if store is not None:
            torch.save(curves, store)
    lines = []
    for metric in METRICS:
        found = {
            (place, name): known[place, name, metric]
            for place in range(len(photos))
            for name in METHODS
            if (place, name, metric) in known
        }
        if not found:
            continue
        names = [name for _, name in found]
        lines += [
            describe(metric, error, torch.stack([*found.values()]), names) for error in ERRORS
        ]
    return {
        "network": subject.name,
        "photos": len(photos),
        "methods": METHODS,
        "safety": SAFETY,
        "lines": lines,
        "real": verify(subject, photos[:real], known) if real else None,
    }


def main(
    photos: Annotated[Path, typer.Option(help="a folder of photographs, *.JPEG")],
    mobile: Annotated[Path | None, typer.Option("--mobilenet", help="a folder")] = None,
    count: Annotated[int, typer.Option(help="photographs, from the first on")] = 50,
    few: Annotated[
        int, typer.Option(help="of them for selectivity, and for the built-in network")
    ] = 10,
    curves: Annotated[Path | None, typer.Option(help="a folder for exact curves")] = None,
    real: Annotated[int, typer.Option("--verify", help="photographs: 2 or 0")] = 2,
    output: Annotated[Path | None, typer.Option(help="a JSON file")] = None,
) -> None:
    """Print what is found as JSON, a line a network, and write it."""
    torch.set_num_threads(1)
    paths = sorted(photos.glob("*.JPEG"))[:count]
    subjects = [] if mobile is None else [(mobilenet(mobile), paths, few)]
    subjects += [(built_in(), paths[:few], 0)] if few else []
    networks: list[dict[str, Any]] = []
    for subject, chosen, blocks in subjects:
        name = subject.name.split()[0].replace("/", "-")
        store = None if curves is None else curves / f"{name}.pt"
        networks.append(study(subject, chosen, store, blocks, real))
        print(json.dumps(networks[-1]), flush=True)
        if output is not None:
            text = json.dumps({**facts("cpu"), "threads": 1, "networks": networks}, indent=1)
            output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

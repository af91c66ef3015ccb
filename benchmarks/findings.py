"""The figures of docs/findings.md beside those of `benchmarks.planted`, from small evaluations.

Run: `python -m benchmarks.findings PART --output FILE`, PART one of boxes, encoders and groups; the
last reads an evaluation, `--run FOLDER`.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

import torchsaliency as ts
from torchsaliency.data.shapes import shapes_set
from torchsaliency.evaluation.plan import Plan
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import evaluate, load_results
from torchsaliency.measures.embeddings import masked_embeddings
from torchsaliency.metrics.localisation.masks import area_under_roc
from torchsaliency.metrics.statistics import compare, rank_agreement

GROUPS: Mapping[str, Sequence[str]] = {
    "masked score": ("ad", "ag", "ai"),
    "masked embedding": ("mse", "cosine"),
    "curves": ("insertion", "deletion", "aopc", "road", "irof"),
    "localisation": ("relevance-rank", "relevance-mass", "auc", "miou", "f1"),
    "concentration": ("complexity", "sparseness", "entropy", "effective-area"),
}

ALIKE = 0.8
"""Mean Kendall's τ from which metrics are called redundant (average linkage)."""


def run_study(images: Any, masking: str) -> Results:
    """Score what is inside and outside the boxes of drawn images."""
    plan = Plan(
        model="builtin/shapes_cnn", methods=["gradcam"], study="boxes", masking=masking, workers=0
    )
    with tempfile.TemporaryDirectory() as folder:
        return evaluate(plan, Path(folder) / "run", data=images)


def rank(results: Results) -> dict[str, list[float]]:
    """Return each metric's mean over images, by method."""
    return {
        label: [float(results.per_image(name, label).nanmean()) for name in results.methods]
        for label in results.metrics
    }


def find_directions(results: Results) -> dict[str, bool]:
    """Say of each metric whether higher is better."""
    return {label: one.entry.direction == "higher" for label, one in results.metrics.items()}


def find_groups(results: Results) -> dict[str, Any]:
    """Return mean τ within and between groups of metrics, and clusters of redundant ones."""
    agreement = rank_agreement(rank(results), find_directions(results))
    tau = {pair: found.tau for pair, found in agreement.items() if found.tau is not None}
    tau |= {(b, a): value for (a, b), value in tau.items()}
    labels = [one for one in results.metrics if any(one in pair for pair in tau)]
    between: dict[str, dict[str, float | None]] = {}
    for first, second in itertools.product(GROUPS, repeat=2):
        values = [
            tau[pair] for pair in itertools.product(GROUPS[first], GROUPS[second]) if pair in tau
        ]
        mean = round(float(np.mean(values)), 2) if values else None
        between.setdefault(first, {})[second] = mean
    apart = [1 - tau.get(pair, 0.0) for pair in itertools.combinations(labels, 2)]
    places = fcluster(linkage(apart, "average"), 1 - ALIKE, "distance").tolist()
    clusters = [
        [one for one, mine in zip(labels, places, strict=True) if mine == place]
        for place in sorted(set(places))
    ]
    return {
        "images": len(results.samples),
        "methods": list(results.methods),
        "groups": between,
        "redundant": [cluster for cluster in clusters if len(cluster) > 1],
        "tau": {f"{a}, {b}": round(value, 2) for (a, b), value in tau.items() if a < b},
    }


def run_boxes(count: int) -> dict[str, Any]:
    """Return AD where only the boxes are seen less AD where they are hidden."""
    found: dict[str, Any] = {}
    for context in (0.0, 1.0):
        key = f"shapes_cnn, context {context:g}"
        masking = {}
        data = shapes_set(count, context=context)
        for name in ("mean", "blur"):
            results = run_study(data, name)
            inside, outside = (results.per_image("gradcam", f"ad, {part}") for part in ("B", "I∖B"))
            masking[name] = {
                "only the boxes": round(float(inside.nanmean()), 1),
                "boxes hidden": round(float(outside.nanmean()), 1),
                **compare(inside, outside).to_dict(),
            }
        found[key] = masking
        typer.echo(json.dumps({key: masking}))
    return found


def show_area(maps: Tensor, share: float) -> Tensor:
    """Return 1 on the most salient share of each map's pixels and 0 elsewhere."""
    flat = maps.flatten(1)
    most = flat.topk(round(share * flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat).scatter_(1, most, 1.0).reshape(maps.shape)


def run_encoders(count: int) -> dict[str, Any]:
    """Compare TSM, MTSM and label-free Opti-CAM on encoders, as they are and at equal area."""
    methods = {
        "tsm": ts.create("tsm"),
        "mtsm": ts.create("mtsm"),
        "opticam": ts.create("opticam", {"selector": "mse"}),
        "randomcam": ts.create("randomcam"),
    }
    data = shapes_set(count)
    pictures = [data.picture(place) for place in range(count)]
    masks = torch.stack([torch.as_tensor(np.asarray(one.mask)) for one in pictures]).long()
    found: dict[str, Any] = {}
    for name in ("builtin/shapes_ssl", "encoder/builtin/shapes_cnn", "encoder/builtin/shapes_vit"):
        network = ts.load_model(name)
        x = torch.stack([network.preprocessing(one.image) for one in pictures])
        clean = masked_embeddings(network, x, torch.ones(masks.shape)).embeddings
        spread = float(clean.var(0).sum())  # so that networks can be compared
        scores: dict[str, dict[str, Tensor]] = {}
        for label, method in methods.items():
            maps = ts.explain(network, x, method, layer=network.layer)[method.name].map.detach()
            shown = {"the map": maps, **{f"{a:.0%}": show_area(maps, a) for a in (0.1, 0.25)}}
            scores[label] = {"auc": area_under_roc(maps, masks), "area": 100 * maps.mean((1, 2))}
            for key, mask in shown.items():
                made = masked_embeddings(network, x, mask, clean=clean)
                squared = (made.masked_embeddings - clean).square().sum(1)
                scores[label][f"mse, {key}"] = 100 * squared / spread
        rows = {
            label: {key: round(float(v.mean()), 1) for key, v in row.items()}
            for label, row in scores.items()
        }
        tests = {
            f"{a} - {b}": {
                key: compare(scores[a][key], scores[b][key]).to_dict() for key in scores[a]
            }
            for a, b in (("tsm", "mtsm"), ("opticam", "mtsm"), ("mtsm", "randomcam"))
        }
        found[name] = {"images": count, "means": rows, "differences": tests}
        typer.echo(json.dumps({name: rows}))
    return found


def main(
    part: Annotated[str, typer.Argument(help="boxes, encoders or groups")],
    output: Annotated[Path, typer.Option(help="a JSON file; other parts in it are kept")],
    count: Annotated[int, typer.Option(help="drawn images")] = 16,
    folder: Annotated[Path, typer.Option("--run", help="an evaluation, for groups")] = Path("run"),
) -> None:
    """Evaluate one part, and write its rows."""
    torch.set_num_threads(1)
    parts: Mapping[str, Callable[[], dict[str, Any]]] = {
        "boxes": lambda: run_boxes(count),
        "encoders": lambda: run_encoders(count),
        "groups": lambda: find_groups(load_results(folder)),
    }
    rows = parts[part]()
    found: dict[str, Any] = json.loads(output.read_text("utf-8")) if output.exists() else {}
    found[part] = rows
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

"""The figures of docs/findings.md beside those of `benchmarks.planted`, from small evaluations.

Run: `python -m benchmarks.findings PART --output FILE`, PART one of boxes, encoders, groups and
maskings. Groups read evaluations, `--run FOLDER`; maskings, and boxes beside what they draw, take
the data and the network of a plan, `--plan FILE`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

import torchsaliency as ts
from benchmarks.maskings import MASKINGS, find_maskings
from benchmarks.rankings import find_groups, find_redundant
from torchsaliency.data.shapes import shapes_set
from torchsaliency.evaluation.plan import Plan, make_plan, read_plan
from torchsaliency.evaluation.runner import evaluate, load_results
from torchsaliency.measures.embeddings import masked_embeddings
from torchsaliency.metrics.localisation.masks import area_under_roc
from torchsaliency.metrics.statistics import compare

STUDY: Mapping[str, Any] = {"methods": ["gradcam"], "metrics": [], "study": "boxes", "workers": 0}
"""What replaces a plan's methods and metrics; the boxes alone are read, and no map."""


def run_study(make: Callable[[Mapping[str, Any]], Plan]) -> dict[str, Any]:
    """Return AD where only the boxes are seen, and where they are hidden, by masking."""
    found: dict[str, Any] = {}
    for masking in MASKINGS:
        plan = make({**STUDY, "masking": masking})
        with tempfile.TemporaryDirectory() as folder:
            results = evaluate(plan, Path(folder) / "run")
        inside, outside = (results.per_image("gradcam", f"ad, {part}") for part in ("B", "I∖B"))
        found[masking] = {
            "only the boxes": round(float(inside.nanmean()), 1),
            "boxes hidden": round(float(outside.nanmean()), 1),
            **compare(inside, outside).to_dict(),
        }
    return found


def run_boxes(count: int, plans: Sequence[Path]) -> dict[str, Any]:
    """Run the study on drawn images, and on the data and networks of plans."""
    drawn = {
        f"shapes_cnn, context {context:g}": {
            "model": "builtin/shapes_cnn",
            "data": shapes_set(count, context=context),
        }
        for context in (0.0, 1.0)
    }
    found = {
        key: run_study(lambda changes, facts=facts: make_plan({**facts, **changes}))
        for key, facts in drawn.items()
    }
    for path in plans:
        found[path.stem] = run_study(partial(read_plan, path))
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


def run_groups(folders: Sequence[Path]) -> dict[str, Any]:
    """Compare the metrics of evaluations, and find those redundant in all."""
    runs = {folder.name: load_results(folder) for folder in folders}
    found = {name: find_groups(results) for name, results in runs.items()}
    return {**found, "redundant in all": find_redundant(runs)}


def main(
    part: Annotated[str, typer.Argument(help="boxes, encoders, groups or maskings")],
    output: Annotated[Path, typer.Option(help="a JSON file; other parts in it are kept")],
    count: Annotated[int, typer.Option(help="drawn images")] = 16,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="folders of evaluations, for groups")
    ] = None,
    plans: Annotated[
        list[Path] | None,
        typer.Option("--plan", help="YAML files of data, network and methods: boxes, maskings"),
    ] = None,
) -> None:
    """Evaluate one part, and write its rows."""
    torch.set_num_threads(1)
    parts: Mapping[str, Callable[[], dict[str, Any]]] = {
        "boxes": lambda: run_boxes(count, plans or []),
        "encoders": lambda: run_encoders(count),
        "groups": lambda: run_groups(runs or []),
        "maskings": lambda: {path.stem: find_maskings(read_plan(path)) for path in plans or []},
    }
    if part not in parts:
        raise typer.BadParameter(f"{part!r} was given; choose one of {', '.join(parts)}.")
    if part == "groups" and not runs:
        raise typer.BadParameter("groups reads evaluations; name their folders with --run.")
    if part == "maskings" and not plans:
        raise typer.BadParameter("maskings explains what a plan names; name its file with --plan.")
    rows = parts[part]()
    found: dict[str, Any] = json.loads(output.read_text("utf-8")) if output.exists() else {}
    found[part] = {**found.get(part, {}), **rows} if part == "maskings" else rows
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

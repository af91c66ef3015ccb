"""How much of each metric's ranking of methods survives another masking: docs/findings.md."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import torch
import typer
from torch import Tensor

from benchmarks.rankings import Scores, measure_tau, split_halves
from torchsaliency import measures
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.masking import Masking
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.plan import Plan
from torchsaliency.evaluation.scoring import explain_batch, score
from torchsaliency.evaluation.setting import Setting, make_setting
from torchsaliency.metrics.base import create_metric

MASKINGS = ("black", "blur", "mean")

SCORED: Mapping[str, Mapping[str, Any]] = {
    **{name: {} for name in ("ad", "ag", "ai", "adcc", "coherency", "mse", "cosine")},
    "deletion": {"budget": 10},
    "monotonicity": {"budget": 10},
    "faithfulness-estimate": {},
    "saco": {},
    "irof": {"superpixels": 20},
    "infidelity": {"samples": 10},
}
"""Metrics whose masking is the explanation's, and their options."""

CURVES = ("insertion", "aopc")
"""Metrics that have a masking of their own unless their curve is called with one."""


def score_masking(
    setting: Setting, explanation: Explanation, target: Any, masking: Masking
) -> dict[str, Tensor]:
    """Return all metrics of a batch's maps by image, under one masking."""
    metrics = [create_metric(name, dict(options)) for name, options in SCORED.items()]
    found = score(setting.network, explanation, metrics, target=target, masking=masking)
    judge, maps = explanation.wrap(setting.network), explanation.map
    known: dict[str, Any] = {"clean": explanation.output, "masking": masking}
    labels = explanation.output.argmax(1) if target is None else torch.as_tensor(target)
    x = explanation.given
    curve = measures.perturbation_curve(
        judge, x, maps, labels, order="insertion", budget=10, **known
    )
    regions = measures.region_curve(judge, x, maps, labels, **known)
    inputs = {**curve.inputs(), **regions.inputs()}
    for name in CURVES:
        metric = found[name] = create_metric(name)
        metric.update(**{key: inputs[key] for key in metric.entry.inputs if key in inputs})
    return {name: metric.per_image for name, metric in found.items()}


def score_maskings(plan: Plan) -> dict[str, dict[str, Scores]]:
    """Return the scores of a plan's methods under all maskings, by metric; maps are made once."""
    setting = make_setting(plan)
    maskings = {name: setting.preprocessing.baseline(name) for name in MASKINGS}
    values: dict[str, list[Tensor]] = {}
    began = time.monotonic()
    for batch, _ in batches(setting):
        if batch is None:
            continue
        target = setting.target_of(batch.labels)
        benches = explain_batch(setting, batch)
        rows: dict[str, list[list[Tensor]]] = {}
        for masking in maskings.values():
            column: dict[str, list[Tensor]] = {}
            for bench in benches.values():
                scored = score_masking(setting, bench.explanation, target, masking)
                for metric, numbers in scored.items():
                    column.setdefault(metric, []).append(numbers)
            for metric, numbers in column.items():
                rows.setdefault(metric, []).append(torch.stack(numbers, 1))
        for metric, parts in rows.items():
            values.setdefault(metric, []).append(torch.stack(parts, 1))
        typer.echo(f"{len(batch)} images, {time.monotonic() - began:.0f} s")
    found = {}
    for metric, parts in values.items():
        sign = 1 if create_metric(metric).entry.direction == "higher" else -1
        found[metric] = Scores(sign * torch.cat(parts), MASKINGS, tuple(setting.methods))
    return found


def find_maskings(plan: Plan) -> dict[str, Any]:
    """Return τ between maskings, by metric, with intervals, and what random halves leave of it."""
    found: dict[str, Any] = {}
    for metric, scores in score_maskings(plan).items():
        means = scores.average(scores.rows.mean(0))
        row: dict[str, Any] = {
            f"{a}, {b}": measure_tau(scores.take((a, b)), lambda tau: tau[..., 0, 1])
            for a, b in itertools.combinations(MASKINGS, 2)
        }
        row["mean of the three"] = measure_tau(
            scores, lambda tau: (tau[..., 0, 1] + tau[..., 0, 2] + tau[..., 1, 2]) / 3
        )
        best = [scores.methods[int(place)] for place in means.argmax(-1)]
        found[metric] = {
            **row,
            "halves": split_halves(scores),
            "best": dict(zip(MASKINGS, best, strict=True)),
        }
        typer.echo(f"{metric}: {found[metric]}")
    return {
        "images": len(scores.values),
        "methods": list(scores.methods),
        "metrics": found,
    }

"""What a report says of an evaluation: ranks, correlations, costs, and images worth looking at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from torchsaliency.evaluation.results import Results
from torchsaliency.report.tables import Table

_FEW = 3
"""Values that a correlation needs at least."""


@final
@dataclass(frozen=True)
class Finding:
    """An image worth looking at, and why.

    Attributes:
        sample: its id.
        reasons: sentences without a stop.
    """

    sample: str
    reasons: list[str] = field(default_factory=list)


def rank_methods(results: Results) -> pd.DataFrame:
    """Return each contender's rank in each metric with a direction, and the mean rank, best first.

    Ranks are of the aggregates; equal ones share the mean of their ranks.
    """
    scores = score_means(results).drop(index=list(results.references), errors="ignore")
    signs = {name: _sign(results, name) for name in scores}
    directed = scores[[name for name, sign in signs.items() if sign]]
    ranks = (directed * pd.Series(signs)[directed.columns]).rank(ascending=False)
    ranks["mean"] = ranks.mean(axis=1)
    return ranks.sort_values("mean", kind="stable")


def score_means(results: Results) -> pd.DataFrame:
    """Return the aggregate of every metric, methods by metrics; NaN where it is undefined."""
    found = {
        metric: {
            method: results.summary(method, metric, resamples=1).value for method in results.methods
        }
        for metric in results.metrics
    }
    return pd.DataFrame(found, dtype=float).reindex(list(results.methods))


def correlate_metrics(results: Results) -> tuple[list[str], NDArray[Any]]:
    """Return Spearman's ρ of each pair of metrics over all images and methods.

    Metrics that are better when lower are negated, so that 1 is agreement.
    """
    names = [name for name in results.metrics if _sign(results, name)]
    columns = {
        name: np.concatenate(
            [_sign(results, name) * _per_image(results, method, name) for method in results.methods]
        )
        for name in names
    }
    return names, pd.DataFrame(columns).corr("spearman", min_periods=_FEW).to_numpy()


def correlate_methods(results: Results) -> tuple[list[str], NDArray[Any]]:
    """Return Spearman's ρ of each pair of methods over the images, the mean over the metrics."""
    names = list(results.methods)
    several = []
    for metric in results.metrics:
        columns = {method: _per_image(results, method, metric) for method in names}
        several.append(pd.DataFrame(columns).corr("spearman", min_periods=_FEW).to_numpy())
    stacked = np.stack(several)
    defined = (~np.isnan(stacked)).sum(0)
    return names, np.where(defined, np.nansum(stacked, 0) / np.maximum(defined, 1), np.nan)


def choose_images(results: Results, most: int = 12) -> list[Finding]:
    """Return the images on which the two best methods differ most, and each metric's extremes.

    The difference of two methods on an image is the mean over the metrics of |a - b| / s, s the
    standard deviation of the metric over all images and methods. Best and worst are of the method
    of the best mean rank, of every metric with a direction.

    Args:
        results: what an evaluation found.
        most: images that are returned.
    """
    found: dict[str, Finding] = {}

    def add(place: int, reason: str) -> None:
        sample = results.samples[place]
        if sample in found or len(found) < most:
            found.setdefault(sample, Finding(sample)).reasons.append(reason)

    ranked = list(rank_methods(results).index) or list(results.methods)
    for first, second in list(combinations(ranked[:3], 2))[:2]:
        differences = _differences(results, first, second)
        if differences is not None:
            for place in np.argsort(-differences, kind="stable")[: max(1, most // 4)]:
                if differences[place] > 0:
                    add(int(place), f"{first} and {second} differ much")
    for metric in results.metrics:
        sign, values = _sign(results, metric), _per_image(results, ranked[0], metric)
        if sign and np.isfinite(values).sum() > 1:
            for word, place in (
                ("best", np.nanargmax(sign * values)),
                ("worst", np.nanargmin(sign * values)),
            ):
                add(int(place), f"{word} {metric} of {ranked[0]}")
    return list(found.values())


def describe_values(results: Results, sample: str) -> dict[str, tuple[str, ...]]:
    """Return every metric's value of an image in words, by method."""
    place = results.samples.index(sample)
    facts: dict[str, tuple[str, ...]] = {}
    for method in results.methods:
        words = []
        for metric, kind in results.metrics.items():
            value = _per_image(results, method, metric)[place]
            unit = f" {kind.entry.unit}" if kind.entry.unit else ""
            if math.isfinite(value):
                words.append(f"{metric} {value:.3g}{unit}")
        facts[method] = (", ".join(words),) if words else ()
    return facts


def mean_seconds(results: Results) -> dict[str, float]:
    """Return the median seconds of an image, by method; methods without a time are left out."""
    found = {}
    for method in results.methods:
        seconds = results.seconds(method)
        if len(seconds):
            found[method] = float(seconds.quantile(0.5))
    return found


def list_values(table: Table) -> list[list[float | None]]:
    """Return the numbers of a table's cells, row by row, for sorting."""
    values = table.pivot("value").to_numpy(dtype=float)
    return [[None if math.isnan(value) else float(value) for value in row] for row in values]


def _differences(results: Results, first: str, second: str) -> NDArray[Any] | None:
    parts = []
    for metric in results.metrics:
        every = np.concatenate([_per_image(results, method, metric) for method in results.methods])
        spread = float(np.nanstd(every)) if np.isfinite(every).any() else 0.0
        if spread > 0:
            gap = _per_image(results, first, metric) - _per_image(results, second, metric)
            parts.append(np.nan_to_num(np.abs(gap) / spread))
    return np.mean(parts, axis=0) if parts else None


def _per_image(results: Results, method: str, metric: str) -> NDArray[Any]:
    values: NDArray[Any] = results.per_image(method, metric).to(torch.float64).numpy()
    return values


def _sign(results: Results, metric: str) -> int:
    return {"higher": 1, "lower": -1, "neither": 0}[results.metrics[metric].entry.direction]

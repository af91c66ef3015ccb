"""From results and studies to charts: curves that metrics keep, and sweeps over an option."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from torchsaliency.errors import InputError
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.studies import POWER
from torchsaliency.metrics.base import SaliencyMetric, Summary
from torchsaliency.metrics.perturbation import CurveMetric
from torchsaliency.metrics.sanity import SanityMetric
from torchsaliency.metrics.segmentation import MeanIoUSweep
from torchsaliency.metrics.statistics import CONFIDENCE
from torchsaliency.report.tables import ARROWS
from torchsaliency.viz.curves import Chart, Curve


def metric_charts(results: Results, *, confidence: float = CONFIDENCE) -> dict[str, Chart]:
    """Return a chart of every metric that keeps a curve of each image, by the metric's label.

    These are insertion and deletion by the share of pixels, mIoU by threshold, and the sanity
    checks by the number of random stages. A curve is the mean over images, its band the mean's
    interval at each point by itself, t · s / √n on both sides (Student's t).

    Args:
        results: what an evaluation found; methods without an image are left out.
        confidence: of the bands.
    """
    found = {}
    for label, metric in results.metrics.items():
        axis = _axis(metric)
        if axis is None:
            continue
        places, x, y = axis
        series = []
        for method in results.methods:
            rows = results.rows(method, label)
            values = rows[~rows.isnan().any(1)]
            if isinstance(metric, CurveMetric):  # the area before the curve, and parts of 1
                values = 100 * values[:, 1 : 1 + len(places)]
            if len(values):
                series.append(_curve(method, places, values, confidence))
        if series:
            found[label] = Chart(series, x, y, label)
    return found


def method_charts(results: Results, *, y: str, suffix: str = "") -> list[Chart]:
    """Return a chart of every method: the curves of all metrics that keep one, in one unit.

    Args:
        results: what an evaluation found; without a metric that keeps a curve, no chart is made.
        y: what all the metrics are.
        suffix: of the titles, which begin with the method.
    """
    found = metric_charts(results)
    if not found:
        return []
    return [
        Chart(
            [
                replace(curve, label=metric)
                for metric, chart in found.items()
                for curve in chart.series
                if curve.label == method
            ],
            next(iter(found.values())).x,
            y,
            method + suffix,
        )
        for method in results.methods
    ]


def sweep_chart(
    scores: Mapping[str, Mapping[float | int, Summary]],
    *,
    x: str,
    y: str = "",
    title: str = "",
    log_x: bool = False,
) -> Chart:
    """Return one metric by an option's value, a curve for each value of another.

    With the bootstrap intervals as bands, for Opti-CAM's iterations by learning rate
    (`{"lr 0.1": {10: …, 20: …}}`), layers, thresholds, powers.

    Args:
        scores: by curve and place; summaries without value are gaps.
        x: what is varied.
        y: what the metric is; by default its name, direction and unit.
        title: of the chart.
        log_x: whether x is logarithmic.

    Raises:
        InputError: no curve, or one without points.
    """
    summaries = [summary for line in scores.values() for summary in line.values()]
    if not summaries:
        raise InputError("A sweep without summaries was given; it needs one curve with a point.")
    first = summaries[0]
    series = []
    for label, line in scores.items():
        places = sorted(line)
        ends = [(line[place].value, line[place].low, line[place].high) for place in places]
        value, low, high = np.array(ends, dtype=float).T  # None becomes NaN, a gap
        series.append(Curve(label, places, value, low, high))
    heading = f"{first.metric} {ARROWS[first.direction]} ({first.unit})"
    return Chart(series, x, y or heading, title, log_x)


def sweep_charts(
    points: Iterable[tuple[str, str, float, Summary]],
    *,
    x: str,
    suffix: str = "",
    log_x: bool = False,
) -> dict[str, Chart]:
    """Return a `sweep_chart` of each metric, by its label, which in capitals is the title.

    Args:
        points: metric, curve, place on the horizontal axis, and summary.
        x: what is varied.
        suffix: of the titles.
        log_x: whether x is logarithmic.
    """
    scores: dict[str, dict[str, dict[float | int, Summary]]] = {}
    for metric, curve, place, summary in points:
        scores.setdefault(metric, {}).setdefault(curve, {})[place] = summary
    return {
        metric: sweep_chart(lines, x=x, title=metric.upper() + suffix, log_x=log_x)
        for metric, lines in scores.items()
    }


def selectivity_charts(
    studies: Mapping[str, Mapping[str, Summary]], *, suffix: str = ""
) -> dict[str, Chart]:
    """Return AD, AI and AG by the power of the map, a curve a method (Opti-CAM, Figure A4).

    Args:
        studies: summaries by label, of what `score_variants` made of `power_variants`, by method.
        suffix: of the titles.

    Raises:
        InputError: a study of something else than powers.
    """
    points = []
    for method, summaries in studies.items():
        for label, summary in summaries.items():
            metric, _, variant = label.partition(", ")
            if not variant.startswith(POWER):
                raise InputError(
                    f"The study of {method} has a line {variant!r}, and charts of selectivity need "
                    f"powers like '{POWER}2'; give studies of `power_variants`."
                )
            points.append((metric, method, float(variant.removeprefix(POWER)), summary))
    return sweep_charts(points, x="power α", suffix=suffix, log_x=True)


def _axis(metric: SaliencyMetric) -> tuple[list[float], str, str] | None:
    if isinstance(metric, CurveMetric):
        done = "inserted" if metric.name == "insertion" else "deleted"
        return (100 * metric.fractions).tolist(), f"pixels {done} (%)", "class probability (%)"
    if isinstance(metric, MeanIoUSweep):
        return list(metric.thresholds), "threshold", "mIoU ↑ (%)"
    if isinstance(metric, SanityMetric) and metric.mode != "labels":
        stages = [float(stage) for stage in range(1, metric.stages + 1)]
        return stages, "random stages, from the output", f"{metric.name} ↓ ({metric.entry.unit})"
    return None


def _curve(label: str, places: list[float], values: Tensor, confidence: float) -> Curve:
    mean = values.mean(0)
    if len(values) == 1:
        return Curve(label, places, mean.tolist())
    reach = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1))
    half = reach * values.std(0) / math.sqrt(len(values))
    ends = torch.stack([mean - half, mean + half]).tolist()
    return Curve(label, places, mean.tolist(), *ends)

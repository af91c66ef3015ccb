"""Scores the maps of a run, batch by batch, by the metrics that were asked for.

Loaded where there are any: the metrics' libraries take seconds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

from torchsaliency.apps.choosing import listed, parted
from torchsaliency.apps.explaining import Job, Rows
from torchsaliency.apps.mishaps import running
from torchsaliency.apps.report import Report
from torchsaliency.core.errors import OptionError
from torchsaliency.core.explanation import Explanation
from torchsaliency.evaluation import score
from torchsaliency.metrics import SaliencyMetric, create_metric, metric_entry, metrics


def chosen_metrics(words: Sequence[str], settings: Sequence[str]) -> dict[str, SaliencyMetric]:
    """Return the metrics by name, in the order given.

    Args:
        words: names, also several with commas.
        settings: "metric.option=value" each; those of methods are passed over.

    Raises:
        OptionError: an unknown metric or option, one that needs annotations, a value that does not
            fit, or a setting for a metric that was not chosen.
    """
    names = listed(words)
    options: dict[str, dict[str, str]] = {metric_entry(name).name: {} for name in names}
    for name in options:
        if needed := metric_entry(name).annotations:
            raise OptionError(
                f"--score {name} needs {needed} of the objects, which a photograph does not have; "
                "choose metrics without (see `torchsaliency metrics`), or use "
                "torchsaliency.evaluation.score in Python."
            )
    for setting in settings:
        metric, option, value = parted(setting)
        if metric not in metrics():
            continue
        if metric not in options:
            raise OptionError(
                f"--set {setting!r} was given and {metric} is not scored; add --score {metric}."
            )
        options[metric][option] = value
    return {name: create_metric(name, given) for name, given in options.items()}


@final
class Scorer:
    """Keeps the metrics of every method over all batches."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._metrics: dict[str, list[SaliencyMetric]] = {}

    def score(self, maps: Mapping[str, Explanation], report: Report) -> dict[str, Rows]:
        """Score the maps of one batch, for the classes they explain.

        Args:
            maps: by method.
            report: is told of progress.

        Returns:
            By method, one dictionary of metrics an image; None where undefined.

        Raises:
            TorchSaliencyError: a metric is not defined for this network.
        """
        found = {}
        for method, made in maps.items():
            metrics = self._metrics.setdefault(
                method, [copy.deepcopy(one) for one in self._job.metrics.values()]
            )
            with running(self._job.network.name):
                score(self._job.network, made, metrics, chunk=self._job.chunk)
            report.advance(len(made))
            columns = {one.name: one.per_image[-len(made) :].tolist() for one in metrics}
            found[method] = [
                {name: _finite(values[row]) for name, values in columns.items()}
                for row in range(len(made))
            ]
        return found

    def summaries(self) -> list[dict[str, Any]]:
        """Return the aggregate of every method and metric over all maps, in JSON types."""
        return [
            {"method": method, **one.summary().to_dict()}
            for method, metrics in self._metrics.items()
            for one in metrics
        ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

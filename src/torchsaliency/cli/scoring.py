"""Scores the maps of a run, batch by batch, by the metrics that were asked for.

Loaded where there are any: the metrics' libraries take seconds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.cli.choosing import listed, parted
from torchsaliency.cli.explaining import Graded, Job, Rows
from torchsaliency.cli.mishaps import running
from torchsaliency.cli.report import Report
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.files import finite
from torchsaliency.errors import OptionError
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
    """Scores the maps of a run by its metrics."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def score(self, maps: Mapping[str, Explanation], report: Report) -> dict[str, Rows]:
        """Score the maps of one batch, for the classes they explain.

        Args:
            maps: by method.
            report: is told of progress.

        Returns:
            By method, one dictionary of metrics an image.

        Raises:
            TorchSaliencyError: a metric is not defined for this network.
        """
        found = {}
        for method, made in maps.items():
            metrics = [copy.deepcopy(one) for one in self._job.metrics.values()]
            with running(self._job.network.name):
                score(self._job.network, made, metrics, chunk=self._job.chunk)
            report.advance(len(made))
            columns = {
                one.name: zip(
                    finite(one.per_image.tolist()), finite(one.rows.tolist()), strict=True
                )
                for one in metrics
            }
            found[method] = [
                {
                    name: Graded(value, tuple(row))
                    for name, (value, row) in zip(columns, image, strict=True)
                }
                for image in zip(*columns.values(), strict=True)
            ]
        return found

    def summaries(
        self, rows: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]]
    ) -> list[dict[str, Any]]:
        """Return the aggregate of every method and metric over all maps, in JSON types.

        Args:
            rows: by method and metric, one a map.
        """
        return [
            {"method": method, **self._job.metrics[name].summarise(_tensor(found)).to_dict()}
            for method, columns in rows.items()
            for name, found in columns.items()
        ]


def _tensor(rows: Sequence[Sequence[float | None]]) -> Tensor:
    plain = [[math.nan if one is None else one for one in row] for row in rows]
    return torch.tensor(plain, dtype=torch.float64, device="cpu")

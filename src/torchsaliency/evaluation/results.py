"""The results of an evaluation: every metric's row of numbers for every image and method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from torchsaliency.errors import InputError, OptionError, describe_unknown
from torchsaliency.metrics.base import SaliencyMetric, Summary
from torchsaliency.metrics.statistics import CONFIDENCE, RESAMPLES, Comparison, compare

COLUMNS = ("sample", "method", "metric", "value", "row", "seconds", "passes")


@final
@dataclass(frozen=True, eq=False)
class Results:
    """What an evaluation found.

    Everything is computed from the metrics' rows, never from the column `value`: many aggregates
    are no means of image values, and an image's own may depend on all others (MaxBoxAccV2).

    Attributes:
        frame: one line a (sample, method, metric), with the columns `COLUMNS` and perhaps others;
            `row` is what the metric keeps of the image, empty or with NaN where it is undefined.
            Intervals are drawn in the order of its images.
        metrics: by label, for their aggregates; their own state is neither read nor changed.
        methods: labels, in the plan's order; others in the frame are left out.
        references: methods that are no contenders, such as Fake-CAM.
    """

    frame: pd.DataFrame
    metrics: Mapping[str, SaliencyMetric]
    methods: tuple[str, ...]
    references: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if missing := [name for name in COLUMNS if name not in self.frame]:
            raise InputError(
                f"Results have no column {missing[0]!r}; the columns are {', '.join(COLUMNS)}."
            )
        twice = self.frame.duplicated(["sample", "method", "metric"])
        if twice.any():
            first = self.frame[twice].iloc[0]
            raise InputError(
                f"{first['metric']} of {first['method']} on {first['sample']} is there twice; keep "
                "one line for each image, method and metric."
            )
        for name in self.references:
            _check_name(name, self.methods, "method")

    @cached_property
    def samples(self) -> tuple[str, ...]:
        """All images, in the order in which the frame first names them."""
        return tuple(self.frame["sample"].unique())

    def summary(
        self,
        method: str,
        metric: str,
        *,
        confidence: float = CONFIDENCE,
        resamples: int = RESAMPLES,
    ) -> Summary:
        """Return one metric of one method over all images that define it.

        The same as `SaliencyMetric.summary` after updates with these images; images without a line
        count neither as defined nor as undefined.

        Args:
            method: its label.
            metric: its label.
            confidence: of the interval.
            resamples: of the bootstrap.

        Raises:
            OptionError: no such method or metric.
        """
        rows = self.rows(method, metric)
        missing = len(rows) - len(self._lines(method, metric))
        found = self.metrics[metric].summarise(rows, confidence=confidence, resamples=resamples)
        return replace(found, undefined=found.undefined - missing)

    def per_image(self, method: str, metric: str) -> Float[Tensor, " n"]:
        """Return one number an image, in the order of `samples`, the same for all methods.

        Returns:
            (N,) in the metric's unit; NaN where the metric is undefined or has no line.

        Raises:
            OptionError: no such method or metric.
        """
        rows = self.rows(method, metric)
        defined = ~rows.isnan().any(1)
        values = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        if defined.any():  # an image's value may depend on all others
            values[defined] = self.metrics[metric].image_values(rows[defined])
        return values

    def rows(self, method: str, metric: str) -> Float[Tensor, "n width"]:
        """Return what the metric keeps of each image, in the order of `samples`.

        Returns:
            (N, width) in float64; NaN where the metric is undefined or has no line.

        Raises:
            OptionError: no such method or metric.
            InputError: a row of another length than the metric's.
        """
        lines = self._lines(method, metric)
        width = self.metrics[metric].width
        places = pd.Index(self.samples).get_indexer(lines["sample"])
        rows = np.full((len(self.samples), width), np.nan)
        for place, row in zip(places, lines["row"], strict=True):
            if _empty(row):
                continue
            if len(row) != width:
                raise InputError(
                    f"{metric} of {method} on {self.samples[place]} has a row of {len(row)} "
                    f"numbers, and the metric keeps {width}; use the options it was made with."
                )
            rows[place] = np.asarray(row, dtype=float)
        return torch.from_numpy(rows)

    def compare(
        self,
        a: str,
        b: str,
        *,
        confidence: float = CONFIDENCE,
        resamples: int = RESAMPLES,
    ) -> dict[str, Comparison]:
        """Compare two methods image by image.

        Args:
            a: a method's label.
            b: another's.
            confidence: of the intervals of the mean differences.
            resamples: of the bootstrap.

        Returns:
            By metric; those that fewer than two images define for both methods are left out.

        Raises:
            OptionError: no such method.
        """
        found = {}
        for label in self.metrics:
            first, second = self.per_image(a, label), self.per_image(b, label)
            if int((~(first - second).isnan()).sum()) > 1:
                found[label] = compare(first, second, confidence=confidence, resamples=resamples)
        return found

    def seconds(self, method: str) -> Float[Tensor, " n"]:
        """Return how long the method took for each image that has a time, (N,).

        Raises:
            OptionError: no such method.
        """
        # a map is made once for all metrics, and each of their lines has its time
        lines = self._lines(method).dropna(subset="seconds").drop_duplicates("sample")
        return torch.from_numpy(lines["seconds"].to_numpy(dtype=float, copy=True))

    def images(self, method: str) -> int:
        """Return the number of images that have a line of the method.

        Raises:
            OptionError: no such method.
        """
        return int(self._lines(method)["sample"].nunique())

    @cached_property
    def _places(self) -> dict[Any, NDArray[Any]]:
        """The places of the lines of each method, and of each method and metric."""
        by_method = self.frame.groupby("method", sort=False, observed=True).indices
        by_metric = self.frame.groupby(["method", "metric"], sort=False, observed=True).indices
        return {**by_method, **by_metric}

    def _lines(self, method: str, metric: str | None = None) -> pd.DataFrame:
        _check_name(method, self.methods, "method")
        if metric is not None:
            _check_name(metric, self.metrics, "metric")
        key = method if metric is None else (method, metric)
        return self.frame.iloc[self._places.get(key, np.empty(0, dtype=int))]


def _empty(row: Any) -> bool:
    return row is None or row is pd.NA or isinstance(row, float) or len(row) == 0


def _check_name(name: str, names: Collection[str], kind: str) -> None:
    if name not in names:
        raise OptionError(describe_unknown(kind, name, names, where=" here"))

"""The results of an evaluation: every metric's row of numbers for every image and method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import final

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.errors import OptionError, describe_unknown
from torchsaliency.evaluation.lines import FrameLines, Lines
from torchsaliency.metrics.base import SaliencyMetric, Summary
from torchsaliency.metrics.statistics import CONFIDENCE, RESAMPLES, Comparison, compare


@final
class Results:
    """What an evaluation found.

    Everything is computed from the metrics' rows, never from the column `value`: many aggregates
    are no means of image values, and an image's own may depend on all others (MaxBoxAccV2).

    Args:
        frame: one line a (sample, method, metric), with the columns `COLUMNS` and perhaps others;
            `row` is what the metric keeps of the image, empty or with NaN where it is undefined.
            Intervals are drawn in the order of its images. Or such lines from elsewhere.
        metrics: by label, for their aggregates; their own state is neither read nor changed.
        methods: labels, in the plan's order; others in the frame are left out.
        references: methods that are no contenders, such as Fake-CAM.
    """

    def __init__(
        self,
        frame: pd.DataFrame | Lines,
        metrics: Mapping[str, SaliencyMetric],
        methods: tuple[str, ...],
        references: frozenset[str] = frozenset(),
    ) -> None:
        self._lines = frame if isinstance(frame, Lines) else FrameLines(frame)
        self.metrics, self.methods, self.references = metrics, methods, references
        for name in references:
            _check_name(name, methods, "method")

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All lines as a table; of a run of millions of lines it is read when it is asked for."""
        return self._lines.frame

    @property
    def samples(self) -> tuple[str, ...]:
        """All images, in the order in which the frame first names them."""
        return self._lines.samples

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
        missing = len(rows) - self._lines.count(method, metric, rows.shape[1])
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
        _check_name(method, self.methods, "method")
        _check_name(metric, self.metrics, "metric")
        return torch.from_numpy(self._lines.rows(method, metric, self.metrics[metric].width))

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
        _check_name(method, self.methods, "method")
        return torch.from_numpy(self._lines.seconds(method))

    def images(self, method: str) -> int:
        """Return the number of images that have a line of the method.

        Raises:
            OptionError: no such method.
        """
        _check_name(method, self.methods, "method")
        return self._lines.images(method)


def _check_name(name: str, names: Collection[str], kind: str) -> None:
    if name not in names:
        raise OptionError(describe_unknown(kind, name, names, where=" here"))

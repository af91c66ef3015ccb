"""The lines of results, one a (sample, method, metric): in a frame, or streamed from a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from torchsaliency.errors import InputError

COLUMNS = ("sample", "method", "metric", "value", "row", "seconds", "passes")


class Lines(ABC):
    """What an evaluation found, by method and metric; unknown ones have no lines."""

    samples: tuple[str, ...]
    """All images, in their order."""

    @property
    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """All lines as a table, in the order of the images."""

    @abstractmethod
    def rows(self, method: str, metric: str, width: int) -> NDArray[np.float64]:
        """Return what a metric keeps of each image, (N, width); NaN where that is nothing.

        Raises:
            InputError: a row of another length.
        """

    @abstractmethod
    def count(self, method: str, metric: str, width: int) -> int:
        """Return how many images have a line of the metric."""

    @abstractmethod
    def seconds(self, method: str) -> NDArray[np.float64]:
        """Return how long the method took for each image that has a time."""

    @abstractmethod
    def images(self, method: str) -> int:
        """Return how many images have a line of the method."""


@final
class FrameLines(Lines):
    """Lines in memory.

    Args:
        frame: with the columns `COLUMNS`, and perhaps others.

    Raises:
        InputError: a column is missing, or a line is there twice.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        if missing := [name for name in COLUMNS if name not in frame]:
            raise InputError(
                f"Results have no column {missing[0]!r}; the columns are {', '.join(COLUMNS)}."
            )
        twice = frame.duplicated(["sample", "method", "metric"])
        if twice.any():
            first = frame[twice].iloc[0]
            raise InputError(
                f"{first['metric']} of {first['method']} on {first['sample']} is there twice; keep "
                "one line for each image, method and metric."
            )
        self._frame = frame

    @property
    def frame(self) -> pd.DataFrame:
        """The table as it was given."""
        return self._frame

    @cached_property
    def samples(self) -> tuple[str, ...]:  # type: ignore[override]
        """All images, in the order in which the frame first names them."""
        return tuple(self._frame["sample"].unique())

    def rows(self, method: str, metric: str, width: int) -> NDArray[np.float64]:
        """Return what a metric keeps of each image, see `Lines.rows`."""
        lines = self._select(method, metric)
        places = pd.Index(self.samples).get_indexer(lines["sample"])
        rows = np.full((len(self.samples), width), np.nan)
        for place, row in zip(places, lines["row"], strict=True):
            if _empty(row):
                continue
            if len(row) != width:
                raise misfit(method, metric, self.samples[place], len(row), width)
            rows[place] = np.asarray(row, dtype=float)
        return rows

    def count(self, method: str, metric: str, width: int) -> int:  # noqa: ARG002
        """Return how many images have a line of the metric."""
        return len(self._select(method, metric))

    def seconds(self, method: str) -> NDArray[np.float64]:
        """Return how long the method took for each image that has a time."""
        # a map is made once for all metrics, and each of their lines has its time
        lines = self._select(method).dropna(subset="seconds").drop_duplicates("sample")
        seconds: NDArray[np.float64] = lines["seconds"].to_numpy(dtype=float, copy=True)
        return seconds

    def images(self, method: str) -> int:
        """Return how many images have a line of the method."""
        return int(self._select(method)["sample"].nunique())

    @cached_property
    def _places(self) -> dict[Any, NDArray[Any]]:
        """The places of the lines of each method, and of each method and metric."""
        by_method = self._frame.groupby("method", sort=False, observed=True).indices
        by_metric = self._frame.groupby(["method", "metric"], sort=False, observed=True).indices
        return {**by_method, **by_metric}

    def _select(self, method: str, metric: str | None = None) -> pd.DataFrame:
        key = method if metric is None else (method, metric)
        return self._frame.iloc[self._places.get(key, np.empty(0, dtype=int))]


def misfit(method: str, metric: str, sample: str, length: int, width: int) -> InputError:
    """Return the error of a row of another length than the metric's."""
    return InputError(
        f"{metric} of {method} on {sample} has a row of {length} numbers, and the metric keeps "
        f"{width}; use the options it was made with."
    )


def _empty(row: Any) -> bool:
    return row is None or row is pd.NA or isinstance(row, float) or len(row) == 0

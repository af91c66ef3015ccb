"""Results of a run that is larger than memory: rows of some methods and metrics at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from torchsaliency.errors import InputError
from torchsaliency.evaluation.lines import Lines, misfit
from torchsaliency.evaluation.pairs import Names, encode_keys
from torchsaliency.evaluation.shards import KEY
from torchsaliency.evaluation.store import Store

BUDGET = 512 * 2**20
"""Bytes of the rows that are held at once."""


_JOINED = 32 * 2**20
"""Bytes of rows that are put into their places at once."""


@final
@dataclass(eq=False)
class _Block:
    """The rows of one method and metric.

    Attributes:
        rows: (N, width); NaN where there is nothing.
        there: (N,), whether the image has a line.
        error: of a row of another length.
    """

    rows: NDArray[np.float64]
    there: NDArray[np.bool_] = field(init=False)
    error: InputError | None = None

    def __post_init__(self) -> None:
        self.there = np.zeros(len(self.rows), bool)


@final
class StoreLines(Lines):
    """The lines of a store, read when they are asked for.

    One pass over the store finds which images each method has. Another fills the rows of as many
    methods and metrics as `BUDGET` allows: all methods of one metric first, as a table asks for
    them, then those of the next. Of lines that are there twice the first counts. What a session
    adds meanwhile is left out.

    Args:
        store: with rows.
        samples: all images in their order; None for the order in which the store has them.
        methods: whose lines count.
        widths: of the metrics whose lines count, the numbers that each keeps of an image.
        make_frame: makes the whole table, for those who ask for it.
    """

    def __init__(
        self,
        store: Store,
        samples: list[str] | None,
        methods: list[str],
        widths: Mapping[str, int],
        make_frame: Callable[[], pd.DataFrame],
    ) -> None:
        self._store, self._make_frame = store, make_frame
        self._names = Names(samples if samples is not None else _list_samples(store))
        self._methods, self._metrics, self._widths = Names(methods), Names(widths), widths
        self._there = np.zeros((len(methods), len(self._names)), bool)
        self._seconds = np.full(self._there.shape, np.nan)
        self._count()
        kept = np.flatnonzero(self._there.any(axis=0))
        ordered = [*self._names.places]
        self.samples = tuple(ordered[place] for place in kept)
        self._names = Names(self.samples)
        self._there, self._seconds = self._there[:, kept], self._seconds[:, kept]
        self._blocks: dict[tuple[str, str], _Block] = {}

    @property
    def frame(self) -> pd.DataFrame:
        """All lines as a table, which takes kilobytes an image."""
        return self._make_frame()

    def rows(self, method: str, metric: str, width: int) -> NDArray[np.float64]:
        """Return what a metric keeps of each image, see `Lines.rows`."""
        block = self._block(method, metric, width)
        if block.error is not None:
            raise block.error
        return block.rows.copy()

    def count(self, method: str, metric: str, width: int) -> int:
        """Return how many images have a line of the metric."""
        return int(self._block(method, metric, width).there.sum())

    def seconds(self, method: str) -> NDArray[np.float64]:
        """Return how long the method took for each image that has a time."""
        seconds = self._seconds[self._methods.places[method]]
        known: NDArray[np.float64] = seconds[~np.isnan(seconds)]
        return known

    def images(self, method: str) -> int:
        """Return how many images have a line of the method."""
        return int(self._there[self._methods.places[method]].sum())

    # --- which images there are ------------------------------------------------------------------

    def _count(self) -> None:
        """Fill in which images each method has, and what each took."""
        for table in self._store.scan([*KEY, "seconds"]):
            sample, method, metric = self._encode(table)
            known = (sample >= 0) & (method >= 0) & (metric >= 0)
            sample, method = sample[known], method[known]
            self._there[method, sample] = True
            seconds = _numbers(table.column("seconds"))[known]
            new = np.isnan(self._seconds[method, sample]) & ~np.isnan(seconds)
            # backwards, for the last one that is assigned stays
            self._seconds[method[new][::-1], sample[new][::-1]] = seconds[new][::-1]

    def _encode(self, table: pa.Table) -> list[NDArray[np.int32]]:
        return encode_keys(table, (self._names, self._methods, self._metrics))

    # --- rows ------------------------------------------------------------------------------------

    def _block(self, method: str, metric: str, width: int) -> _Block:
        if self._blocks.get((method, metric)) is None:
            self._blocks = {}  # before the new ones are made
            self._blocks = self._make_blocks(method, metric, width)
            self._fill(self._blocks)
        return self._blocks[method, metric]

    def _make_blocks(self, method: str, metric: str, width: int) -> dict[tuple[str, str], _Block]:
        """Return empty rows of a method and metric, and of those that are asked for next."""
        widths = {**self._widths, metric: width}
        methods, metrics = _from(method, self._methods), _from(metric, self._metrics)
        made: dict[tuple[str, str], _Block] = {}
        left = BUDGET
        for key in ((other, name) for name in metrics for other in methods):
            # their rows, and whether each image is there
            size = len(self.samples) * (8 * widths[key[1]] + 1)
            if made and size > left:
                break
            made[key] = _Block(np.full((len(self.samples), widths[key[1]]), np.nan))
            left -= size
        return made

    def _fill(self, blocks: Mapping[tuple[str, str], _Block]) -> None:
        methods, metrics = {method for method, _ in blocks}, {metric for _, metric in blocks}
        names = [(a, b) for a in self._methods.places for b in self._metrics.places]
        tables = self._store.scan([*KEY, "row"], methods=methods, metrics=metrics)
        for table in _join(tables):
            sample, method, metric = self._encode(table)
            known = (sample >= 0) & (method >= 0) & (metric >= 0)
            # of images that came after they were counted, not all methods would be here
            known &= self._there[method, sample]
            (places,) = known.nonzero()
            if not len(places):
                continue
            both = method[places] * len(self._metrics) + metric[places]
            order = both.argsort(kind="stable")
            places, both = places[order], both[order]
            cuts = np.flatnonzero(np.diff(both, prepend=-1))
            rows = _Rows.of(table.column("row").combine_chunks())
            for first, own in zip(both[cuts], np.split(places, cuts[1:]), strict=True):
                block = blocks.get(names[first])
                if block is not None:
                    self._fill_block(block, names[first], sample[own], rows.take(own))

    def _fill_block(
        self, block: _Block, name: tuple[str, str], samples: NDArray[np.int32], rows: _Rows
    ) -> None:
        """Take the lines of one method and metric that are not there yet."""
        _, first = np.unique(samples, return_index=True)
        first = first[~block.there[samples[first]]]
        samples, rows = samples[first], rows.take(first)
        block.there[samples] = True
        width = block.rows.shape[1]
        odd = (rows.lengths > 0) & (rows.lengths != width)
        if odd.any() and block.error is None:
            which = int(odd.argmax())
            sample = self.samples[samples[which]]
            block.error = misfit(*name, sample, int(rows.lengths[which]), width)
        fits = rows.lengths == width
        places = rows.starts[fits][:, None] + np.arange(width)
        block.rows[samples[fits]] = rows.values[places]


@final
@dataclass(frozen=True, eq=False)
class _Rows:
    """A column of lists: where each begins in all values, and how long it is."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, column: pa.ListArray) -> _Rows:
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        starts = np.asarray(column.offsets)[:-1].astype(np.int64)
        return cls(starts, np.asarray(lengths).astype(np.int64), _numbers(column.values))

    def take(self, places: NDArray[np.intp]) -> _Rows:
        return _Rows(self.starts[places], self.lengths[places], self.values)


def _join(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in larger tables: each costs some time for every method and metric."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.nbytes for part in waiting) > _JOINED:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _list_samples(store: Store) -> Iterator[str]:
    """Yield the images of a run that does not list them, in the order of their rows."""
    tables = store.scan(["sample"])
    chunks = chain.from_iterable(table.column("sample").chunks for table in tables)
    yield from chain.from_iterable(chunk.dictionary.to_pylist() for chunk in chunks)


def _numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column as an array, NaN where it is null."""
    numbers: NDArray[np.float64] = np.asarray(column)
    return numbers


def _from(first: str, names: Names) -> list[str]:
    """Return all names, beginning with one; only that one if it is unknown."""
    ordered = [*names.places]
    place = names.places.get(first)
    return [first] if place is None else [*ordered[place:], *ordered[:place]]

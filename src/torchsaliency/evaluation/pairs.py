"""Names as numbers, and (sample, method) pairs as a bit each: what scales with a run is small."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from torchsaliency.evaluation.shards import KEY


@final
class Names:
    """Numbers names in the order in which they come.

    Attributes:
        places: the number of each name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.places = {name: place for place, name in enumerate(dict.fromkeys(names))}

    def __len__(self) -> int:
        return len(self.places)

    def encode(self, column: pa.ChunkedArray, *, grow: bool = False) -> NDArray[np.int32]:
        """Return the numbers of a column of dictionaries, (rows,).

        Args:
            column: as `Store.scan` yields it.
            grow: whether unknown names are added; otherwise they are -1.
        """
        places, found = self.places, [np.empty(0, np.int32)]
        for chunk in column.chunks:
            names = chunk.dictionary.to_pylist()
            if grow:
                numbers = [places.setdefault(name, len(places)) for name in names]
            else:
                numbers = [places.get(name, -1) for name in names]
            codes = chunk.indices.to_numpy(zero_copy_only=False)
            found.append(np.asarray(numbers, np.int32)[codes])
        return np.concatenate(found)


def encode_keys(
    table: pa.Table, names: Sequence[Names], *, grow: bool = False
) -> list[NDArray[np.int32]]:
    """Return the numbers of the samples, methods and metrics of rows, (rows,) each."""
    return [
        known.encode(table.column(key), grow=grow) for known, key in zip(names, KEY, strict=True)
    ]


@final
class Pairs(Set[tuple[str, str]]):
    """A set of (sample, method) pairs in a bit of memory each."""

    def __init__(self) -> None:
        self._samples, self._methods = Names(), Names()
        self._there = np.zeros((0, 0), bool)

    def add(self, table: pa.Table) -> None:
        """Add the pairs of rows."""
        samples = self._samples.encode(table.column("sample"), grow=True)
        methods = self._methods.encode(table.column("method"), grow=True)
        height, width = len(self._samples), len(self._methods)
        high, wide = self._there.shape
        if height > high or width > wide:
            # twice as many samples as there are, so that adding takes linear time
            grown = np.zeros((max(height, 2 * high) if height > high else high, width), bool)
            grown[:high, :wide] = self._there
            self._there = grown
        self._there[samples, methods] = True

    def copy(self) -> Pairs:
        """Return a set that does not grow with this one."""
        new = Pairs()
        new._samples, new._methods = Names(self._samples.places), Names(self._methods.places)
        new._there = self._there.copy()
        return new

    def __contains__(self, pair: object) -> bool:
        match pair:
            case (str(sample), str(method)):
                place = self._samples.places.get(sample), self._methods.places.get(method)
                return None not in place and bool(self._there[place])
        return False

    def __iter__(self) -> Iterator[tuple[str, str]]:
        samples, methods = [*self._samples.places], [*self._methods.places]
        for sample, method in zip(*self._there.nonzero(), strict=True):
            yield samples[sample], methods[method]

    def __len__(self) -> int:
        return int(self._there.sum())

    @classmethod
    def _from_iterable(cls, pairs: Iterable[Any]) -> Any:
        """Return what `&`, `|` and `-` make of two sets."""
        return {*pairs}

"""Compaction: many small shards become few, sorted by method and metric.

New shards are written first, then those whose rows they hold are removed. A process that is killed
between the two leaves rows twice, which are read once, and the next compaction removes them. Where
sessions share a store they may write meanwhile: their shards have other names, and a reader whose
shard is gone reads those that took its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from torchsaliency.errors import DataError
from torchsaliency.evaluation.pairs import Names, encode_keys
from torchsaliency.evaluation.shards import KEY, SCHEMA, encode_shard
from torchsaliency.evaluation.store import Store

PART_ROWS = 2_000_000
"""Rows of one large shard at most, which are sorted in memory."""


@final
@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes:
        before: shards that were there.
        after: shards that took their rows.
        rows: lines that these hold.
    """

    before: int
    after: int
    rows: int


def compact(store: Store, watch: Callable[[int, int], object] | None = None) -> Compaction:
    """Merge the shards of a store into few large ones.

    They are sorted by method and metric, so that a table reads only what it needs of them. Their
    rows are the same, to the last bit. The process may be killed at any moment.

    Args:
        store: where nobody else writes, if it is a folder that is not shared.
        watch: told how many of the new shards are written, and of how many.

    Raises:
        OptionError: a session writes to the folder.
        DataError: there is no run, or a shard is damaged.

    Example:
        >>> from torchsaliency.evaluation import evaluate, make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> plan = make_plan({**facts, "methods": ["gradcam", "tsm"]})
        >>> found = evaluate(plan, "run")
        >>> compact(Store("run")).after
        1
    """
    with store.lock():
        facts = store.facts
        if facts is None:
            raise DataError(
                f"{store.place.name} holds no evaluation (it has no run.json); give what "
                "`torchsaliency evaluate --output` wrote."
            )
        old = store.list_shards()
        names = [Names(facts.get("samples", ())), Names(facts["methods"]), Names()]
        parts = [*_divide(_count(store, names), len(names[0]))]
        rows = 0
        tell = watch or (lambda *_: None)
        for done, part in enumerate(parts):
            tell(done, len(parts))
            table = _gather(store, names, part)
            store.add_shard(encode_shard(table))
            rows += len(table)
        tell(len(parts), len(parts))
        store.remove_shards(old)
    return Compaction(len(old), len(parts), rows)


@final
@dataclass(frozen=True)
class _Part:
    """The rows of one new shard: of some methods, on samples from one number up to another."""

    methods: tuple[int, ...]
    begin: int
    end: int


def _count(store: Store, names: list[Names]) -> NDArray[np.int64]:
    """Number all names, and return how many rows each method has."""
    rows = np.zeros(0, np.int64)
    for table in store.scan(KEY):
        codes = encode_keys(table, names, grow=True)
        rows = np.bincount(codes[1], minlength=len(names[1])) + np.pad(
            rows, (0, len(names[1]) - len(rows))
        )
    return rows


def _divide(rows: NDArray[np.int64], samples: int) -> Iterator[_Part]:
    """Yield parts of at most about `PART_ROWS` rows: methods together, or one in pieces.

    All metrics of a sample and method are in one part, as in every shard.
    """
    together: list[int] = []
    for method, count in enumerate(rows.tolist()):
        if together and rows[together].sum() + count > PART_ROWS:
            yield _Part(tuple(together), 0, samples)
            together = []
        pieces = -(-count // PART_ROWS)
        if pieces > 1:
            ends = np.linspace(0, samples, pieces + 1).astype(int).tolist()
            for begin, end in pairwise(ends):
                yield _Part((method,), begin, end)
        elif count:
            together.append(method)
    if together:
        yield _Part(tuple(together), 0, samples)


def _gather(store: Store, names: list[Names], part: _Part) -> pa.Table:
    """Return the rows of a part, sorted and each once."""
    samples, methods, metrics = names
    numbers = [*methods.places]
    wanted = np.zeros(len(methods) + 1, bool)  # the last one is of unknown names, which are -1
    wanted[[*part.methods]] = True
    others = [name for name in SCHEMA.names if name not in KEY]
    tables, codes = [SCHEMA.empty_table().select(others)], [np.empty((3, 0), np.int32)]
    for table in store.scan(methods=[numbers[method] for method in part.methods]):
        found = np.stack(encode_keys(table, names))
        mine = wanted[found[1]] & (part.begin <= found[0]) & (found[0] < part.end)
        mine &= found[2] >= 0
        if mine.any():
            tables.append(table.select(others).filter(pa.array(mine)))
            codes.append(found[:, mine])
    found = np.concatenate(codes, 1)
    order = np.lexsort((found[0], found[2], found[1]))
    found = found[:, order]
    first = np.ones(len(order), bool)
    first[1:] = (found[:, 1:] != found[:, :-1]).any(0)
    rows, places = pa.concat_tables(tables), pa.array(order[first])
    # one column after the other: a copy of all of them at once would take as much again
    columns = [column.combine_chunks().take(places) for column in rows.columns]
    keys = [
        pa.DictionaryArray.from_arrays(pa.array(code), pa.array([*known.places], pa.string()))
        for code, known in zip(found[:, first], (samples, methods, metrics), strict=True)
    ]
    return pa.table([*keys, *columns], names=[*KEY, *others])

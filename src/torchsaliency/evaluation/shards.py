"""Shards: parquet files of rows, whose names end in the SHA-256 of their content.

Their schema has a version, which the files and `run.json` tell. Version 1 is the first that does;
shards without one are older, and may lack columns that came later.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from torchsaliency.errors import DataError

SCHEMA_VERSION = 1
"""What this version writes; older ones are read, newer ones refused."""

SCHEMA = pa.schema(
    [
        ("sample", pa.string()),
        ("method", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("row", pa.list_(pa.float64())),
        ("seconds", pa.float64()),
        ("passes", pa.float64()),
        ("judge_passes", pa.float64()),
    ],
    metadata={"torchsaliency.schema": str(SCHEMA_VERSION)},
)
"""One line a sample, method and metric: the image's value, the row it is aggregated from, what the
map took (seconds, and passes of the explained network) and what the metric's measures took."""

KEY = ["sample", "method", "metric"]
"""The columns that name a line."""

_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{32})\.parquet")
_GROUP_BYTES = 16 * 2**20
"""Of the rows of one group, before they are compressed."""


def is_shard(name: str) -> bool:
    """Whether a file has the name of a shard."""
    return _NAME.fullmatch(name) is not None


def name_shard(number: int, content: bytes) -> str:
    """Return the name of a shard."""
    return f"part-{number:06d}-{_digest(content)}.parquet"


def is_whole(name: str, content: bytes) -> bool:
    """Whether a shard's content is what its name says."""
    named = _NAME.fullmatch(name)
    return named is not None and named[2] == _digest(content)


def number_next(names: Iterable[str]) -> int:
    """Return a number above those of shards."""
    found = (named for name in names if (named := _NAME.fullmatch(name)))
    return max((int(named[1]) + 1 for named in found), default=0)


def encode_shard(table: pa.Table) -> bytes:
    """Return rows as a parquet file, with groups small enough to be read one by one."""
    size = max(1, len(table) * _GROUP_BYTES // max(table.nbytes, 1))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(table), size):
            # a part of a column of strings names all of them, its cast to strings only its own
            writer.write_table(_fit(table.slice(start, size), SCHEMA))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_shard(
    name: str,
    content: bytes,
    columns: Sequence[str] = SCHEMA.names,
    *,
    methods: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of a shard, one group after the other, `KEY` as dictionaries.

    Args:
        name: for errors.
        content: the parquet file.
        columns: which ones; `KEY` first.
        methods: groups without any of these may be left out.
        metrics: groups without any of these may be left out.

    Raises:
        DataError: a newer version wrote the shard.
    """
    with pq.ParquetFile(pa.BufferReader(content), read_dictionary=KEY) as file:
        require_readable(name, (file.schema_arrow.metadata or {}).get(b"torchsaliency.schema"))
        there = [column for column in columns if column in file.schema_arrow.names]
        coded = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema([(c, coded if c in KEY else SCHEMA.field(c).type) for c in columns])
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if _lacks(group, "method", methods) or _lacks(group, "metric", metrics):
                continue
            yield _fit(file.read_row_group(number, columns=there), schema)


def require_readable(name: str, version: Any) -> None:
    """Refuse what a newer version wrote; without a version it is an old file.

    Raises:
        DataError: it is newer.
    """
    try:
        newer = version is not None and int(version) > SCHEMA_VERSION
    except (TypeError, ValueError):
        newer = True
    if newer:
        told = version.decode(errors="replace") if isinstance(version, bytes) else version
        raise DataError(
            f"{name} was written by a newer torchsaliency (schema {told}, and this version reads "
            f"schemas up to {SCHEMA_VERSION}); update torchsaliency."
        )


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with these columns and types; columns that are not there are null."""
    columns = [
        _cast(table.column(field.name), field.type)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return pc.dictionary_encode(column.cast(kind.value_type))
    return column.cast(kind)


def _lacks(group: Any, column: str, wanted: Collection[str] | None) -> bool:
    """Whether the statistics of a group of rows exclude all wanted names."""
    if wanted is None:
        return False
    places = {group.column(number).path_in_schema: number for number in range(group.num_columns)}
    facts = group.column(places[column]).statistics
    if facts is None or not facts.has_min_max:
        return False
    return not any(facts.min <= name <= facts.max for name in wanted)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]

"""The folder of an evaluation: shards that are whole, unchanged or not there at all.

A folder holds `plan.yaml` (for people), `run.json` (what decides the numbers, the data's
fingerprint, versions, hardware, every session) and `rows/*.parquet`. A shard's name ends in the
SHA-256 of its content, and `run.json` holds its own. Later changes and damage are found, and a
session computes the rows of damaged shards again.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from torchsaliency.core.files import OutputFolder, file_name, file_names, json_bytes, sha256_of
from torchsaliency.errors import DataError, OptionError

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
    ]
)
"""One line a sample, method and metric: the image's value, the row it is aggregated from, what the
map took (seconds, and passes of the explained network) and what the metric's measures took."""

KEY = ["sample", "method", "metric"]

_FACTS, _PLAN, _ROWS = "run.json", "plan.yaml", "rows"
_SHARD = re.compile(r"part-\d{6,}-([0-9a-f]{32})\.parquet")


@final
class Store:
    """The folder of one evaluation.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: str | Path) -> None:
        self._output = OutputFolder(folder)
        self.folder = self._output.path

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing to the folder.

        Raises:
            OptionError: one does.
        """
        return self._output.lock()

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `run.json` says; None if there is none yet.

        Raises:
            DataError: it is damaged.
        """
        path = self.folder / _FACTS
        if not path.exists():
            return None
        try:
            facts: dict[str, Any] = json.loads(path.read_bytes())
            whole = facts.pop("sha256") == _digest(facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise DataError(
                f"{path} is damaged, or was not written by this version's `torchsaliency evaluate` "
                "(the checksum in it is not that of its content); choose another folder."
            )
        return facts

    def begin(self, facts: Mapping[str, Any], plan: str) -> dict[str, Any]:
        """Begin or continue, and return the current facts; to be called while the folder is held.

        Args:
            facts: with "identity" (decides all numbers), "methods" (what decides each method's
                numbers) and "session" (how this session runs).
            plan: in YAML, for people.

        Raises:
            OptionError: the folder holds another evaluation, whose rows would be mixed with this
                one's; or other files.
        """
        facts = dict(facts)
        session = facts.pop("session")
        known = self.facts
        if known is None:
            if next(self._output.list_foreign(), None) is not None:
                raise OptionError(
                    f"{self.folder} holds files of something else; give a folder that is empty or "
                    "does not exist."
                )
            known = {**facts, "sessions": [], "skipped": {}}
        else:
            refuse_mixing(self.folder, *_drop_new_methods(known, facts))
            known["methods"] |= facts["methods"]
            # its checksum says that it is ours, also in a folder that was copied without the record
            self._output.adopt({_FACTS: sha256_of(self.folder / _FACTS)})
            self._set_damaged_aside()
        known["sessions"].append(session)
        self.write(known)
        if self._output.owns(_PLAN) or not (self.folder / _PLAN).exists():
            self._output.write(_PLAN, plan.encode())
        return known

    def write(self, facts: Mapping[str, Any]) -> None:
        """Replace `run.json`."""
        plain = json.loads(json_bytes(dict(facts)))
        self._output.write(_FACTS, json_bytes({**plain, "sha256": _digest(plain)}))
        self.__dict__.pop("_map_names", None)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows as one more shard, wholly or not at all."""
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        if len(table) == 0:
            return
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        number = len(list((self.folder / _ROWS).glob("*.parquet")))
        digest = hashlib.sha256(content).hexdigest()[:32]
        self._output.write(f"{_ROWS}/part-{number:06d}-{digest}.parquet", content)

    def keep_map(self, sample: str, method: str, saliency: NDArray[Any]) -> None:
        """Write one map as `maps/METHOD/SAMPLE.npy`."""
        buffer = io.BytesIO()
        np.save(buffer, saliency)
        self._output.write(self._map_name(sample, method), buffer.getvalue())

    def keep_scan(self, sample: str, method: str, nifti: bytes) -> None:
        """Write one map over a scan as `maps/METHOD/SAMPLE.nii.gz`."""
        name = self._map_name(sample, method).removesuffix(".npy")
        self._output.write(f"{name}.nii.gz", nifti)

    def map_path(self, sample: str, method: str) -> Path:
        """Return where the map of a sample lies if maps are kept."""
        return self.folder / self._map_name(sample, method)

    def _map_name(self, sample: str, method: str) -> str:
        name = self._map_names.get(sample) or file_names([sample], ".npy")[sample]
        return f"maps/{file_name(method)}/{name}"

    @cached_property
    def _map_names(self) -> dict[str, str]:
        return file_names((self.facts or {}).get("samples", []), ".npy")

    def done(self) -> set[tuple[str, str]]:
        """Return the (sample, method) pairs that are there, with all their metrics."""
        frame = self._read(["sample", "method"]).drop_duplicates()
        return set(zip(frame["sample"], frame["method"], strict=True))

    def frame(self) -> pd.DataFrame:
        """Return all rows as a table, in the order in which they were written.

        Raises:
            DataError: a shard is damaged.
        """
        # twice only if two processes wrote at once; the numbers are the same
        return self._read().drop_duplicates(KEY, ignore_index=True)

    def _shards(self) -> list[Path]:
        return sorted(
            path for path in (self.folder / _ROWS).glob("*.parquet") if _SHARD.fullmatch(path.name)
        )

    def _set_damaged_aside(self) -> None:
        for shard in self._shards():
            if _content(shard) is None:
                moved = self._output.set_aside(f"{_ROWS}/{shard.name}")
                warnings.warn(
                    f"{shard} is damaged and was moved to {moved}; its rows are computed again.",
                    stacklevel=2,
                )

    def _read(self, columns: list[str] | None = None) -> pd.DataFrame:
        tables = [pa.table({name: [] for name in columns or SCHEMA.names})]
        for shard in self._shards():
            content = _content(shard)
            if content is None:
                raise DataError(
                    f"{shard} is damaged; start `torchsaliency evaluate` again, and its rows are "
                    "computed again."
                )
            tables.append(pq.read_table(pa.BufferReader(content), columns=columns, schema=SCHEMA))
        frame: pd.DataFrame = pa.concat_tables(tables[1:] or tables).to_pandas()
        return frame


def refuse_mixing(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue in a folder with another identity than it was begun with."""
    for name in {**begun, **now}:
        if begun.get(name) != now.get(name):
            raise OptionError(
                f"{folder} was begun with {name} = {_describe(begun.get(name))} and now "
                f"{_describe(now.get(name))} is given; two runs would be mixed. Give another "
                "folder, or the first value."
            )


def _drop_new_methods(
    known: Mapping[str, Any], facts: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both identities with the methods that both have."""
    shared = [label for label in facts["methods"] if label in known["methods"]]
    first, second = (
        {**run["identity"], **{f"method {label}": run["methods"][label] for label in shared}}
        for run in (known, facts)
    )
    return first, second


def _describe(value: Any) -> str:
    choices: list[Any] = value if isinstance(value, list) else [None]
    if all(isinstance(choice, dict) and "label" in choice for choice in choices):
        return ", ".join(map(_describe_choice, choices))
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _describe_choice(value: Mapping[str, Any]) -> str:
    """Return the label of a method or metric, with its options if it has any."""
    facts = {key: part for key, part in value.items() if part and key not in {"label", "options"}}
    facts |= value.get("options") or {}
    label = str(value["label"])
    return label if facts == {"name": label} else f"{label} {json.dumps(facts)}"


def _content(shard: Path) -> bytes | None:
    """Return a shard's content; None if it is not what the name says."""
    named, content = _SHARD.fullmatch(shard.name), shard.read_bytes()
    whole = named and hashlib.sha256(content).hexdigest()[:32] == named[1]
    return content if whole else None


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(facts, indent=None)).hexdigest()

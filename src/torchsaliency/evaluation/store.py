"""Where an evaluation keeps what it found: shards that are whole, unchanged or not there at all.

A folder holds `plan.yaml` (what was asked), `run.json` (what decides the numbers, the data's
fingerprint, versions, hardware, every session) and `rows/*.parquet`. A shard's name ends in the
SHA-256 of its content, and `run.json` holds its own: what was changed or damaged since is noticed,
and a session computes the rows of damaged shards again.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing to the folder.

        Raises:
            OptionError: one does.
        """
        with self._output.held():
            yield

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
            found: dict[str, Any] = json.loads(path.read_bytes())
            whole = found.pop("sha256") == _digest(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise DataError(
                f"{path} is damaged, or was not written by this version's `torchsaliency evaluate` "
                "(the checksum in it is not that of its content); choose another folder."
            )
        return found

    def begin(self, facts: Mapping[str, Any], plan: str) -> dict[str, Any]:
        """Begin, or go on, and return the facts as they now stand; while held.

        Args:
            facts: with "identity" (decides all numbers), "methods" (what decides each method's
                numbers) and "session" (how this session runs).
            plan: in YAML, for people.

        Raises:
            OptionError: the folder holds another evaluation, whose rows would be mixed with this
                one's; or other files.
        """
        known = self.facts
        if known is None:
            if next(self._output.strangers(), None) is not None:
                raise OptionError(
                    f"{self.folder} holds files of something else; give a folder that is empty or "
                    "does not exist."
                )
            known = {**facts, "sessions": [], "skipped": {}}
        else:
            self._refuse_mixing(known, facts)
            known = {**known, "methods": {**known["methods"], **facts["methods"]}}
            # its checksum says that it is ours, also in a folder that was copied without the record
            self._output.know({_FACTS: sha256_of(self.folder / _FACTS)})
            for name in self._damaged():
                moved = self._output.set_aside(name)
                warnings.warn(
                    f"{self.folder / name} is damaged and was moved to {moved}; its rows are "
                    "computed again.",
                    stacklevel=2,
                )
        sessions = [*known["sessions"], facts["session"]]
        known = {**{k: v for k, v in known.items() if k != "session"}, "sessions": sessions}
        self.write(known)
        content = plan.encode()
        if self._output.owns(_PLAN) or not (self.folder / _PLAN).exists():
            self._output.write(_PLAN, content)
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

    def frame(
        self,
        samples: Sequence[str] | None = None,
        methods: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return all rows as a table, in the orders given (others left out), or as they lie.

        Raises:
            DataError: there is no evaluation, or a shard is damaged.
        """
        if self.facts is None:
            raise DataError(
                f"{self.folder} holds no evaluation (it has no run.json); give the folder that "
                "`torchsaliency evaluate --output` wrote."
            )
        # twice only if two processes wrote at once; the numbers are the same
        frame = self._read().drop_duplicates(KEY, ignore_index=True)
        for name, order in (("metric", metrics), ("method", methods), ("sample", samples)):
            if order is not None:
                places = {one: place for place, one in enumerate(order)}
                frame = frame[frame[name].isin(places)]
                frame = frame.sort_values(name, key=lambda c, p=places: c.map(p), kind="stable")
        return frame.reset_index(drop=True)

    def _shards(self) -> list[Path]:
        return sorted(
            one for one in (self.folder / _ROWS).glob("*.parquet") if _SHARD.fullmatch(one.name)
        )

    def _damaged(self) -> list[str]:
        """Return the names of shards whose content is not what it was."""
        return [f"{_ROWS}/{one.name}" for one in self._shards() if _content(one) is None]

    def _read(self, columns: list[str] | None = None) -> pd.DataFrame:
        tables = []
        for shard in self._shards():
            content = _content(shard)
            if content is None:
                raise DataError(
                    f"{shard} is damaged; start `torchsaliency evaluate` again, and its rows are "
                    "computed again."
                )
            tables.append(pq.read_table(pa.BufferReader(content), columns=columns, schema=SCHEMA))
        if not tables:
            names = columns or SCHEMA.names
            return pd.DataFrame({name: [] for name in names})
        frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        return frame

    def _refuse_mixing(self, known: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        for part, begun, now in _parts(known, facts):
            for name in {**begun, **now}:
                if begun.get(name) != now.get(name):
                    raise OptionError(
                        f"{self.folder} was begun with {part}{name} = {_said(begun.get(name))} and "
                        f"now {_said(now.get(name))} is given; its rows would be mixed. Give "
                        "another folder, or the first value."
                    )


def _parts(
    known: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    both = [label for label in facts["methods"] if label in known["methods"]]
    return [
        ("", known["identity"], facts["identity"]),
        *(("method ", {one: known["methods"][one]}, {one: facts["methods"][one]}) for one in both),
    ]


def _said(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, dict) and "label" in one for one in value):
        return ", ".join(map(_choice, value))
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _choice(value: Mapping[str, Any]) -> str:
    """Return a method or metric with what was set of it, which is seldom anything."""
    told = {name: one for name, one in value.items() if one and name not in {"label", "options"}}
    told |= value.get("options") or {}
    plain = told == {"name": value["label"]}
    return str(value["label"]) if plain else f"{value['label']} {json.dumps(told)}"


def _content(shard: Path) -> bytes | None:
    """Return a shard's content; None if it is not what the name says."""
    named = _SHARD.fullmatch(shard.name)
    content = shard.read_bytes()
    whole = named and hashlib.sha256(content).hexdigest()[:32] == named[1]
    return content if whole else None


def _digest(facts: Mapping[str, Any]) -> str:
    """Return the checksum of what `run.json` says."""
    return hashlib.sha256(json_bytes(facts, indent=None)).hexdigest()

"""Where an evaluation keeps what it found: shards that are whole or not there at all.

A folder holds `plan.yaml` (what was asked), `run.json` (what decides the numbers, the data's
fingerprint, versions, hardware, every session) and `rows/*.parquet`. A shard is written under
another name, synced and renamed, so that a process that is killed leaves whole shards only; what
is missing is computed by the next session.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from torchsaliency.core.errors import DataError, OptionError

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


@final
class Store:
    """The folder of one evaluation.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._rows = self.folder / "rows"

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `run.json` says; None if there is none yet.

        Raises:
            DataError: it is damaged.
        """
        path = self.folder / "run.json"
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); choose another folder.") from error
        return found

    def begin(self, facts: Mapping[str, Any], plan: str) -> dict[str, Any]:
        """Begin, or go on, and return the facts as they now stand.

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
            if self._foreign():
                raise OptionError(
                    f"{self.folder} holds files of something else; give a folder that is empty or "
                    "does not exist."
                )
            known = {**facts, "sessions": [], "skipped": {}}
        else:
            self._refuse_mixing(known, facts)
            known = {**known, "methods": {**known["methods"], **facts["methods"]}}
        sessions = [*known["sessions"], facts["session"]]
        known = {**{k: v for k, v in known.items() if k != "session"}, "sessions": sessions}
        for left in self.folder.glob("**/*.part"):  # of a session that was killed
            left.unlink()
        self.write(known)
        _write_whole(self.folder / "plan.yaml", plan.encode())
        return known

    def write(self, facts: Mapping[str, Any]) -> None:
        """Replace `run.json`."""
        text = json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n"
        _write_whole(self.folder / "run.json", text.encode())

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows as one more shard, wholly or not at all."""
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        if len(table) == 0:
            return
        number = len(list(self._rows.glob("*.parquet")))
        path = self._rows / f"part-{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        _write_whole(path, sink.getvalue().to_pybytes())

    def keep_map(self, sample: str, method: str, saliency: NDArray[Any]) -> None:
        """Write one map as `maps/METHOD/SAMPLE.npy`."""
        buffer = io.BytesIO()
        np.save(buffer, saliency)
        _write_whole(self.map_path(sample, method), buffer.getvalue())

    def map_path(self, sample: str, method: str) -> Path:
        """Return where the map of a sample lies if maps are kept."""
        parts = [quote(one, safe=" ") for one in sample.split("/")]
        return self.folder.joinpath("maps", quote(method, safe=""), *parts[:-1], f"{parts[-1]}.npy")

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

    def _foreign(self) -> bool:
        """Whether there are files that no session of ours can have left."""
        if not self.folder.exists():
            return False
        names = {one.name for one in self.folder.iterdir() if one.suffix != ".part"}
        return bool(names - {"rows", "maps", "plan.yaml"})

    def _read(self, columns: list[str] | None = None) -> pd.DataFrame:
        shards = sorted(self._rows.glob("*.parquet"))
        tables = []
        for shard in shards:
            try:
                tables.append(pq.read_table(shard, columns=columns, schema=SCHEMA))
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(
                    f"{shard} is damaged ({error}); delete it, and the next session computes its "
                    "rows again."
                ) from error
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
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either as before or as it should be, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

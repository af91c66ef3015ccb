"""The store of an evaluation: shards that are whole, unchanged or not there at all.

It is a folder, or lies below an address such as s3://bucket/run. It holds `plan.yaml` (for people),
`run.json` (what decides the numbers, the data's fingerprint, versions, hardware, every session) and
`rows/*.parquet`. A shard's name ends in the SHA-256 of its content, and `run.json` holds its own.
Later changes and damage are found, and a session computes the rows of damaged shards again.
A shard holds all metrics of a sample and method, or none.

One session at a time writes to a folder. Sessions that share a store write shards of their own, and
what `run.json` would say of each goes to `sessions/*.json`. Rows that two of them computed are the
same, and are read once.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from torchsaliency.core.files import file_name, file_names, json_bytes
from torchsaliency.errors import DataError, OptionError, OutputError
from torchsaliency.evaluation.pairs import Pairs
from torchsaliency.evaluation.places import FolderPlace, open_place
from torchsaliency.evaluation.shards import (
    KEY,
    SCHEMA,
    SCHEMA_VERSION,
    encode_shard,
    is_shard,
    is_whole,
    name_shard,
    number_next,
    read_shard,
    require_readable,
)

_FACTS, _PLAN, _ROWS, _SESSIONS = "run.json", "plan.yaml", "rows", "sessions"
_SESSION = re.compile(r"[0-9a-f]{12}\.json")


@final
class Store:
    """The store of one evaluation.

    Attributes:
        folder: where it lies: a path, or an address.
        shared: whether other sessions may write to it at the same time.

    Example:
        >>> Store("run").folder.name
        'run'
    """

    def __init__(self, folder: str | Path, *, shared: bool = False) -> None:
        """Look at a store.

        Args:
            folder: a path, or an address, where stores are always shared.
            shared: whether this session lets others write.
        """
        self.place = open_place(folder)
        local = self.place.path if isinstance(self.place, FolderPlace) else None
        self.folder: Path | str = local or str(folder)
        self.shared = shared or local is None
        self._session = uuid.uuid4().hex[:12]
        self._written: int | None = None
        self._done = Pairs()
        self._counted: set[str] = set()

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing to the folder, but those that share it as this one.

        Raises:
            OptionError: one does.
        """
        return self.place.lock(shared=self.shared)

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `run.json` and the sessions that shared the store say; None if there is no run.

        Raises:
            DataError: a file is damaged.
        """
        facts = self._read_facts(_FACTS)
        if facts is None:
            return None
        facts = {"sessions": [], "skipped": {}, **facts}
        others = [name for name in self._session_files() if name != f"{self._session}.json"]
        if others:
            facts["skipped"] = self._drop_mended(facts)
        known = [session.get("name") for session in facts["sessions"]]
        for name in others:
            found = self._read_facts(f"{_SESSIONS}/{name}")
            if found is None or found["session"].get("name") in known:
                continue
            facts["methods"] = {**facts["methods"], **found["methods"]}
            facts["sessions"] = [*facts["sessions"], found["session"]]
            facts["skipped"] = {**facts["skipped"], **self._drop_mended(found)}
            facts["not finite"] = {**facts.get("not finite", {}), **found.get("not finite", {})}
            facts |= {key: found[key] for key in ("scores",) if key in found}
        return facts

    def _session_files(self) -> list[str]:
        return [name for name in self.place.list(_SESSIONS) if _SESSION.fullmatch(name)]

    def _drop_mended(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """Return why images have no rows, without those that have all rows by now."""
        skipped: dict[str, str] = facts.get("skipped", {})
        if not skipped:
            return skipped
        try:
            done = self.done()
        except DataError:  # of a damaged shard, which who reads the rows hears of
            return skipped
        methods = facts["methods"]
        return {
            sample: reason
            for sample, reason in skipped.items()
            if any((sample, method) not in done for method in methods)
        }

    def _read_facts(self, name: str) -> dict[str, Any] | None:
        content = self.place.read(name)
        if content is None:
            return None
        try:
            facts: dict[str, Any] = json.loads(content)
            require_readable(f"{self.place.name}/{name}", facts.get("schema"))
            whole = facts.pop("sha256") == _digest(facts)
            facts.pop("schema", None)
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise DataError(
                f"{self.place.name}/{name} is damaged, or was not written by this version's "
                "`torchsaliency evaluate` (the checksum in it is not that of its content); choose "
                "another folder."
            )
        return facts

    def begin(self, facts: Mapping[str, Any], plan: str) -> dict[str, Any]:
        """Begin or continue, and return the current facts; to be called while the store is locked.

        Args:
            facts: with "identity" (decides all numbers), "methods" (what decides each method's
                numbers) and "session" (how this session runs).
            plan: in YAML, for people.

        Raises:
            OptionError: the store holds another evaluation, whose rows would be mixed with this
                one's; or other files.
        """
        facts = dict(facts)
        session = facts.pop("session")
        known = self.facts
        if known is None:
            if self.place.is_foreign() and not (self.shared and self.facts):
                raise OptionError(
                    f"{self.place.name} holds files of something else; give a folder that is empty "
                    "or does not exist."
                )
            known = self.facts or {**facts, "sessions": [], "skipped": {}}
        else:
            # its checksum says that it is ours, also in a folder that was copied without the record
            self.place.adopt(_FACTS, hashlib.sha256(self.place.read(_FACTS) or b"").hexdigest())
        refuse_mixing(self.place.name, *_drop_new_methods(known, facts))
        known["methods"] |= facts["methods"]
        if self.shared:  # each tells what it found itself
            known |= {"skipped": {}, "not finite": {}}
        self._set_damaged_aside()
        known["sessions"].append({**session, "name": self._session} if self.shared else session)
        self.write(known)
        if self.place.owns(_PLAN) or self.place.read(_PLAN) is None:
            self.place.write(_PLAN, plan.encode())
        return known

    def write(self, facts: Mapping[str, Any]) -> None:
        """Replace `run.json`; in a shared store, write what this session found to its own file."""
        self.__dict__.pop("_map_names", None)
        if not self.shared:
            self._write_facts(_FACTS, facts)  # with what sessions that shared the store found
            for name in self._session_files():
                self.place.delete(f"{_SESSIONS}/{name}")
            return
        found = {key: facts[key] for key in ("skipped", "not finite", "scores") if key in facts}
        own = {"methods": facts["methods"], "session": facts["sessions"][-1], **found}
        begun = self._read_facts(_FACTS)
        if begun is None or ("samples" in facts and "samples" not in begun):
            new = {key: value for key, value in facts.items() if key not in found}
            self._write_facts(_FACTS, {**new, "sessions": []})
        self._write_facts(f"{_SESSIONS}/{self._session}.json", own)

    def _write_facts(self, name: str, facts: Mapping[str, Any]) -> None:
        plain = json.loads(json_bytes({**facts, "schema": SCHEMA_VERSION}))
        self.place.write(name, json_bytes({**plain, "sha256": _digest(plain)}))

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows as one more shard, wholly or not at all."""
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        if len(table) == 0:
            return
        self.add_shard(encode_shard(table))

    def add_shard(self, content: bytes) -> None:
        """Write one more shard, wholly or not at all."""
        if self._written is None:
            self._written = number_next(self.list_shards())
        self.place.write(f"{_ROWS}/{name_shard(self._written, content)}", content)
        self._written += 1

    def keep_map(self, sample: str, method: str, saliency: NDArray[Any]) -> None:
        """Write one map as `maps/METHOD/SAMPLE.npy`."""
        buffer = io.BytesIO()
        np.save(buffer, saliency)
        self.place.write(self._map_name(sample, method), buffer.getvalue())

    def keep_scan(self, sample: str, method: str, nifti: bytes) -> None:
        """Write one map over a scan as `maps/METHOD/SAMPLE.nii.gz`."""
        name = self._map_name(sample, method).removesuffix(".npy")
        self.place.write(f"{name}.nii.gz", nifti)

    def map_path(self, sample: str, method: str) -> Path:
        """Return where the map of a sample lies in a folder, if maps are kept."""
        return Path(self.folder) / self._map_name(sample, method)

    def read_map(self, sample: str, method: str) -> NDArray[Any] | None:
        """Return the map of a sample; None if it was not kept."""
        content = self.place.read(self._map_name(sample, method))
        return None if content is None else np.load(io.BytesIO(content), allow_pickle=False)

    def _map_name(self, sample: str, method: str) -> str:
        name = self._map_names.get(sample) or file_names([sample], ".npy")[sample]
        return f"maps/{file_name(method)}/{name}"

    @cached_property
    def _map_names(self) -> dict[str, str]:
        return file_names((self.facts or {}).get("samples", []), ".npy")

    def done(self) -> Set[tuple[str, str]]:
        """Return the (sample, method) pairs that are there, with all their metrics.

        Shards that an earlier call has read are not read again.
        """
        for name, content in self._read_shards(self._counted):
            for table in read_shard(name, content, ["sample", "method"]):
                self._done.add(table)
            self._counted.add(name)
        return self._done.copy()

    def frame(self) -> pd.DataFrame:
        """Return all rows as a table, in the order in which they were written.

        All of them at once: for large runs use `torchsaliency.evaluation.load_results`.

        Raises:
            DataError: a shard is damaged, or a newer version wrote it.
        """
        rows = pa.concat_tables([SCHEMA.empty_table(), *(t.cast(SCHEMA) for t in self.scan())])
        # twice only if two processes wrote at once; the numbers are the same
        frame: pd.DataFrame = rows.to_pandas().drop_duplicates(KEY, ignore_index=True)
        return frame

    def scan(
        self,
        columns: Sequence[str] = SCHEMA.names,
        *,
        methods: Collection[str] | None = None,
        metrics: Collection[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield all rows in small tables, in the order in which they were written.

        Lines that several shards have, as two sessions wrote them or the store was compacted
        meanwhile, come as often.

        Args:
            columns: which ones; the `KEY` ones are dictionaries.
            methods: rows of others may be left out.
            metrics: rows of others may be left out.

        Raises:
            DataError: a shard is damaged, or a newer version wrote it.
        """
        for name, content in self._read_shards():
            yield from read_shard(name, content, columns, methods=methods, metrics=metrics)

    def list_shards(self) -> list[str]:
        """Return the names of all shards, in the order in which they were written."""
        return [name for name in self.place.list(_ROWS) if is_shard(name)]

    def remove_shards(self, names: Iterable[str]) -> None:
        """Remove shards whose rows are in others."""
        for name in names:
            self.place.delete(f"{_ROWS}/{name}")

    def _set_damaged_aside(self) -> None:
        for name in self.list_shards():
            content = self.place.read(f"{_ROWS}/{name}")
            if content is None or is_whole(name, content):
                continue
            try:
                moved = self.place.set_aside(f"{_ROWS}/{name}")
            except OutputError:
                if name in self.list_shards():
                    raise
                continue  # another session did
            warnings.warn(
                f"{self.place.name}/{_ROWS}/{name} is damaged and was moved to {moved}; its rows "
                "are computed again.",
                stacklevel=2,
            )

    def _read_shards(self, known: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
        """Yield the names and contents of all shards but those that are known.

        A shard that is gone was merged into others (see `compact`), which are read in its place.
        """
        read = {*known}
        left = [name for name in self.list_shards() if name not in read]
        while left:
            name, *left = left
            content = self.place.read(f"{_ROWS}/{name}")
            if content is None:
                shards = self.list_shards()
                if name not in shards:
                    left = [other for other in shards if other not in read]
                    continue
            if content is None or not is_whole(name, content):
                raise DataError(
                    f"{self.place.name}/{_ROWS}/{name} is damaged; start `torchsaliency evaluate` "
                    "again, and its rows are computed again."
                )
            read.add(name)
            yield name, content


def refuse_mixing(folder: Path | str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
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


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(facts, indent=None)).hexdigest()

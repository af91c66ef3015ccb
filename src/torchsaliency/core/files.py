"""Everything that is written to disk: whole or not there, and never over what is somebody else's.

A folder that is written to has, while it is, a private folder `.torchsaliency` inside: a lock, a
record of the files that are ours with the SHA-256 of their contents, and files that are not whole
yet. A file is ours while its content is what the record says; all others are left alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import stat
import sys
import threading
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, final

from filelock import BaseFileLock, FileLock, Timeout

from torchsaliency.errors import OptionError, OutputError

PRIVATE = ".torchsaliency"
_LOCK, _HOLDER, _RECORD = "lock", "holder.json", "record"


@final
class OutputFolder:
    """A folder that is written to, by one process at a time.

    Attributes:
        path: where it lies.
    """

    def __init__(self, path: str | Path) -> None:
        """Look at a folder; it is made when it is `held`."""
        self.path = Path(path).expanduser()
        self._private = self.path / PRIVATE
        self._record, self._dissolved = f"{_RECORD}.jsonl", False
        self._known: dict[str, set[str]] = {}
        self._sure: dict[str, tuple[tuple[int, ...], str]] = {}
        with self._plain_errors():
            self._read_record()

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Keep other processes out while inside.

        Args:
            wait: seconds to wait for another process that holds it.

        Raises:
            OptionError: another process holds it, or it cannot be made.
        """
        with self._plain_errors():
            self.path.mkdir(parents=True, exist_ok=True)
        holder = (self.path.resolve(), threading.get_ident())
        if holder in _holders:  # by who called: a table and its rows may lie in one folder
            self._read_record()
            yield
            return
        with self._plain_errors():
            lock = self._acquire(wait)
        self._dissolved = False
        _holders.add(holder)
        try:
            with self._plain_errors():
                self._read_record()  # what the last holder wrote
                self._remove_drafts()
                (self._private / _HOLDER).write_bytes(json_bytes(_this_process()))
            yield
        finally:
            _holders.discard(holder)
            if not self._dissolved:  # or it may be the next holder's already
                (self._private / _HOLDER).unlink(missing_ok=True)
                if {path.name for path in self._private.glob("*")} <= {_LOCK}:
                    self.dissolve()  # nothing was written
            lock.release()

    @contextmanager
    def share(self) -> Iterator[None]:
        """Keep out processes that want the folder alone; those that share it, too, may write.

        What one of them wrote is ours for the others, too; the last write of a name is kept.

        Raises:
            OptionError: another process holds the folder alone, or it cannot be made.
        """
        holder = (self.path.resolve(), threading.get_ident())
        if holder in _holders:
            yield
            return
        with self._plain_errors():
            file = self._acquire_shared()
        with file:
            with self._plain_errors():
                self._read_record()
            # a record of its own: over a network, lines that two machines add may be lost
            self._record = f"{_RECORD}-{uuid.uuid4().hex[:12]}.jsonl"
            _holders.add(holder)
            try:
                yield
            finally:
                _holders.discard(holder)
                if _lock_alone(file):  # the last of them
                    self._remove_drafts()

    def _acquire_shared(self) -> BinaryIO:
        begun = time.monotonic()
        while True:
            if self._private.is_symlink():
                raise self._link(self._private)
            self._private.mkdir(parents=True, exist_ok=True)
            file = (self._private / _LOCK).open("a+b")  # NFS locks only what can be read
            try:
                _lock_shared(file)
            except BlockingIOError:
                file.close()
                if time.monotonic() - begun < _LEAVING:  # the last of those who shared it tidies
                    time.sleep(_POLL)
                    continue
                raise OptionError(
                    f"{self.path} is being written to by {_describe(self._holder())}, which does "
                    "not share it; wait until it has ended, or choose another folder."
                ) from None
            if (self._private / _LOCK).exists():
                return file
            file.close()  # its last holder has dissolved the folder in between

    def _remove_drafts(self) -> None:
        """Remove what processes that were killed left behind; while nobody else writes."""
        for left in self._private.glob("new-*"):
            left.unlink(missing_ok=True)

    def _acquire(self, wait: float) -> BaseFileLock:
        begun = time.monotonic()
        while True:
            if self._private.is_symlink():
                raise self._link(self._private)
            self._private.mkdir(exist_ok=True)
            lock = FileLock(self._private / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                holder = self._holder()
                # the children of a process that was killed take some seconds to end
                patience = max(wait, _ORPHANS) if holder and _is_dead(holder) else wait
                if time.monotonic() - begun > patience:
                    raise OptionError(
                        f"{self.path} is being written to by {_describe(holder)}; wait until it "
                        "has ended, or choose another folder."
                    ) from None
                time.sleep(_POLL)
                continue
            if (self._private / _LOCK).exists():
                return lock
            lock.release()  # its last holder has dissolved the folder in between

    def _holder(self) -> dict[str, Any]:
        try:
            return _read_object((self._private / _HOLDER).read_bytes())
        except OSError:
            return {}

    def _link(self, path: Path) -> OptionError:
        return OptionError(
            f"{path} is a link, and nothing is written through links; remove it, or choose another "
            "folder."
        )

    # --- what is ours -----------------------------------------------------------------------------

    def adopt(self, files: Mapping[str, str]) -> None:
        """Take over the SHA-256 of files that are ours, by name, from another record of ours."""
        for name, digest in files.items():
            self._known.setdefault(name, set()).add(digest)

    def owns(self, name: str) -> bool:
        """Whether a file is there, and is as we wrote it."""
        return self.digest(name) is not None

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a file of ours; None if it is not there, or not as we wrote it."""
        path = self.path / name
        state = _state(path)
        if state is None or name not in self._known:
            return None
        if name not in self._sure or self._sure[name][0] != state:
            found = sha256_of(path)
            if found not in self._known[name]:
                return None
            self._sure[name] = (state, found)
        return self._sure[name][1]

    def list_foreign(self) -> Iterator[str]:
        """List the files in the folder that are not ours, by name."""
        for place, folders, files in os.walk(self.path):
            if Path(place) == self.path and PRIVATE in folders:
                folders.remove(PRIVATE)
            names = ((Path(place) / file).relative_to(self.path).as_posix() for file in files)
            yield from (name for name in names if not self.owns(name))

    def require_own(self, names: Iterable[str]) -> None:
        """Insist that files of these names are ours, or not there.

        Raises:
            OptionError: one is somebody else's.
        """
        with self._plain_errors():
            for name in names:
                self._place(name)
                if os.path.lexists(self.path / name) and not self.owns(name):
                    raise self._foreign(name)

    def _foreign(self, name: str) -> OptionError:
        changed = " as it is now" if name in self._known else ""
        return OptionError(
            f"{self.path / name} exists and no earlier run wrote it{changed}; choose another "
            "folder, or move the file away."
        )

    # --- manifests: which files are ours where the record is gone ---------------------------------

    def write_manifest(self, name: str, facts: Mapping[str, Any], files: Iterable[str]) -> None:
        """Write a JSON file of facts, and of the SHA-256 of files of ours under "files"."""
        digests = {file: digest for file in sorted({*files}) if (digest := self.digest(file))}
        self.write(name, json_bytes({**facts, "files": digests}))

    def read_manifest(
        self, name: str, fits: Callable[[Mapping[str, Any]], object]
    ) -> dict[str, Any]:
        """Return the facts of a manifest, and adopt its files and itself; {} if there is none.

        Raises:
            OptionError: it does not fit, so it is somebody else's.
        """
        path = self.path / name
        if not path.exists():
            return {}
        with self._plain_errors():
            content = path.read_bytes()
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            facts: dict[str, Any] = json.loads(content)
            if fits(facts):
                self.adopt({**facts["files"], name: hashlib.sha256(content).hexdigest()})
                return facts
        raise self._foreign(name)

    # --- writing ----------------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace our own.

        Raises:
            OptionError: the file there is somebody else's, or the folder cannot be written to.
        """
        with self.open_draft(name) as file:
            file.write(content)

    @contextmanager
    def open_draft(self, name: str) -> Iterator[BinaryIO]:
        """Open a draft that takes the file's name once all of it is on the disk.

        Args:
            name: relative to the folder, with "/" between folders, made if they do not exist.

        Raises:
            OptionError: the file there is somebody else's, or the folder cannot be written to.
        """
        with self._plain_errors():
            target = self._place(name)
            draft = self._private / f"new-{uuid.uuid4().hex}"
            try:
                with draft.open("xb") as file:
                    yield file
                _sync(draft)
                digest = sha256_of(draft)
                ours = self._owns_now(name)
                if not ours and os.path.lexists(target):
                    raise self._foreign(name)
                self._note(self._record, {"name": name, "sha256": digest})
                target.parent.mkdir(parents=True, exist_ok=True)
                self._place(name)
                if ours:
                    draft.replace(target)
                else:
                    self._rename(draft, target, name)
                _sync(target.parent)
            finally:
                draft.unlink(missing_ok=True)
            state = _state(target)
            assert state is not None
            self._known.setdefault(name, set()).add(digest)
            self._sure[name] = (state, digest)

    def _owns_now(self, name: str) -> bool:
        """Whether a file is there, and is as we or those who share the folder wrote it."""
        if not self.owns(name) and os.path.lexists(self.path / name):
            self._read_record()
        return self.owns(name)

    def _rename(self, draft: Path, target: Path, name: str) -> None:
        """Give a file its name, unless something of that name has just appeared."""
        try:
            os.link(draft, target, follow_symlinks=False)
        except FileExistsError:
            if not self._owns_now(name):
                raise self._foreign(name) from None
            draft.replace(target)
        except (OSError, NotImplementedError):  # a file system without hard links
            draft.replace(target)

    def set_aside(self, name: str) -> str:
        """Move a file away that we wrote and that has changed since; return its new name."""
        with self._plain_errors():
            self._place(name)
            new = f"damaged-{uuid.uuid4().hex[:8]}-{Path(name).name}"
            (self.path / name).replace(self._private / new)
        return f"{PRIVATE}/{new}"

    def dissolve(self) -> None:
        """Remove the private folder, where a file of ours tells what it recorded; while held."""
        self._dissolved = True
        shutil.rmtree(self._private, ignore_errors=True)

    # --- notes: lines that are added, for who goes on after a kill --------------------------------

    def note(self, name: str, facts: Mapping[str, Any]) -> None:
        """Add a line to a private list."""
        with self._plain_errors():
            self._note(name, facts)

    def notes(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of a private list, without one that a kill tore."""
        try:
            lines = (self._private / name).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [facts for line in lines if (facts := _read_object(line))]

    def _note(self, name: str, facts: Mapping[str, Any]) -> None:
        # the newline comes first: after a torn line, too, this one is whole
        line = b"\n" + json_bytes(facts, indent=None)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(self._private / name, flags, 0o666), "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _read_record(self) -> None:
        for record in self._private.glob(f"{_RECORD}*.jsonl"):
            for facts in self.notes(record.name):
                name, digest = facts.get("name"), facts.get("sha256")
                if isinstance(name, str) and isinstance(digest, str):
                    self._known.setdefault(name, set()).add(digest)

    def _place(self, name: str) -> Path:
        """Return where a file lies.

        Raises:
            OptionError: it would lie outside, or behind a link.
        """
        parts = PurePosixPath(name).parts
        if not parts or {"..", PRIVATE} & {*parts} or PurePosixPath(name).is_absolute():
            raise OptionError(f"{name!r} is no name of a file below {self.path}.")
        place = self.path
        for part in parts[:-1]:
            place = place / part
            if place.is_symlink():
                raise self._link(place)
        return place / parts[-1]

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            full = "free some space, or " if error.errno in _FULL else ""
            raise OutputError(
                f"{self.path} cannot be written to ({error.strerror or error}); {full}choose "
                "another folder."
            ) from error


_FULL = {28, 122}
"""errno of a full disk, and of an exhausted quota (which Windows does not have)."""


# --- names ----------------------------------------------------------------------------------------


def file_name(text: str) -> str:
    """Return text as one part of a path: what a file system may refuse is percent-encoded."""
    found = "".join(c if c.isprintable() and c not in _ODD else _hex(c) for c in text)
    if found.strip(".") == "" or found.split(".")[0].casefold() in _DEVICES:
        found = _hex(found[:1]) + found[1:]
    if found.endswith((".", " ")):
        found = found[:-1] + _hex(found[-1])
    if len(found.encode()) > _LONGEST:
        found = f"{found.encode()[: _LONGEST - 17].decode('utf-8', 'ignore')}~{_short(text)}"
    return found


def file_names(ids: Sequence[str], suffix: str = "") -> dict[str, str]:
    """Return a path for each id, below one folder, none the same or inside of another.

    Parts between "/" become folders. Names that differ only in case, or in how letters are
    composed, count as the same, since some file systems do not tell them apart.
    """
    found = {id_: "/".join(map(file_name, id_.split("/"))) + suffix for id_ in dict.fromkeys(ids)}
    plain = {id_: unicodedata.normalize("NFC", path).casefold() for id_, path in found.items()}
    taken = Counter(plain.values())
    for path in [*taken]:
        taken.update(str(above) for above in PurePosixPath(path).parents)
    for id_, path in plain.items():
        if taken[path] > 1:
            folder, slash, _ = found[id_].rpartition("/")
            last = file_name(id_.rpartition("/")[2] + "~" + _short(id_)) + suffix
            found[id_] = folder + slash + last
    return found


def _hex(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape")) or "%"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


_ODD = set('%/\\:*?"<>|')
"""What has a meaning in paths on some system, and what the encoding begins with."""

_LONGEST = 180
"""Bytes: suffixes come after it, and 255 is the most."""

_DEVICES = {"con", "prn", "aux", "nul", *(f"{x}{n}" for x in ("com", "lpt") for n in range(10))}
"""Windows keeps these names for devices."""


# --- contents -------------------------------------------------------------------------------------


def json_bytes(value: Any, indent: int | None = 1) -> bytes:
    """Return a value as a JSON file; what is no number (NaN, infinity) is null."""
    # bytes of file names that are no text become the escapes that JSON has for them
    return _json(value, indent, ascii=False).encode("utf-8", "backslashreplace")


def json_text(value: Any, indent: int | None = 2) -> str:
    """Return a value as JSON for any terminal or pipe; what is no number is null."""
    return _json(value, indent, ascii=True)


def _json(value: Any, indent: int | None, *, ascii: bool) -> str:  # noqa: A002 (what it is)
    text = json.dumps(
        finite(value), indent=indent, ensure_ascii=ascii, allow_nan=False, default=str
    )
    return text if indent is None else text + "\n"


def finite(value: Any) -> Any:
    """Return a value with None in place of every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def _read_object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file does; None if there is no file, or a link."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _sync(path: Path) -> None:
    """Let a file's content, or the names in a folder, survive a loss of power."""
    if os.name != "posix" and path.is_dir():
        return  # Windows opens no folders
    place = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno in _FULL:
            raise  # others come from file systems that sync no folders
    finally:
        os.close(place)


def _lock_shared(file: BinaryIO) -> None:
    """Hold a lock file together with others, until it is closed; a no-op without such locks."""
    if os.name != "posix":
        return
    import fcntl  # noqa: PLC0415 (Windows has none)

    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _lock_alone(file: BinaryIO) -> bool:
    """Take a lock file that is held together with others for oneself; whether that succeeds."""
    if os.name != "posix":
        return False
    import fcntl  # noqa: PLC0415 (Windows has none)

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(_STARTED)),
        "command": " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]]),
    }


def _is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether a process surely does not run any more."""
    if holder.get("host") != platform.node() or os.name != "posix":
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return False


def _describe(holder: Mapping[str, Any]) -> str:
    if not {"pid", "host", "since", "command"} <= holder.keys():
        return "another process"
    return (
        f"{holder['command']} (process {holder['pid']} on {holder['host']}, since "
        f"{holder['since']})"
    )


_holders: set[tuple[Path, int]] = set()
"""Folders that are held, and by which threads of this process."""

_STARTED = time.time()
_POLL, _ORPHANS, _LEAVING = 0.05, 20.0, 1.0

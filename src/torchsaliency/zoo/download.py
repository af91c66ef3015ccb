"""Published weights files: fetched once, and known to be the same whenever they are read again.

What a server sends enters the cache only when it is whole and fits the network. Beside each file
FILE.json records its SHA-256, which is compared from then on.

Environment variables: TORCHSALIENCY_CACHE is the cache folder, TORCHSALIENCY_MIRROR takes the place
of the publisher's https://HOST, and TORCHSALIENCY_OFFLINE=1 forbids to connect.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from filelock import FileLock

from torchsaliency.errors import CheckpointError, describe_error, shorten
from torchsaliency.zoo.weights import describe_content

TIMEOUT = 30.0
"""Seconds without an answer after which a server is given up."""

_CHUNK = 1 << 20
_REASONS = {
    "ChunkedEncodingError": "the connection broke",
    "ProtocolError": "the connection broke",
    "ContentDecodingError": "what came cannot be decompressed",
}
"""What requests' and urllib3's errors mean, by their names, where their texts are for experts."""

_FIRST_ERROR = 400  # of HTTP's status codes


@dataclass(frozen=True)
class PublishedFile:
    """A weights file that its authors offer.

    Attributes:
        address: of the file.
        hash: what its hash begins with, "md5:a04e12f8"; "" where its authors publish none.
    """

    address: str
    hash: str = ""


def cache_folder() -> Path:
    """Return where published files are kept: $TORCHSALIENCY_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("TORCHSALIENCY_CACHE") or f"{base}/torchsaliency"
    return Path(os.path.expanduser(folder))


def is_offline() -> bool:
    """Whether TORCHSALIENCY_OFFLINE forbids to connect."""
    return os.environ.get("TORCHSALIENCY_OFFLINE", "").lower() not in {"", "0", "false", "no"}


def fetch_file(file: PublishedFile, *, name: str, check: Callable[[Path], object]) -> Path:
    """Return a published file, from the cache or fetched into it.

    Args:
        file: what to fetch.
        name: of the network, for messages.
        check: raises CheckpointError for a file that is not the network's weights. It is called
            before a file enters the cache.

    Raises:
        CheckpointError: the file cannot be fetched, is not the one that was published or that was
            fetched before, or the cache cannot be used.
    """
    parts = urllib.parse.urlsplit(file.address)
    folder = cache_folder() / "checkpoints" / parts.netloc.replace(":", "_")
    place = folder / parts.path.lstrip("/")
    if not os.path.exists(place):
        if is_offline():
            raise CheckpointError(
                f"The weights of {name} are not in {cache_folder()}, and TORCHSALIENCY_OFFLINE "
                "forbids to fetch them; unset it, or give a local file with weights=FILE."
            )
        with _lock(place):
            if not os.path.exists(place):  # another process may have fetched it meanwhile
                _fetch(place, file, name, check)
                return place
    try:
        fault = "it is no regular file"
        if place.is_file():
            fault = _find_fault(place, place, file, check)
    except OSError as error:
        fault = _describe(error)
    if fault:
        raise CheckpointError(
            f"The cached file {place} is not the one that was fetched for {name} ({fault}); delete "
            "it, so that it is fetched again."
        )
    return place


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Let one thread and process at a time fetch a file."""
    lock = FileLock(f"{place}.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise CheckpointError(
            f"The cache folder {cache_folder()} cannot be used ({_describe(error)}); set "
            "TORCHSALIENCY_CACHE to a folder that can be written."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _fetch(place: Path, file: PublishedFile, name: str, check: Callable[[Path], object]) -> None:
    """Fetch a file under another name, and give it its own when it is the right one."""
    source = _source(file.address)
    parts = urllib.parse.urlsplit(source)
    public = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
    part = place.with_name(f"{place.stem}.part{place.suffix}")
    try:
        try:
            _download(source, part)
            fault = _find_fault(part, place, file, check)
            if not fault:
                part.replace(place)
        except (OSError, ValueError, HTTPException) as error:
            raise CheckpointError(
                f"The weights of {name} could not be fetched from {public} ({_describe(error)}); "
                "connect to the network and try again, or give a local file with weights=FILE."
            ) from error
        if fault:
            raise CheckpointError(
                f"{public} sent a file that is not the weights of {name} ({fault}), so it was "
                "deleted; try again later, or give a local file with weights=FILE."
            )
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _source(address: str) -> str:
    mirror = os.environ.get("TORCHSALIENCY_MIRROR")
    if not mirror:
        return address
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", mirror):
        raise CheckpointError(
            f"TORCHSALIENCY_MIRROR is {shorten(mirror)!r}; give http://HOST or https://HOST, with "
            "the folder that the files lie in if there is one."
        )
    return mirror.rstrip("/") + urllib.parse.urlsplit(address).path


def _download(source: str, part: Path) -> None:
    """Write what a server sends, to the last byte that it announced.

    Raises:
        OSError: it cannot be had, among them all of requests' errors.
        ValueError: an answer that is not HTTP.
    """
    import pooch  # type: ignore[import-untyped]

    answers: list[Any] = []
    announced = 0

    def look(answer: Any, **_: Any) -> None:
        nonlocal announced
        answers.append(answer)
        encoded = "Content-Encoding" in answer.headers or "Transfer-Encoding" in answer.headers
        length = answer.headers.get("Content-Length", "0")
        if not length.isdecimal():
            raise OSError(f"the server announced a length of {shorten(length)!r}")
        announced = 0 if encoded else int(length)
        free = shutil.disk_usage(part.parent).free
        if announced > free:
            raise OSError(f"the file has {announced} bytes, and the disk has {free} free")

    part.unlink(missing_ok=True)
    download = pooch.HTTPDownloader(
        progressbar=sys.stderr is not None and sys.stderr.isatty(),
        chunk_size=_CHUNK,
        timeout=TIMEOUT,
        headers={"User-Agent": "torchsaliency", "Accept-Encoding": "identity"},
        hooks={"response": look},
    )
    try:
        download(source, part, None)
    finally:
        for answer in answers:
            answer.close()
    if announced and part.stat().st_size != announced:
        raise OSError(f"the connection broke after {part.stat().st_size} of {announced} bytes")


def _find_fault(
    path: Path, place: Path, file: PublishedFile, check: Callable[[Path], object]
) -> str:
    """Return why a file is not the published one, "" if it is.

    The first file that is right is recorded; from then on only that one is right.

    Args:
        path: the file.
        place: its name in the cache; the record lies beside it.
        file: as it was published.
        check: as in `fetch_file`.
    """
    import pooch

    record = place.with_name(f"{place.name}.json")
    sha256 = pooch.file_hash(path)
    recorded = _read_recorded_sha256(record)
    if recorded is not None:
        same = recorded == sha256
        return "" if same else f"its SHA-256 is {sha256} and not {recorded}, as {record} says"
    algorithm, _, published = file.hash.partition(":")
    if published and not (found := pooch.file_hash(path, algorithm)).startswith(published):
        return f"its {algorithm.upper()} begins with {found[:8]} and not with {published}"
    try:
        check(path)
    except CheckpointError:
        return describe_content(path) or "it is damaged or of another architecture"
    facts = {"address": file.address, "size": path.stat().st_size, "sha256": sha256}
    new = record.with_name(f"{record.name}.part")
    with contextlib.suppress(OSError):  # a cache that cannot be written is still good to read
        new.write_text(json.dumps(facts, indent=1) + "\n")
        new.replace(record)
    return ""


def _read_recorded_sha256(record: Path) -> str | None:
    try:
        found = json.loads(record.read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _describe(error: BaseException) -> str:
    """Return the reason of an error of requests, urllib3 or the system in a few words."""
    answer = getattr(error, "response", None)
    if answer is not None and answer.status_code >= _FIRST_ERROR:
        return f"the server answered {answer.status_code} {shorten(str(answer.reason))}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return f"nothing came for {TIMEOUT:g} seconds"
        if isinstance(cause, HTTPException):
            return "the connection broke"
        if type(cause).__name__ in _REASONS:
            return _REASONS[type(cause).__name__]
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if not type(cause).__module__.startswith(("requests", "urllib3")):
            break  # what lies behind it is the caller's
        cause = cause.__cause__ or cause.__context__
    return describe_error(error)

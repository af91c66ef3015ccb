"""File systems behind addresses, and patience with those that fail for a while."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar, final
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs as pafs

from torchsaliency.errors import DataError, OutputError, describe_error

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""What an address begins with, and no path."""

PATIENCE, FIRST_PATIENCE = 60.0, 10.0
"""Seconds for which a failing request is repeated, and one of a server that has not answered yet.
"""

_ANSWER, _CONNECT = 10.0, 5.0
"""Seconds until a request that gets no answer fails."""

_SHORTEST, _LONGEST = 0.1, 5.0
"""Seconds between two attempts: at first, and after many."""

_REFUSED = re.compile(
    r"access.?denied|forbidden|unauthori[sz]ed|invalid.?access.?key|signature|credential|\b40[13]\b",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"no.?such.?bucket|bucket does not exist", re.IGNORECASE)

T = TypeVar("T")


def open_filesystem(address: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of an address, and the path in it.

    pyarrow's own file systems come first (s3, gs, hf, file …), then those of fsspec.

    Raises:
        DataError: neither has one of this kind, or the address is malformed.
    """
    try:
        try:
            files, root = pafs.FileSystem.from_uri(address)
        except pa.ArrowInvalid as error:
            if "Unrecognized filesystem" not in str(error):
                raise
            files, root = _open_fsspec(address)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{hide_credentials(address)} cannot be opened ({describe_error(error)}); give an "
            "address of a file system that pyarrow or fsspec has, such as s3://bucket/folder."
        ) from error
    return _bound_times(files), root.rstrip("/")


def _open_fsspec(address: str) -> tuple[pafs.FileSystem, str]:
    import fsspec  # noqa: PLC0415 (where pyarrow has no such file system)

    # other machines write, too: no listing may be an old one
    files, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
    return pafs.PyFileSystem(pafs.FSSpecHandler(files)), root


def _bound_times(files: pafs.FileSystem) -> pafs.FileSystem:
    """Return a file system whose requests fail soon; `Patience` repeats them.

    By default a server that takes connections and never answers holds a request of S3 for minutes,
    and one of Google's for a quarter of an hour.
    """
    if files.type_name == "s3":
        bounds = {
            "connect_timeout": _CONNECT,
            "request_timeout": _ANSWER,
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=1),
            "allow_delayed_open": True,  # a small object is one put
        }
    elif files.type_name == "gcs":
        bounds = {"retry_time_limit": datetime.timedelta(seconds=_ANSWER)}
    else:
        return files
    options: dict[str, Any] = files.__reduce__()[1][0]
    # what the address did not say is empty here, and is to be found from the environment
    given = {key: value for key, value in options.items() if value not in ("", None, -1.0)}
    given.pop("proxy_options", None)
    return type(files)(**{**given, **bounds})


def hide_credentials(address: str) -> str:
    """Return an address without user, password and query, which may hold keys."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/")


@final
class Patience:
    """Repeats requests that fail, with pauses that grow, for a bounded time.

    Attributes:
        name: of the place, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._reached = False

    def request(self, what: str, action: Callable[[], T]) -> T:
        """Return what a request returns.

        Args:
            what: what the place cannot be if it fails, such as "read".
            action: may be repeated, also after it succeeded without anybody knowing.

        Raises:
            FileNotFoundError: there is no such file.
            OutputError: the request was refused, or failed for `PATIENCE` seconds.
        """
        patience = PATIENCE if self._reached else FIRST_PATIENCE
        until, pause = time.monotonic() + patience, _SHORTEST
        while True:
            try:
                found = action()
            except FileNotFoundError:
                self._reached = True
                raise
            except Exception as error:  # each file system of fsspec has its own
                if (reason := _describe_refusal(error)) is None:
                    if time.monotonic() + pause < until:
                        time.sleep(pause)
                        pause = min(2 * pause, _LONGEST)
                        continue
                    reason = (
                        f"for {patience:g} s it did not work ({_shorten(error)}); look after the "
                        "server and the connection, and start the same command again to go on"
                    )
                raise OutputError(f"{self.name} cannot be {what}: {reason}.") from error
            self._reached = True
            return found


def _describe_refusal(error: Exception) -> str | None:
    """Return why a request will never succeed; None if another attempt may."""
    text = str(error)
    if _NO_BUCKET.search(text):
        return "there is no such bucket; make it, or give another address"
    if isinstance(error, PermissionError) or _REFUSED.search(text):
        return (
            f"the credentials are missing, wrong or not enough ({_shorten(error)}); give those of "
            "the store as its client reads them, such as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, OSError | pa.ArrowException) and not isinstance(error, pa.ArrowInvalid):
        return None
    return f"{type(error).__name__}: {_shorten(error)}"


def _shorten(error: Exception) -> str:
    """Return what is new in an error: of Amazon's, what comes after its operation."""
    text = describe_error(error)
    return text.partition("AWS Error ")[2] or text

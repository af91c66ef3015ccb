"""Files that are named by a path, a pattern of paths or an address, and parts of them.

An address (`s3://bucket/000.tar`) is read by fsspec, which torch brings along; the package of its
protocol (s3fs, gcsfs, huggingface_hub) must be installed. Nothing is kept open between two reads,
so that a place is sent to worker processes as its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from torchsaliency.data.files import find_fault, printable
from torchsaliency.errors import DataError, describe_error

MOST_EXPANDED = 1_000_000
"""Names of the longest pattern that is expanded."""

_ADDRESS = "://"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def is_pattern(text: str | os.PathLike[str]) -> bool:
    """Whether a text is a pattern or an address, and no path."""
    text = os.fspath(text)
    return _ADDRESS in text or (_BRACES.search(text) is not None and not os.path.exists(text))


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern stands for, in order.

    `{000..049}` stands for numbers, of as many digits, and `{train,val}` for words.

    Raises:
        DataError: it stands for more than a million names, or counts down.

    Example:
        >>> expand_braces("{a,b}-{08..10}.tar")[:4]
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar']
    """
    pieces: list[list[str]] = []
    end, count = 0, 1
    for found in _BRACES.finditer(pattern):
        pieces.append([pattern[end : found.start()]])
        first, last, words = found.groups()
        if words is not None:
            pieces.append(words.split(","))
            count *= len(pieces[-1])
        else:
            count *= int(last) - int(first) + 1
            if not 0 < count <= MOST_EXPANDED:
                raise DataError(
                    f"{printable(pattern)} stands for {max(count, 0)} names; count upwards, to at "
                    f"most {MOST_EXPANDED}."
                )
            width = len(first)
            pieces.append([f"{number:0{width}d}" for number in range(int(first), int(last) + 1)])
        end = found.end()
    return ["".join(parts) for parts in product(*pieces, [pattern[end:]])]


@contextmanager
def open_place(place: str) -> Iterator[Any]:
    """Open a file that can be sought in, without a buffer where it lies on this machine.

    Raises:
        DataError: it does not exist or cannot be read, now or while it is open.
    """
    try:
        if _ADDRESS in place:
            with _open_address(place) as file:
                yield file
            return
        if fault := find_fault(Path(place)):
            raise DataError(f"{printable(place)} {fault}; give a file that can be read.")
        with Path(place).open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise _make_reading_error(place, error) from error


def read_part(place: str, start: int, size: int) -> bytes:
    """Return some bytes of a file; of an address, only these are fetched.

    Raises:
        DataError: it cannot be read, or is shorter.
    """
    if _ADDRESS in place:
        filesystem, path = _find_filesystem(place)
        try:
            content: bytes = filesystem.cat_file(path, start=start, end=start + size)
        except Exception as error:  # each protocol raises its own
            raise _make_reading_error(place, error) from error
    else:
        with open_place(place) as file:
            file.seek(start)
            content = file.read(size)
    if len(content) != size:
        raise DataError(
            f"{printable(place)} ends before byte {start + size} and was longer when it was "
            "listed; open the data again."
        )
    return content


def _find_filesystem(place: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # noqa: PLC0415 (takes time to import)

    try:
        filesystem, path = url_to_fs(place)
    except Exception as error:  # a protocol that is unknown, or whose package is missing
        raise _make_reading_error(place, error) from error
    return filesystem, path


def _open_address(place: str) -> Any:
    filesystem, path = _find_filesystem(place)
    try:
        return filesystem.open(path, "rb")
    except Exception as error:  # each protocol raises its own
        raise _make_reading_error(place, error) from error


def _make_reading_error(place: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or describe_error(error)
    return DataError(
        f"{printable(place)} cannot be read ({reason}); check the address and its permissions."
    )

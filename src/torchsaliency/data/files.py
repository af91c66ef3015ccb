"""Files of a data set: listed in order, read and hashed, and named so that they can be printed.

Listings leave hidden files out and follow links; no image is opened. On Linux a file's name is
bytes: Python keeps those that are not UTF-8 as lone surrogates, which no UTF-8 file takes. Control
characters, and those that turn the direction of writing, steer a terminal.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from torchsaliency.core.files import PRIVATE
from torchsaliency.errors import DataError

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".dcm", ".dicom"}
)

MISSING = "missing"
"""What stands for the hash of a file that cannot be read."""

LEFT_BY_SYSTEMS = frozenset({"__MACOSX", "lost+found"})
_MOST_LISTED = 6
_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_ESCAPED = re.compile(f"[{_UNPRINTABLE}]")
_ESCAPED_IN_IDS = re.compile(rf"[\\{_UNPRINTABLE}]")
_BYTES = range(0xDC80, 0xDD00)  # the lone surrogates that stand for bytes 0x80 to 0xff
_ASCII = 0x80


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder.

    Links to folders count, but not one to the folder itself or to one that it lies in.

    Raises:
        DataError: the folder cannot be read.
    """
    return _members(folder)[0]


def files_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder, not of those in its folders.

    Raises:
        DataError: the folder cannot be read.
    """
    return _members(folder)[1]


def images_in(folder: Path) -> list[str]:
    """Return the names of the image files in a folder, not of those in its folders.

    A link that leads nowhere counts by its name: it is an image that cannot be read.

    Raises:
        DataError: the folder cannot be read.
    """
    return [name for name in files_in(folder) if is_image(name)]


def images_below(folder: Path) -> list[str]:
    """Return the image files in a folder and in its folders, as paths from it with slashes.

    Raises:
        DataError: a folder cannot be read.
    """
    return files_below(folder, PHOTO_SUFFIXES)


def files_below(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the files in a folder and in its folders, as paths from it with slashes.

    Links are followed, but not back to a folder that they lie in.

    Args:
        folder: that is searched to the bottom.
        suffixes: of the files that count, in lower case.

    Raises:
        DataError: a folder cannot be read.
    """
    ends = tuple(suffixes)
    return sorted(
        prefix + name
        for prefix, files in walk_files(folder)
        for name in files
        if name.lower().endswith(ends)
    )


def walk_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of a folder, and of each below it, with a slash at its end, and its files.

    Raises:
        DataError: a folder cannot be read.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        prefix, above = waiting.pop()
        here = _identity(folder / prefix)
        if here in above:
            continue
        folders, files = _members(folder / prefix)
        yield prefix, files
        waiting += [(f"{prefix}{name}/", above | {here}) for name in folders]


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return _is_visible(name) and _suffix(name) in PHOTO_SUFFIXES


def read_text(path: Path) -> str:
    """Return a text file's content as it is, without a byte order mark.

    Raises:
        DataError: it cannot be read, is no text, or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{printable(path)} cannot be read ({error.strerror or error}); give a text file."
        ) from error
    except ValueError as error:
        raise DataError(f"{printable(path)} is no text in UTF-8; save it so.") from error
    if "\0" in text:
        raise DataError(f"{printable(path)} has a NUL byte and is no text; save it as UTF-8.")
    if not text.strip():
        raise DataError(f"{printable(path)} is empty; get the file again.")
    return text


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank; errors are those of `read_text`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def find_fault(path: Path) -> str:
    """Return why a path is no file that can be read, as a predicate; "" if it is one.

    Nothing is read: a pipe would be waited for.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        return "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(state.st_mode):
        return "is a folder"
    if not stat.S_ISREG(state.st_mode):
        return "is a pipe, a socket or a device"
    if not os.access(path, os.R_OK):
        return "may not be read (its permissions forbid it)"
    return "" if state.st_size else "is empty"


def hash_of(path: Path) -> str:
    """Return BLAKE2b of a file's content (16 bytes, in hexadecimal), "missing" without one."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except (OSError, ValueError):
        return MISSING


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 without one."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def readable_id(name: str) -> str:
    r"""Return a file's name as an id: valid UTF-8, printable, another one for every other name.

    A byte that is not UTF-8 becomes `\xe9`, a control character `\x1b` or `\u0085`, a backslash
    `\\`; all other names stay as they are.
    """
    return _ESCAPED_IN_IDS.sub(_escape, name)


def printable(name: str | os.PathLike[str]) -> str:
    """Return a path or a name for a message, with what cannot be printed escaped."""
    return _ESCAPED.sub(_escape, os.fspath(name))


def list_names(names: Collection[str]) -> str:
    """Return the first few names for a message, "none" if there are none."""
    first = ", ".join(map(printable, [*names][:_MOST_LISTED]))
    return first + (", …" if len(names) > _MOST_LISTED else "") or "none"


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character == "\\":
        return r"\\"
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < _ASCII else f"\\u{code:04x}"


def _members(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible folders and files in a folder, each sorted.

    A folder that an evaluation or another run of ours writes to is left out.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _is_visible(entry.name):
                    continue
                if not _is_folder(entry):
                    files.append(entry.name)
                elif not (entry.is_symlink() and _holds(entry.path, folder)) and not os.path.isdir(
                    os.path.join(entry.path, PRIVATE)
                ):
                    folders.append(entry.name)
    except OSError as error:
        raise _make_folder_error(folder, error) from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be read
        return False


def _holds(path: str, folder: Path) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))


def _identity(folder: Path) -> tuple[int, int]:
    try:
        state = folder.stat()
    except OSError as error:
        raise _make_folder_error(folder, error) from error
    return state.st_dev, state.st_ino


def _make_folder_error(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"The folder {printable(folder)} cannot be read ({error.strerror or error}); check its "
        "permissions, or give another one."
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in LEFT_BY_SYSTEMS

"""Lists files of a data set: sorted, hidden ones left out, links followed, no image opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from torchsaliency.core.files import PRIVATE
from torchsaliency.data.names import shown
from torchsaliency.errors import DataError

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".dcm", ".dicom"}
)

MISSING = "missing"
"""What stands for the hash of a file that cannot be read."""

_LEFT_BY_SYSTEMS = frozenset({"__MACOSX", "lost+found"})


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder.

    Links to folders count, but not one to the folder itself or to one that it lies in.

    Raises:
        DataError: the folder cannot be read.
    """
    return _members(folder)[0]


def images_in(folder: Path) -> list[str]:
    """Return the names of the image files in a folder, not of those in its folders.

    A link that leads nowhere counts by its name: it is an image that cannot be read.

    Raises:
        DataError: the folder cannot be read.
    """
    return [name for name in _members(folder)[1] if is_image(name)]


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
    found = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        prefix, above = waiting.pop()
        here = _identity(folder / prefix)
        if here in above:
            continue
        folders, files = _members(folder / prefix)
        found += [prefix + name for name in files if _suffix(name) in suffixes]
        waiting += [(f"{prefix}{name}/", above | {here}) for name in folders]
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return _visible(name) and _suffix(name) in PHOTO_SUFFIXES


def text_of(path: Path) -> str:
    """Return a text file's content as it is, without a byte order mark.

    Raises:
        DataError: it cannot be read, is no text, or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read ({error.strerror or error}); give a text file."
        ) from error
    except ValueError as error:
        raise DataError(f"{shown(path)} is no text in UTF-8; save it so.") from error
    if "\0" in text:
        raise DataError(f"{shown(path)} has a NUL byte and is no text; save it as UTF-8.")
    if not text.strip():
        raise DataError(f"{shown(path)} is empty; get the file again.")
    return text


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        DataError: it cannot be read, is no text, or is empty.
    """
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def hash_of(path: Path) -> str:
    """Return BLAKE2b of a file's content (16 bytes, in hexadecimal), "missing" without one."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _new_hash).hexdigest()
    except (OSError, ValueError):
        return MISSING


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _members(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible folders and files in a folder, each sorted."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for one in entries:
                if not _visible(one.name):
                    continue
                if not _is_folder(one):
                    files.append(one.name)
                elif not (one.is_symlink() and _holds(one.path, folder)) and not _is_output(
                    one.path
                ):
                    folders.append(one.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(folders), sorted(files)


def _is_output(path: str) -> bool:
    """Whether a folder is one that an evaluation or another run of ours is writing to."""
    return os.path.isdir(os.path.join(path, PRIVATE))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be read
        return False


def _holds(path: str, folder: Path) -> bool:
    """Whether a path leads to a folder or to one that it lies in."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))


def _identity(folder: Path) -> tuple[int, int]:
    """Return what two paths to one folder have in common."""
    try:
        state = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return state.st_dev, state.st_ino


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"The folder {shown(folder)} cannot be read ({error.strerror or error}); check its "
        "permissions, or give another one."
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in _LEFT_BY_SYSTEMS

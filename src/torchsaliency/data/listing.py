"""Lists files of a data set: sorted, hidden ones left out, no image opened."""

from __future__ import annotations

import os
from pathlib import Path

from torchsaliency.core.errors import DataError
from torchsaliency.data.photos import PHOTO_SUFFIXES

_LEFT_BY_ARCHIVES = "__MACOSX"


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder."""
    with os.scandir(folder) as entries:
        return sorted(one.name for one in entries if _visible(one.name) and one.is_dir())


def images_in(folder: Path) -> list[str]:
    """Return the names of the image files in a folder, not of those in its folders."""
    with os.scandir(folder) as entries:
        return sorted(one.name for one in entries if is_image(one.name) and one.is_file())


def images_below(folder: Path) -> list[str]:
    """Return the image files in a folder and in its folders, as paths from it with slashes."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _visible(name)]
        start = Path(root).relative_to(folder).as_posix()
        prefix = "" if start == "." else f"{start}/"
        found += [prefix + name for name in files if is_image(name)]
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return _visible(name) and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        DataError: it cannot be read, is no text, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); give a text file."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file; give one in UTF-8.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; get the file again.")
    return lines


def size_of(path: Path) -> int:
    """Return a file's size in bytes, -1 if it is missing."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != _LEFT_BY_ARCHIVES

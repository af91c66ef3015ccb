"""The kinds of files that are explained and scored: photographs, scans and videos.

Images of other than one or three channels are photographs whose numbers stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torchsaliency.data.channels import read_channels
from torchsaliency.data.clips import VIDEO_SUFFIXES, open_clip
from torchsaliency.data.dataset import Sample
from torchsaliency.data.dicom import is_dicom
from torchsaliency.data.files import (
    MISSING,
    files_below,
    find_fault,
    hash_of,
    images_below,
    readable_id,
    size_of,
    walk_files,
)
from torchsaliency.data.photos import Frame, read_photo
from torchsaliency.data.scans import NIFTI_SUFFIXES, dicom_files, is_scan, open_scan

Kind = Literal["photographs", "scans", "clips"]

_SUFFIXES = (*NIFTI_SUFFIXES, *VIDEO_SUFFIXES)


def is_volume(path: Path) -> bool:
    """Whether a file can be nothing but a scan or a video, by its name."""
    return path.name.lower().endswith(_SUFFIXES) and not path.is_dir()


def find_volumes(path: Path, *, series: bool) -> list[Path]:
    """Return the scans and videos that a path stands for; a folder for those below it.

    A folder of DICOM files is one scan if `series` says so, or if it can be nothing else.
    """
    if not path.is_dir():
        return [path] if is_volume(path) else []
    # files without a suffix are no photographs, so their folder can be nothing else
    if is_scan(path) and (series or not images_below(path)):
        return [path]
    return [path / name for name in files_below(path, _SUFFIXES)]


def media_below(folder: Path) -> list[str]:
    """Return the files below a folder that a data set has, as paths from it with slashes.

    They are the scans and videos, or else the images, or else the folders with a series of DICOM
    files without a suffix.

    Raises:
        DataError: a folder cannot be read.
    """
    found = files_below(folder, _SUFFIXES) or images_below(folder)
    return found or sorted(
        prefix[:-1]
        for prefix, files in walk_files(folder)
        if prefix and _has_dicom(folder / prefix, files)
    )


def open_medium(path: Path, kind: Kind, channels: int | None) -> tuple[Any, Frame | None]:
    """Open a file: an RGB image of PIL, an array (H, W, channels), a `Scan` or a `Clip`.

    Args:
        path: of the file, or of the folder of a series.
        kind: what it is read as.
        channels: of an image whose numbers stay as they are; None for a photograph.

    Returns:
        What was read, and how the file stores a picture; None for a scan or a video.

    Raises:
        DataError: it cannot be read.
    """
    if kind == "scans":
        return open_scan(path), None
    if kind == "clips":
        return open_clip(path), None
    if channels is None:
        return read_photo(path)
    values = read_channels(path, channels)
    return values, Frame((values.shape[1], values.shape[0]))


def hash_medium(path: Path) -> str:
    """Return a hash of a file's content, or of all DICOM files in a folder."""
    if not path.is_dir():
        return hash_of(path)
    marks = [f"{file.name} {hash_of(file)}" for file in sorted(dicom_files(path))]
    return " ".join(marks) or MISSING


def size_of_medium(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(map(size_of, path.iterdir())) if path.is_dir() else size_of(path)


def group_series(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return samples with one for all DICOM files of a folder and label, the series."""
    found: dict[Any, Sample] = {}
    for sample in samples:
        source = sample.source
        if not isinstance(source, Path) or find_fault(source) or not is_dicom(source):
            found[sample.id] = sample
            continue
        name = sample.id.rpartition("/")[0] or readable_id(source.parent.name)
        series = replace(sample, id=name, source=source.parent)
        found.setdefault((source.parent, sample.label), series)
    return tuple(found.values())


def _has_dicom(folder: Path, files: Iterable[str]) -> bool:
    return any(not find_fault(folder / name) and is_dicom(folder / name) for name in files)

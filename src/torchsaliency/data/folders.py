"""Image folders of one's own: a folder for each class, a CSV of labels, or images alone."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchsaliency.data.boxes import TableBoxes
from torchsaliency.data.layouts import wrong_layout
from torchsaliency.data.listing import folders_in, images_below, lines_of
from torchsaliency.data.names import readable_id, shown
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.data.sets import Sample
from torchsaliency.data.tables import is_table, read_table
from torchsaliency.errors import DataError, OptionError

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})

_LABELS_FILE = "labels.csv"
_MOST_LISTED = 6

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_INDEX = re.compile(r"[0-9]{1,9}")


def find_image_folder(path: Path) -> bool:
    """Whether a folder holds images, directly or in folders, or a CSV that tells of some."""
    return bool(images_below(path)) or _labels_file(path) is not None


def image_folder(path: Path, *, split: str | None = None, labels: Path | None = None) -> PhotoSet:
    """Read an image folder.

    Args:
        path: of the folder, or of its CSV.
        split: a folder in it that is read instead.
        labels: a CSV with a row for each image (or box); by default the folder's `labels.csv`, or
            its only CSV that has such columns.

    Raises:
        DataError: there are no images, or more than one way to read them.
        OptionError: a split is needed, or does not exist.
    """
    if path.is_file():
        path, labels = path.parent, labels or path
    if split is not None and not os.path.isdir(path / split):
        raise OptionError(
            f"{shown(path)} has no folder {split!r}; it has {_listed(folders_in(path))}."
        )
    path = path / split if split else path
    labels = labels or _labels_file(path)
    if labels is not None:
        return _from_table(path, labels)
    folders, filled, loose = folders_in(path), defaultdict(list), []
    for name in images_below(path):
        folder, slash, file = name.partition("/")
        if slash:
            filled[folder].append(file)
        else:
            loose.append(name)
    if filled and loose:
        raise DataError(
            f"{shown(path)} holds {len(loose)} images beside folders of images "
            f"({_listed(filled)}); move the images into the folders of their classes, or give "
            "labels."
        )
    if filled:
        return _from_classes(path, folders, filled)
    if loose:
        samples = tuple(Sample(readable_id(name), path / name) for name in loose)
        return PhotoSet(name="folder", samples=samples)
    raise wrong_layout("folder", path, "holds no images")


def _from_classes(path: Path, folders: list[str], filled: Mapping[str, list[str]]) -> PhotoSet:
    """Read a folder for each class; an empty one counts too, as indices must not depend on it."""
    if SPLITS.issuperset(folders):
        raise OptionError(
            f"{shown(path)} has the splits {_listed(folders)}; choose one with split."
        )
    samples = tuple(
        Sample(readable_id(f"{folder}/{file}"), path / folder / file, index)
        for index, folder in enumerate(folders)
        for file in filled.get(folder, ())
    )
    return PhotoSet(
        name="folder",
        samples=samples,
        classes=tuple(map(readable_id, folders)),
        annotations=frozenset({"labels"}),
    )


def _from_table(path: Path, labels: Path) -> PhotoSet:
    """Read the images that a CSV names; a file that is not there is told when it is opened.

    A file may lie outside of the folder; its id is the path as it is written.
    """
    table = read_table(labels)
    classes, indices = _classes(table.labels, labels)
    boxes = {readable_id(name): found for name, found in table.boxes.items()}
    annotations = {
        "labels": all(index is not None for index in indices.values()),
        "boxes": bool(boxes),
    }
    return PhotoSet(
        name="folder",
        samples=tuple(
            Sample(readable_id(name), path / name, index) for name, index in indices.items()
        ),
        classes=classes,
        annotations=frozenset(name for name, there in annotations.items() if there),
        boxes=TableBoxes(boxes) if boxes else None,
    )


def _classes(
    found: dict[str, str | None], path: Path
) -> tuple[tuple[str, ...] | None, dict[str, int | None]]:
    """Return class names, if labels are names, and each file's index."""
    words = {word for word in found.values() if word is not None}
    if all(map(_NUMBER.fullmatch, words)):
        if wrong := sorted(word for word in words if not _INDEX.fullmatch(word)):
            raise DataError(
                f"{shown(path)} has the label {wrong[0][:40]}; give class numbers from 0, or names."
            )
        return None, {name: None if word is None else int(word) for name, word in found.items()}
    classes = tuple(sorted(words))
    index = {word: place for place, word in enumerate(classes)}
    return tuple(map(readable_id, classes)), {
        name: None if word is None else index[word] for name, word in found.items()
    }


def _labels_file(path: Path) -> Path | None:
    """Return the folder's CSV of labels, if it has one."""
    if os.path.isfile(path / _LABELS_FILE):
        return path / _LABELS_FILE
    fitting = [one for one in sorted(path.glob("*.csv")) if _tells_files(one)]
    if len(fitting) > 1:
        raise DataError(
            f"{shown(path)} has {len(fitting)} CSV files with images, "
            f"{_listed([one.name for one in fitting])}; choose one with labels."
        )
    return fitting[0] if fitting else None


def _tells_files(path: Path) -> bool:
    try:
        return is_table(lines_of(path)[0])
    except DataError:
        return False


def _listed(names: Iterable[str]) -> str:
    all_names = list(map(shown, names))
    rest = ", …" if len(all_names) > _MOST_LISTED else ""
    return ", ".join(all_names[:_MOST_LISTED]) + rest or "none"

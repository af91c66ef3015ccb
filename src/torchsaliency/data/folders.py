"""Image folders of a user's own: a folder for each class, a CSV of labels, or images alone."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torchsaliency.data.dataset import Sample
from torchsaliency.data.files import (
    folders_in,
    list_names,
    printable,
    read_lines,
    readable_id,
)
from torchsaliency.data.media import media_below
from torchsaliency.data.opening import make_layout_error, register_dataset
from torchsaliency.data.photosets import PhotoSet, TableBoxes
from torchsaliency.data.tables import Table, is_table, number_labels, read_table
from torchsaliency.errors import DataError, OptionError

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})

_LABELS_FILE = "labels.csv"
_LAYOUT = """
folder/
├── cat/*.jpg                         a folder for each class
└── dog/*.jpg …
or
folder/
├── labels.csv                        columns file, label and, if known, x0, y0, x1, y1
└── 1.jpg …                           or all in one folder, such as images/1.jpg
or
folder/
├── labels.csv                        file, labels: cat|dog in a cell, or a column of 0 and 1 each
└── 1.jpg …
or
folder/
└── 1.jpg …                           images without labels

(scans (.nii, .nii.gz, a folder of DICOM files) and videos lie as images do)
"""


def find_image_folder(path: Path) -> bool:
    """Whether a folder holds images, directly or in folders, or a CSV that names some."""
    return bool(media_below(path)) or _labels_file(path) is not None


def takes_table(text: str) -> bool:
    """Whether a text is the name of a CSV."""
    return text.lower().endswith(".csv")


@register_dataset("folder", layout=_LAYOUT, finds=find_image_folder, takes=takes_table)
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

    Example:
        >>> from PIL import Image
        >>> for name in ("cat", "dog"):
        ...     Path("pets", name).mkdir(parents=True)
        ...     Image.new("RGB", (8, 8)).save(Path("pets", name, "1.png"))
        >>> image_folder(Path("pets")).classes
        ('cat', 'dog')
    """
    if path.is_file():
        path, labels = path.parent, labels or path
    if split is not None and not os.path.isdir(path / split):
        raise OptionError(
            f"{printable(path)} has no folder {split!r}; it has {list_names(folders_in(path))}."
        )
    path = path / split if split else path
    labels = labels or _labels_file(path)
    if labels is not None:
        return _read_table(path, labels)
    folders, filled, loose = folders_in(path), defaultdict(list), []
    for name in media_below(path):
        folder, slash, file = name.partition("/")
        if slash:
            filled[folder].append(file)
        else:
            loose.append(name)
    if filled and loose:
        raise DataError(
            f"{printable(path)} holds {len(loose)} images beside folders of images "
            f"({list_names(filled)}); move the images into the folders of their classes, or give "
            "labels."
        )
    if filled:
        return _read_classes(path, folders, filled)
    if loose:
        samples = tuple(Sample(readable_id(name), path / name) for name in loose)
        return PhotoSet(name="folder", samples=samples)
    raise make_layout_error("folder", path, "holds no images")


def _read_classes(path: Path, folders: list[str], filled: Mapping[str, list[str]]) -> PhotoSet:
    """Read a folder for each class; an empty one counts too, as indices must not depend on it."""
    if SPLITS.issuperset(folders):
        raise OptionError(
            f"{printable(path)} has the splits {list_names(folders)}; choose one with split."
        )
    return PhotoSet(
        name="folder",
        samples=tuple(
            Sample(readable_id(f"{folder}/{file}"), path / folder / file, index)
            for index, folder in enumerate(folders)
            for file in filled.get(folder, ())
        ),
        classes=tuple(map(readable_id, folders)),
        annotations=frozenset({"labels"}),
    )


def _read_table(path: Path, labels: Path) -> PhotoSet:
    """Read the images that a CSV names; whether a file is there shows when it is opened.

    A file may lie outside of the folder; its id is the path as it is written.
    """
    table = read_table(labels)
    path = _find_root(path, [*table.labels, *(table.several or ())])
    if table.several is not None:
        return _read_several(path, table)
    classes, index = number_labels(filter(None, table.labels.values()), printable(labels))
    boxes = {readable_id(name): found for name, found in table.boxes.items()}
    labelled = all(word is not None for word in table.labels.values())
    annotations = {"labels": labelled, "boxes": bool(boxes)}
    return PhotoSet(
        name="folder",
        samples=tuple(
            Sample(
                readable_id(name),
                path / name,
                None if word is None else index[word],
                columns=table.columns.get(name),
            )
            for name, word in table.labels.items()
        ),
        classes=classes,
        annotations=frozenset(name for name, there in annotations.items() if there),
        boxes=TableBoxes(boxes) if boxes else None,
    )


def _find_root(path: Path, names: list[str]) -> Path:
    """Return where a CSV's files lie: beside it, or all in the one folder there that has them."""
    if not names or os.path.exists(path / names[0]):
        return path
    holding = [
        path / folder
        for folder in folders_in(path)
        if all(os.path.exists(path / folder / name) for name in names)
    ]
    return holding[0] if len(holding) == 1 else path


def _read_several(path: Path, table: Table) -> PhotoSet:
    """Make a data set of several labels an image: a sample for each image and label."""
    classes = tuple(map(readable_id, table.classes))
    index = {name: place for place, name in enumerate(table.classes)}
    images = (
        (readable_id(name), path / name, [index[word] for word in words])
        for name, words in (table.several or {}).items()
    )
    columns = {path / name: cells for name, cells in table.columns.items()}
    return PhotoSet.of_labels("folder", images, classes, columns=columns)


def _labels_file(path: Path) -> Path | None:
    if os.path.isfile(path / _LABELS_FILE):
        return path / _LABELS_FILE
    tables = [file for file in sorted(path.glob("*.csv")) if _names_files(file)]
    if len(tables) > 1:
        raise DataError(
            f"{printable(path)} has {len(tables)} CSV files with images, "
            f"{list_names([file.name for file in tables])}; choose one with labels."
        )
    return tables[0] if tables else None


def _names_files(path: Path) -> bool:
    try:
        return is_table(read_lines(path)[0])
    except DataError:
        return False

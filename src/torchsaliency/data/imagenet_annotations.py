"""ImageNet's 1000 classes, and the files with its labels and boxes in each published form.

A file's first line says which form it has. Class indices are 0 to 999, in the sorted order of
the synsets; the devkit numbers classes otherwise, and its meta.mat translates.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchsaliency.data.dataset import Sample
from torchsaliency.data.decoding import make_damage_error
from torchsaliency.data.files import files_below, is_image, printable, read_lines
from torchsaliency.data.photosets import Annotations, Box, TableBoxes, XMLBoxes, read_xml
from torchsaliency.data.tables import is_table, read_table
from torchsaliency.errors import DataError

SYNSET = re.compile(r"n\d{8}")

_KAGGLE_HEAD = "ImageId,"
_NUMBERS_OF_A_BOX = 5
_MOST_DIGITS = 9
_CLASSES = 1000


@functools.cache
def synsets() -> tuple[str, ...]:
    """Return the synsets in the order of the networks' outputs, which is their sorted order."""
    return tuple(_info().label_names())


@functools.cache
def synset_names() -> tuple[str, ...]:
    """Return the classes' names, each with its synonyms ("tench, Tinca tinca")."""
    info = _info()
    return tuple(info.index_to_description(index, detailed=False) for index in range(_CLASSES))


@functools.cache
def synset_indices() -> dict[str, int]:
    """Return the class index of each synset."""
    return {synset: index for index, synset in enumerate(synsets())}


@functools.cache
def _info() -> Any:
    from timm.data import ImageNetInfo  # noqa: PLC0415 (takes seconds)

    return ImageNetInfo("imagenet-1k")


def read_labels(path: Path) -> dict[str, int]:
    """Return the class index of each image by its file's name without the suffix.

    Raises:
        DataError: the file has none of the known forms, or names an unknown class.
    """
    if path.is_dir():
        return _labels_of_xml(path)
    lines = read_lines(path)
    if lines[0].startswith(_KAGGLE_HEAD):
        return {stem: _index(found[0][0], path) for stem, found in _kaggle(path, lines).items()}
    if all(line.isdecimal() for line in lines):
        return _labels_of_devkit(path, lines)
    if is_table(lines[0]):
        words = read_table(path).labels
        return {Path(name).stem: _index(word or "", path) for name, word in words.items()}
    return _labels_of_list(path, lines)


def has_boxes(path: Path) -> bool:
    """Whether a file of labels tells boxes too."""
    if path.is_dir():
        return True
    head = read_lines(path)[0]
    return head.startswith(_KAGGLE_HEAD) or (is_table(head) and bool(read_table(path).boxes))


def read_boxes(path: Path, samples: Mapping[str, Sample]) -> Annotations[Tensor]:
    """Return the boxes of samples.

    Args:
        path: a folder of XML files, Kaggle's `LOC_val_solution.csv`, a `localization.txt`, or a
            CSV with a row for each box.
        samples: by the name of their file without the suffix.

    Raises:
        DataError: the file has none of the known forms.
    """
    if path.is_dir():
        return XMLBoxes(_tree(path), synsets())
    lines, sizes = read_lines(path), []
    listed: Iterable[tuple[str, Box]]
    if lines[0].startswith(_KAGGLE_HEAD):
        listed = (
            (stem, box)
            for stem, found in _kaggle(path, lines).items()
            for synset, box in found
            if stem in samples and _index(synset, path) == samples[stem].label
        )
    else:
        if is_table(lines[0]):
            rows = read_table(path).boxes.items()
            listed = ((name, box) for name, boxes in rows for box in boxes)
        else:
            wanted = "lines of a file, x0, y0, x1 and y1"
            listed = [(name, _box(numbers)) for name, numbers in _numbers(path, float, 4, wanted)]
        if (beside := path.with_name("image_sizes.txt")).exists():
            sizes = _numbers(beside, int, 2, "lines of a file, width and height")
    table: dict[str, list[Box]] = {}
    for name, box in listed:
        if sample := samples.get(Path(name).stem):
            table.setdefault(sample.id, []).append(box)
    return TableBoxes(
        {name: tuple(boxes) for name, boxes in table.items()},
        {
            samples[stem].id: (int(width), int(height))
            for name, (width, height) in sizes
            if (stem := Path(name).stem) in samples
        },
    )


def _labels_of_list(path: Path, lines: list[str]) -> dict[str, int]:
    """Read lines of file and class, with a comma or blanks between; a head line is left out."""
    found = {}
    for number, line in enumerate(lines, start=1):
        name, *rest = re.split(r"[,\s]+", line)
        if number == 1 and not is_image(name) and len(rest) == 1 and not rest[0].isdecimal():
            continue
        if len(rest) != 1 or not name:
            raise DataError(
                f"{printable(path)}, line {number}, is {line[:80]!r}; give lines such as "
                "ILSVRC2012_val_00000001.JPEG,65."
            )
        found[Path(name).stem] = _index(rest[0], path)
    return found


def _labels_of_devkit(path: Path, lines: list[str]) -> dict[str, int]:
    """Translate the devkit's numbers, one line an image."""
    meta = path.with_name("meta.mat")
    if not meta.exists():
        raise DataError(
            f"{printable(path)} numbers classes in the devkit's own order, which only its meta.mat "
            f"tells; put that file into {printable(path.parent)}, or give lines such as "
            "ILSVRC2012_val_00000001.JPEG,65."
        )
    from scipy.io import loadmat  # noqa: PLC0415 (needed for this file only)

    try:
        table: Any = loadmat(meta, squeeze_me=True)["synsets"]
        pairs = zip(table["ILSVRC2012_ID"].tolist(), table["WNID"].tolist(), strict=True)
        numbered = {int(number): str(synset) for number, synset in pairs}
        synset_of = [numbered[int(line[:_MOST_DIGITS])] for line in lines]
    except Exception as error:  # a damaged file breaks the reader in many ways
        raise make_damage_error(meta, error) from error
    return {
        f"ILSVRC2012_val_{place:08d}": _index(synset, meta)
        for place, synset in enumerate(synset_of, start=1)
    }


def _labels_of_xml(path: Path) -> dict[str, int]:
    found = {}
    tree = _tree(path)
    for name in files_below(tree, {".xml"}):
        file = tree / name
        _, objects = read_xml(file)
        if not objects:
            raise DataError(f"{printable(file)} names no object; get the official file.")
        found[file.stem] = _index(objects[0][0], file)
    return found


def _kaggle(path: Path, lines: list[str]) -> dict[str, list[tuple[str, Box]]]:
    found = {}
    try:
        rows = list(csv.reader(lines[1:], strict=True))
    except csv.Error as error:
        raise make_damage_error(path, error) from error
    for number, row in enumerate(rows, start=2):
        words = row[1].split() if len(row) > 1 else []
        try:
            groups = [
                (words[start], _box(words[start + 1 : start + _NUMBERS_OF_A_BOX]))
                for start in range(0, len(words), _NUMBERS_OF_A_BOX)
            ]
        except ValueError as error:
            raise DataError(
                f"{printable(path)}, line {number}, has the prediction string "
                f"{' '.join(words)[:80]!r}; give groups of a synset and four numbers."
            ) from error
        if groups:
            found[row[0]] = groups
    return found


def _numbers(
    path: Path, kind: type[int] | type[float], count: int, wanted: str
) -> list[tuple[str, list[float | int]]]:
    """Read lines of a file's name and some numbers, with commas between."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        name, *words = line.split(",")
        try:
            numbers: list[float | int] = [kind(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) != count:
            raise DataError(f"{printable(path)}, line {number}, is {line[:80]!r}; give {wanted}.")
        found.append((name, numbers))
    return found


def _box(numbers: Iterable[str | float | int]) -> Box:
    x0, y0, x1, y1 = map(float, numbers)
    return x0, y0, x1, y1


def _tree(path: Path) -> Path:
    for folder in (path, path / "val"):
        if folder.is_dir() and (any(folder.glob("*.xml")) or any(folder.glob("n*/*.xml"))):
            return folder
    raise DataError(
        f"{printable(path)} holds no XML files; give the folder of ILSVRC2012_val_00000001.xml."
    )


def _index(word: str, path: Path) -> int:
    if SYNSET.fullmatch(word):
        index = synset_indices().get(word, _CLASSES)
    else:
        index = int(word) if word.isdecimal() and len(word) <= _MOST_DIGITS else _CLASSES
    if index >= _CLASSES:
        raise DataError(
            f"{printable(path)} names the class {word[:40]!r}; give 0 to {_CLASSES - 1} in the "
            "sorted order of the synsets, or a synset such as n01440764."
        )
    return index

"""A CSV of one's own: a row for each image, or for each of its boxes."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from torchsaliency.data.files import printable, read_text, readable_id
from torchsaliency.data.photosets import CORNERS, Box
from torchsaliency.errors import DataError

_FILE = ("file", "path", "image", "filename", "Image Index")
_SEVERAL = ("labels", "Finding Labels")
_LABEL = ("label", "class", "class_index", *_SEVERAL)
_BOX = (("x0", "y0", "x1", "y1"), CORNERS)
_KNOWN = frozenset({*_FILE, *_LABEL, *_BOX[0], *_BOX[1]})
_DELIMITERS = ",;\t"
_SEPARATORS = "|;"
_NOTHING = {"no finding", "no findings"}
"""What chest X-rays' tables call an image without a label."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_INDEX = re.compile(r"[0-9]{1,9}")
_TRUTHS = {"0": False, "1": True, "0.0": False, "1.0": True, "": False}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@final
@dataclass(frozen=True)
class Table:
    """What a CSV tells.

    Attributes:
        labels: what it calls the class of each image, by the image's path as it is written; None
            if it has no such column.
        boxes: of the images that have some.
        several: the classes that are true of each image, if several may be; else None.
        classes: of `several`, in order.
        columns: the cells of each image in all other columns, by their names. Where the rows of an
            image's boxes have different ones, both.
    """

    labels: dict[str, str | None]
    boxes: dict[str, tuple[Box, ...]]
    several: dict[str, tuple[str, ...]] | None = None
    classes: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def defuse(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula, an apostrophe before what looks so.

    `read_table` takes it away again.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def _restore(cell: str) -> str:
    given = cell.removeprefix("'")
    return given if defuse(given) == cell else cell


def number_labels(
    labels: Iterable[str], where: str
) -> tuple[tuple[str, ...] | None, dict[str, int]]:
    """Return the names of the classes, None where all labels are numbers, and each label's class.

    Raises:
        DataError: they are numbers, and one is no class number.
    """
    words = sorted({*labels})
    if not all(map(_NUMBER.fullmatch, words)):
        return tuple(map(readable_id, words)), {word: at for at, word in enumerate(words)}
    if wrong := [word for word in words if not _INDEX.fullmatch(word)]:
        raise DataError(
            f"{where} has the label {wrong[0][:40]}; give class numbers from 0, or names."
        )
    return None, {word: int(word) for word in words}


def is_table(head: str) -> bool:
    """Whether a file's first line names the columns of images and labels."""
    try:
        columns = _columns(head)[1]
    except csv.Error:
        return False
    return _first_of(_FILE, columns) is not None and _first_of(_LABEL, columns) is not None


def read_table(path: Path) -> Table:
    """Read a CSV with the columns file, label and, if known, x0, y0, x1, y1.

    Where several labels may be true of an image, they stand in the column labels with "|" or ";"
    between them ("cat|dog"), or there is a column of 0 and 1 for each class. Commas, semicolons or
    tabs part the cells, as the first line does; quoted cells may hold them, and ends of lines.

    Raises:
        DataError: it has no column or row of images, a column twice, or a row that is damaged or
            incomplete or contradicts another.
    """
    text, place = read_text(path), printable(path)
    try:
        delimiter, columns = _columns(next(line for line in text.splitlines() if line.strip()))
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [row for row in lines if any(cell.strip() for cell in row)][1:]
    except csv.Error as error:
        raise DataError(f"{place} is no CSV that can be read ({error}); save it again.") from error
    if twice := sorted(name for name in _KNOWN & {*columns} if columns.count(name) > 1):
        raise DataError(f"{place} has the column {twice[0]} twice; give each column once.")
    file, label = _first_of(_FILE, columns), _first_of(_LABEL, columns)
    corners = next((names for names in _BOX if set(names) <= set(columns)), ())
    if file is None or not rows:
        raise DataError(
            f"{place} has the columns {printable(', '.join(columns))} and {len(rows)} rows; give "
            "file, label and, if known, x0, y0, x1, y1, and a row for each image or box."
        )
    if label is None and not corners and (several := _read_columns(columns, rows, file, place)):
        return several
    labels: dict[str, str | None] = {}
    boxes: defaultdict[str, list[Box]] = defaultdict(list)
    others: dict[str, dict[str, str]] = {}
    separator = _find_separator(columns, rows, label)
    for number, cells in enumerate(rows, start=2):
        where = f"{place}, row {number},"
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise DataError(
                f"{where} has {len(cells)} cells and the file {len(columns)} columns; put quotes "
                "around a cell that holds the delimiter."
            )
        row = {name: _restore(cell.strip()) for name, cell in zip(columns, cells, strict=False)}
        name, word = row.get(file, ""), row.get(label, "") if label else None
        if not name or (word == "" and not separator):
            raise DataError(f"{where} has no file or no label; give every row both.")
        name = Path(name).as_posix()
        if labels.setdefault(name, word) != word:
            raise DataError(
                f"{where} labels {printable(name)} {word!r} and an earlier one {labels[name]!r}; "
                "give one label."
            )
        more = {key: cell for key, cell in row.items() if key and key not in _KNOWN}
        others[name] = {
            key: cell if cell == (old := others.get(name, more)[key]) else f"{old} and {cell}"
            for key, cell in more.items()
        }
        if box := _box([row.get(corner, "") for corner in corners], where):
            boxes[name].append(box)
    if separator:
        if boxes:
            raise DataError(
                f"{place} has boxes beside several labels an image, and of which label a box is "
                "cannot be known; leave the boxes out, or give one label an image."
            )
        return replace(_split_labels(labels, separator), columns=others)
    placed = {name: tuple(found) for name, found in boxes.items()}
    return Table(labels, placed, columns=others)


def _find_separator(
    columns: Sequence[str], rows: Sequence[Sequence[str]], label: str | None
) -> str:
    """Return what stands between labels in a cell, "" if no cell has several."""
    if label not in _SEVERAL:  # in a column of one label, "a|b" is the name of a class
        return ""
    at = columns.index(label)
    cells = [row[at] for row in rows if len(row) > at]
    return next((one for one in _SEPARATORS if any(one in cell for cell in cells)), "")


def _split_labels(labels: Mapping[str, str | None], separator: str) -> Table:
    several = {}
    for name, cell in labels.items():
        words = [word.strip() for word in (cell or "").split(separator)]
        kept = dict.fromkeys(word for word in words if word and word.lower() not in _NOTHING)
        several[name] = tuple(kept)
    classes = tuple(sorted({word for words in several.values() for word in words}))
    return Table({}, {}, several, classes)


def _read_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], file: str, place: str
) -> Table | None:
    """Read a column of 0 and 1 for each class, None if there are not two such columns.

    Other columns than of 0, 1 and empty cells say something else, and are left out.

    Raises:
        DataError: an image is there twice, or has no name.
    """
    cells = [dict(zip(columns, map(str.strip, row), strict=False)) for row in rows]
    others = [name for name in columns if name and name not in _KNOWN]
    classes = tuple(name for name in others if all(row.get(name, "") in _TRUTHS for row in cells))
    if len(classes) < 2:  # noqa: PLR2004
        return None
    several: dict[str, tuple[str, ...]] = {}
    more: dict[str, dict[str, str]] = {}
    for number, row in enumerate(cells, start=2):
        name = Path(_restore(row.get(file, ""))).as_posix()
        if not row.get(file) or name in several:
            raise DataError(
                f"{place}, row {number}, has no file, or {printable(name)} once more; give each "
                "image one row."
            )
        several[name] = tuple(one for one in classes if _TRUTHS[row.get(one, "")])
        more[name] = {one: row.get(one, "") for one in others if one not in classes}
    return Table({}, {}, several, classes, more)


def _box(cells: Sequence[str], where: str) -> Box | None:
    """Return a row's box, None if it has no cells for one or they are empty."""
    if not any(cells):
        return None
    try:
        x0, y0, x1, y1 = map(float, cells)
    except ValueError as error:
        raise DataError(
            f"{where} has the box {printable(', '.join(cells)[:80])}; give four numbers, or none."
        ) from error
    return x0, y0, x1, y1


def _columns(head: str) -> tuple[str, list[str]]:
    """Return the delimiter of a first line, by which it names most known columns, and all names.

    Raises:
        csv.Error: the line is damaged.
    """
    found = [
        (delimiter, [name.strip() for name in next(csv.reader([head], delimiter=delimiter))])
        for delimiter in _DELIMITERS
    ]
    return max(found, key=lambda pair: len(_KNOWN.intersection(pair[1])))


def _first_of(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)

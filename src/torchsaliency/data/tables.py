"""A CSV of one's own: a row for each image, or for each of its boxes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torchsaliency.core.errors import DataError
from torchsaliency.data.boxes import CORNERS, Box
from torchsaliency.data.listing import lines_of

_FILE = ("file", "path", "image", "filename")
_LABEL = ("label", "class", "class_index")
_BOX = (("x0", "y0", "x1", "y1"), CORNERS)


@final
@dataclass(frozen=True)
class Table:
    """What a CSV tells.

    Attributes:
        labels: what it calls the class of each image, by the image's path as it is written; None
            if it has no such column.
        boxes: of the images that have some.
    """

    labels: dict[str, str | None]
    boxes: dict[str, tuple[Box, ...]]


def is_table(head: str) -> bool:
    """Whether a file's first line names the columns of images and labels."""
    columns = _columns(head)
    return _one_of(_FILE, columns) is not None and _one_of(_LABEL, columns) is not None


def read_table(path: Path) -> Table:
    """Read a CSV with the columns file, label and, if known, x0, y0, x1, y1.

    Raises:
        DataError: it has no column or row of images, or a row is incomplete or contradicts another.
    """
    lines = lines_of(path)
    columns = _columns(lines[0])
    rows = list(csv.DictReader(lines, fieldnames=columns))[1:]
    file, label = _one_of(_FILE, columns), _one_of(_LABEL, columns)
    box = next((one for one in _BOX if set(one) <= set(columns)), ())
    if file is None or not rows:
        raise DataError(
            f"{path} has the columns {', '.join(columns)} and {len(rows)} rows; give file, label "
            "and, if known, x0, y0, x1, y1, and a row for each image or box."
        )
    labels: dict[str, str | None] = {}
    boxes: dict[str, tuple[Box, ...]] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number},"
        name = (row[file] or "").strip()
        word = (row[label] or "").strip() if label else None
        if not name or word == "":
            raise DataError(f"{where} has no file or no label; give every row both.")
        name = Path(name).as_posix()
        if labels.setdefault(name, word) != word:
            raise DataError(
                f"{where} labels {name} {word!r} and an earlier one {labels[name]!r}; give one "
                "label."
            )
        if corners := _box([row[one] for one in box], where):
            boxes[name] = (*boxes.get(name, ()), corners)
    return Table(labels, boxes)


def _box(cells: Sequence[str | None], where: str) -> Box | None:
    """Return a row's box, None if it has no cells for one or they are empty."""
    if not any(cells):
        return None
    try:
        x0, y0, x1, y1 = (float(cell or "") for cell in cells)
    except ValueError as error:
        shown = ", ".join(str(cell) for cell in cells)
        raise DataError(f"{where} has the box {shown}; give four numbers, or none.") from error
    return x0, y0, x1, y1


def _columns(head: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([head]))]


def _one_of(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)

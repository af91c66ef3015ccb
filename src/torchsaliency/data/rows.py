"""Data sets whose images are cells of a table: Parquet files, and Hugging Face's arrow tables.

A row is found by its number. Parquet is read by row groups: a row costs the column of images of
its group, of which the last one is kept; files are never read whole, and may be addresses. Rows
hold the files of images as they are, so that they are decoded, checked and hashed like files.
"""

from __future__ import annotations

import abc
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchsaliency.data.dataset import VOID, DataSet, Picture, Sample
from torchsaliency.data.files import MISSING, find_fault, printable
from torchsaliency.data.fingerprints import COUNTS_FOR
from torchsaliency.data.photos import decode_photo
from torchsaliency.data.photosets import Box, place_boxes, read_mask
from torchsaliency.data.places import open_place
from torchsaliency.errors import DataError, describe_error

LARGEST_GROUP = 2 << 30
"""Bytes of the largest row group of which a column is read."""


class Rows(abc.ABC):
    """A table of which a row is read by its number."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return how many rows there are."""

    @abc.abstractmethod
    def read(self, row: int) -> Mapping[str, Any]:
        """Return the cells of one row.

        Raises:
            DataError: they cannot be read.
        """

    @abc.abstractmethod
    def read_column(self, name: str) -> list[Any]:
        """Return a column of all rows; not of the images.

        Raises:
            DataError: it cannot be read.
        """

    def locate(self, row: int) -> tuple[str, int]:
        """Return what is read for a row (the same for rows that are read together), and its size.

        By default each row is read by itself, and its size is not known.
        """
        return str(row), COUNTS_FOR


@final
@dataclass(frozen=True, eq=False)
class ArrowRows(Rows):
    """A `datasets.Dataset`, which maps its files into memory, and whose images are not decoded."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> Mapping[str, Any]:
        """Return the cells of one row."""
        try:
            found: Mapping[str, Any] = self.dataset[row]
        except Exception as error:  # a file that is gone or damaged, in many ways
            raise DataError(
                f"Row {row} cannot be read ({describe_error(error)}); get the data again."
            ) from error
        return found

    def read_column(self, name: str) -> list[Any]:
        """Return a column of all rows."""
        if not len(self):
            return []
        table = self.dataset.select_columns([name]).with_format("arrow")[:]
        found: list[Any] = table.column(name).to_pylist()
        return found


@final
@dataclass(frozen=True, eq=False)
class ParquetRows(Rows):
    """Parquet files, by paths or addresses.

    Attributes:
        places: of the files.
        columns: that are read with a row.
        groups: (G, 4): of each row group its file, its number there, its first row of all, and the
            compressed bytes of its columns.
        count: of all rows.
    """

    places: tuple[str, ...]
    columns: tuple[str, ...]
    groups: NDArray[np.int64]
    count: int

    @classmethod
    def open(cls, places: Sequence[str], columns: Sequence[str]) -> ParquetRows:
        """Read the files' footers.

        Raises:
            DataError: one cannot be read, or has row groups that are too large to be read.
        """
        groups, count = [], 0
        for number, place in enumerate(places):
            with _open_parquet(place) as file:
                for group in range(file.metadata.num_row_groups):
                    about = file.metadata.row_group(group)
                    chunks = [about.column(at) for at in range(about.num_columns)]
                    chunks = [
                        chunk
                        for chunk in chunks
                        if chunk.path_in_schema.partition(".")[0] in columns
                    ]
                    if sum(chunk.total_uncompressed_size for chunk in chunks) > LARGEST_GROUP:
                        raise DataError(
                            f"{printable(place)} has a row group of {about.num_rows} images, which "
                            "are read at once and are more than 2 GiB; write it again with "
                            "row_group_size=100."
                        )
                    size = sum(chunk.total_compressed_size for chunk in chunks)
                    groups.append((number, group, count, size))
                    count += about.num_rows
        table = np.array(groups, dtype=np.int64).reshape(-1, 4)
        return cls(tuple(places), tuple(columns), table, count)

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> Mapping[str, Any]:
        """Return the cells of one row; its group is kept until another one is read."""
        group = self._group_of(row)
        number, place, first, _ = map(int, self.groups[group])
        key = (self.places[number], place, self.columns)
        if getattr(_kept, "key", None) != key:
            _kept.key = None  # or two groups would be in memory at once
            _kept.table = None
            with _open_parquet(key[0]) as file:
                _kept.table = file.read_row_group(place, columns=[*self.columns])
            _kept.key = key
        at = row - first
        return {name: _kept.table.column(name)[at].as_py() for name in self.columns}

    def read_column(self, name: str) -> list[Any]:
        """Return a column of all rows."""
        found: list[Any] = []
        for place in self.places:
            with _open_parquet(place) as file:
                found += file.read(columns=[name]).column(name).to_pylist()
        return found

    def locate(self, row: int) -> tuple[str, int]:
        """Return the row group of a row, and the bytes of one of its rows on average."""
        group = self._group_of(row)
        ends = [*self.groups[group + 1 : group + 2, 2].tolist(), self.count]
        return str(group), int(self.groups[group, 3]) // (ends[0] - int(self.groups[group, 2]))

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self.groups[:, 2], row, side="right")) - 1


_kept = threading.local()
"""The row group that a thread read last; nothing of it is sent to another process."""


class _open_parquet:  # noqa: N801 (a context manager, which reads as a function)
    """Open a Parquet file; every error while it is read is one sentence."""

    def __init__(self, place: str) -> None:
        self.place, self.opened = place, open_place(place)

    def __enter__(self) -> Any:
        from pyarrow import parquet  # noqa: PLC0415 (an extra)

        file = self.opened.__enter__()
        try:
            return parquet.ParquetFile(file)
        except Exception as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.opened.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, DataError):
            raise DataError(
                f"{printable(self.place)} cannot be read as Parquet ({describe_error(error)}); get "
                "the file again."
            ) from error


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class RowSet(DataSet):
    """Images in the rows of a table.

    Attributes:
        rows: the table; a sample's source is its row.
        image: the column of the images.
        objects: the column of their objects, which have boxes; None without one.
        mask: the column of their masks; None without one.
        by_class: whether the objects' categories are the classes of the labels.
    """

    rows: Rows = field(repr=False)
    image: str
    objects: str | None = None
    mask: str | None = None
    by_class: bool = False

    def picture(self, index: int) -> Picture:
        """Read one row.

        Raises:
            DataError: it, its image, its boxes or its mask cannot be read.
        """
        sample = self.samples[index]
        row = self.rows.read(int(str(sample.source)))
        image, frame = decode_photo(_read_cell(row[self.image], sample.id), sample.id)
        boxes = mask = None
        if self.objects is not None:
            found = find_objects(row[self.objects], sample.id)
            wanted = sample.label if self.by_class else None
            chosen = [box for category, box in found if wanted in (None, category)]
            boxes = place_boxes(chosen, None, frame, f"of {sample.id}") if chosen else None
        if self.mask is not None and row[self.mask] is not None:
            content = _read_cell(row[self.mask], f"The mask of {sample.id}")
            mask = read_mask(BytesIO(content), f"The mask of {sample.id}", frame, VOID)
        return Picture(sample, image, boxes=boxes, mask=mask)

    def mark(self, sample: Sample) -> str:
        """Return hashes of the image's and the mask's files, and the objects."""
        try:
            row = self.rows.read(int(str(sample.source)))
            cells = [row[name] for name in (self.image, self.mask) if name]
            contents = [b"" if cell is None else _read_cell(cell, sample.id) for cell in cells]
        except DataError:
            return MISSING
        marks = [hashlib.blake2b(content, digest_size=16).hexdigest() for content in contents]
        return " ".join([*marks, *([str(row[self.objects])] if self.objects else [])])

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return the bytes that are read for an image on average."""
        return self.rows.locate(int(str(sample.source)))[1], ""

    def block(self, sample: Sample) -> str:
        """Return the row group that is read for an image."""
        return self.rows.locate(int(str(sample.source)))[0]


def find_objects(cell: Any, where: str) -> list[tuple[Any, Box]]:
    """Return category and box x0 y0 x1 y1 of the objects in a cell, whose boxes are COCO's.

    Args:
        cell: lists `bbox` of x y width height and, perhaps, `category` in one dictionary, or a
            dictionary for each object.
        where: for errors.

    Raises:
        DataError: the boxes are no four numbers each, or not as many as the categories.
    """
    try:
        if isinstance(cell, Mapping):
            boxes = cell["bbox"] or []
            categories = cell.get("category") or [None] * len(boxes)
        else:
            boxes = [one["bbox"] for one in cell or []]
            categories = [one.get("category") for one in cell or []]
        corners = np.array(boxes, dtype=float).reshape(len(boxes), 4)
        corners[:, 2:] += corners[:, :2]
        return [*zip(categories, map(tuple, corners.tolist()), strict=True)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{where} has objects whose boxes cannot be read ({describe_error(error)}); give bbox, "
            "a list of x, y, width, height each, and as many categories."
        ) from error


def _read_cell(cell: Any, name: str) -> bytes:
    """Return the file of an image that a cell holds or names."""
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(content, bytes):
        return content
    path = cell.get("path") if isinstance(cell, Mapping) else None
    if isinstance(path, str) and not find_fault(Path(path)):
        return Path(path).read_bytes()
    known = f"; its path is {printable(path)}" if isinstance(path, str) else ""
    raise DataError(f"{name} has no bytes of an image{known}. Give the images with the table.")

"""Data sets of image files, with the boxes and masks that lie beside them.

Boxes come from a table in memory, or from the XML files of ImageNet and Pascal VOC. Their numbers
are kept as they are written, x0 y0 x1 y1 on the image's pixel grid. ImageNet's are read so in the
published evaluations: with the maximum side taken as exclusive and no pixel added they give the
tables of Opti-CAM. Boxes and masks are of the pixels as the file stores them, and turned with a
photograph whose EXIF block turns it, unless the size that they record fits the upright photograph
alone.
"""

from __future__ import annotations

import abc
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Generic, TypeVar, final
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from torchsaliency.data.dataset import VOID, DataSet, Picture, Sample, spread_labels
from torchsaliency.data.decoding import (
    check_pixels,
    make_damage_error,
    name_decoder_errors,
    pixel_limit,
)
from torchsaliency.data.files import hash_of, printable, size_of
from torchsaliency.data.media import (
    Kind,
    group_series,
    hash_medium,
    open_medium,
    size_of_medium,
)
from torchsaliency.data.photos import Frame, turn_boxes, turn_pixels
from torchsaliency.errors import DataError

Box = tuple[float, float, float, float]

CORNERS = ("xmin", "ymin", "xmax", "ymax")

_FARTHEST = 10
"""Times the image's longer side: a box that reaches further out is a mistake."""

T = TypeVar("T", bound=Tensor)


class Annotations(abc.ABC, Generic[T]):
    """Where the boxes or the masks of samples are."""

    @abc.abstractmethod
    def of(self, sample: Sample, frame: Frame) -> T | None:
        """Return a sample's annotation in pixels of its upright image, None if it has none.

        Raises:
            DataError: it is damaged or does not fit the image.
        """

    @abc.abstractmethod
    def mark(self, sample: Sample) -> str:
        """Return what tells this annotation from others."""

    @abc.abstractmethod
    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return the bytes that `mark` reads, and what is known of them, see `DataSet.outline`."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class PhotoSet(DataSet):
    """Image files, perhaps with boxes or masks.

    Attributes:
        boxes: where they are, if there are any.
        masks: where they are, if there are any.
        kind: what the files are read as.
        channels: of images whose numbers stay as they are; None for photographs.
    """

    boxes: Annotations[Tensor] | None = field(default=None, repr=False)
    masks: Annotations[Tensor] | None = field(default=None, repr=False)
    kind: Kind = "photographs"
    channels: int | None = None

    @classmethod
    def of_labels(
        cls,
        name: str,
        images: Iterable[tuple[str, Path, Sequence[int]]],
        classes: Sequence[str],
        facts: tuple[str, ...] = (),
        columns: Mapping[Path, Mapping[str, str]] | None = None,
    ) -> PhotoSet:
        """Make a data set of several labels an image: a sample for each of them, `name (class)`.

        An image of which no label is true has one sample, without a label.

        Args:
            name: of the data set.
            images: name, file and labels of each.
            classes: the names of all labels.
            facts: as of any data set.
            columns: what else is known of each file, see `Sample`.
        """
        samples = (
            sample
            for image, source, labels in images
            for sample in spread_labels(
                Sample(image, source, columns=(columns or {}).get(source)), labels, classes
            )
        )
        return cls(
            name=name,
            samples=tuple(samples),
            classes=tuple(classes),
            annotations=frozenset({"labels"}),
            facts=facts,
        )

    def picture(self, index: int) -> Picture:
        """Open one file and read its annotations.

        Raises:
            DataError: the image or an annotation is missing, damaged or does not fit.
        """
        sample = self.samples[index]
        image, frame = open_medium(Path(str(sample.source)), self.kind, self.channels)
        boxes, mask = (
            None if found is None or frame is None else found.of(sample, frame)
            for found in (self.boxes, self.masks)
        )
        return Picture(sample, image, boxes=boxes, mask=mask)

    def mark(self, sample: Sample) -> str:
        """Return the hash of the file's content, and its annotations' marks."""
        marks = [found.mark(sample) for found in (self.boxes, self.masks) if found is not None]
        return " ".join([hash_medium(Path(str(sample.source))), *marks])

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return the size of the file and of its annotations' files, and their outlines."""
        outlines = [found.outline(sample) for found in (self.boxes, self.masks) if found]
        outlines.append((size_of_medium(Path(str(sample.source))), ""))
        sizes, texts = zip(*outlines, strict=True)
        return sum(sizes), json.dumps([*zip(sizes, texts, strict=True)])

    def group_series(self) -> PhotoSet:
        """Return the data set with one sample for all DICOM files of a folder: a scan."""
        return replace(self, samples=group_series(self.samples))

    def read_as(self, kind: Kind, channels: int | None = None) -> PhotoSet:
        """Return the data set with its files read as another kind, see `open_medium`."""
        return replace(self, kind=kind, channels=channels)


@final
@dataclass(frozen=True, eq=False)
class TableBoxes(Annotations[Tensor]):
    """Boxes that were listed in one file.

    Attributes:
        table: boxes by the sample's id.
        sizes: (width, height) of the image the boxes were drawn on, where it was recorded.
    """

    table: Mapping[str, tuple[Box, ...]]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def of(self, sample: Sample, frame: Frame) -> Float[Tensor, "b 4"] | None:
        """Return a sample's boxes; None if the file lists none."""
        if sample.id not in self.table:
            return None
        size = self.sizes.get(sample.id)
        return place_boxes(self.table[sample.id], size, frame, f"of {sample.id}")

    def mark(self, sample: Sample) -> str:
        """Return the boxes as they are listed."""
        return str(self.table.get(sample.id))

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return that nothing is read, and the boxes."""
        return 0, self.mark(sample)


@final
@dataclass(frozen=True, eq=False)
class XMLBoxes(Annotations[Tensor]):
    """A folder with one XML file an image, directly in it or in a folder for each synset.

    Attributes:
        folder: of the files.
        codes: names of the classes in the files; a labelled sample's boxes are those of its class.
    """

    folder: Path
    codes: tuple[str, ...] = ()

    def of(self, sample: Sample, frame: Frame) -> Float[Tensor, "b 4"] | None:
        """Return a sample's boxes; None if it has no file."""
        path = self._file(sample)
        if not os.path.lexists(path):
            return None
        annotated, objects = read_xml(path)
        wanted = self.codes[sample.label] if self.codes and sample.label is not None else None
        boxes = [box for name, box in objects if wanted in (None, name)]
        if not boxes:
            what = "object" if wanted is None else f"object of class {wanted}"
            raise DataError(
                f"{printable(path)} has no {what}; get the official file, or correct the label."
            )
        return place_boxes(boxes, annotated, frame, f"in {printable(path)}")

    def mark(self, sample: Sample) -> str:
        """Return the hash of the file's content."""
        return hash_of(self._file(sample))

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return the file's size."""
        return size_of(self._file(sample)), ""

    def _file(self, sample: Sample) -> Path:
        source = Path(str(sample.source))
        path = self.folder / f"{source.stem}.xml"
        return path if os.path.lexists(path) else self.folder / source.parent.name / path.name


@final
@dataclass(frozen=True, eq=False)
class MaskFiles(Annotations[Tensor]):
    """A folder with one PNG of palette indices an image.

    A mask of the size of the image's stored pixels is turned as these are; one that has only the
    upright image's size is upright.

    Attributes:
        folder: of the files.
        highest: label of a class, beside 255 for void.
    """

    folder: Path
    highest: int

    def of(self, sample: Sample, frame: Frame) -> UInt8[Tensor, "h w"]:
        """Return a sample's mask.

        Raises:
            DataError: it is missing, damaged, of another size, or holds colours or unknown labels.
        """
        path = self._file(sample)
        if not os.path.exists(path):
            raise DataError(f"{printable(path)} does not exist; give every image its mask.")
        return read_mask(path, printable(path), frame, self.highest)

    def mark(self, sample: Sample) -> str:
        """Return the hash of the file's content."""
        return hash_of(self._file(sample))

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return the file's size."""
        return size_of(self._file(sample)), ""

    def _file(self, sample: Sample) -> Path:
        return self.folder / f"{Path(str(sample.source)).stem}.png"


def read_mask(file: Path | BytesIO, name: str, frame: Frame, highest: int) -> UInt8[Tensor, "h w"]:
    """Return a PNG of palette indices as a mask of the upright image, see `MaskFiles`.

    Args:
        file: the PNG, or its content.
        name: for errors.
        frame: of the image.
        highest: label of a class, beside 255 for void.

    Raises:
        DataError: it is damaged, of another size, or holds colours or unknown labels.
    """
    limit = pixel_limit()
    with (
        name_decoder_errors(name, limit, "a mask is a PNG"),
        Image.open(file, formats=["PNG"]) as opened,
    ):
        check_pixels(name, opened.size, limit)
        mode, labels = opened.mode, np.array(opened)
    if mode not in {"P", "L"}:
        raise DataError(
            f"{name} is an image of colours (mode {mode}); give the original PNG, whose palette "
            "indices are the classes."
        )
    size = labels.shape[::-1]
    if size == frame.stored:
        labels = turn_pixels(labels, frame.orientation)
    elif size != frame.size:
        raise DataError(
            f"{name} has {size[0]}x{size[1]} pixels and its image "
            f"{frame.stored[0]}x{frame.stored[1]}; give image and mask of one size."
        )
    unknown = labels[(labels > highest) & (labels != VOID)]
    if unknown.size:
        raise DataError(
            f"{name} holds the label {unknown[0]}; give 0 to {highest}, and {VOID} for void."
        )
    return torch.from_numpy(labels)


def read_xml(path: Path) -> tuple[tuple[int, int], list[tuple[str, Box]]]:
    """Return the (width, height) that an XML file records, zeros if none, and its objects' boxes.

    Raises:
        DataError: the file is empty or damaged, or has a document type.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Plain()))
        width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        objects = [
            (entry.findtext("name", "").strip(), _corners(entry)) for entry in root.iter("object")
        ]
    except Exception as error:  # a damaged file breaks the parser in many ways
        raise make_damage_error(path, error) from error
    return (width, height), objects


def place_boxes(
    boxes: Iterable[Iterable[float | int]],
    annotated: tuple[int, int] | None,
    frame: Frame,
    where: str,
) -> Float[Tensor, "b 4"]:
    """Return boxes in the pixels of an upright image, scaled if they were drawn at another scale.

    Args:
        boxes: that belong to the image; those without area are left out.
        annotated: (width, height) of the image they were drawn on, None if unknown. They are of the
            stored pixels if that size fits those, or is unknown; else of the upright image.
        frame: of the image.
        where: the boxes are from, for the error.

    Raises:
        DataError: no box has an area, one lies far outside of the image, or the annotated image has
            another shape or more pixels than are decoded.
    """
    annotated = annotated if annotated and min(annotated) > 0 else None  # zeros stand for unknown
    values = torch.tensor(list(boxes), dtype=torch.float64).reshape(-1, 4)
    is_stored = annotated is None or _fits(annotated, frame.stored)
    size = frame.stored if is_stored else frame.size
    if annotated is not None:
        check_pixels(f"The annotated image {where}", annotated, pixel_limit())
        if not _fits(annotated, size):
            raise DataError(
                f"The boxes {where} are of an image of {annotated[0]}x{annotated[1]} pixels, and "
                f"the image has {size[0]}x{size[1]}; get image and boxes from the same source."
            )
        values = values * values.new_tensor([size[0] / annotated[0], size[1] / annotated[1]] * 2)
    outside = ~(values.abs() <= _FARTHEST * max(size)).all(1)  # NaN is outside, too
    if bool(outside.any()):
        corners = ", ".join(f"{end:g}" for end in values[outside][0].tolist())
        raise DataError(
            f"The box {corners} {where} lies far outside its image of {size[0]}x{size[1]} pixels; "
            "correct it."
        )
    values = values[(values[:, 2:] > values[:, :2]).all(1)]
    if not len(values):
        raise DataError(f"No box {where} has an area; give x0 y0 x1 y1 with x0 < x1 and y0 < y1.")
    return (turn_boxes(values, frame) if is_stored else values).float()


def _fits(annotated: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether an image of one size is one of another, scaled: each side is rounded to a pixel."""
    across, down = size[0] / annotated[0], size[1] / annotated[1]
    return min(abs(across * annotated[1] - size[1]), abs(down * annotated[0] - size[0])) <= 1


class _Plain(ElementTree.TreeBuilder):
    """Builds a tree without entities, which may grow without end or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse a document type, the only place where entities are declared."""
        del pubid, system
        raise ValueError(f"it declares the document type {name!r}, which annotations do not")


def _corners(entry: ElementTree.Element) -> Box:
    x0, y0, x1, y1 = (float(entry.findtext(f"bndbox/{corner}", "missing")) for corner in CORNERS)
    return x0, y0, x1, y1

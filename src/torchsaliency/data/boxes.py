"""Boxes of images: a table in memory, or the XML files of ImageNet and Pascal VOC.

Numbers are kept as they are written, x0 y0 x1 y1 on the image's pixel grid. ImageNet's are read so
in the published evaluations: with the maximum side taken as exclusive and no pixel added they give
the tables of Opti-CAM.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final
from xml.etree import ElementTree

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.errors import DataError
from torchsaliency.data.damage import damaged
from torchsaliency.data.listing import size_of
from torchsaliency.data.sets import Sample

Box = tuple[float, float, float, float]

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Boxes(abc.ABC):
    """Where the boxes of samples are."""

    @abc.abstractmethod
    def of(self, sample: Sample, size: tuple[int, int]) -> Float[Tensor, "b 4"] | None:
        """Return a sample's boxes in pixels of its image of (width, height), None if it has none.

        Raises:
            DataError: they are damaged or do not fit the image.
        """

    @abc.abstractmethod
    def mark(self, sample: Sample) -> str:
        """Return what tells these boxes from others, cheaply."""


@final
@dataclass(frozen=True, eq=False)
class TableBoxes(Boxes):
    """Boxes that were listed in one file.

    Attributes:
        table: boxes by the sample's id.
        sizes: (width, height) of the image the boxes were drawn on, where it was recorded.
    """

    table: Mapping[str, tuple[Box, ...]]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def of(self, sample: Sample, size: tuple[int, int]) -> Float[Tensor, "b 4"] | None:
        """Return a sample's boxes; None if the file lists none."""
        if sample.id not in self.table:
            return None
        return placed(self.table[sample.id], self.sizes.get(sample.id), size, f"of {sample.id}")

    def mark(self, sample: Sample) -> str:
        """Return the boxes as they are listed."""
        return str(self.table.get(sample.id))


@final
@dataclass(frozen=True, eq=False)
class XMLBoxes(Boxes):
    """A folder with one XML file an image, directly in it or in a folder for each synset.

    Attributes:
        folder: of the files.
        codes: names of the classes in the files; a labelled sample's boxes are those of its class.
    """

    folder: Path
    codes: tuple[str, ...] = ()

    def of(self, sample: Sample, size: tuple[int, int]) -> Float[Tensor, "b 4"] | None:
        """Return a sample's boxes; None if it has no file."""
        path = self._file(sample)
        if not path.exists():
            return None
        annotated, objects = read_xml(path)
        wanted = self.codes[sample.label] if self.codes and sample.label is not None else None
        boxes = [box for name, box in objects if wanted in (None, name)]
        if not boxes:
            what = "object" if wanted is None else f"object of class {wanted}"
            raise DataError(f"{path} has no {what}; get the official file, or correct the label.")
        return placed(boxes, annotated, size, f"in {path}")

    def mark(self, sample: Sample) -> str:
        """Return the file's size."""
        return str(size_of(self._file(sample)))

    def _file(self, sample: Sample) -> Path:
        source = Path(str(sample.source))
        path = self.folder / f"{source.stem}.xml"
        return path if path.exists() else self.folder / source.parent.name / path.name


def read_xml(path: Path) -> tuple[tuple[int, int] | None, list[tuple[str, Box]]]:
    """Return the (width, height) that an XML file records, if any, and its objects with boxes.

    Raises:
        DataError: the file is empty or damaged.
    """
    try:
        root = ElementTree.parse(path).getroot()
        width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        objects = [(one.findtext("name", "").strip(), _corners(one)) for one in root.iter("object")]
    except (ElementTree.ParseError, OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from error
    return ((width, height) if width > 0 and height > 0 else None), objects


def placed(
    boxes: Iterable[Box], annotated: tuple[int, int] | None, size: tuple[int, int], where: str
) -> Float[Tensor, "b 4"]:
    """Return boxes in the pixels of an image, scaled if they were drawn on it at another scale.

    Args:
        boxes: that belong to the image; those without area are left out.
        annotated: (width, height) of the image they were drawn on, None if unknown.
        size: (width, height) of the image.
        where: the boxes are from, for the error.

    Raises:
        DataError: no box has an area, or the image has another shape than the annotated one.
    """
    values = torch.tensor(list(boxes), dtype=torch.float64).reshape(-1, 4)
    sound = values.isfinite().all(1) & (values[:, 2:] > values[:, :2]).all(1)
    if not bool(sound.any()):
        raise DataError(f"No box {where} has an area; give x0 y0 x1 y1 with x0 < x1 and y0 < y1.")
    if annotated is not None and annotated != size:
        across, down = size[0] / annotated[0], size[1] / annotated[1]
        # scaling rounds each side to a pixel; a turned or another image is further off
        if abs(across * annotated[1] - size[1]) > 1 and abs(down * annotated[0] - size[0]) > 1:
            raise DataError(
                f"The boxes {where} are of an image of {annotated[0]}x{annotated[1]} pixels, and "
                f"the image has {size[0]}x{size[1]}; get image and boxes from the same source."
            )
        values = values * values.new_tensor([across, down, across, down])
    return values[sound].float()


def _corners(one: ElementTree.Element) -> Box:
    x0, y0, x1, y1 = (float(one.findtext(f"bndbox/{corner}", "missing")) for corner in CORNERS)
    return x0, y0, x1, y1

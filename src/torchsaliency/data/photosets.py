"""A data set of image files: what all readers of labelled images return."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from torchsaliency.data.boxes import Boxes
from torchsaliency.data.listing import hash_of
from torchsaliency.data.photos import read_photo
from torchsaliency.data.sets import DataSet, Picture, Sample


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class PhotoSet(DataSet):
    """Image files, perhaps with boxes.

    Attributes:
        boxes: where they are, if there are any.
    """

    boxes: Boxes | None = field(default=None, repr=False)

    def picture(self, index: int) -> Picture:
        """Open one file and read its boxes.

        Raises:
            DataError: the image or its boxes are missing, damaged or do not fit.
        """
        sample = self.samples[index]
        image, frame = read_photo(Path(str(sample.source)))
        boxes = None if self.boxes is None else self.boxes.of(sample, frame)
        return Picture(sample, image, boxes=boxes)

    def mark(self, sample: Sample) -> str:
        """Return the hash of the file's content, and its boxes' mark."""
        content = hash_of(Path(str(sample.source)))
        return content if self.boxes is None else f"{content} {self.boxes.mark(sample)}"

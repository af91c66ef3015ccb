"""Pascal VOC 2012's segmentation images with their masks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from torchsaliency.data.damage import decoding
from torchsaliency.data.layouts import wrong_layout
from torchsaliency.data.limits import check_pixels, pixel_limit
from torchsaliency.data.listing import hash_of, images_in, lines_of
from torchsaliency.data.names import readable_id, shown
from torchsaliency.data.orientation import Frame, turn_pixels
from torchsaliency.data.photos import read_photo
from torchsaliency.data.sets import VOID, DataSet, Picture, Sample
from torchsaliency.errors import DataError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Of the masks: label 1 is the first."""

_ALL = "all"
_PARTS = ("JPEGImages", "SegmentationClass")


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class VOCSet(DataSet):
    """Images that have a mask of their objects' classes.

    Attributes:
        masks: the folder of the masks.
    """

    masks: Path

    def picture(self, index: int) -> Picture:
        """Open an image and its mask.

        Raises:
            DataError: one is missing or damaged, or they do not fit.
        """
        sample = self.samples[index]
        image, frame = read_photo(Path(str(sample.source)))
        return Picture(sample, image, mask=open_mask(self._mask(sample), frame))

    def mark(self, sample: Sample) -> str:
        """Return the hashes of the image's and the mask's files."""
        return f"{hash_of(Path(str(sample.source)))} {hash_of(self._mask(sample))}"

    def _mask(self, sample: Sample) -> Path:
        return self.masks / f"{Path(str(sample.source)).stem}.png"


def find_voc(path: Path) -> bool:
    """Whether a folder holds Pascal VOC's images and masks."""
    return _root(path) is not None


def voc2012(path: Path, *, split: str | None = None) -> VOCSet:
    """Read Pascal VOC 2012, segmentation.

    Args:
        path: `VOC2012`, or a folder above it.
        split: a list in `ImageSets/Segmentation`, "val" by default; "all" takes every mask.

    Raises:
        DataError: another layout.
    """
    split = split or "val"
    root = _root(path)
    if root is None:
        raise wrong_layout("voc", path, "holds no JPEGImages and SegmentationClass")
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if split == _ALL:
        names = [Path(one).stem for one in images_in(root / _PARTS[1]) if one.endswith(".png")]
    elif listed.is_file():
        names = lines_of(listed)
    else:
        raise wrong_layout("voc", root, f"has no list {listed.name} (split {_ALL} needs none)")
    return VOCSet(
        name="voc2012",
        samples=tuple(
            Sample(readable_id(name), root / _PARTS[0] / f"{name}.jpg") for name in names
        ),
        classes=CLASSES,
        annotations=frozenset({"masks"}),
        facts=(f"split {split}",),
        masks=root / _PARTS[1],
    )


def open_mask(path: Path, frame: Frame) -> UInt8[Tensor, "h w"]:
    """Open a mask of palette indices, turned upright with its image.

    A mask of the size of the image's stored pixels is turned as these are; one that has only the
    upright image's size is upright.

    Args:
        path: of a PNG.
        frame: of the image.

    Raises:
        DataError: it is missing, damaged, of another size, or holds colours or unknown labels.
    """
    name = shown(path)
    if not os.path.exists(path):
        raise DataError(f"{name} does not exist; give every image its mask.")
    limit = pixel_limit()
    with (
        decoding(path, limit, "a mask is a PNG"),
        Image.open(path, formats=["PNG"]) as opened,
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
    unknown = labels[(labels > len(CLASSES)) & (labels != VOID)]
    if unknown.size:
        raise DataError(
            f"{name} holds the label {unknown[0]}; give 0 to {len(CLASSES)}, and {VOID} for void."
        )
    return torch.from_numpy(labels)


def _root(path: Path) -> Path | None:
    places = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
    return next((one for one in places if all((one / part).is_dir() for part in _PARTS)), None)

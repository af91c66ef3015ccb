"""Pascal VOC 2012's segmentation images with their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from torchsaliency.core.errors import DataError
from torchsaliency.data.damage import damaged
from torchsaliency.data.layouts import wrong_layout
from torchsaliency.data.listing import lines_of, size_of
from torchsaliency.data.photos import open_photo
from torchsaliency.data.sets import VOID, DataSet, Picture, Sample

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
        image = open_photo(Path(str(sample.source)))
        return Picture(sample, image, mask=open_mask(self._mask(sample), image.size))

    def mark(self, sample: Sample) -> str:
        """Return the sizes of the image's and the mask's files."""
        return f"{size_of(Path(str(sample.source)))} {size_of(self._mask(sample))}"

    def _mask(self, sample: Sample) -> Path:
        return self.masks / f"{sample.id}.png"


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
        names = sorted(one.stem for one in (root / _PARTS[1]).glob("*.png"))
    elif listed.is_file():
        names = lines_of(listed)
    else:
        raise wrong_layout("voc", root, f"has no list {listed.name} (split {_ALL} needs none)")
    return VOCSet(
        name="voc2012",
        samples=tuple(Sample(name, root / _PARTS[0] / f"{name}.jpg") for name in names),
        classes=CLASSES,
        annotations=frozenset({"masks"}),
        facts=(f"split {split}",),
        masks=root / _PARTS[1],
    )


def open_mask(path: Path, size: tuple[int, int]) -> UInt8[Tensor, "h w"]:
    """Open a mask of palette indices.

    Args:
        path: of a PNG.
        size: (width, height) it must have.

    Raises:
        DataError: it is missing, damaged, of another size, or holds colours or unknown labels.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give every image its mask.")
    try:
        with Image.open(path) as opened:
            mode, labels = opened.mode, np.array(opened)
    except Exception as error:  # decoders raise many types for damaged files
        raise damaged(path, error) from error
    if mode not in {"P", "L"}:
        raise DataError(
            f"{path} is an image of colours (mode {mode}); give the original PNG, whose palette "
            "indices are the classes."
        )
    if labels.shape[::-1] != size:
        raise DataError(
            f"{path} has {labels.shape[1]}x{labels.shape[0]} pixels and its image "
            f"{size[0]}x{size[1]}; give image and mask of one size."
        )
    unknown = labels[(labels > len(CLASSES)) & (labels != VOID)]
    if unknown.size:
        raise DataError(
            f"{path} holds the label {unknown[0]}; give 0 to {len(CLASSES)}, and {VOID} for void."
        )
    return torch.from_numpy(labels)


def _root(path: Path) -> Path | None:
    places = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
    return next((one for one in places if all((one / part).is_dir() for part in _PARTS)), None)

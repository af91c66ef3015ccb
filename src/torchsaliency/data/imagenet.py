"""ImageNet (ILSVRC 2012): a folder for each synset, or all images in one folder and a label file.

An official validation image has the same id in both layouts, so that a drawn subset is the same
images wherever they lie.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from torchsaliency.data.dataset import Sample
from torchsaliency.data.files import folders_in, images_below, images_in, printable, readable_id
from torchsaliency.data.imagenet_annotations import (
    SYNSET,
    has_boxes,
    read_boxes,
    read_labels,
    synset_indices,
    synset_names,
    synsets,
)
from torchsaliency.data.opening import make_layout_error, register_dataset
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.errors import DataError, OptionError

_OFFICIAL = re.compile(r"ILSVRC2012_(val|test)_\d{8}\.JPEG")
_SPLITS = ("val", "train", "test")
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_LABEL_FILES = (
    "class_labels.txt",
    "LOC_val_solution.csv",
    "labels.csv",
    "val.txt",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
)
_BOX_PLACES = (
    "localization.txt",
    "LOC_val_solution.csv",
    "ILSVRC/Annotations/CLS-LOC/val",
    "Annotations/CLS-LOC/val",
    "ILSVRC2012_bbox_val_v3/val",
    "bbox/val",
)
_LAYOUT = """
imagenet/
├── val/n01440764/*.JPEG              a folder for each synset
└── val/n01443537/*.JPEG …
or
imagenet/
├── val/ILSVRC2012_val_00000001.JPEG … all in one folder, and the labels in one of
├── class_labels.txt                  lines ILSVRC2012_val_00000001.JPEG,65
├── LOC_val_solution.csv              Kaggle's (labels and boxes)
└── ILSVRC2012_devkit_t12/data/       ILSVRC2012_validation_ground_truth.txt and meta.mat
"""


def find_imagenet(path: Path) -> bool:
    """Whether a folder holds ImageNet images in one of the layouts."""
    return any(_holder(path, split) is not None for split in _SPLITS)


@register_dataset("imagenet", layout=_LAYOUT, finds=find_imagenet)
def imagenet(
    path: Path,
    *,
    split: str | None = None,
    boxes: Path | None = None,
    labels: Path | None = None,
) -> PhotoSet:
    """Read ImageNet, or any part of it.

    Args:
        path: the folder of a split, or one above it.
        split: its folder's name; that of `path` if it is a split's, else "val".
        boxes: the official XML tree, Kaggle's `LOC_val_solution.csv` or a `localization.txt`; for
            "val" found by itself where it lies beside the images under its published name.
        labels: for images in one folder: lines of file and class, `LOC_val_solution.csv`, the
            XML tree, or the devkit's ground truth with its meta.mat; found as the boxes are.

    Raises:
        DataError: another layout, or no labels.
        OptionError: labels were given, and the folders already tell them.
    """
    split = split or (path.name if path.name in _SPLITS else _SPLITS[0])
    folder = _holder(path, split)
    if folder is None:
        raise make_layout_error("imagenet", path, f"holds no ImageNet images (split {split})")
    places = _around(folder, path) if split == _SPLITS[0] else []  # published files are val's
    boxes = boxes or _first(places, _BOX_PLACES)
    if names := folders_in(folder):
        if labels is not None:
            raise OptionError(
                f"{printable(folder)} tells labels by its folders; leave {printable(labels)} out."
            )
        indices = synset_indices()
        samples = tuple(
            Sample(_id(split, f"{name}/{file}"), folder / name / file, indices[name])
            for name in names
            for file in images_below(folder / name)
        )
    else:
        tree = boxes if boxes is not None and boxes.is_dir() else None
        given = labels or _first(places, _LABEL_FILES) or tree
        if given is None:
            raise make_layout_error(
                "imagenet", folder, "has all images in one folder and no labels"
            )
        samples = _flat(folder, given, split)
        boxes = boxes or (given if has_boxes(given) else None)
    by_stem = {Path(str(sample.source)).stem: sample for sample in samples}
    return PhotoSet(
        name="imagenet",
        samples=samples,
        classes=synset_names(),
        codes=synsets(),
        annotations=frozenset({"labels"} if boxes is None else {"labels", "boxes"}),
        facts=(f"split {split}",),
        boxes=None if boxes is None else read_boxes(boxes, by_stem),
    )


def _flat(folder: Path, labels: Path, split: str) -> tuple[Sample, ...]:
    table = read_labels(labels)
    names = images_in(folder)
    missing = [name for name in names if Path(name).stem not in table]
    if missing:
        raise DataError(
            f"{printable(labels)} has no label for {len(missing)} of {len(names)} images, "
            f"{printable(missing[0])} among them; give the labels of this split."
        )
    return tuple(Sample(_id(split, name), folder / name, table[Path(name).stem]) for name in names)


def _id(split: str, name: str) -> str:
    """Return a sample's id: the official name of an image says enough, whatever its folder."""
    last = name.rpartition("/")[2]
    return readable_id(f"{split}/{last if _OFFICIAL.fullmatch(last) else name}")


def _holder(path: Path, split: str) -> Path | None:
    places = (
        path / split,
        path / _KAGGLE / split,
        path / _KAGGLE.removeprefix("ILSVRC/") / split,
        path / f"ILSVRC2012_img_{split}",
        *(() if path.name in {*_SPLITS} - {split} else (path,)),
    )
    return next((place for place in places if os.path.isdir(place) and _holds(place)), None)


def _holds(folder: Path) -> bool:
    names = folders_in(folder)
    if names:
        return all(map(SYNSET.fullmatch, names)) and synset_indices().keys() >= set(names)
    return any(map(_OFFICIAL.fullmatch, images_in(folder)))


def _around(folder: Path, path: Path) -> list[Path]:
    """Return where files about the images may lie: from the given folder to theirs.

    Of the images' own folder, the one above counts too.
    """
    within = [place for place in (folder, *folder.parents) if place.is_relative_to(path)]
    return [*reversed(within), *([path.parent] if folder == path else [])]


def _first(places: list[Path], names: tuple[str, ...]) -> Path | None:
    found = (place / name for name in names for place in places if os.path.exists(place / name))
    return next(found, None)

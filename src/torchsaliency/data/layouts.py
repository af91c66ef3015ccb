"""How the files of each data set must lie, and the error that shows it."""

from __future__ import annotations

from pathlib import Path

from torchsaliency.data.names import shown
from torchsaliency.errors import DataError

TREES = {
    "imagenet": """\
imagenet/
├── val/n01440764/*.JPEG              a folder for each synset
└── val/n01443537/*.JPEG …
or
imagenet/
├── val/ILSVRC2012_val_00000001.JPEG … all in one folder, and the labels in one of
├── class_labels.txt                  lines ILSVRC2012_val_00000001.JPEG,65
├── LOC_val_solution.csv              Kaggle's (labels and boxes)
└── ILSVRC2012_devkit_t12/data/       ILSVRC2012_validation_ground_truth.txt and meta.mat""",
    "voc": """\
VOC2012/
├── JPEGImages/2007_000033.jpg …
├── SegmentationClass/2007_000033.png …
└── ImageSets/Segmentation/val.txt    lines 2007_000033""",
    "chest-xray": """\
chest_xray/
├── test/NORMAL/*.jpeg
├── test/PNEUMONIA/*.jpeg
└── train/ …                          the same, and val/ where there is one""",
    "kvasir": """\
kvasir-dataset-v2/
├── dyed-lifted-polyps/*.jpg
├── dyed-resection-margins/*.jpg
├── esophagitis/*.jpg
├── normal-cecum/*.jpg
├── normal-pylorus/*.jpg
├── normal-z-line/*.jpg
├── polyps/*.jpg
└── ulcerative-colitis/*.jpg""",
    "folder": """\
folder/
├── cat/*.jpg                         a folder for each class
└── dog/*.jpg …
or
folder/
├── labels.csv                        columns file, label and, if known, x0, y0, x1, y1
└── 1.jpg …
or
folder/
└── 1.jpg …                           images without labels""",
}
"""The expected tree of each kind of data set."""


def wrong_layout(kind: str, path: Path, found: str) -> DataError:
    """Return the error for a folder that does not hold what its kind wants.

    Args:
        kind: of the data set.
        path: that was given.
        found: what is wrong with it, as the sentence's predicate.
    """
    return DataError(f"{shown(path)} {found}; expected is\n\n{TREES[kind]}")


def unknown_layout(path: Path) -> DataError:
    """Return the error for a folder that holds no data set."""
    trees = "\n\n".join(TREES.values())
    return DataError(
        f"{shown(path)} holds no images in a known layout; expected is one of\n\n{trees}"
    )

"""Pascal VOC 2012's segmentation images with their masks."""

from __future__ import annotations

from pathlib import Path

from torchsaliency.data.dataset import Sample
from torchsaliency.data.files import images_in, read_lines, readable_id
from torchsaliency.data.opening import make_layout_error, register_dataset
from torchsaliency.data.photosets import MaskFiles, PhotoSet

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Of the masks: label 1 is the first."""

_ALL = "all"
_PARTS = ("JPEGImages", "SegmentationClass")
_LAYOUT = """
VOC2012/
├── JPEGImages/2007_000033.jpg …
├── SegmentationClass/2007_000033.png …
└── ImageSets/Segmentation/val.txt    lines 2007_000033
"""


def find_voc(path: Path) -> Path | None:
    """Return the folder of Pascal VOC's images and masks in or below a folder, if there is one."""
    places = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
    return next((root for root in places if all((root / part).is_dir() for part in _PARTS)), None)


_CLASSES_LAYOUT = """
VOC2012/
├── JPEGImages/2008_000002.jpg …
├── ImageSets/Main/aeroplane_val.txt  lines "2008_000002 -1": 1 there, 0 hard to see, -1 not there
└── ImageSets/Main/bicycle_val.txt …
"""


@register_dataset("voc-classes", layout=_CLASSES_LAYOUT, finds=lambda path: None)  # noqa: ARG005 (only if it is named)
def voc2012_classes(path: Path, *, split: str = "val") -> PhotoSet:
    """Read Pascal VOC 2012, classification: all classes that are in an image are its labels.

    Args:
        path: `VOC2012`, or a folder above it.
        split: of the lists in `ImageSets/Main`.

    Raises:
        DataError: another layout.
    """
    places = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
    lists = [
        {name: root / "ImageSets" / "Main" / f"{name}_{split}.txt" for name in CLASSES}
        for root in places
    ]
    found = next((files for files in lists if all(map(Path.is_file, files.values()))), None)
    if found is None:
        raise make_layout_error("voc-classes", path, f"has no lists of its classes in {split}")
    labels: dict[str, list[int]] = {}
    for index, file in enumerate(found.values()):
        for line in read_lines(file):
            name, _, there = line.strip().partition(" ")
            labels.setdefault(name, []).extend([index] if there.strip() == "1" else [])
    folder = found[CLASSES[0]].parents[2] / "JPEGImages"
    images = ((readable_id(name), folder / f"{name}.jpg", told) for name, told in labels.items())
    return PhotoSet.of_labels("voc2012-classes", images, CLASSES, (f"split {split}",))


@register_dataset("voc", layout=_LAYOUT, finds=find_voc)
def voc2012(path: Path, *, split: str = "val") -> PhotoSet:
    """Read Pascal VOC 2012, segmentation.

    Args:
        path: `VOC2012`, or a folder above it.
        split: a list in `ImageSets/Segmentation`; "all" takes every mask.

    Raises:
        DataError: another layout.
    """
    root = find_voc(path)
    if root is None:
        raise make_layout_error("voc", path, "holds no JPEGImages and SegmentationClass")
    images, masks = (root / part for part in _PARTS)
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if split == _ALL:
        names = [Path(name).stem for name in images_in(masks) if name.endswith(".png")]
    elif listed.is_file():
        names = read_lines(listed)
    else:
        raise make_layout_error("voc", root, f"has no list {listed.name} (split {_ALL} needs none)")
    return PhotoSet(
        name="voc2012",
        samples=tuple(Sample(readable_id(name), images / f"{name}.jpg") for name in names),
        classes=CLASSES,
        annotations=frozenset({"masks"}),
        facts=(f"split {split}",),
        masks=MaskFiles(masks, len(CLASSES)),
    )

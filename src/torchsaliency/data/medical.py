"""The medical data of the Opti-CAM paper: Kermany's chest X-rays and Kvasir's endoscopies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torchsaliency.data.dataset import PARTS, Sample, draw_parts
from torchsaliency.data.files import images_below, readable_id
from torchsaliency.data.opening import make_layout_error, register_dataset
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.errors import OptionError

CHEST_CLASSES = ("NORMAL", "PNEUMONIA")

KVASIR_CLASSES = (
    *("dyed-lifted-polyps", "dyed-resection-margins", "esophagitis", "normal-cecum"),
    *("normal-pylorus", "normal-z-line", "polyps", "ulcerative-colitis"),
)

ALL = "all"
"""The split that is every image."""

_VERSIONS = {8000: "Kvasir v2", 4000: "Kvasir v1 (the papers use v2, 8000 images)"}
_CHEST_ROOTS = ("", "chest_xray", "chest_xray/chest_xray")
_CHEST_LAYOUT = """
chest_xray/
├── test/NORMAL/*.jpeg
├── test/PNEUMONIA/*.jpeg
└── train/ …                          the same, and val/ where there is one
"""
_KVASIR_ROOTS = ("", "kvasir-dataset-v2", "kvasir-dataset")
_KVASIR_LAYOUT = "\n".join(
    ["kvasir-dataset-v2/"]
    + [f"├── {name}/*.jpg" for name in KVASIR_CLASSES[:-1]]
    + [f"└── {KVASIR_CLASSES[-1]}/*.jpg"]
)


def find_chest_xray(path: Path) -> Path | None:
    """Return the folder of the chest X-rays' splits in or below a folder, if there is one."""
    return _find(
        path,
        _CHEST_ROOTS,
        lambda root: any((root / part / CHEST_CLASSES[1]).is_dir() for part in PARTS),
    )


def find_kvasir(path: Path) -> Path | None:
    """Return the folder of Kvasir's classes in or below a folder, if there is one."""
    return _find(
        path, _KVASIR_ROOTS, lambda root: all((root / name).is_dir() for name in KVASIR_CLASSES)
    )


@register_dataset("chest-xray", layout=_CHEST_LAYOUT, finds=find_chest_xray)
def chest_xray(path: Path, *, split: str = "test") -> PhotoSet:
    """Read the chest X-rays of Kermany et al. (Mendeley rscbjbr9sj).

    Args:
        path: `chest_xray`, or the folder above it.
        split: "train", "val", "test" or "all".

    Raises:
        DataError: another layout, or the split is not there.
        OptionError: an unknown split.
    """
    _check_split(split)
    root = find_chest_xray(path)
    if root is None:
        raise make_layout_error("chest-xray", path, "holds no chest X-rays")
    there = [part for part in PARTS if (root / part).is_dir()]
    parts = there if split == ALL else [split]
    for part in parts:
        if missing := [name for name in CHEST_CLASSES if not (root / part / name).is_dir()]:
            raise make_layout_error("chest-xray", root, f"has no {part}/{missing[0]}")
    return PhotoSet(
        name="chest-xray",
        samples=tuple(
            sample for part in parts for sample in _samples(root, CHEST_CLASSES, f"{part}/")
        ),
        classes=CHEST_CLASSES,
        annotations=frozenset({"labels"}),
        facts=(f"split {split}",),
    )


@register_dataset("kvasir", layout=_KVASIR_LAYOUT, finds=find_kvasir)
def kvasir(path: Path, *, split: str = "test", seed: int = 0) -> PhotoSet:
    """Read Kvasir, split in each class into 6 parts train, 1 val and 1 test.

    The paper's split is not published. An image's part depends on the seed and the names of the
    files of its class alone.

    Args:
        path: the folder of the eight classes, or the one above it.
        split: "train", "val", "test" or "all".
        seed: of the split.

    Raises:
        DataError: another layout.
        OptionError: an unknown split.
    """
    _check_split(split)
    root = find_kvasir(path)
    if root is None:
        lacking = [name for name in KVASIR_CLASSES if not (path / name).is_dir()]
        raise make_layout_error("kvasir", path, f"has no folder {', '.join(lacking)}")
    samples = _samples(root, KVASIR_CLASSES)
    version = _VERSIONS.get(len(samples), "Kvasir, neither v1 nor v2 by its count")
    facts = [f"{len(samples)} images: {version}", f"split {split}"]
    if split != ALL:
        part_of = draw_parts(samples, seed)
        samples = [sample for sample in samples if part_of[sample.id] == split]
        facts.append(f"split seed {seed}")
    return PhotoSet(
        name="kvasir",
        samples=tuple(samples),
        classes=KVASIR_CLASSES,
        annotations=frozenset({"labels"}),
        facts=tuple(facts),
    )


def _samples(root: Path, classes: Sequence[str], prefix: str = "") -> list[Sample]:
    return [
        Sample(readable_id(f"{prefix}{name}/{file}"), root / f"{prefix}{name}" / file, index)
        for index, name in enumerate(classes)
        for file in images_below(root / f"{prefix}{name}")
    ]


def _find(path: Path, names: Sequence[str], fits: Callable[[Path], bool]) -> Path | None:
    return next((root for name in names if fits(root := path / name)), None)


def _check_split(split: str) -> None:
    if split not in (*PARTS, ALL):
        raise OptionError(f"There is no split {split!r}; give {', '.join(PARTS)} or {ALL}.")

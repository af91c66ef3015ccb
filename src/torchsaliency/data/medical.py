"""The medical data of the Opti-CAM paper: Kermany's chest X-rays and Kvasir's endoscopies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchsaliency.data.layouts import wrong_layout
from torchsaliency.data.listing import images_below
from torchsaliency.data.names import readable_id
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.data.sets import Sample, draw_key
from torchsaliency.errors import OptionError

CHEST_CLASSES = ("NORMAL", "PNEUMONIA")

KVASIR_CLASSES = (
    *("dyed-lifted-polyps", "dyed-resection-margins", "esophagitis", "normal-cecum"),
    *("normal-pylorus", "normal-z-line", "polyps", "ulcerative-colitis"),
)

ALL = "all"
"""The split that is every image."""

_SPLITS = ("train", "val", "test")
_VERSIONS = {8000: "Kvasir v2", 4000: "Kvasir v1 (the papers use v2, 8000 images)"}
_CHEST_ROOTS = ("", "chest_xray", "chest_xray/chest_xray")
_KVASIR_ROOTS = ("", "kvasir-dataset-v2", "kvasir-dataset")


def find_chest_xray(path: Path) -> bool:
    """Whether a folder holds the chest X-rays with their splits."""
    return _chest_root(path) is not None


def chest_xray(path: Path, *, split: str | None = None) -> PhotoSet:
    """Read the chest X-rays of Kermany et al. (Mendeley rscbjbr9sj).

    Args:
        path: `chest_xray`, or the folder above it.
        split: "train", "val", "test" (the default) or "all".

    Raises:
        DataError: another layout, or the split is not there.
        OptionError: an unknown split.
    """
    split = _checked_split(split)
    root = _chest_root(path)
    if root is None:
        raise wrong_layout("chest-xray", path, "holds no chest X-rays")
    there = [part for part in _SPLITS if (root / part).is_dir()]
    parts = there if split == ALL else [split]
    for part in parts:
        if missing := [one for one in CHEST_CLASSES if not (root / part / one).is_dir()]:
            raise wrong_layout("chest-xray", root, f"has no {part}/{missing[0]}")
    return PhotoSet(
        name="chest-xray",
        samples=tuple(one for part in parts for one in _samples(root, CHEST_CLASSES, f"{part}/")),
        classes=CHEST_CLASSES,
        annotations=frozenset({"labels"}),
        facts=(f"split {split}",),
    )


def find_kvasir(path: Path) -> bool:
    """Whether a folder holds Kvasir's classes."""
    return _kvasir_root(path) is not None


def kvasir(path: Path, *, split: str | None = None, seed: int = 0) -> PhotoSet:
    """Read Kvasir, split in each class into 6 parts train, 1 val and 1 test.

    The paper's split is not published. An image's part depends on the seed and the names of the
    files of its class alone.

    Args:
        path: the folder of the eight classes, or the one above it.
        split: "train", "val", "test" (the default) or "all".
        seed: of the split.

    Raises:
        DataError: another layout.
        OptionError: an unknown split.
    """
    split = _checked_split(split)
    root = _kvasir_root(path)
    if root is None:
        lacking = [one for one in KVASIR_CLASSES if not (path / one).is_dir()]
        raise wrong_layout("kvasir", path, f"has no folder {', '.join(lacking)}")
    every = _samples(root, KVASIR_CLASSES)
    kept = every if split == ALL else _part(every, split, seed)
    version = _VERSIONS.get(len(every), "Kvasir, neither v1 nor v2 by its count")
    facts = (f"{len(every)} images: {version}", f"split {split}")
    return PhotoSet(
        name="kvasir",
        samples=tuple(kept),
        classes=KVASIR_CLASSES,
        annotations=frozenset({"labels"}),
        facts=facts if split == ALL else (*facts, f"split seed {seed}"),
    )


def _part(samples: Sequence[Sample], split: str, seed: int) -> list[Sample]:
    """Return one part of every class: 6/8, 1/8 and 1/8, what cannot be divided goes to the last."""
    kept: set[str] = set()
    for label in range(len(KVASIR_CLASSES)):
        names = sorted(
            (one.id for one in samples if one.label == label), key=lambda name: draw_key(seed, name)
        )
        first, second = len(names) * 6 // 8, len(names) * 7 // 8
        parts = {"train": names[:first], "val": names[first:second], "test": names[second:]}
        kept.update(parts[split])
    return [one for one in samples if one.id in kept]


def _samples(root: Path, classes: Sequence[str], prefix: str = "") -> list[Sample]:
    return [
        Sample(readable_id(f"{prefix}{name}/{file}"), root / f"{prefix}{name}" / file, index)
        for index, name in enumerate(classes)
        for file in images_below(root / f"{prefix}{name}")
    ]


def _chest_root(path: Path) -> Path | None:
    roots = (path / name for name in _CHEST_ROOTS)
    return next(
        (
            root
            for root in roots
            if any((root / part / CHEST_CLASSES[1]).is_dir() for part in _SPLITS)
        ),
        None,
    )


def _kvasir_root(path: Path) -> Path | None:
    roots = (path / name for name in _KVASIR_ROOTS)
    return next(
        (root for root in roots if all((root / one).is_dir() for one in KVASIR_CLASSES)), None
    )


def _checked_split(split: str | None) -> str:
    split = split or _SPLITS[-1]
    if split not in (*_SPLITS, ALL):
        raise OptionError(f"There is no split {split!r}; give {', '.join(_SPLITS)} or {ALL}.")
    return split

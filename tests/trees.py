"""Tiny data sets in their published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

FIRST, SECOND, LAST = "n01440764", "n01443537", "n15075141"
KVASIR = (
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "esophagitis",
    "normal-cecum",
    "normal-pylorus",
    "normal-z-line",
    "polyps",
    "ulcerative-colitis",
)


def image(path: Path, size: tuple[int, int] = (8, 6), colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def val(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def xml(path: Path, size: tuple[int, int], *objects: tuple[str, int, int, int, int]) -> Path:
    def one(name: str, *corners: int) -> str:
        pairs = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        inside = "".join(f"<{key}>{value}</{key}>" for key, value in pairs)
        return f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>"

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth>"
        f"</size>{''.join(one(*each) for each in objects)}</annotation>"
    )
    return path


def flat_imagenet(root: Path, count: int = 3) -> Path:
    for number in range(1, count + 1):
        image(root / "val" / f"{val(number)}.JPEG")
    return root


def foldered_imagenet(root: Path) -> Path:
    image(root / "val" / FIRST / f"{val(2)}.JPEG")
    image(root / "val" / LAST / f"{val(1)}.JPEG")
    image(root / "val" / LAST / f"{val(3)}.JPEG")
    return root


def mask(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new("P", labels.shape[::-1])
    # colours unlike the indices, so that whoever reads RGB is found out
    made.putpalette([(37 * value + 11) % 256 for value in range(768)])
    made.putdata(labels.flatten().tolist())
    made.save(path)
    return path


def voc(root: Path) -> Path:
    labels = np.zeros((6, 8))
    labels[1:4, 2:6], labels[4], labels[5, 0] = 15, 255, 20
    for name in ("2007_000033", "2007_000042"):
        image(root / "JPEGImages" / f"{name}.jpg")
        mask(root / "SegmentationClass" / f"{name}.png", labels)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000042\n2007_000033\n")
    (lists / "train.txt").write_text("2007_000033\n")
    return root


def chest(root: Path) -> Path:
    for split, count in (("train", 3), ("test", 2)):
        for name in ("NORMAL", "PNEUMONIA"):
            for number in range(count):
                image(root / split / name / f"{name}-{number}.jpeg")
    return root


def kvasir(root: Path, each: int) -> Path:
    for name in KVASIR:
        for number in range(each):
            path = root / name / f"{name}-{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root

"""Masks and boxes turn with the photograph that EXIF turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import trees
from torchsaliency.data import open_data
from torchsaliency.data.photos import Frame, turn_boxes, turn_pixels
from torchsaliency.errors import DataError
from trees import FIRST, val

ALL = range(1, 9)
TURNED = (5, 6, 7, 8)
SIZE = (60, 40)
BOX = (4, 8, 34, 20)  # in the stored pixels; left, right, top and bottom can be told apart


def turned(path: Path, orientation: int, size=SIZE, box=BOX) -> Path:
    """Save a photograph that is white in a box of its stored pixels."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, quality=100, subsampling=0)
    return path


def white(picture) -> list[float]:
    """Return the box of the white pixels of an opened picture."""
    rows, columns = np.nonzero(np.asarray(picture.image.convert("L")) > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("orientation", ALL)
def test_pixels_turn_as_pillow_turns_them(orientation):
    stored = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    upright = turn_pixels(stored, orientation)
    assert (upright == np.asarray(ImageOps.exif_transpose(image))).all()
    frame = Frame((upright.shape[1], upright.shape[0]), orientation)
    assert frame.stored == (4, 6)
    assert (turn_pixels(stored[..., 0], orientation) == upright[..., 0]).all()
    # a box is where its pixels are
    box = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.5, 0.0, 4.0, 0.5]])
    x0, y0, x1, y1 = turn_boxes(box, frame)[0].int().tolist()
    assert sorted(upright[y0:y1, x0:x1].flat) == sorted(stored[2:6, 1:3].flat)
    assert turn_boxes(box[:0], frame).shape == (0, 4)
    areas = [(end[2:] - end[:2]).prod() for end in (box[1], turn_boxes(box, frame)[1])]
    assert areas[0] == areas[1] == 1.75


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", ALL)
def test_listed_boxes_are_of_the_stored_pixels(orientation, suffix, tmp_path):
    turned(tmp_path / f"a.{suffix}", orientation)
    # Pillow itself turns a TIFF as it decodes it, for every program: there, stored is upright
    stored = BOX
    if suffix == "tiff":
        frame = Frame(SIZE[::-1] if orientation in TURNED else SIZE, orientation)
        stored = turn_boxes(torch.tensor([BOX], dtype=torch.float64), frame)[0].tolist()
    numbers = ",".join(map(str, stored))
    (tmp_path / "labels.csv").write_text(f"file,label,x0,y0,x1,y1\na.{suffix},1,{numbers}\n")
    picture = open_data(tmp_path).picture(0)
    assert picture.image.size == (SIZE[::-1] if orientation in TURNED else SIZE)
    assert picture.boxes.tolist() == [white(picture)]


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("form", ["stored", "upright", "unknown"])
@pytest.mark.parametrize("orientation", ALL)
def test_the_size_in_an_xml_tells_which_pixels_are_meant(orientation, form, scale, tmp_path):
    path = turned(tmp_path / "data" / "val" / FIRST / f"{val(2)}.JPEG", orientation)
    size, box = SIZE, torch.tensor([BOX], dtype=torch.float64)
    if form == "upright" and orientation in TURNED:  # others have the size of the stored pixels
        size = SIZE[::-1]
        box = turn_boxes(box, Frame(size, orientation))
    corners = [int(scale * end) for end in box[0].tolist()]
    if form == "unknown" and scale == 2:
        pytest.skip("the scale is not known, either")
    size = (0, 0) if form == "unknown" else (scale * size[0], scale * size[1])
    trees.xml(tmp_path / "boxes" / f"{path.stem}.xml", size, (FIRST, *corners))
    picture = open_data(tmp_path / "data", boxes=tmp_path / "boxes").picture(0)
    assert picture.boxes.tolist() == [white(picture)]


def test_a_size_that_fits_neither_way_is_refused(tmp_path):
    path = turned(tmp_path / "data" / "val" / FIRST / f"{val(2)}.JPEG", 6)
    trees.xml(tmp_path / "boxes" / f"{path.stem}.xml", (50, 50), (FIRST, *BOX))
    with pytest.raises(DataError, match="are of an image of 50x50 pixels, and the image has"):
        open_data(tmp_path / "data", boxes=tmp_path / "boxes").picture(0)


@pytest.mark.parametrize("side", ["stored", "upright"])
@pytest.mark.parametrize("size", [SIZE, (40, 40)], ids=["oblong", "square"])
@pytest.mark.parametrize("orientation", ALL)
def test_masks_turn_with_their_photograph(orientation, size, side, tmp_path):
    turned(tmp_path / "JPEGImages" / "a.jpg", orientation, size)
    labels = np.zeros(size[::-1], np.uint8)
    labels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 15
    if side == "upright" and orientation in TURNED and size == SIZE:
        labels = turn_pixels(labels, orientation)  # by its own size it can only be upright
    trees.mask(tmp_path / "SegmentationClass" / "a.png", labels)
    picture = open_data(f"voc:{tmp_path}", split="all").picture(0)
    x0, y0, x1, y1 = white(picture)
    expected = np.zeros(picture.image.size[::-1], bool)
    expected[y0:y1, x0:x1] = True
    assert ((picture.mask.numpy() == 15) == expected).all()


def test_a_mask_of_neither_size_is_refused(tmp_path):
    turned(tmp_path / "JPEGImages" / "a.jpg", 6)
    trees.mask(tmp_path / "SegmentationClass" / "a.png", np.zeros((41, 60)))
    with pytest.raises(DataError, match="has 60x41 pixels and its image 60x40"):
        open_data(f"voc:{tmp_path}", split="all").picture(0)

"""Boxes and masks follow the photograph into the network's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from torchsaliency.zoo import Fit, Preprocessing, imagenet

NEAREST = Image.Resampling.NEAREST
SIZES = [(64, 48), (48, 64), (50, 33), (20, 90), (7, 5)]
LAYOUTS = [
    pytest.param((size, resize, fit), id=f"{size}-{resize}-{fit}")
    for size, resize in [((32, 32), (40, 40)), ((30, 44), (30, 44)), ((32, 32), None)]
    for fit in Fit
    if fit is not Fit.ASPECT  # has no box: it is tried with pictures
]


def painted(size, box):
    """Return a photograph that is white inside a box."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


def decided(preprocessing, size):
    """Return which input pixels have their centre inside one pixel of the photograph.

    A centre between two pixels may go to either; PIL goes by the rounding of its running sum.
    """
    scaled, start = preprocessing._layout(size[::-1])
    lines = [
        torch.tensor([((place + begin) * 2 + 1) * have % (2 * to) != 0 for place in range(want)])
        for have, to, begin, want in zip(size[::-1], scaled, start, preprocessing.size, strict=True)
    ]
    return (lines[0][:, None] & lines[1]).numpy()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_where_the_photograph_is(layout, size):
    preprocessing = Preprocessing(*layout, interpolation=NEAREST)
    labels = np.random.default_rng(0).integers(0, 21, (size[1], size[0]), dtype=np.uint8)
    seen = np.asarray(preprocessing.crop(Image.fromarray(np.stack([labels] * 3, -1))))[..., 0]
    placed = preprocessing.mask(torch.from_numpy(labels))
    assert placed.dtype == torch.uint8
    assert placed.shape == layout[0]
    padding = (placed == 255).numpy()
    white = np.asarray(preprocessing.crop(Image.new("RGB", size, "white")))[..., 0]
    assert (padding == (white != 255)).all()
    sure = decided(preprocessing, size) & ~padding
    assert sure.sum() > 0.2 * (~padding).sum()
    assert (placed.numpy() == seen)[sure].all()


@pytest.mark.parametrize("interpolation", [NEAREST, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_a_box_is_where_the_photograph_is(layout, size, interpolation):
    preprocessing = Preprocessing(*layout, interpolation=interpolation, mean=(0.0,) * 3)
    box = [size[0] // 4, size[1] // 5, size[0] - size[0] // 3, size[1] - size[1] // 4]
    seen = np.asarray(preprocessing.crop(painted(size, box)))[..., 0] >= 128
    boxes = torch.tensor([box], dtype=torch.float32)
    placement = preprocessing.placement(size[::-1])
    (placed,) = placement.boxes_to_input(boxes, layout[0], clip=True).tolist()
    # a pixel is white if its centre is in the box, so that each end is within half a pixel
    rows, columns = np.nonzero(seen)
    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert placed == pytest.approx([float(end) for end in tight], abs=0.51)
    centres = [np.arange(length) + 0.5 for length in layout[0][::-1]]
    across, down = (
        (centre > first) & (centre < last)
        for centre, first, last in zip(centres, placed[:2], placed[2:], strict=True)
    )
    mask = preprocessing.mask(torch.from_numpy(np.asarray(painted(size, box))[..., 0] // 255))
    inside = (mask == 1).numpy()
    sure = decided(preprocessing, size)
    assert (inside == (down[:, None] & across))[sure].all()


def test_numbers_by_hand():
    # 640x480 scaled to 341x256, then 58 columns and 16 rows are cropped
    boxes = torch.tensor([[320.0, 240.0, 640.0, 480.0], [0.0, 0.0, 60.0, 480.0]])
    placement = imagenet().placement((480, 640))
    whole = placement.boxes_to_input(boxes, (224, 224))
    across, down = 341 / 640, 256 / 480
    expected = [320 * across - 58, 240 * down - 16, 640 * across - 58, 480 * down - 16]
    assert whole[0].tolist() == pytest.approx(expected)
    assert whole[0, 2] > 224
    assert whole[1].tolist() == pytest.approx([-58, -16, 60 * across - 58, 240], abs=1e-3)
    clipped = placement.boxes_to_input(boxes, (224, 224), clip=True)
    assert clipped[0].tolist() == pytest.approx([*expected[:2], 224, 224])
    area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    assert area[1] == 0
    assert placement.boxes_to_input(boxes, (224, 224), drop=True).tolist() == whole[:1].tolist()
    both = placement.boxes_to_input(boxes, (224, 224), clip=True, drop=True)
    assert both.tolist() == clipped[:1].tolist()
    assert placement.boxes_to_input(boxes[:0], (224, 224)).shape == (0, 4)


def test_padding_shifts_boxes_and_is_void():
    preprocessing = Preprocessing((40, 40), None)
    box = torch.tensor([[2.0, 3.0, 7.0, 9.0]])
    moved = preprocessing.placement((20, 30)).boxes_to_input(box, (40, 40))
    assert moved.tolist() == [[7.0, 13.0, 12.0, 19.0]]
    mask = preprocessing.mask(torch.ones(20, 30, dtype=torch.int64))
    assert mask.dtype == torch.int64
    assert (mask[10:30, 5:35] == 1).all()
    assert (mask == 255).sum() == 40 * 40 - 20 * 30


def test_whole_numbers_stay_whole():
    # boxes are cut to whole pixels later: 37 must not become 36.999 on the way
    preprocessing = Preprocessing((224, 224), (224, 224))
    ends = torch.arange(0, 333, 3, dtype=torch.float32)
    boxes = torch.stack([ends, ends, ends + 9, ends + 9], 1)
    moved = preprocessing.placement((336, 336)).boxes_to_input(boxes, (224, 224))
    assert moved[:, 0].tolist() == [float(end * 2 / 3) for end in range(0, 333, 3)]

"""A map goes back to the pixels it speaks of."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw

from torchsaliency.zoo import Fit, Placement, Preprocessing, imagenet


def test_the_crop_of_a_landscape():
    placement = imagenet().placement((480, 640))  # scaled to 256x341; 16 off the top, 58 off left
    assert placement.top == pytest.approx(16 * 480 / 256)
    assert placement.left == pytest.approx(58 * 640 / 341)
    assert placement.height == pytest.approx(224 * 480 / 256)
    assert placement.width == pytest.approx(224 * 640 / 341)


def test_ones_fill_the_crop_and_zeros_the_rest():
    placed = imagenet().placement((480, 640)).to_photo(torch.ones(7, 7))
    assert placed.shape == (480, 640)
    torch.testing.assert_close(placed[30:450, 110:528], torch.ones(420, 418))
    assert placed[:29].sum() == placed[:, :108].sum() == placed[451:].sum() == 0


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 50)])
def test_a_mark_returns_to_its_place(fit, size):
    width, height = size
    photo = Image.new("RGB", size)
    ImageDraw.Draw(photo).rectangle((width * 0.5, height * 0.4, width * 0.6, height * 0.5), "white")
    cropped = (None, 16) if fit is Fit.ASPECT else ((112, 112), None)
    preprocessing = Preprocessing(cropped[0], (128, 128), fit, stride=cropped[1])
    seen = preprocessing.denormalise(preprocessing(photo)).mean(0)
    padding = seen.new_tensor(preprocessing._padding()).mean() / 255
    seen = (seen - padding.round(decimals=2)).clamp(0) if fit is Fit.CONTAIN else seen
    placed = preprocessing.placement((height, width)).to_photo(seen)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mass = placed * (placed > 0.3 * placed.max())
    assert (rows * mass).sum() / mass.sum() == pytest.approx(height * 0.45, abs=1.5)
    assert (columns * mass).sum() / mass.sum() == pytest.approx(width * 0.55, abs=1.5)


def test_bilinear_as_torch_upsamples():
    small = torch.rand(2, 5, 7)
    placement = Placement((30, 42), 0.0, 0.0, 30.0, 42.0)
    expected = torch.nn.functional.interpolate(small[None], (30, 42), mode="bilinear")[0]
    torch.testing.assert_close(placement.to_photo(small), expected)


def test_a_coarser_photo_averages():
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    placed = Placement((4, 4), 0.0, 0.0, 4.0, 4.0).to_photo(checkers.float())
    torch.testing.assert_close(placed, torch.full((4, 4), 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2)])
def test_tiny_and_thin_photos(size):
    placed = imagenet().placement(size).to_photo(torch.ones(7, 7))
    assert placed.shape == size
    assert placed.max() == 1


def test_values_keep_their_range_and_type():
    saliency = torch.rand(7, 7).half()
    placed = imagenet().placement((333, 500)).to_photo(saliency)
    assert placed.dtype == torch.float16
    assert placed.min() >= 0
    assert placed.max() <= saliency.max()


def test_boxes_come_back_to_the_photograph():
    place = Placement(photo_size=(60, 80), top=-4.0, left=10.0, height=68.0, width=40.0)
    boxes = torch.tensor([[12.0, 3.0, 30.5, 44.0]])
    there = place.boxes_to_input(boxes, (34, 20))
    torch.testing.assert_close(place.boxes_to_photo(there, (34, 20)), boxes)

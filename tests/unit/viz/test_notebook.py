"""What a notebook shows: a valid PNG, and inputs made visible whatever their normalisation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from torchsaliency.errors import InputError
from torchsaliency.viz import png_bytes
from torchsaliency.viz.notebook import denormalise_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_bytes_are_a_png(count):
    titles = [f"class {index}" for index in range(count)]
    png = png_bytes(torch.randn(count, 3, 16, 24), torch.rand(count, 7, 7), titles)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert Image.open(io.BytesIO(png)).size[0] < 2000


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_and_no_titles(channels):
    assert png_bytes(torch.randn(2, channels, 9, 9), torch.zeros(2, 9, 9))


def test_normalisation_is_undone():
    pixels = torch.rand(3, 5, 6)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    shown = denormalise_images((pixels - mean) / std, MEAN, STD)
    expected = (pixels * 255).round().permute(1, 2, 0)
    assert (shown.float() - expected).abs().max() <= 1


def test_unit_range_and_bytes_are_taken_as_they_are():
    pixels = torch.rand(3, 5, 6) * 0.5
    expected = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert torch.equal(denormalise_images(pixels), expected)
    assert torch.equal(denormalise_images(expected.permute(2, 0, 1)), expected)


def test_unknown_normalisation_is_stretched_per_image():
    shown = denormalise_images(torch.linspace(-2, 3, 12).view(3, 2, 2))
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.unique(denormalise_images(torch.full((3, 4, 4), -7.0))).tolist() == [128]


def test_half_precision_and_grad():
    images = torch.randn(1, 3, 8, 8).to(torch.bfloat16).requires_grad_()
    assert png_bytes(images, torch.rand(1, 8, 8).to(torch.bfloat16))


def test_errors():
    images, maps = torch.randn(2, 3, 8, 8), torch.rand(2, 8, 8)
    with pytest.raises(InputError, match="unsqueeze"):
        png_bytes(images[0, 0], maps)
    with pytest.raises(InputError, match="2 images, 1 maps"):
        png_bytes(images, maps[:1])
    with pytest.raises(InputError, match="3 titles"):
        png_bytes(images, maps, ["a", "b", "c"])
    with pytest.raises(InputError, match="NaN"):
        png_bytes(images * float("nan"), maps)

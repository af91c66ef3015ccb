"""The overlay's formula, sizes, edge cases and errors."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from torchsaliency.data import to_rgb
from torchsaliency.errors import DataError, InputError, OptionError
from torchsaliency.viz import COLORMAP, colourise, draw_boxes, overlay


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def array(image):
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("blend", ["intensity", "constant"])
def test_blend_is_the_documented_formula(photo, alpha, blend):
    saliency = torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
    weight = alpha * saliency.sqrt().numpy()[..., None] if blend == "intensity" else alpha
    expected = array(photo) * (1 - weight) + colourise(saliency) * weight
    # One level from rounding the weight and the pixel; the root is steep near zero, so a map's
    # own rounding to 1/255 adds up to a few there.
    difference = np.abs(array(overlay(photo, saliency, alpha=alpha, blend=blend)) - expected)
    assert difference.mean() < 0.5
    assert difference.max() < (8 if blend == "intensity" else 1.01)


@pytest.mark.parametrize("blend", ["intensity", "constant"])
def test_signed_maps_are_drawn_over_pale_grey(photo, blend):
    values = 2 * torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) - 1
    drawn = array(overlay(photo, values, alpha=0.8, blend=blend, signed=True))
    weight = 0.8 * values.abs().sqrt().numpy()[..., None] if blend == "intensity" else 0.8
    pale = ((255 + array(photo.convert("L"))) // 2)[..., None]
    expected = pale * (1 - weight) + colourise(values, signed=True) * weight
    difference = np.abs(drawn - expected)
    assert difference.mean() < 0.6
    assert difference.max() < (8 if blend == "intensity" else 1.01)
    plain = array(overlay(photo, torch.zeros(3, 3), signed=True, alpha=1.0))
    np.testing.assert_array_equal(plain, np.broadcast_to(pale, plain.shape))


def test_colours_of_signed_values_are_symmetric():
    values = torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0]])
    colours = colourise(values, signed=True)[0].astype(int)
    assert colours[0].tolist() == [0, 0, 255]
    assert colours[4].tolist() == [255, 0, 0]
    assert np.abs(colours[1] - colours[3][::-1]).max() <= 2
    assert colours[2].min() >= 253
    np.testing.assert_array_equal(
        colourise(values, "viridis", signed=True), colourise((1 + values) / 2, "viridis")
    )
    assert (colourise(values.abs()) == colourise(values.abs(), COLORMAP)).all()


def test_known_colours():
    white = Image.new("RGB", (3, 1), "white")
    saliency = torch.tensor([[0.0, 0.25, 1.0]])
    # gray: c(s) = s; 64/255 is the nearest level to 0.25
    intensity = array(overlay(white, saliency, alpha=0.5, colormap="gray"))[0, :, 0]
    constant = array(overlay(white, saliency, alpha=0.5, colormap="gray", blend="constant"))[
        0, :, 0
    ]
    np.testing.assert_allclose(intensity, [255, 255 * 0.75 + 64 * 0.25, 255], atol=1)
    np.testing.assert_allclose(constant, [127.5, (255 + 64) / 2, 255], atol=1)


@pytest.mark.parametrize("blend", ["intensity", "constant"])
def test_alpha_zero_returns_the_photo_exactly(photo, blend):
    picture = overlay(photo, torch.rand(7, 7), alpha=0.0, blend=blend)
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(photo))


def test_zero_map_leaves_the_photo_and_a_full_map_covers_it(photo):
    untouched = overlay(photo, torch.zeros(7, 7), alpha=1.0)
    np.testing.assert_array_equal(np.asarray(untouched), np.asarray(photo))
    covered = overlay(photo, torch.ones(7, 7), alpha=1.0, colormap="gray")
    assert np.asarray(covered).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (640, 3), (224, 224), (33, 97)])
@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (50, 2), (300, 300)])
def test_size_is_the_photos(size, shape):
    picture = overlay(Image.new("RGB", size), torch.rand(shape))
    assert picture.size == size
    assert picture.mode == "RGB"


def test_map_is_resized_bilinearly_from_pixel_centres():
    white = Image.new("RGB", (4, 1), "white")
    picture = overlay(
        white, torch.tensor([[0.0, 1.0]]), alpha=1.0, colormap="gray", blend="constant"
    )
    np.testing.assert_allclose(array(picture)[0, :, 0] / 255, [0, 0.25, 0.75, 1], atol=0.005)


def test_a_peak_survives_shrinking():
    peak = torch.zeros(64, 64)
    peak[31, 31] = 1
    picture = overlay(Image.new("RGB", (8, 8)), peak, alpha=1.0, colormap="gray", blend="constant")
    assert np.asarray(picture).max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_and_gradients(photo, dtype):
    saliency = torch.linspace(0, 1, 49).view(7, 7)
    ours = overlay(photo, saliency.to(dtype).requires_grad_())
    np.testing.assert_allclose(array(ours), array(overlay(photo, saliency)), atol=6)


def test_photo_and_map_are_left_alone(photo):
    pixels, saliency = array(photo), torch.rand(7, 7)
    before = saliency.clone()
    overlay(photo, saliency)
    assert torch.equal(saliency, before)
    np.testing.assert_array_equal(array(photo), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(photo, mode):
    converted = photo.convert(mode)
    picture = overlay(converted, torch.rand(7, 7), alpha=0.0)
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(converted.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(mode):
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert(mode)
    assert np.asarray(overlay(clear, torch.zeros(2, 2))).min() == 255


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_deep_photos_are_scaled_not_clipped(mode):
    deep = Image.fromarray(np.array([[0, 30000], [60000, 65535]], np.uint16)).convert(mode)
    shown = overlay(deep, torch.rand(2, 2), alpha=0.0)
    assert np.array_equal(np.asarray(shown), np.asarray(to_rgb(deep)))
    assert len(shown.getcolors()) == 4


def test_empty_photo_is_refused():
    with pytest.raises(DataError, match="no pixels"):
        overlay(Image.new("RGB", (0, 4)), torch.rand(2, 2))


@pytest.mark.parametrize(
    ("saliency", "sentence"),
    [
        (torch.rand(1, 7, 7), r"shape \(1, 7, 7\)"),
        (torch.rand(0, 7), r"shape \(0, 7\)"),
        (torch.tensor([[float("nan"), 0.0]]), "NaN"),
        (torch.tensor([[float("inf"), 0.0]]), "infinity"),
        (torch.tensor([[0.0, 1.5]]), "from 0 to 1.5"),
        (torch.tensor([[-0.2, 1.0]]), "from -0.2 to 1"),
    ],
)
def test_bad_maps(photo, saliency, sentence):
    with pytest.raises(InputError, match=sentence):
        overlay(photo, saliency)
    with pytest.raises(InputError, match=sentence):
        colourise(saliency)


@pytest.mark.parametrize(
    ("saliency", "sentence"),
    [
        (torch.tensor([[float("nan"), 0.0]]), r"NaN.*\[-1, 1\]; scale it by normalise_signed"),
        (torch.tensor([[-1.5, 1.0]]), r"from -1.5 to 1.*\[-1, 1\]; scale it by normalise_signed"),
    ],
)
def test_bad_signed_maps(photo, saliency, sentence):
    with pytest.raises(InputError, match=sentence):
        overlay(photo, saliency, signed=True)


def test_rounding_just_outside_the_range_is_forgiven():
    assert colourise(torch.tensor([[-1e-6, 1 + 1e-6]]), "gray")[0, :, 0].tolist() == [0, 255]


def test_bad_options(photo):
    saliency = torch.rand(7, 7)
    with pytest.raises(OptionError, match=r"'virids'.*viridis"):
        overlay(photo, saliency, colormap="virids")
    with pytest.raises(OptionError, match=r"'constnat'.*constant"):
        overlay(photo, saliency, blend="constnat")
    with pytest.raises(OptionError, match=r"alpha is 1.5"):
        overlay(photo, saliency, alpha=1.5)
    with pytest.raises(OptionError, match="alpha is nan"):
        overlay(photo, saliency, alpha=float("nan"))


def test_colourise_has_256_entries_and_belongs_to_the_caller():
    ramp = torch.linspace(0, 1, 256)[None]
    colours = colourise(ramp)
    assert colours.shape == (1, 256, 3)
    assert len(np.unique(colours[0], axis=0)) == 256
    before = colours.copy()
    colours[:] = 0
    np.testing.assert_array_equal(colourise(ramp), before)


def test_importing_does_not_import_matplotlib():
    code = "import sys, torchsaliency.viz; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_boxes_are_drawn_white_on_black_and_cut_at_the_edges(photo):
    before = np.array(photo)
    boxes = torch.tensor([[-5.0, 4.0, 12.0, 1000.0]])
    drawn = np.array(draw_boxes(photo, boxes))
    assert np.array_equal(np.array(photo), before)
    height = drawn.shape[0]
    assert (drawn[4, :13] == 0).all()
    assert (drawn[4:height, 12] == 0).all()
    assert (drawn[6:-2, 11] == 255).all()
    assert (drawn[5, 1:12] == 255).all()
    assert np.array_equal(drawn[:4], before[:4].copy())
    assert np.array_equal(drawn[:, 13:], before[:, 13:])
    labelled = np.array(draw_boxes(photo, boxes, ["cat"]))
    assert (labelled != drawn).any()

"""The default colours, the scale beside a picture, and one range of values for several maps."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

import torchsaliency
from torchsaliency.errors import InputError
from torchsaliency.viz import (
    COLORMAP,
    DIVERGING,
    add_scale,
    apply_limits,
    colourise,
    find_limits,
    write_limits,
)

# Machado, Oliveira and Fernandes (2009), severity 1, of linear red, green and blue
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def seen(colormap, vision):
    """Return the 256 colours in CIELAB, as eyes of that kind see them."""
    colours = colourise(torch.linspace(0, 1, 256)[None], colormap)[0] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    curved = 1.055 * linear ** (1 / 2.4) - 0.055
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, curved))


@pytest.mark.parametrize("vision", VISION)
def test_the_default_colours_rise_evenly_for_all_eyes(vision):
    lab = seen(COLORMAP, vision)
    lightness = lab[::8, 0]
    assert (np.diff(lightness) > 0).all()
    quarters = deltaE_ciede2000(lab[:-64:64], lab[64::64])
    assert quarters.min() > 8, "quarters of the range look different"
    # a rainbow does not rise
    assert not (np.diff(seen("turbo", vision)[::8, 0]) > 0).all()


@pytest.mark.parametrize("vision", VISION)
def test_for_and_against_are_apart_for_all_eyes(vision):
    lab = seen(DIVERGING, vision)
    assert deltaE_ciede2000(lab[0], lab[-1]) > 30
    assert 120 <= lab[:, 0].argmax() <= 136, "zero is the lightest"


def test_a_scale_leaves_the_picture_and_shows_every_colour():
    photo = Image.effect_noise((61, 80), 90)
    drawn = add_scale(photo)
    assert (drawn.crop((0, 0, 61, 80)).convert("L").tobytes(), drawn.height) == (
        photo.tobytes(),
        80,
    )
    column = np.asarray(drawn)[:, 61 + 12]
    np.testing.assert_array_equal(column[[0, -1]], colourise(torch.tensor([[1.0, 0.0]]))[0])
    signed = np.asarray(add_scale(photo, ("-1", "0", "1"), signed=True))[:, 61 + 12]
    assert signed[0].tolist() == [255, 0, 0]
    assert signed[-1].tolist() == [0, 0, 255]


def test_a_small_picture_gets_room_for_the_words():
    drawn = add_scale(Image.new("RGB", (8, 4)), ("0", "1"))
    assert drawn.height > 4
    assert np.asarray(drawn)[4:, :8].min() == 255, "paper below the picture"


def test_limits():
    maps = [torch.tensor([[0.5, 2.0]]), torch.tensor([-1.0, 0.25])]
    assert find_limits(maps) == (-1.0, 2.0)
    assert find_limits(maps, signed=True) == (-2.0, 2.0)
    assert apply_limits(maps[0], (-1.0, 2.0)).tolist() == [[0.5, 1.0]]
    assert apply_limits(maps[1], (-2.0, 2.0), signed=True).tolist() == [-0.5, 0.125]
    assert apply_limits(maps[1], (0.0, 0.125)).tolist() == [0.0, 1.0]
    assert apply_limits(maps[0], (1.0, 1.0)).tolist() == [[0.0, 0.0]]
    assert write_limits((-0.01234, 20.0)) == ("−0.0123", "20")
    assert write_limits((-2.0, 2.0), signed=True) == ("−2", "0", "2")


@pytest.mark.parametrize(
    "maps", [[], [torch.tensor([1.0, torch.nan])], [torch.tensor([torch.inf])]]
)
def test_limits_need_numbers(maps):
    with pytest.raises(InputError, match="shared scale"):
        find_limits(maps)


@pytest.mark.parametrize("signed", [False, True])
def test_with_shared_limits_a_colour_is_a_value(signed):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 2),
    )  # fmt: skip
    net.preprocessing = preparation = torchsaliency.Preprocessing(
        size=(16, 16), resize=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    photo = Image.new("RGB", (16, 16), "grey")
    x = preparation(photo)[None]
    first = torchsaliency.explain(net.eval(), x, "hirescam", 0)["hirescam"]
    values = torch.linspace(-1, 1, 196).view(1, 14, 14)

    one, half = (
        dataclasses.replace(first, raw=part * values, signed=part * torch.ones(1, 16, 16))
        for part in (1.0, 0.5)
    )
    draw = {"fit": "own", "signed": signed, "colormap": None if signed else "gray", "alpha": 1.0}
    limits = find_limits(
        [part.signed if signed else part.raw for part in (one, half)], signed=signed
    )
    shared = [
        np.asarray(torchsaliency.overlay(photo, part, net, limits=limits, **draw)).astype(int)
        for part in (one, half)
    ]
    assert np.abs(shared[0] - shared[1]).max() > 50, "half the values have other colours"
    own = [np.asarray(torchsaliency.overlay(photo, part, net, **draw)) for part in (one, half)]
    np.testing.assert_array_equal(own[0], own[1])
    barred = torchsaliency.overlay(photo, one, net, limits=limits, colour_bar=True, **draw)
    assert barred.width > 16
    np.testing.assert_array_equal(np.asarray(barred)[:16, :16], shared[0])

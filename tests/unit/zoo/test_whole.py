"""The fit "whole": the network sees all of a photograph, and the map reaches its edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import torchsaliency
from nets import ChannelsLastNet, Fails, Joins, convnet, settle, tiny_vit, two_layer_head
from torchsaliency import InputError, OptionError, Preprocessing, explain
from torchsaliency.core.aspect import find_stride_of_any_aspect
from torchsaliency.options import ExplainOptions, PlanOptions, validate_options
from torchsaliency.zoo import Fit, Network, imagenet, load_model

PHOTO_SIZES = [(300, 451), (427, 640), (512, 512), (640, 200), (64, 600)]


@pytest.mark.parametrize(
    ("photo_size", "expected"),
    [
        ((300, 451), (224, 352)),
        ((427, 640), (224, 320)),
        ((512, 512), (224, 224)),
        ((640, 200), (704, 224)),
        ((2240, 224), (896, 96)),  # four times 224, and a tenth of that, rounded to 32
        ((1, 100_000), (32, 896)),
    ],
)
def test_inputs_are_multiples_of_the_stride(photo_size, expected):
    whole = imagenet().whole(32)
    assert whole.input_size(photo_size) == expected
    where = whole.placement(photo_size)
    assert (where.top, where.left, where.height, where.width) == (0, 0, *photo_size)


@pytest.mark.parametrize("size", [(20000, 2), (2, 20000), (100000, 1)])
def test_extreme_photos_neither_fail_nor_fill_the_memory(size):
    x = imagenet().whole(32)(Image.new("RGB", size, (255, 0, 0)))
    assert sorted(x.shape) == [3, 32, 896]
    assert x.isfinite().all()


@pytest.mark.parametrize("photo_size", PHOTO_SIZES)
def test_nothing_is_cropped(photo_size):
    pixels = np.random.default_rng(0).integers(0, 256, (*photo_size, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    whole = imagenet().whole(32)
    seen = whole.crop(photo)
    size = whole.input_size(photo_size)
    assert np.array_equal(seen, photo.resize(size[::-1], Image.Resampling.BILINEAR))
    assert whole(photo).shape == (3, *size)


def test_without_a_stride_photos_are_letterboxed_in_the_mean_colour():
    whole = imagenet().whole()
    assert whole == replace(imagenet(), resize=(224, 224), fit=Fit.CONTAIN)
    x = whole(Image.new("RGB", (400, 200), "red"))
    assert x[:, :56].abs().max() < 0.01
    assert x[:, 168:].abs().max() < 0.01
    assert x[0, 56:168].min() > 1


def test_facts_are_written_and_read():
    whole = imagenet().whole(16)
    assert whole.to_dict()["stride"] == 16
    assert Preprocessing.from_dict(whole.to_dict()) == whole
    assert "stride" not in imagenet().to_dict()
    assert Preprocessing.from_dict(imagenet().to_dict()) == imagenet()


def test_the_baseline_of_hidden_pixels_is_the_networks():
    plain = imagenet().skip_normalisation()
    assert plain.whole(32).baseline("mean") == plain.baseline("mean")


def test_other_frames():
    own = imagenet()
    assert own.frame(None) == own.frame("own") == own
    assert own.frame("whole") == own.whole()
    assert own.frame("whole", 32) == own.whole(32)
    squashed = own.squash()
    assert squashed.frame("own") == squashed
    assert squashed.frame("crop").fit is Fit.COVER
    uncropped = own.whole(32)
    assert uncropped.frame("crop") == uncropped.frame("whole") == uncropped
    with pytest.raises(OptionError, match=r"'whoel'.*whole"):
        own.frame("whoel")


@pytest.mark.parametrize(
    "facts",
    [
        {"fit": Fit.ASPECT},
        {"stride": 32},
        {"fit": Fit.ASPECT, "stride": 0, "size": None},
        {"fit": Fit.ASPECT, "stride": 32},
        {"fit": Fit.ASPECT, "stride": 32, "size": None, "resize": None},
    ],
)
def test_facts_that_do_not_fit_each_other(facts):
    with pytest.raises(OptionError, match=r"was given fit .*; (give a stride|with this fit)"):
        replace(imagenet(), **facts)


def test_plans_have_no_whole_photographs():
    assert ExplainOptions().fit == "whole"
    assert PlanOptions().fit is None
    with pytest.raises(OptionError, match="fit"):
        validate_options(PlanOptions, {"fit": "whole"})


# --- which networks take any aspect ---------------------------------------------------------------


class AddsPositions(nn.Module):
    """Convolution, then an embedding of each position of one size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(1, 6, 4, 4))
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc((self.conv(x) + self.positions).relu().mean((2, 3)))


def segmenter():
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 5, 1))


@pytest.mark.parametrize(
    ("net", "side", "stride"),
    [
        (convnet(), 16, 2),
        (ChannelsLastNet(), 32, 4),
        (segmenter(), 32, 4),
        (Joins(), 16, 2),
        (two_layer_head(), 16, None),
        (settle(AddsPositions()), 16, None),
        (tiny_vit(), 32, None),
        (Fails(), 16, None),
    ],
)
def test_strides_of_networks_that_take_any_aspect(net, side, stride):
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert find_stride_of_any_aspect(net.eval(), image) == stride


def test_strides_of_built_in_networks():
    assert load_model("builtin/shapes_cnn").frame("whole").stride == 8
    assert load_model("builtin/shapes_vit").frame("whole").fit is Fit.CONTAIN


@pytest.mark.parametrize(("side", "padding", "expected"), [(60, 3, 8), (75, 0, 8), (72, 3, 8)])
def test_sides_that_strides_do_not_divide(side, padding, expected):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=8, padding=padding),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert find_stride_of_any_aspect(settle(net), image) == expected


# --- from the photograph to the picture -----------------------------------------------------------


class Sees(nn.Module):
    """Its features are the brightness of cells of eight pixels, its score their mean."""

    def __init__(self, *, any_aspect):
        super().__init__()
        self.cells = nn.AvgPool2d(8)
        self.any_aspect = any_aspect

    def forward(self, x):
        if not self.any_aspect and x.shape[2:] != (64, 64):
            raise ValueError("64 x 64 only")
        weights = torch.tensor([1.0, 0.5, 0.25], device=x.device)
        return (self.cells(x).relu() * weights[:, None, None]).mean((2, 3))


def make_seeing_net(*, any_aspect):
    preparation = Preprocessing(
        size=(64, 64), resize=(72, 72), mean=(0.1, 0.1, 0.1), std=(0.5, 0.5, 0.5)
    )
    return Network(Sees(any_aspect=any_aspect), name="sees", preprocessing=preparation)


@pytest.mark.parametrize("any_aspect", [True, False])
@pytest.mark.parametrize("size", [(400, 160), (160, 400), (256, 256)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_bright_spot_is_marked_where_it_is(any_aspect, size, corner):
    width, height = size
    spot = 40
    top, left = corner[0] * (height - spot), corner[1] * (width - spot)
    pixels = np.full((height, width, 3), 26, np.uint8)
    pixels[top : top + spot, left : left + spot] = 255
    photo, net = Image.fromarray(pixels), make_seeing_net(any_aspect=any_aspect)
    x = torchsaliency.preprocess(photo, net, fit="whole")
    assert (x.shape[2:] == (64, 64)) == (not any_aspect or width == height)
    found = explain(net, x, "gradcam", 0, "cells")["gradcam"]
    assert found.map.shape[1:] == x.shape[2:]
    plain = Image.new("RGB", size)
    drawn = np.asarray(
        torchsaliency.overlay(plain, found, net, fit="whole", alpha=1.0, colormap="gray")
    ).astype(float)[..., 0]
    assert drawn.shape == (height, width)
    assert drawn.max() == 255, "the map has its whole range on the photograph"
    centre = [(np.arange(n) + 0.5) @ drawn.sum(1 - axis) / drawn.sum() for axis, n in
              enumerate((height, width))]  # fmt: skip
    cell = max(size) / 8 if not any_aspect else min(size) / 8
    expected = top + spot / 2, left + spot / 2
    assert np.abs(np.subtract(centre, expected)).max() < 0.6 * cell
    assert drawn[height - 1 if corner[0] else 0, width - 1 if corner[1] else 0] > 200


def test_a_crop_ends_before_the_edges_and_the_whole_does_not():
    net, photo = make_seeing_net(any_aspect=True), Image.new("RGB", (200, 100), "white")
    ones = []
    for fit in ("own", "whole"):
        x = torchsaliency.preprocess(photo, net, fit=fit)
        found = explain(net, x, "fakecam", 0, "cells")["fakecam"]
        drawn = torchsaliency.overlay(photo, found, net, fit=fit, alpha=1.0)
        changed = (np.asarray(drawn) != 255).any(-1)
        ones.append(changed.mean())
    assert ones[0] < 0.5
    assert ones[1] > 0.999


def test_signed_values_are_scaled_on_the_photograph_alone():
    net, photo = make_seeing_net(any_aspect=False), Image.new("RGB", (200, 100), "white")
    x = torchsaliency.preprocess(photo, net, fit="whole")
    found = explain(net, x, "input-x-gradient", 0)["input-x-gradient"]
    drawn = torchsaliency.overlay(photo, found, net, fit="whole", signed=True, alpha=1.0)
    red = np.asarray(drawn)[50].astype(int)
    assert (red == [255, 0, 0]).all()


def test_photographs_of_different_aspects_are_given_one_by_one():
    net = make_seeing_net(any_aspect=True)
    photos = [Image.new("RGB", size) for size in ((100, 100), (200, 100))]
    with pytest.raises(
        InputError, match=r"inputs of \(3, 64, 64\), \(3, 64, 128\), which make no batch"
    ):
        torchsaliency.preprocess(photos, net, fit="whole")
    assert torchsaliency.preprocess(photos, net, fit="squash").shape == (2, 3, 64, 64)
    assert torchsaliency.preprocess(photos, net).shape == (2, 3, 64, 64)


def test_an_overlay_of_another_fit_is_refused():
    net, photo = make_seeing_net(any_aspect=True), Image.new("RGB", (200, 100))
    x = torchsaliency.preprocess(photo, net, fit="whole")
    found = explain(net, x, "gradcam", 0, "cells")["gradcam"]
    with pytest.raises(InputError, match=r"64x128 pixels.*has 64x64; give the photograph"):
        torchsaliency.overlay(photo, found, net)


def test_the_trial_does_not_depend_on_torchs_default_device():
    net = make_seeing_net(any_aspect=True)
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        assert net.frame("whole").stride == 8
    finally:
        torch.set_default_device(before)

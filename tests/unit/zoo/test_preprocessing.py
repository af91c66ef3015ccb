"""The preprocessing is the weights' own, number for number."""

# ruff: noqa: PLC0415 (model libraries load only in the tests that need them)

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from torchsaliency.errors import CheckpointError, DataError, OptionError
from torchsaliency.zoo import Fit, Preprocessing, from_hf, from_timm, from_torchvision, imagenet


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


SIZES = [(640, 480), (301, 453), (224, 224), (97, 50), (1, 1), (700, 60)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "entry",
    [
        "ResNet50_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
        "ConvNeXt_Tiny_Weights.DEFAULT",
        "Inception_V3_Weights.DEFAULT",
    ],
)
def test_equals_torchvision(entry, size):
    import torchvision.models

    enum, name = entry.split(".")
    weights = getattr(getattr(torchvision.models, enum), name)
    expected = weights.transforms()(photo(*size))
    assert torch.equal(from_torchvision(weights)(photo(*size)), expected)
    assert from_torchvision(weights.transforms()) == from_torchvision(weights)


@pytest.mark.parametrize("size", SIZES[:5])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_mode": "squash", "crop_pct": 0.9},
        {"crop_mode": "border", "crop_pct": 1.0},
        {"crop_mode": "border", "crop_pct": 0.9},
        {"input_size": (3, 160, 224), "interpolation": "bilinear"},
    ],
    ids=str,
)
def test_equals_timm(changes, size):
    from timm.data import create_transform, resolve_data_config

    config = {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "crop_pct": 0.875,
        "crop_mode": "center",
    } | changes
    expected = create_transform(**resolve_data_config(pretrained_cfg=config))(photo(*size))
    torch.testing.assert_close(from_timm(config)(photo(*size)), expected, rtol=0, atol=1e-6)


def test_a_timm_model_is_read_as_its_config():
    import timm

    model = timm.create_model("resnet18", pretrained=False)
    assert from_timm(model) == from_timm(model.pretrained_cfg)


def test_timm_networks_of_other_channels():
    import timm

    grey = from_timm(timm.create_model("resnet18", in_chans=1))
    assert grey.mean == pytest.approx((sum((0.485, 0.456, 0.406)) / 3,))
    assert grey(photo(9, 7)).shape == (1, 224, 224)
    thirteen = from_timm(timm.create_model("resnet18", in_chans=13))
    assert (thirteen.mean, thirteen.std) == ((0.0,) * 13, (1.0,) * 13)


HF_BASE = {"resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViTImageProcessor", {"size": {"height": 224, "width": 224}, "resample": 2}),
        ("DeiTImageProcessor", HF_BASE),
        ("ConvNextImageProcessor", HF_BASE | {"size": {"shortest_edge": 224}}),
        ("ConvNextImageProcessor", HF_BASE | {"size": {"shortest_edge": 384}}),
        ("BitImageProcessor", HF_BASE | {"size": {"shortest_edge": 256}, "crop_size": 224}),
        (
            "EfficientNetImageProcessor",
            {"rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False},
        ),
        ("EfficientNetImageProcessor", {"image_mean": 0.4, "image_std": [0.5], "size": 96}),
        ("LevitImageProcessor", {}),
        ("MobileViTImageProcessor", {}),
        ("PoolFormerImageProcessor", {"size": {"shortest_edge": 96}, "crop_size": 96}),
        ("PPLCNetImageProcessor", {}),
        ("SiglipImageProcessor", {"size": {"height": 96, "width": 96}, "image_std": 0.3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_follows_hugging_face(kind, options):
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, kind)(**options)
    # a smooth photograph: their resampling is torch's, which rounds a few pixels differently
    smooth = photo(8, 6).resize((640, 480), Image.Resampling.BICUBIC)
    expected = processor(smooth, return_tensors="pt")["pixel_values"][0]
    preprocessing = from_hf(processor)
    tolerance = 2.01 / 255 / min(preprocessing.std)
    torch.testing.assert_close(preprocessing(smooth), expected, rtol=0, atol=tolerance)
    assert from_hf(processor.to_dict()) == preprocessing


def test_the_channels_of_an_input():
    colours = photo(9, 7)
    grey = Preprocessing((7, 9), None, mean=(0.5,), std=(0.25,))
    levels = torch.from_numpy(np.array(colours.convert("L"))) / 255
    torch.testing.assert_close(grey(colours)[0], (levels - 0.5) / 0.25)
    assert grey.denormalise(grey(colours)).shape == (3, 7, 9)
    rgb = Preprocessing((7, 9), None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    bgr = Preprocessing((7, 9), None, mean=(0.3, 0.2, 0.1), std=(0.7, 0.6, 0.5), order="bgr")
    assert torch.equal(rgb(colours).flip(0), bgr(colours))
    assert torch.equal(rgb.denormalise(rgb(colours)), bgr.denormalise(bgr(colours)))
    assert all(Preprocessing.from_dict(p.to_dict()) == p for p in (grey, rgb, bgr))
    thirteen = Preprocessing((7, 9), None, mean=(2.0,) * 13, std=(3.0,) * 13)
    values = np.random.default_rng(0).uniform(0, 9, (7, 9, 13)).astype(np.float32)
    expected = (torch.from_numpy(values).permute(2, 0, 1) - 2) / 3
    torch.testing.assert_close(thirteen(values), expected)
    assert thirteen.picture(values).size == (9, 7)
    with pytest.raises(DataError, match="reads 13 channels"):
        thirteen(colours)
    with pytest.raises(OptionError, match="one number of each"):
        Preprocessing((7, 9), None, mean=(0.5,))
    with pytest.raises(OptionError, match="order bgr for 1 channels"):
        Preprocessing((7, 9), None, mean=(0.5,), std=(0.5,), order="bgr")


def test_a_hugging_face_processor_without_a_size_is_refused():
    with pytest.raises(CheckpointError, match="neither resizes nor crops"):
        from_hf({"size": {"shortest_edge": 224}, "do_resize": False, "do_center_crop": False})
    with pytest.raises(CheckpointError, match="shortest_edge"):
        from_hf({"size": {"longest_edge": 224}})


def test_a_hugging_face_processor_that_crops_nothing_gives_the_square_in_the_middle():
    found = from_hf({"size": {"shortest_edge": 224}, "do_center_crop": False})
    assert (found.size, found.resize, found.fit) == ((224, 224), (224, 224), Fit.COVER)
    assert found.frame("whole", 32).input_size((480, 640)) == (224, 288)


def test_something_else_is_no_torchvision_preset():
    with pytest.raises(CheckpointError, match="int is no torchvision"):
        from_torchvision(3)


@pytest.mark.parametrize("size", [(20000, 2), (2, 20000), (100000, 1)])
@pytest.mark.parametrize("fit", [fit for fit in Fit if fit is not Fit.ASPECT])
def test_extreme_photos_neither_fail_nor_fill_the_memory(size, fit):
    x = Preprocessing((224, 224), (256, 256), fit)(Image.new("RGB", size, (255, 0, 0)))
    assert x.shape == (3, 224, 224)
    assert x.isfinite().all()


def test_the_window_of_an_extreme_photo_is_what_a_full_resize_gives():
    wide, preprocessing = photo(2000, 40), imagenet(32)
    full = wide.resize((37 * 50, 37), Image.Resampling.BILINEAR)
    left = round((full.width - 32) / 2)
    expected = np.asarray(full.crop((left, 2, left + 32, 34)), dtype=int)
    assert np.abs(np.asarray(preprocessing.crop(wide), dtype=int) - expected).max() <= 1


def test_grey_photos_become_rgb_and_none_keeps_the_size():
    x = Preprocessing((10, 12), None)(Image.new("L", (12, 10), 255))
    assert x.shape == (3, 10, 12)
    torch.testing.assert_close(imagenet().denormalise(x), torch.ones(3, 10, 12))


def test_denormalise_inverts_normalising():
    preprocessing = Preprocessing((48, 64), None)
    pixels = torch.from_numpy(np.array(photo(64, 48))).permute(2, 0, 1) / 255
    torch.testing.assert_close(preprocessing.denormalise(preprocessing(photo(64, 48))), pixels)


def test_squashed_shows_the_whole_photo():
    placement = imagenet().squash().placement((480, 640))
    assert (placement.top, placement.left) == (0, 0)
    assert (placement.height, placement.width) == (480, 640)


def test_the_description_is_json():
    text = json.dumps(imagenet().to_dict())
    assert json.loads(text)["resize"] == [256, 256]


@pytest.mark.parametrize(
    "wrong", [{"size": (0, 4)}, {"resize": (4, 0)}, {"std": (1.0, 0.0, 1.0)}], ids=str
)
def test_impossible_descriptions_are_refused(wrong):
    with pytest.raises(OptionError, match="must be at least one pixel"):
        Preprocessing(**({"size": (4, 4), "resize": None} | wrong))


def test_nothing_is_cropped_where_the_input_has_no_size_of_its_own():
    whole = Preprocessing(size=None, resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    photo = Image.fromarray(np.arange(3 * 20 * 30, dtype=np.uint8).reshape(20, 30, 3))
    assert torch.equal(whole(photo), torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255)
    scaled = replace(whole, resize=(10, 10))
    assert scaled(photo).shape == (3, 10, 15)
    assert scaled.input_size((20, 30)) == (10, 15)
    assert scaled.placement((20, 30)).height == 20
    assert scaled.mask(torch.ones(20, 30, dtype=torch.int64)).shape == (10, 15)
    assert scaled.frame("fill") == scaled.squash() == scaled
    assert Preprocessing.from_dict(scaled.to_dict()) == scaled
    mean = whole.baseline("mean").baseline(torch.zeros(1, 3, 4, 4))
    assert mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_detectors_and_segmenters_of_torchvision_crop_nothing():
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
    from torchvision.models.segmentation import FCN_ResNet50_Weights

    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    for entry in (FasterRCNN_ResNet50_FPN_Weights.DEFAULT, FCN_ResNet50_Weights.DEFAULT):
        ours, theirs = from_torchvision(entry)(photo), entry.transforms()(photo)
        torch.testing.assert_close(ours, theirs)

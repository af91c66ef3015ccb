"""Scans and videos as stacks of slices, each map's slice over the picture of the same place."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import torchsaliency
from scans import moving_square, phantom, write_animation, write_nifti
from torchsaliency.data import open_clip, open_scan
from torchsaliency.pages import view_volume
from torchsaliency.pages.slices import SLICES, Volume, look_at_pixels
from torchsaliency.zoo import ClipPreprocessing, Preprocessing, ScanPreprocessing


@pytest.fixture(scope="module")
def found():
    net = torchsaliency.load_model("builtin/shapes_cnn")
    made = torchsaliency.explain(net, torch.rand(1, 3, 64, 64), "gradcam")["gradcam"]
    return lambda one: {"gradcam": dataclasses.replace(made, map=one[None], layers=("a", "b"))}


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_a_map_lies_over_the_same_place_of_a_scan(found, tmp_path, axes):
    voxels = phantom()
    write_nifti(tmp_path / "scan.nii.gz", voxels)
    scan = open_scan(tmp_path / "scan.nii.gz")
    pixels = scan.picture()[0]
    given = pixels.permute(2, 1, 0) if axes == "xyz" else pixels
    views = view_volume(scan, found(given), ScanPreprocessing(axes=axes), title="scan")
    assert [len(view.stack.pictures) for view in views] == list(voxels.shape)
    ratios = [view.photo.width / view.photo.height for view in views]
    assert ratios == pytest.approx([16 / 10, 16 / 9, 10 / 9], rel=0.1)  # in millimetres
    for view in views:  # the map is the scan itself, so their slices are alike
        for picture, values in zip(view.stack.pictures, view.maps[0].values, strict=True):
            small = picture.convert("L").resize(tuple(values.shape)[::-1], Image.Resampling.BOX)
            assert np.abs(np.asarray(small) / 255 - values.numpy()).max() < 0.12


def test_the_head_is_above(found, tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", phantom())
    scan = open_scan(tmp_path / "scan.nii.gz")
    _, rows, _ = view_volume(scan, found(scan.picture()[0]), ScanPreprocessing(), title="scan")
    values = rows.maps[0].values[0]
    assert values[0].mean() > values[-1].mean()  # the phantom grows to the head


def test_a_map_lies_over_the_frames_that_the_network_saw(found, tmp_path):
    write_animation(tmp_path / "clip.gif", moving_square())
    clip = open_clip(tmp_path / "clip.gif")
    preprocessing = ClipPreprocessing(4, Preprocessing((48, 48), (48, 48)))
    grey = preprocessing(clip).mean(0)
    (view,) = view_volume(
        clip, found((grey - grey.min()) / (grey.max() - grey.min())), preprocessing
    )
    assert view.stack.name == "frame"
    assert len(view.stack.pictures) == 4
    for frame, values in zip(preprocessing.choose_frames(clip), view.maps[0].values, strict=True):
        bright = np.asarray(frame.convert("L")) > 100
        assert values[torch.from_numpy(bright)].mean() > values[torch.from_numpy(~bright)].mean()


def test_of_many_slices_some_are_shown_and_the_maximum_is_one():
    pixels = torch.zeros(100, 4, 4, 3, dtype=torch.uint8)
    pixels[:, 0, 0] = torch.arange(100)[:, None]
    values = torch.zeros(100, 4, 4)
    values[37, 1, 1] = 1
    (stack, (cut,)), *_ = look_at_pixels(pixels).stacks([values])
    assert len(stack.pictures) == len(cut) == SLICES
    assert stack.places[stack.first] == 37
    assert list(stack.places) == sorted(set(stack.places))
    assert {0, 99} <= {*stack.places}
    assert cut[stack.first].max() == 1
    assert [picture.getpixel((0, 0))[0] for picture in stack.pictures] == list(stack.places)


@pytest.mark.parametrize("count", [3, 7, 12])
def test_a_coarse_map_is_read_between_its_slices(count):
    ramp = (torch.arange(count) + 0.5) / count
    volume = Volume((12, 2, 2), lambda *_: Image.new("RGB", (2, 2)))
    (_, (cut,)), *_ = volume.stacks([ramp[:, None, None].expand(-1, 2, 2)])
    wanted = ((torch.arange(12) + 0.5) / 12).clamp(ramp[0], ramp[-1])
    torch.testing.assert_close(cut[:, 0, 0], wanted)

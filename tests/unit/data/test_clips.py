"""Videos and animations as frames, and what a network sees of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.video import MViT_V1_B_Weights, R3D_18_Weights

from scans import moving_square, write_animation, write_video
from torchsaliency import DataError, Preprocessing
from torchsaliency.data import Clip, open_clip
from torchsaliency.zoo import ClipPreprocessing, from_torchvision, load_model


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.png", "clip.mp4", "clip.avi"])
def test_frames_are_read(tmp_path, name):
    frames = moving_square()
    (write_video if name.endswith(("mp4", "avi")) else write_animation)(tmp_path / name, frames)
    clip = open_clip(tmp_path / name)
    assert clip.size == (12, 48, 64)
    assert clip.seconds == pytest.approx(1 / 12 if name.endswith(("mp4", "avi")) else 0.08)
    for found, frame in zip(clip.frames, frames, strict=True):
        difference = np.asarray(found).astype(int) - np.asarray(frame)
        assert np.abs(difference).mean() < 5, "within what the format loses"


def test_a_long_video_is_thinned_out_evenly(tmp_path):
    write_animation(tmp_path / "clip.gif", moving_square(20))
    clip = open_clip(tmp_path / "clip.gif", max_pixels=6 * 64 * 48)
    assert len(clip.frames) == 5
    assert clip.seconds == pytest.approx(0.08 * 20 / 5)
    with pytest.raises(DataError, match="frames of 64x48 pixels"):
        open_clip(tmp_path / "clip.gif", max_pixels=1000)


def test_files_that_are_no_videos_are_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text.gif").write_text("no picture")
    for name in ("text.mp4", "text.gif", "missing.mp4"):
        with pytest.raises(DataError):
            open_clip(tmp_path / name)


def test_frames_are_chosen_evenly(tmp_path):
    write_animation(tmp_path / "clip.gif", moving_square(12))
    clip = open_clip(tmp_path / "clip.gif")
    small = Preprocessing((16, 16), (16, 16))
    chosen = ClipPreprocessing(4, small).choose_frames(clip)
    assert [clip.frames.index(frame) for frame in chosen] == [1, 4, 7, 10]
    assert len(ClipPreprocessing(30, small).choose_frames(clip)) == 30
    x = ClipPreprocessing(4, small)(clip)
    assert x.shape == (3, 4, 16, 16)
    assert torch.equal(x[:, 1], small(clip.frames[4]))


def test_a_map_lies_where_the_network_looked(tmp_path):
    write_animation(tmp_path / "clip.gif", moving_square())
    prepare = ClipPreprocessing(4, Preprocessing((16, 16), (24, 24)))
    placed = prepare.place_map(torch.ones(4, 16, 16), open_clip(tmp_path / "clip.gif"))
    assert placed.shape == (4, 48, 64)
    assert placed[:, 24, 32].min() == 1
    assert placed[:, 0].max() == 0, "what was cropped"


@pytest.mark.parametrize("weights", [R3D_18_Weights.DEFAULT, MViT_V1_B_Weights.DEFAULT])
def test_frames_are_those_of_torchvisions_presets(weights):
    frames = moving_square(2)
    clip = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames])
    theirs = weights.transforms()(clip)
    ours = ClipPreprocessing(2, from_torchvision(weights))(Clip(tuple(frames), 0.1, Path("clip")))
    # both enlarge here, where Pillow's antialiasing does nothing; each rounds to whole levels
    torch.testing.assert_close(ours, theirs, atol=2.5 / 255 / 0.21, rtol=0)


def test_torchvisions_video_networks_load_by_name():
    network = load_model("torchvision/r3d_18", pretrained=False)
    assert network.volumes == ClipPreprocessing(16, from_torchvision(R3D_18_Weights.DEFAULT))
    assert len(network.classes) == 400
    assert network.class_index("abseiling") == 0

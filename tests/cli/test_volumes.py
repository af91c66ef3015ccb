"""Scans and videos on the command line: one command each, with a network of the user's file."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import torchsaliency
from scans import moving_square, phantom, write_animation, write_nifti, write_series, write_video
from torchsaliency.data import open_scan
from torchsaliency.viz import animate, montage, png_bytes
from torchsaliency.zoo import ScanPreprocessing, load_model

FACTORY = """
import torch
from torch import nn
from torchsaliency import Preprocessing
from torchsaliency.zoo import ClipPreprocessing, ScanPreprocessing

def make(channels):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(channels, 6, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(6, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3),
    )

def scan():
    return make(1)

def said():
    return make(2)

def clip():
    return make(3)

said.volumes = ScanPreprocessing(size=(6, 8, 8), intensity="range", channels=2, axes="xyz")
said.classes = ["healthy", "lesion", "artefact"]
clip.volumes = ClipPreprocessing(4, Preprocessing((32, 32), (36, 36)))
def wrong():
    return make(1)
wrong.volumes = "zscore"
"""


@pytest.fixture
def run(command, place):
    (place / "net3d.py").write_text(FACTORY)

    def explain(*words, factory="scan", method="gradcam"):
        return command("explain", *words, "--model", f"net3d.py:{factory}", "--method", method)

    return explain


def names(folder):
    return {path.name for path in folder.iterdir()}


def entry_of(folder):
    return json.loads((folder / "manifest.json").read_text())["runs"][-1]


def test_a_scan_has_a_montage_and_a_map_over_it(run, place):
    affine = write_nifti(place / "scan.nii.gz", phantom(), "PIR")
    ran = run("scan.nii.gz", method="gradcam,mtsm")
    assert ran.code == 0
    assert "assumed: size as it is" in ran.err
    folder = place / "saliency"
    assert names(folder) == {
        *(f"scan.{method}.{suffix}" for method in ("gradcam", "mtsm") for suffix in ("png", "npy")),
        *("scan.gradcam.nii.gz", "scan.mtsm.nii.gz", "manifest.json"),
    }
    written = nibabel.load(folder / "scan.gradcam.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    network, scan = load_model("net3d.py:scan"), open_scan("scan.nii.gz")
    made = torchsaliency.explain(network, ScanPreprocessing()(scan)[None], "gradcam")["gradcam"]
    np.testing.assert_allclose(written.get_fdata(), scan.to_stored_order(made.map[0]), atol=1e-6)
    facts = entry_of(folder)
    assert facts["preprocessing"]["intensity"] == "zscore"
    assert facts["photos"][0]["size"] == [6, 10, 8]


@pytest.mark.usefixtures("run")
def test_a_report_of_scans_has_their_numbers(command, place):
    write_nifti(place / "scan.nii.gz", phantom())
    ran = command("report", "scan.nii.gz", "--model", "net3d.py:scan", "--method", "gradcam,mtsm",
                  "--score", "deletion")  # fmt: skip
    assert ran.code == 0, ran.err
    page = (place / "report.html").read_text()
    assert page.count('class="ts-photo"') == 3  # three cuts
    for word in (">masked ", ">AD ", ">deletion "):
        assert page.count(word) == 6, word


def test_a_series_is_one_scan_and_a_folder_holds_several(run, place):
    write_series(place / "series", phantom())
    ran = run("series", factory="said")
    assert ran.code == 0
    assert not ran.err
    assert "lesion" in ran.out or "healthy" in ran.out or "artefact" in ran.out
    assert "series.gradcam.nii.gz" in names(place / "saliency")
    for file in (place / "series").iterdir():
        file.rename(file.with_suffix(""))
    assert run("series", "--output", "bare", factory="said").code == 0
    assert "series.gradcam.nii.gz" in names(place / "bare")
    (place / "many").mkdir()
    for name in ("one.nii.gz", "two.nii"):
        write_nifti(place / "many" / name, phantom(depth=4 + len(name) % 2))
    assert run("many", "--output", "both", factory="said").code == 0
    assert {"one.gradcam.nii.gz", "two.gradcam.nii.gz"} <= names(place / "both")
    assert run("many", "--output", "both", factory="said").code == 0, "the same command again"


@pytest.mark.parametrize("name", ["clip.gif", "clip.mp4"])
def test_a_video_has_an_animation(run, place, name):
    (write_video if name.endswith("mp4") else write_animation)(place / name, moving_square())
    ran = run(name, "--score", "ad", factory="clip")
    assert ran.code == 0
    with Image.open(place / "saliency" / "clip.gradcam.gif") as drawn:
        assert (drawn.n_frames, drawn.height) == (4, 48)
        assert drawn.width > 64, "the colour scale is beside the frames"
        assert drawn.info["duration"] == pytest.approx(240 if name.endswith("gif") else 250, abs=10)
    assert np.load(place / "saliency" / "clip.gradcam.npy").shape == (2, 16, 16)
    assert "ad" in ran.out


def test_an_animation_is_a_photograph_to_a_network_of_pictures(explain, place):
    write_animation(place / "clip.gif", moving_square())
    assert explain("clip.gif").code == 0
    assert "clip.gradcam.png" in names(place / "saliency")


def test_mistakes_are_said(run, place):
    write_nifti(place / "scan.nii.gz", phantom())
    write_video(place / "clip.mp4", moving_square())
    for words, factory, message in (
        (["scan.nii.gz", "clip.mp4"], "scan", "take each kind by itself"),
        (["scan.nii.gz", "--grid"], "scan", "a scan has a montage"),
        (["scan.nii.gz"], "wrong", "volumes a ScanPreprocessing or a ClipPreprocessing"),
        (["scan.nii.gz", "--masking", "black"], "scan", "choose mean or blur"),
        (["scan.nii.gz", "--size", "64"], "scan", "--size is for photographs"),
        (["gone.nii.gz"], "scan", "does not exist"),
    ):
        ran = run(*words, factory=factory)
        assert ran.code != 0
        assert message in " ".join(ran.err.split())


def test_layers_of_a_video_network_are_listed(command, place):
    (place / "net3d.py").write_text(FACTORY)
    ran = command("layers", "net3d.py:clip")
    assert ran.code == 0
    assert "8 x 2 x 16 x 16" in ran.out or "8x2x16x16" in ran.out or "(1, 8, 2, 16, 16)" in ran.out


def test_the_page_of_volumes_runs(command, place):
    page = (Path(__file__).parents[2] / "docs" / "volumes.md").read_text(encoding="utf-8")
    network, script = (block.split("```")[0] for block in page.split("```python")[1:3])
    (place / "net.py").write_text(network)
    write_nifti(place / "scan.nii.gz", phantom())
    line = next(line for line in page.splitlines() if line.startswith("torchsaliency explain scan"))
    assert command(*line.split()[1:]).code == 0
    exec(script, {})
    assert {"montage.png", "map.nii.gz"} <= names(place)
    written = nibabel.load("map.nii.gz"), nibabel.load("saliency/scan.gradcam.nii.gz")
    assert written[0].shape == written[1].shape == (8, 10, 6)
    np.testing.assert_array_equal(written[0].affine, written[1].affine)


def test_the_page_s_video_runs(place, monkeypatch):
    """With a small network under the name of torchvision's."""
    page = (Path(__file__).parents[2] / "docs" / "volumes.md").read_text(encoding="utf-8")
    script = page.partition("Of a video:")[2].split("```")[1].removeprefix("python\n")
    (place / "net3d.py").write_text(FACTORY)
    write_animation(place / "clip.gif", moving_square(6))
    monkeypatch.setattr(
        "torchsaliency.zoo.load_model", lambda *_, **__: load_model("net3d.py:clip")
    )
    exec(script, {})
    with Image.open("map.gif") as animation:
        assert animation.n_frames == 4


# --- pictures -------------------------------------------------------------------------------------


def test_a_montage_cuts_through_the_maximum():
    volume, saliency = torch.rand(1, 6, 20, 30), torch.zeros(6, 20, 30)
    saliency[4, 3, 25] = 1
    picture = np.asarray(montage(volume, saliency, alpha=1.0)).astype(int)
    # the colormap's end is yellow
    peak = (picture[..., :2].min(-1) > 150) & (picture[..., 2] < 0.5 * picture[..., 1])
    assert peak[: picture.shape[0] // 2].any()
    with pytest.raises(torchsaliency.InputError, match=r"give \(C, D, H, W\)"):
        montage(volume[0], saliency)


def test_frames_and_maps_are_as_many():
    with pytest.raises(torchsaliency.InputError, match="one map a frame"):
        animate(moving_square(3), torch.rand(2, 4, 4))


@pytest.mark.parametrize("size", [(40,), (6, 8, 10)])
def test_explanations_draw_themselves(size):
    assert png_bytes(torch.rand(2, 3, *size), torch.rand(2, *size), ["a", "b"])[1:4] == b"PNG"

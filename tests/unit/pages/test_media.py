"""Scans and videos in the app, where the network takes volumes."""

import zipfile

import nibabel
import numpy as np
import pytest
import torch

import torchsaliency
from scans import moving_square, phantom, write_animation, write_nifti, write_series
from torchsaliency.data import open_clip
from torchsaliency.errors import DataError, OptionError
from torchsaliency.pages.jobs import Choice, Limits
from torchsaliency.pages.service import Service

PROGRAM = """
import torch
from torch import nn
from torchsaliency.zoo import ClipPreprocessing, Preprocessing, ScanPreprocessing


def build(channels=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()


def clips():
    return build(3)


def plain():
    return build(1)


build.volumes = ScanPreprocessing(size=(6, 8, 8))
clips.volumes = ClipPreprocessing(4, Preprocessing((24, 32), (24, 32)))
for one in (build, clips, plain):
    one.classes = ["healthy", "lesion"]
"""


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "net.py").write_text(PROGRAM)
    write_nifti(folder / "scan.nii.gz", phantom())
    write_series(folder / "series", phantom())
    write_animation(folder / "clip.gif", moving_square())

    def make(name, **limits):
        return Service(
            torchsaliency.load_model(f"{folder / 'net.py'}:{name}"), limits=Limits(**limits)
        ), folder

    return make


@pytest.mark.parametrize(
    ("name", "file", "titles"),
    [
        ("build", "scan.nii.gz", ["slices", "rows", "columns"]),
        ("plain", "scan.nii.gz", ["slices", "rows", "columns"]),
        ("clips", "clip.gif", []),
    ],
)
def test_from_an_upload_to_files_and_back(serve, name, file, titles, tmp_path, monkeypatch):
    served, folder = serve(name)
    served.warm_up()
    upload = [str(folder / file)]
    assert {label for label, *_ in served.classify(upload)} == {"healthy", "lesion"}
    *_, shown = served.explain(upload, Choice(("gradcam", "mtsm")), title="mine")
    views = served.view(shown)
    assert [view.title for view in views] == [f"mine, {word}" for word in titles] or ["mine"]
    assert all([one.title for one in view.maps] == ["gradcam", "mtsm"] for view in views)
    assert all("AD" in one.facts[-1] for view in views for one in view.maps)
    assert len(served.contrast(upload, 1 - served.classify(upload)[0][1], Choice())) == len(views)
    scored = served.score(shown)
    assert "insertion" in scored.facts["mtsm"][-1]
    with zipfile.ZipFile(served.write(scored, tmp_path.parent / f"new-{name}")) as archive:
        archive.extractall(tmp_path)
    (tmp_path / file).write_bytes((folder / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(compile((tmp_path / "again.py").read_text(), "again.py", "exec"), space)
    for method, explanation in space["found"].items():
        assert np.array_equal(np.load(f"volume.{method}.npy"), explanation.raw[0].numpy())
        suffix = "gif" if name == "clips" else "nii.gz"
        mine, again = f"volume.{method}.{suffix}", f"{method}.{suffix}"
        if name == "clips":
            assert len(open_clip(mine).frames) == len(open_clip(again).frames) > 1
        else:
            values = nibabel.load(mine).get_fdata()
            assert values.shape == nibabel.load(file).shape
            assert np.array_equal(values, nibabel.load(again).get_fdata())


def test_the_files_of_a_series_are_one_scan(serve):
    served, folder = serve("build")
    whole = served.read(str(folder / "scan.nii.gz"))
    series = served.read([str(file) for file in sorted((folder / "series").iterdir())])
    assert np.array_equal(whole.voxels, series.voxels)
    (shown,) = served.explain(series, Choice(similar_to=[str(folder / "scan.nii.gz")]))
    assert '"series"' in served.lines(shown)
    assert '"scan.nii.gz"' in served.lines(shown)


@pytest.mark.parametrize(
    ("files", "limits", "said"),
    [
        (["net.py"], {}, "neither a scan nor a video"),
        (["scan.nii.gz"], {"pixels": 100}, "voxels and at most 100"),
        (["scan.nii.gz"], {"megabytes": 0}, "0 MB"),
        (["series/00.dcm"], {}, "1 DICOM files"),
        (["broken.nii.gz"], {}, "The file"),
        (["series/00.dcm", "series/02.dcm", "series/03.dcm"], {}, "at one distance"),
    ],
)
def test_what_is_no_volume_is_refused_by_one_sentence(serve, files, limits, said):
    served, folder = serve("build", **limits)
    (folder / "broken.nii.gz").write_bytes((folder / "scan.nii.gz").read_bytes()[:90])
    with pytest.raises(DataError, match=said) as raised:
        served.read([str(folder / file) for file in files])
    assert str(folder) not in str(raised.value)
    assert "/tmp" not in str(raised.value)


def test_long_videos_are_thinned(serve):
    served, folder = serve("clips", pixels=5 * 64 * 48)
    assert len(served.read(str(folder / "clip.gif")).frames) == 3


def test_black_is_refused_where_it_is_not_defined(serve):
    served, folder = serve("build")
    with pytest.raises(OptionError, match="Black is not defined"):
        next(served.explain(str(folder / "scan.nii.gz"), Choice(masking="black")))
    (shown,) = served.explain(str(folder / "scan.nii.gz"), Choice())
    assert torch.isfinite(shown.explanations["gradcam"].map).all()

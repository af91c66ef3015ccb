"""Data sets of scans, videos and images of other channels in evaluations."""

import json

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from torch import nn

import torchsaliency as ts
from scans import moving_square, phantom, write_animation, write_nifti, write_series
from torchsaliency.data import open_data, open_scan
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation import evaluate, make_plan, score
from torchsaliency.zoo import ClipPreprocessing, Network, Preprocessing, ScanPreprocessing

METRICS = ["ad", "deletion", "sparseness"]
FACTS = {"methods": "saliency", "metrics": ",".join(METRICS), "workers": 0, "target": "label"}


def network(channels, volumes=None, preprocessing=None):
    torch.manual_seed(0)
    kind = nn.Conv2d if preprocessing else nn.Conv3d
    pool = nn.AdaptiveAvgPool2d if preprocessing else nn.AdaptiveAvgPool3d
    layers = [kind(channels, 6, 3, padding=1), nn.ReLU(), kind(6, 8, 3, 2, 1), nn.ReLU()]
    module = nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    plain = preprocessing or Preprocessing((8, 8), (8, 8))
    return Network(module, name="net", preprocessing=plain, classes=("a", "b"), volumes=volumes)


def volumes(number):
    noise = np.random.default_rng(number).random((6, 10 + 2 * number, 8))
    return phantom(6, 10 + 2 * number, 8) + noise.astype(np.float32)


def fill(root, write):
    """Write two files into a folder for each of two classes."""
    for number in range(4):
        folder = root / "ab"[number // 2]
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, number)
    return root


def check(net, data, tmp_path, read, **facts):
    """Compare an evaluation with what Python finds for each file by itself; return its folder."""
    found = evaluate(make_plan({**FACTS, "data": str(data), **facts}), tmp_path / "run", model=net)
    rows = found.frame.set_index(["sample", "metric"])["value"]
    assert not rows.isna().any()
    assert len(rows) == len(METRICS) * len({*found.frame["sample"]})
    for name in {*found.frame["sample"]}:
        path = data / name
        label = "ab".index(name[0])
        made = ts.explain(net, read(path)[None], "saliency", label)["saliency"]
        mine = score(net, made, METRICS)
        for metric in METRICS:
            value = mine[metric].per_image[0].item()
            assert rows[name, metric] == pytest.approx(value, abs=1e-3), (name, metric)
    return tmp_path / "run"


@pytest.mark.parametrize("size", [None, (6, 8, 8)])
def test_scans_in_folders_are_scored_and_their_maps_lie_over_them(tmp_path, size):
    def write(folder, number):
        write_nifti(folder / f"{number}.nii.gz", volumes(number), "PIR")

    how = ScanPreprocessing(size=size, intensity="range", axes="xyz")
    net, data = network(1, how), fill(tmp_path / "data", write)
    for _ in range(2):  # the same plan goes on in its folder
        run = check(net, data, tmp_path, lambda path: how(open_scan(path)), maps=True)
    scan = nibabel.load(data / "b" / "3.nii.gz")
    found = nibabel.load(next((run / "maps" / "saliency").rglob("3.*nii.gz")))
    assert found.shape == scan.shape
    np.testing.assert_allclose(found.affine, scan.affine)
    kept = np.load(next((run / "maps" / "saliency").rglob("3.*npy")))
    place = np.unravel_index(kept.argmax(), kept.shape)
    if size is None:  # the same voxel of the body, (x, y, z) of RAS
        canonical = nibabel.as_closest_canonical(found).get_fdata()
        assert canonical[place] == pytest.approx(canonical.max(), abs=1e-3)


def test_a_folder_of_dicom_files_is_one_scan(tmp_path):
    def write(folder, number):
        write_series(folder / f"p{number}", volumes(number))

    how = ScanPreprocessing(size=(6, 8, 8))
    data = fill(tmp_path / "data", write)
    check(network(1, how), data, tmp_path, lambda path: how(open_scan(path)))
    marks = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]
    (data / "a" / "p0" / "00.dcm").unlink()
    with pytest.raises(ts.errors.TorchSaliencyError, match="fingerprint"):
        evaluate(make_plan({**FACTS, "data": str(data)}), tmp_path / "run", model=network(1, how))
    assert marks["preprocessing"]["size"] == [6, 8, 8]
    for file in (data / "a" / "p1").iterdir():  # scanners give no suffix
        file.rename(file.with_suffix(""))
    for file in data.glob("*/*/*.dcm"):
        file.rename(file.with_suffix(""))
    assert [sample.id for sample in open_data(data).samples] == ["a/p0", "a/p1", "b/p2", "b/p3"]


def test_videos_are_scored(tmp_path):
    def write(folder, number):
        write_animation(folder / f"{number}.gif", moving_square(5 + number))

    how = ClipPreprocessing(3, Preprocessing((16, 16), (16, 16)))
    data = fill(tmp_path / "data", write)
    check(network(3, how), data, tmp_path, lambda path: how(ts.data.open_clip(path)))


def test_images_of_five_channels_are_scored(tmp_path):
    def write(folder, number):
        values = np.random.default_rng(number).random((5, 20, 24)).astype(np.float32)
        tifffile.imwrite(folder / f"{number}.tif", values)

    how = Preprocessing((16, 16), (16, 16), mean=(0.5,) * 5, std=(0.25,) * 5)
    check(network(5, preprocessing=how), fill(tmp_path / "data", write), tmp_path, how)


def test_a_table_of_labels_names_scans(tmp_path):
    for number in range(2):
        write_nifti(tmp_path / f"{number}.nii.gz", volumes(number))
    (tmp_path / "labels.csv").write_text("file,label\n0.nii.gz,b\n1.nii.gz,a\n")
    net = network(1, ScanPreprocessing(size=(4, 6, 6)))
    judge = network(1, ScanPreprocessing(intensity="range"))
    plan = make_plan({**FACTS, "data": str(tmp_path), "metrics": "ad"})
    found = evaluate(plan, tmp_path / "run", model=net, judge=judge)
    assert len(found.frame) == 2
    identity = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]
    assert identity["judge's preprocessing"]["intensity"] == "range"
    assert identity["judge's preprocessing"]["size"] == [4, 6, 6]


def test_what_does_not_fit_volumes_is_a_sentence(tmp_path):
    write_nifti(tmp_path / "0.nii.gz", volumes(0))
    net = network(1, ScanPreprocessing())
    plan = {**FACTS, "target": "predicted", "metrics": "ad"}

    def run(**facts):
        return evaluate(make_plan({**plan, **facts}), tmp_path / "run", model=net)

    with pytest.raises(DataError, match="has pictures and net takes volumes"):
        run(data="shapes:2")
    for facts in ({"normalise": False}, {"fit": "crop"}):
        with pytest.raises(OptionError, match="is for photographs"):
            run(data=str(tmp_path), **facts)
    (tmp_path / "1.mp4").write_bytes(b"0")
    with pytest.raises(OptionError, match="clips and scans were given together"):
        run(data=str(tmp_path))

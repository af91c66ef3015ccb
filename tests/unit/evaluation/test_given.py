"""Maps that another program made: the same numbers as the method's own, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nets import convnet, images
from torchsaliency import GivenMaps, InputError, explain
from torchsaliency.data import open_data
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation import evaluate, make_plan, score
from torchsaliency.evaluation.given import FolderMaps, read_map
from torchsaliency.zoo import load_model

X = images(3, seed=1)
FACTS = {
    "model": "builtin/shapes_cnn",
    "data": "shapes:4?seed=5",
    "metrics": "ad,sparseness",
    "batch_size": 4,
    "workers": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grad-CAM's maps of drawn shapes, times 9 minus 4: another program has its own scale."""
    found = tmp_path_factory.mktemp("maps")
    data, net = open_data(FACTS["data"]), load_model(FACTS["model"])
    for place, sample in enumerate(data.samples):
        x = net.preprocessing(data.picture(place).image)[None]
        made = explain(net, x, "gradcam", sample.label)["gradcam"]
        path = found / f"{sample.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, made.map[0].numpy() * 9 - 4)
    return found


def test_arrays_are_scored_like_the_methods_own_maps():
    net = convnet(seed=3)
    made = explain(net, X, "gradcam", [4, 0, 2], "relu3")["gradcam"]
    given = GivenMaps(made.map.numpy() * 7)
    mine = explain(net, X, {"mine": given}, [4, 0, 2])["mine"]
    torch.testing.assert_close(mine.map, made.map)
    assert mine.manifest()["options"] == {"digest": given.digest}
    assert given.digest != GivenMaps(made.map).digest == GivenMaps(made.map.numpy()).digest
    both = [score(net, one, ["ad", "insertion"]) for one in (made, mine)]
    for name in ("ad", "insertion"):
        torch.testing.assert_close(both[1][name].rows, both[0][name].rows, atol=1e-4, rtol=1e-4)
    assert explain(net, X, GivenMaps(torch.ones(3, 16, 16)), 1)["given"].status[0] == "constant map"


@pytest.mark.parametrize("name", ["max-sensitivity", "coherency", "mprt", "random-logit"])
def test_what_explains_again_is_refused(name):
    net = convnet(seed=3)
    mine = explain(net, X, GivenMaps(torch.rand(3, 16, 16)), 1)["given"]
    with pytest.raises(InputError, match="made by another program"):
        score(net, mine, [name])


@pytest.mark.parametrize(
    ("maps", "sentence"),
    [
        (torch.rand(3, 8, 16), "3 maps of 8x16 were given for 3 images of 16x16"),
        (torch.rand(2, 16, 16), "2 maps"),
        (torch.full((3, 16, 16), torch.nan), "NaN"),
        (torch.rand(3), "one map an image"),
        ("maps", "array or tensor"),
    ],
)
def test_maps_that_do_not_fit(maps, sentence):
    with pytest.raises(InputError, match=sentence):
        explain(convnet(seed=3), X, GivenMaps(maps), 1)


def test_a_folder_is_evaluated_like_the_method(folder, tmp_path):
    plan = make_plan({**FACTS, "methods": "gradcam", "maps_from": f"mine={folder}"})
    found = evaluate(plan, tmp_path / "run")
    assert found.methods == ("gradcam", "mine")
    for name in ("ad", "sparseness"):
        one, other = (found.rows(method, name) for method in found.methods)
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["methods"]["mine"]
    assert facts["options"]["folder"] == str(folder)
    assert len(facts["options"]["digest"]) == 32
    evaluate(plan, tmp_path / "run")  # nothing is left to do
    alone = evaluate(make_plan({**FACTS, "maps_from": [f"mine={folder}"]}), tmp_path / "alone")
    torch.testing.assert_close(alone.rows("mine", "ad"), found.rows("mine", "ad"))


def test_what_an_evaluation_refuses(folder, tmp_path):
    given = {**FACTS, "maps_from": f"mine={folder}"}
    with pytest.raises(OptionError, match="max-sensitivity needs the methods to explain"):
        evaluate(make_plan({**given, "metrics": "ad,max-sensitivity"}), tmp_path / "a")
    with pytest.raises(DataError, match=r"mine: .* has no map of the image"):
        evaluate(make_plan({**given, "data": "shapes:5?seed=5"}), tmp_path / "b")
    with pytest.raises(OptionError, match="give NAME=FOLDER"):
        make_plan({**FACTS, "maps_from": "mine"})
    with pytest.raises(DataError, match="was asked for"):
        FolderMaps(str(folder), "0" * 32).with_digest([open_data(FACTS["data"]).samples[0].id])


def test_files_of_maps(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert (read_map(tmp_path / "a.png") == values).all()
    np.save(tmp_path / "b.npy", values[None] / 7)
    assert read_map(tmp_path / "b.npy").shape == (3, 4)
    np.save(tmp_path / "c.npy", np.full((3, 4), np.nan))
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "d.png")
    for name, sentence in (("c.npy", "NaN"), ("d.png", "one number a pixel")):
        with pytest.raises(DataError, match=sentence):
            read_map(tmp_path / name)
    np.save(tmp_path / "e.npy", np.zeros((5, 4)))
    with pytest.raises(DataError, match="3x4 and 5x4"):
        FolderMaps(str(tmp_path)).take(["a", "e"])


def test_a_nifti_map(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    assert (read_map(tmp_path / "scan.nii.gz") == values.T).all()

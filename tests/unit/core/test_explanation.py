"""An explanation can be taken apart, written down and saved."""

import json

import numpy as np
import pytest
import torch

from nets import convnet, images, quick
from torchsaliency import BoxScore, InputError, Masking, explain
from torchsaliency.core import explanation
from torchsaliency.methods.smoothing import Augmented, EigenSmoothed


@pytest.fixture(scope="module")
def made():
    return quick("opticam")(convnet(seed=3), images(3, seed=1), [0, 2, 4], "relu3")


@pytest.mark.parametrize("index", [0, 1, -1, slice(1, None), slice(None, None, 2)])
def test_indexing_gives_a_batch(made, index):
    part = made[index]
    where = torch.arange(3)[[index] if isinstance(index, int) else index]
    assert len(part) == len(where)
    for name in ("map", "raw", "images", "score", "output"):
        assert torch.equal(getattr(part, name), getattr(made, name)[where])
    assert part.target.labels.tolist() == made.target.labels[where].tolist()
    assert part.status == tuple(made.status[i] for i in where)
    for name, value in made.details.items():
        torch.testing.assert_close(part.details[name], value[where], equal_nan=True)
    assert (part.method, part.masking, part.layers) == (made.method, made.masking, made.layers)


def test_iterating(made):
    parts = list(made)
    assert len(parts) == 3
    assert torch.equal(torch.cat([part.map for part in parts]), made.map)
    with pytest.raises(IndexError):
        made[3]


def test_the_manifest_says_how_to_repeat_it(made):
    facts = json.loads(json.dumps(made.manifest()))
    assert facts["method"] == "opticam"
    assert facts["options"]["iterations"] == 3
    assert facts["layers"] == ["relu3"]
    assert facts["target"] == {"kind": "Logit", "labels": [0, 2, 4]}
    assert facts["score"] == made.score.tolist()
    assert facts["masking"] == {"baseline": "mean"}
    assert facts["status"] == ["ok"] * 3
    assert facts["versions"].keys() >= {"torchsaliency", "torch", "python"}
    again = explain(convnet(seed=3), images(3, seed=1), {"x": quick("opticam")}, [0, 2, 4], "relu3")
    assert torch.equal(again["x"].map, made.map)


@pytest.mark.parametrize("method", [Augmented(quick("gradcam")), EigenSmoothed(quick("opticam"))])
def test_a_wrapper_writes_what_it_wraps(method):
    result = method(convnet(), images(1), 1, "relu3")
    facts = json.loads(json.dumps(result.manifest()))
    assert facts["method"] == method.name
    assert facts["options"]["method"]["method"] == method.method.name
    assert result.method.name in repr(result)


def test_saying_it_in_one_line(made):
    assert repr(made) == "Explanation(opticam, 3 maps of 16x16, layer relu3, status ok)"


def test_saving(made, tmp_path, monkeypatch):
    monkeypatch.setattr(explanation, "_renderers", [lambda one: b"PNG" + bytes([len(one)])])
    written = made.save(tmp_path / "new" / "folder", ["cat", "dog", "owl"])
    assert [path.name for path in written] == [
        "cat.opticam.npy", "cat.opticam.png", "dog.opticam.npy", "dog.opticam.png",
        "owl.opticam.npy", "owl.opticam.png", "manifest.json",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.load(written[2]), made.raw[1].numpy())
    assert written[1].read_bytes() == b"PNG\x01"
    assert json.loads(written[-1].read_text())["images"] == ["cat", "dog", "owl"]


def test_saving_without_a_renderer_and_with_wrong_names(made, tmp_path, monkeypatch):
    monkeypatch.setattr(explanation, "_renderers", [])
    assert len(made.save(tmp_path)) == 4
    assert made._repr_png_() is None
    for names in (["a"], ["a", "a", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(InputError, match="different name"):
            made.save(tmp_path, names)


def test_it_draws_itself_in_a_notebook(made, monkeypatch):
    assert made._repr_html_().count("<section") == 3
    assert made._repr_png_() is None, "a notebook keeps one of the two"
    monkeypatch.setattr(explanation, "_viewers", [])
    assert made._repr_html_() is None
    assert made._repr_png_().startswith(b"\x89PNG")


def test_detections_can_be_taken_apart():
    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = convnet()

        def forward(self, x):
            box = torch.tensor([[2.0, 2, 9, 9]])
            return [
                {"boxes": box, "labels": torch.tensor([1]), "scores": y.sigmoid()[:1]}
                for y in self.net(x)
            ]

    target = BoxScore(torch.tensor([[2.0, 2, 9, 9]]).expand(2, 4), torch.tensor([1, 1]))
    result = quick("gradcam")(Detector(), images(2), target, "net.relu3")
    assert isinstance(result.masking, Masking)
    assert len(result[1].output) == 1
    assert result.score.tolist() == [float(one["scores"][0]) for one in result.output]
    assert set(result.status) <= {"ok", "no positive evidence"}

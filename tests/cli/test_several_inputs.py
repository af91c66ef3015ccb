"""A network of two inputs on the command line and in a plan."""

import json

import numpy as np
import pytest
import torch

import torchsaliency as ts
from commands import photographs
from torchsaliency.data import open_data
from torchsaliency.evaluation import evaluate, make_plan, read_plan, score

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.gate = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(2, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, image, meta):
        seen = torch.relu(self.conv(image)) * torch.sigmoid(self.gate(meta))[:, :, None, None]
        return self.head(seen.mean((2, 3)))

class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, pixels):
        return self.head(torch.relu(self.conv(pixels)).mean((2, 3)))
"""
HOW = ("--model", "net.py:Net", "--size", "32", "--mean", "0.5", "--std", "0.25")
ROWS = [[0.5, 0.0], [-3.0, 2.0], [4.0, -1.0]]


@pytest.fixture
def data(place):
    (place / "net.py").write_text(NET)
    photographs(place / "data", 3)
    lines = [f"00{n}.png,{n},{a},{b}" for n, (a, b) in enumerate(ROWS)]
    (place / "data" / "labels.csv").write_text("\n".join(["file,label,age,sex", *lines]))
    return place / "data"


def network():
    facts = ts.zoo.inputs.InputFacts.parse(size=32, mean=0.5, std=0.25)
    return ts.load_model("net.py:Net", given=facts)


def test_each_photo_has_its_row(command, data, place):
    np.save(place / "rows.npy", np.array(ROWS, dtype=np.float32))
    ran = command("explain", "data", *HOW, "--method", "gradcam", "--input", "meta=rows.npy",
                  "--fit", "squash", "--score", "ad")  # fmt: skip
    assert ran.code == 0, ran.err
    run = json.loads((place / "saliency" / "manifest.json").read_text())["runs"][-1]
    assert run["inputs"]["of"] == "image"
    assert run["inputs"]["given"]["meta"] == {
        "value": "rows.npy", "shape": [2], "type": "float32"
    }  # fmt: skip
    assert [photo["inputs"]["meta"] for photo in run["photos"]] == ROWS
    net = network()
    x = torch.stack([net.frame("squash")(data / f"00{n}.png") for n in range(3)])
    found = ts.explain(net, {"image": x, "meta": torch.tensor(ROWS)}, "gradcam")["gradcam"]
    for n in range(3):
        raw = torch.from_numpy(np.load(place / "saliency" / f"00{n}.gradcam.npy"))
        torch.testing.assert_close(raw, found.raw[n], atol=1e-5, rtol=1e-4)
    assert run["scores"][0]["value"] == pytest.approx(
        score(net, found, ["ad"])["ad"].summary().value, abs=1e-3
    )


def test_a_plan_reads_columns_of_the_labels(data, tmp_path):
    facts = {
        "data": "data", "model": "net.py:Net", "size": "32", "mean": "0.5", "std": "0.25",
        "methods": "gradcam", "metrics": "ad,deletion", "target": "label",
    }  # fmt: skip
    plan = make_plan({**facts, "inputs": {"meta": ["age", "sex"]}})
    assert plan.inputs == ("meta=age,sex",)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    assert read_plan(tmp_path / "plan.yaml") == plan
    found = evaluate(plan, tmp_path / "run")
    net, images = network(), open_data(data)
    x = torch.stack([net.preprocessing(images.picture(n).image) for n in range(3)])
    given = {"image": x, "meta": torch.tensor(ROWS)}
    mine = score(net, ts.explain(net, given, "gradcam", [0, 1, 2])["gradcam"],
                 ["ad", "deletion"])  # fmt: skip
    for name in ("ad", "deletion"):
        assert found.summary("gradcam", name).value == pytest.approx(
            mine[name].summary().value, abs=1e-3
        )
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["inputs"]["given"]["meta"]["value"] == "age,sex"
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("-3.0", "3.0"))
    with pytest.raises(ts.errors.TorchSaliencyError, match="side inputs"):
        evaluate(plan, tmp_path / "run")


@pytest.mark.usefixtures("data")
def test_a_judge_of_images_alone_gets_no_rows(tmp_path):
    facts = {
        "data": "data", "model": "net.py:Net", "size": "32", "judge": "net.py:Judge",
        "methods": "gradcam", "metrics": "ad", "inputs": "meta=1,2", "count": 2,
    }  # fmt: skip
    assert len(evaluate(make_plan(facts), tmp_path / "run").frame) == 2


@pytest.mark.usefixtures("data")
def test_a_missing_input_is_asked_for(command):
    ran = command("explain", "data/000.png", *HOW, "--method", "gradcam")
    assert ran.code == 2
    assert "--input meta=VALUE" in ran.err

"""Probabilities on the command line are those of what the network's numbers mean."""

import json
import math

import pytest
import torch

import torchsaliency

NET = """
import torch
from torch import nn
from torchsaliency import Preprocessing

class Nested(nn.Module):
    def __init__(self, count):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(6, count),
        )
        nn.init.normal_(self.net[-1].weight, std=6)

    def forward(self, x):
        y = self.net(x)
        return {"first": y, "second": -y}

def labels():
    return Nested(4)

def one():
    return Nested(1).net

scores = "sigmoid"
preprocessing = {"size": 32, "mean": 0.5, "std": 0.5}
one.scores = "binary"
"""


@pytest.fixture
def numbers(command, tmp_path):
    """Return a function that explains a photograph and gives the facts of its map, and its y."""
    (tmp_path / "any.py").write_text(NET)

    def explain(model, *words):
        given = ["--model", f"any.py:{model}", "--method", "gradcam", "--output", "out", "--json"]
        found = command("explain", "sample:chelsea", *given, *words).json
        return found["photos"][0]

    return explain


def test_labels_and_one_logit(numbers):
    entry = numbers("labels", "--output-key", "first", "--target", "2")
    facts = entry["maps"][0]["target"]
    assert entry["scores"] == "sigmoid"
    assert facts["probability"] == pytest.approx(1 / (1 + math.exp(-facts["logit"])), rel=1e-5)
    other = numbers("labels", "--output-key", "second", "--target", "2")
    assert other["maps"][0]["target"]["logit"] == pytest.approx(-facts["logit"], rel=1e-5)
    soft = numbers("labels", "--output-key", "first", "--target", "2", "--scores", "softmax")
    assert soft["maps"][0]["target"]["probability"] != pytest.approx(facts["probability"], rel=1e-3)
    for c, sign in ((0, -1), (1, 1)):
        entry = numbers("one", "--target", str(c))
        facts = entry["maps"][0]["target"]
        assert entry["predicted"]["index"] == int(sign * facts["logit"] > 0)
        assert facts["probability"] == pytest.approx(1 / (1 + math.exp(-facts["logit"])), rel=1e-5)


def test_a_regression_has_no_probability(numbers):
    entry = numbers("one", "--scores", "regression")
    assert entry["predicted"] is None
    assert entry["maps"][0]["target"]["kind"] == "Regression"
    assert entry["maps"][0]["target"]["probability"] is None


def test_unknown_kinds_and_places(command, numbers):
    numbers("one")
    given = ("--model", "any.py:one", "--method", "gradcam", "--output", "other")
    ran = command("explain", "sample:chelsea", *given, "--scores", "soft")
    assert ran.code == 2
    assert "no kind of scores 'soft'; close names are softmax" in ran.err
    given = ("--model", "any.py:labels", "--method", "gradcam", "--output", "other")
    ran = command("explain", "sample:chelsea", *given, "--output-key", "third")
    assert "'first' (1, 4), 'second' (1, 4)" in ran.err


def test_an_evaluation_says_what_the_numbers_mean(command, numbers):
    numbers("one")
    given = ("--model", "any.py:one", "--methods", "gradcam", "--metrics", "ad", "--count", "2")
    more = ("--target", "predicted", "--output", "run")
    assert command("evaluate", "--data", "samples", *given, *more).code == 0
    with open("run/run.json", encoding="utf-8") as file:
        assert json.load(file)["scores"] == "binary"


def test_a_checkpoint_may_say_it(numbers):
    numbers("one")
    state = torchsaliency.load_model("any.py:one").module.state_dict()
    torch.save({"state_dict": state, "scores": "regression"}, "weights.pt")
    assert torchsaliency.load_model("any.py:one", weights="weights.pt").scores.name == "regression"

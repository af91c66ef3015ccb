"""`explain` of a user's own networks: grey ones from Lightning, and thirteen channels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from torchsaliency.cli.main import app

FILE = """
from torch import nn

def net(channels=1, width=4):
    layers = nn.Conv2d(channels, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(width, 2))
"""


@pytest.fixture
def file(tmp_path):
    (path := tmp_path / "mine.py").write_text(FILE)
    return path


def explain(tmp_path, *arguments):
    output = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["explain", *map(str, arguments), "--method", "gradcam,rise", "--output", str(output)]
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads((output / "manifest.json").read_text())["runs"][-1]
    return manifest, output, result.output


def test_a_grey_checkpoint_of_lightning(file, tmp_path):
    scope: dict[str, object] = {}
    exec(FILE, scope)
    state = scope["net"](width=6).state_dict()
    named = {f"model.{key}": value for key, value in state.items()}
    torch.save({"state_dict": named, "hyper_parameters": {"width": 6}}, tmp_path / "last.ckpt")
    (tmp_path / "names.txt").write_text("healthy\nill\n")
    manifest, _, said = explain(
        tmp_path,
        *("camera", "--model", f"{file}:net", "--weights", tmp_path / "last.ckpt", "--size", 32),
        *("--mean", 0.5, "--classes", tmp_path / "names.txt"),
    )
    assert manifest["network"]["stripped"] == "the prefix model."
    assert manifest["network"]["assumed"] == "std 0.226"
    assert manifest["network"]["options"] == {"width": 6}
    assert manifest["preprocessing"]["mean"] == [0.5]
    assert manifest["photos"][0]["input"] == [32, 32]
    assert manifest["photos"][0]["predicted"]["name"] in {"healthy", "ill"}
    assert "assumed: std 0.226" in " ".join(said.split())
    assert "was given no weights" not in said


def test_weights_that_a_factory_made_are_said(file, tmp_path):
    _, _, said = explain(tmp_path, "camera", "--model", f"{file}:net", "--size", 32)
    sentence = "was given no weights (--weights FILE): it has those that its factory made"
    assert sentence in " ".join(said.split())


def test_thirteen_channels(file, tmp_path):
    np.save(tmp_path / "scene.npy", np.random.default_rng(0).uniform(0, 3000, (20, 30, 13)))
    manifest, output, _ = explain(
        tmp_path,
        *(tmp_path / "scene.npy", "--model", f"{file}:net(channels=13)", "--size", "16x24"),
        *("--mean", 1000, "--std", 500, "--no-colour-bar"),
    )
    assert "assumed" not in manifest["network"]
    assert manifest["photos"][0]["size"] == [20, 30]
    with Image.open(output / "scene.rise.png") as picture:
        assert picture.size == (30, 20)


def test_of_a_regression_the_first_number_is_explained(file, tmp_path):
    words = "camera", "--model", f"{file}:net", "--size", 16, "--scores", "regression"
    manifest, _, said = explain(tmp_path, *words)
    assert manifest["photos"][0]["maps"][0]["target"]["name"] == "the first number"
    assert "embedding" not in said

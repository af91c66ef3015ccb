"""`methods`, `models` and `layers`."""

from __future__ import annotations

from importlib.metadata import version

from torchsaliency.core.method import methods
from torchsaliency.core.target import TARGETS
from torchsaliency.metrics import metrics


def test_methods(command):
    rows = {row["name"]: row for row in command("methods", "--json").json}
    assert list(rows) == list(methods())
    assert rows["opticam"]["options"]["iterations"] == 100
    assert rows["opticam"]["passes"]
    assert rows["mtsm"]["label_free"]
    assert rows["gradcam"]["gradients"]
    assert rows["gradcam"]["paper"] == "Selvaraju et al., ICCV 2017"
    shown = command("methods").out
    assert all(name in shown for name in methods())
    assert "iterations=100" in shown


def test_metrics(command):
    rows = {row["name"]: row for row in command("metrics", "--json").json}
    assert list(rows) == list(metrics())
    assert rows["ad"]["direction"] == "lower"
    assert rows["ag"]["requires"] == ["masked_scores"]
    assert rows["ep"]["annotations"] == "boxes"
    assert rows["aopc"]["options"]["patch"] == 14
    assert all(row["formula"] and row["misleads"] and row["source"] for row in rows.values())
    shown = command("metrics").out
    assert all(name in shown for name in metrics())


def test_targets(command):
    rows = {row["name"]: row for row in command("targets", "--json").json}
    assert list(rows) == list(TARGETS)
    assert rows["margin"]["class"]
    assert rows["regression"]["options"] == {"index": 0, "sign": 1.0}
    shown = command("targets").out
    assert "margin:CLASS" in shown
    assert "index=0" in shown


def test_version(command):
    assert command("--version").out == version("torchsaliency") + "\n"


def test_models(command):
    rows = command("models", "--filter", "RESNET50", "--json").json
    assert {"torchvision/resnet50", "timm/resnet50"} <= {row["name"] for row in rows}
    assert all("resnet50" in row["name"] for row in rows)
    assert [row["name"] for row in command("models", "--json").json if row["default"]] == [
        "builtin/efficientnet_lite0"
    ]
    assert "(default)" in command("models", "--filter", "builtin").out
    nothing = command("models", "--filter", "nonesuch")
    assert (nothing.code, nothing.out) == (0, "")
    assert "No network's name contains 'nonesuch'." in nothing.err
    assert command("models", "--filter", "nonesuch", "--json").json == []


def test_layers(command):
    rows = command("layers", "net.py:factory", "--json").json
    assert [row["name"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[4] == {
        "name": "4",
        "module": "ReLU",
        "output": [1, 8, 8, 8],
        "maps": [8, 8, 8],
        "layout": "Grid",
        "default": True,
    }
    assert "default" in command("layers", "net.py:factory").out


def test_layers_of_tokens_and_of_the_builtin_network(command):
    rows = {row["name"]: row for row in command("layers", "--json").json}
    assert rows["bn2"]["maps"] == [1280, 7, 7]
    assert rows["bn2"]["default"]
    tokens = command("layers", "timm/vit_tiny_patch16_224", "--json").json
    (default,) = [row for row in tokens if row["default"]]
    assert default["layout"] == "Tokens"
    assert default["maps"] == [192, 14, 14]

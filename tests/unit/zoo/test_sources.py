"""Sources of networks: a registry that `load_model`, `models` and the command line read."""

import json

import pytest
from torch import nn
from typer.testing import CliRunner

from torchsaliency.cli.main import app
from torchsaliency.errors import CheckpointError, OptionError
from torchsaliency.zoo import Network, imagenet, load_model, models, register_source
from torchsaliency.zoo.sources.source import SOURCES, facts, make_model

pytestmark = pytest.mark.usefixtures("registries")


def build(count):
    pool, head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, count or 4)
    return nn.Sequential(nn.Conv2d(3, 3, 3), pool, nn.Flatten(), head)


def load(request):
    """Networks of a laboratory."""
    model, weights = make_model(request, build, lambda: (build(None), "lab's own"))
    name = f"lab/{request.name}"
    return Network(
        model, name=name, preprocessing=imagenet(32), source=facts("lab", model, weights)
    )


def test_the_built_in_sources():
    assert SOURCES.names() == ["builtin", "encoder", "hf", "ssl", "timm", "torchvision"]
    assert all(entry.summary.endswith(".") for entry in SOURCES.entries().values())
    assert {model.source for model in models()} == {"builtin", "ssl", "timm", "torchvision"}


def test_a_new_source():
    register_source("lab", networks=lambda: {"small": "cnn"})(load)
    network = load_model("lab/small")
    assert network.source["weights"] == "lab's own"
    assert load_model("lab/small", pretrained=False, num_classes=7).module[-1].out_features == 7
    assert load_model("encoder/lab/small").encoder
    (listed,) = [model for model in models() if model.source == "lab"]
    assert (listed.name, listed.family) == ("lab/small", "cnn")
    result = CliRunner().invoke(app, ["models", "--filter", "lab/", "--json"])
    assert [row["name"] for row in json.loads(result.stdout)] == ["lab/small"]
    with pytest.raises(CheckpointError, match="close names are lab/NAME"):
        load_model("labs/NAM")
    with pytest.raises(CheckpointError, match="num_classes=3 was given for small's own weights"):
        load_model("lab/small", num_classes=3)
    with pytest.raises(OptionError, match="'lab' is registered already"):
        register_source("lab")(load)

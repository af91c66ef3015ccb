"""Every command that takes long says what it does, how far it is, and the time left."""

import re

import pytest

from commands import NET, photographs
from torchsaliency.cli import demo, progress
from torchsaliency.cli.main import COMMANDS
from torchsaliency.cli.progress import Meter

SMALL = ("--model", "builtin/shapes_cnn")
EVALUATED = ("evaluate", "--data", "shapes:4", *SMALL, "--methods", "gradcam", "--metrics", "ad")
EVALUATED += ("--workers", 0)
REPRODUCED = ("--data", "shapes:4", "--workers", 0, "--limit", 1)
CONCEPTS = ("concepts", "photos", *SMALL, "--method")

LONG = {
    "demo": [("demo",)],  # with fewer methods
    "explain": [("explain", "photos", *SMALL, "--method", "gradcam")],
    "evaluate": [EVALUATED, (*EVALUATED, "--keep", "correct", "--output", "kept")],
    "report": [
        ("report", "photos", *SMALL, "--method", "gradcam"),
        (*EVALUATED, "--output", "run"),
        ("report", "run", "--output", "run.html"),
    ],
    "compact": [(*EVALUATED, "--output", "shards"), ("compact", "shards")],
    "choose": [("choose", "photos", *SMALL, "--method", "gradcam")],
    "concepts": [
        (*CONCEPTS, "dff", "--count", 2),
        (*CONCEPTS, "craft", "--count", 2, "--samples", 2, "--target", 1),
        (*CONCEPTS, "tcav", "--concept", "photos", "--random", "many", "--runs", 3),
    ],
    "finetune": [
        ("finetune", "--data", "pets", "--arch", "small.py:factory", "--head-epochs", 1,
         "--epochs", 1, "--batch-size", 4, "--workers", 0)
    ],
    "reproduce": [
        ("reproduce", "tmlr-fig3", *REPRODUCED),
        ("reproduce", "opticam-appendixD", *REPRODUCED, *SMALL, "--model", "builtin/shapes_vit"),
    ],
}  # fmt: skip
"""Calls of each command that may take longer than a few seconds."""

QUICK = {"methods", "metrics", "targets", "datasets", "models", "layers", "recipes"}
QUICK |= {"table", "compare", "survey-score"}  # they read what is there
QUICK |= {"plan"}  # it measures a few images, to say what the others would take
QUICK |= {"doctor"}  # one image of a tiny network
QUICK |= {"app"}  # a server, whose page says how far it is

FAR = re.compile(r"[a-z -]+: \d+ of \d+ [a-z0-9 ]+ \(\d+%\), .*(s each|a second), .* left\.")


def test_every_command_is_known_to_be_long_or_quick():
    names = {command.__name__.replace("_", "-") for command in COMMANDS}
    assert names == LONG.keys() | QUICK
    assert not LONG.keys() & QUICK


@pytest.fixture
def heard(monkeypatch):
    """What meters said, after each of their steps; without a terminal lines follow at once."""
    found, update = [], Meter.update

    def listen(meter, **far):
        update(meter, **far)
        found.append(meter.describe())

    monkeypatch.setattr(Meter, "update", listen)
    monkeypatch.setattr(progress, "_SOONEST", 0.001)
    return found


@pytest.fixture
def material(place, monkeypatch):
    photographs(place / "photos", 4, size=(64, 64))
    photographs(place / "many", 12, size=(64, 64))
    for name in ("cat", "dog"):
        photographs(place / "pets" / name, 8, size=(64, 64))
    (place / "small.py").write_text(NET)
    monkeypatch.setattr(demo, "_METHODS", {"gradcam": {}})
    monkeypatch.setattr(demo, "_JUDGED", "gradcam")


@pytest.mark.usefixtures("material")
@pytest.mark.parametrize("name", LONG)
def test_how_far_a_long_command_is(name, command, heard):
    for words in LONG[name]:
        heard.clear()
        ran = command(*words)
        assert ran.code == 0, ran.err
        assert [line for line in heard if FAR.fullmatch(line)], (words, heard)
        lines = [line for line in ran.err.splitlines() if re.search(r"\d+ of \d+|so far", line)]
        assert lines, words

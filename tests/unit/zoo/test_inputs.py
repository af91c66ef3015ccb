"""What is said of a network's input, in every form, and what nobody says."""

from __future__ import annotations

import json

import pytest
from torch import nn

from torchsaliency.errors import OptionError
from torchsaliency.zoo import Preprocessing, imagenet
from torchsaliency.zoo.inputs import InputFacts, find_facts, read_classes

GREY, COLOUR, MANY = (nn.Sequential(nn.Conv2d(count, 2, 3)) for count in (1, 3, 13))


@pytest.mark.parametrize(
    ("given", "model", "expected"),
    [
        ({}, COLOUR, imagenet()),
        ({"size": "96"}, nn.Linear(2, 2), imagenet(96)),
        ({"size": "64x128"}, COLOUR, Preprocessing((64, 128), (73, 146))),
        ({"size": (3, 32, 32)}, COLOUR, imagenet(32)),
        ({"mean": "0.5", "std": 0.25}, COLOUR, (0.5, 0.25, 3)),
        ({"mean": 0.5, "std": "0.25"}, GREY, (0.5, 0.25, 1)),
        ({"mean": [127.5], "std": [63.75]}, GREY, (0.5, 0.25, 1)),
        ({"mean": "0.5,0.5", "std": 0.25}, MANY, (0.5, 0.25, 2)),
        ({"mean": "1000", "std": 500}, MANY, (1000, 500, 13)),
        ({"channels": 4, "mean": 1, "std": 2}, COLOUR, (1, 2, 4)),
    ],
)
def test_facts_become_a_preprocessing(given, model, expected):
    found = InputFacts.parse(**given).apply(None, model)
    if isinstance(expected, tuple):
        mean, std, channels = expected
        expected = ((mean,) * channels, (std,) * channels)
        assert (found.mean, found.std) == expected
    else:
        assert found == expected


def test_facts_change_what_is_known():
    known = Preprocessing((224, 224), (256, 256), mean=(0.3,) * 3, std=(0.2,) * 3, order="bgr")
    assert InputFacts().apply(known, COLOUR) == known
    changed = InputFacts.parse(size=112, std="0.1").apply(known, COLOUR)
    assert changed == Preprocessing(
        (112, 112), (128, 128), mean=known.mean, std=(0.1,) * 3, order="bgr"
    )


def test_what_nobody_said():
    found = InputFacts.parse(size=32).apply(None, GREY)
    assert InputFacts.parse(size=32).describe_assumptions(found) == "mean 0.449, std 0.226"
    told = InputFacts.parse(size=32, mean=0, std=1)
    assert told.describe_assumptions(told.apply(None, GREY)) == ""


@pytest.mark.parametrize(
    "given",
    [
        {"size": "big"},
        {"size": "1x2x3x4"},
        {"size": 0},
        {"size": 2.5},
        {"mean": "grey"},
        {"std": [[1]]},
        {"std": float("nan")},
        {"mean": object()},
        {"channels": True},
        {"classes": 3},
        {"classes": {"a": 1}},
        {"classes": []},
        {"classes": "/no/such/file"},
    ],
)
def test_what_cannot_be_understood(given):
    with pytest.raises(OptionError, match="; give "):
        InputFacts.parse(**given)
    with pytest.raises(OptionError, match="2 numbers were given for 3 channels"):
        InputFacts.parse(mean=(0.5, 0.5), channels=3).apply(None, COLOUR)


def test_files_of_class_names(tmp_path):
    (text := tmp_path / "names.txt").write_text("cat\n\n dog \n")
    (listed := tmp_path / "names.json").write_text(json.dumps({"dog": 1, "cat": 0}))
    assert read_classes(text) == read_classes(listed) == ("cat", "dog")
    assert InputFacts.parse(classes={"1": "dog", "0": "cat"}).classes == ("cat", "dog")


def test_facts_in_checkpoints():
    content = {
        "epoch": 3,
        "classes": 10,  # a number of classes, in other people's scripts
        "class_names": ["a", "b"],
        "hyper_parameters": {"img_size": [64, 96], "in_chans": 1, "std": "batch"},
    }
    expected = InputFacts(size=(64, 96), channels=1, classes=("a", "b"))
    assert find_facts(content) == expected
    assert find_facts([1, 2]) == find_facts({}) == InputFacts()


def test_a_size_given_to_a_network_of_whole_photographs_crops_what_hangs_over():
    whole = Preprocessing(size=None, resize=None)
    found = InputFacts(size=(32, 48)).apply(whole, nn.Identity())
    assert (found.size, found.resize) == ((32, 48), (32, 48))
    assert InputFacts().apply(whole, nn.Identity()) == whole
    assert "the photograph's own size" in InputFacts().describe_assumptions(whole)

"""A class may be given by number or by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchsaliency.core.network import unwrap
from torchsaliency.errors import TargetError
from torchsaliency.zoo import Network, imagenet

NAMES = ("tabby, tabby cat", "tiger cat", "tiger", "crane", "crane", "tiger_shark", "goldfish")


def network(classes: tuple[str, ...] | None = NAMES) -> Network:
    return Network(nn.Linear(2, 7), name="test/net", preprocessing=imagenet(), classes=classes)


@pytest.mark.parametrize(
    ("given", "index"),
    [
        (1, 1),
        ("6", 6),
        (" 2 ", 2),
        ("tiger", 2),
        ("Tiger Cat", 1),
        ("tabby", 0),
        ("TABBY CAT", 0),
        ("tiger shark", 5),
        ("gold", 6),
        ("fish", 6),
        ("shark", 5),
    ],
)
def test_numbers_and_names(given, index):
    assert network().class_index(given) == index


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "accepted are 0 to 6"),
        (-1, "no class -1"),
        ("-1", "no class -1"),
        ("crane", r"2 classes .* crane \(3\), crane \(4\)"),
        ("tig", r"3 classes .* tiger cat \(1\)"),
        ("goldfsh", r"close names are goldfish.* and a number"),
        ("zzz", "no class 'zzz' in this network; known are"),
        ("", "no class ''"),
    ],
)
def test_unknown_and_ambiguous(given, message):
    with pytest.raises(TargetError, match=message):
        network().class_index(given)


def test_without_names():
    nameless = network(None)
    assert nameless.class_index(123) == 123
    assert nameless.class_name(3) == "3"
    with pytest.raises(TargetError, match="has no class names"):
        nameless.class_index("cat")
    with pytest.raises(TargetError, match="0 and up"):
        nameless.class_index(-1)


def test_a_count_without_names_bounds_the_number():
    nameless = network(None)
    nameless.module.num_classes = 3
    with pytest.raises(TargetError, match="0 to 2"):
        nameless.class_index(3)


def test_it_runs_and_unwraps():
    wrapped = network()
    assert wrapped(torch.zeros(1, 2)).shape == (1, 7)
    assert unwrap(wrapped) is wrapped.module
    assert wrapped.class_name(2) == "tiger"

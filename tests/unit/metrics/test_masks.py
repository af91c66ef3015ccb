"""Ranks, mass and area under the curve: perfect and worst by construction, ties, void pixels."""

import pytest
import torch

from torchsaliency.errors import OptionError
from torchsaliency.metrics import functional
from torchsaliency.metrics.base import create_metric

NAMES = ["relevance-rank", "relevance-mass", "top-k", "attribution-localisation", "auc"]
MASK = torch.zeros(1, 4, 5, dtype=torch.long)
MASK[:, :2, :2] = 1  # 4 of 20 pixels
OPTIONS = {"top-k": {"k": 4}}


def value(name, maps, masks=MASK, **options):
    made = create_metric(name, {**OPTIONS.get(name, {}), **options})
    made.update(maps, masks)
    return made.per_image.item()


@pytest.mark.parametrize("name", NAMES)
def test_perfect_and_worst_by_construction(name):
    made = create_metric(name)
    assert value(name, MASK.double()) == 100 == made.entry.best
    assert value(name, 1 - MASK.double()) == 0 == made.entry.worst


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relevance-rank", 20),
        ("relevance-mass", 20),
        ("top-k", 20),
        ("attribution-localisation", 20),
        ("auc", 50),
    ],
)
def test_a_map_of_ones_is_chance(name, expected):
    """Equal pixels are in no order: the object's share of the image."""
    assert value(name, torch.ones(1, 4, 5)) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_void_pixels_are_left_out(name):
    maps = torch.rand(1, 4, 5)
    masks = MASK.clone()
    masks[0, 3] = 255
    kept = value(name, maps[:, :3], masks[:, :3])
    assert value(name, maps, masks) == pytest.approx(kept)


@pytest.mark.parametrize("name", NAMES)
def test_no_object_is_undefined(name):
    assert torch.tensor(value(name, torch.rand(1, 4, 5), MASK * 0)).isnan()


def test_by_hand():
    maps = torch.zeros(1, 4, 5)
    maps[0, 0, 0], maps[0, 3, 3], maps[0, 1, 1] = 1.0, 0.5, 0.25
    assert value("relevance-mass", maps) == pytest.approx(100 * 1.25 / 1.75)
    # two of the first three, and one of the 17 zeros, of which two are on the object
    assert value("relevance-rank", maps) == pytest.approx(100 * (2 + 2 / 17) / 4)
    assert value("top-k", maps, k=2) == 50
    assert value("top-k", maps, k=2, concept_influence=True) == pytest.approx(50 * 20 / 4)
    assert value("attribution-localisation", maps, weighted=True) == pytest.approx(
        100 * 1.25 / 1.75 * 20 / 4
    )
    assert torch.tensor(value("attribution-localisation", maps, max_size=0.1)).isnan()
    won = 16 + 15 + 2 * (15 * 0.5)  # of 4 · 16 pairs
    assert value("auc", maps) == pytest.approx(100 * won / 64)
    assert torch.tensor(value("relevance-mass", maps * 0)).isnan()


@pytest.mark.parametrize("k", ["0", "1.5", "-1"])
def test_wrong_numbers_of_pixels(k):
    with pytest.raises(OptionError, match="k is"):
        create_metric("top-k", {"k": k})
    with pytest.raises(OptionError, match="21 most salient"):
        functional.top_k_intersection(torch.rand(1, 4, 5), MASK, 21)

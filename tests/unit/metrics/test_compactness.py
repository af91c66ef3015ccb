"""MST-C: squares, lines and clusters, whose hull and tree are known."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from torchsaliency.errors import OptionError
from torchsaliency.metrics.compactness import tree_compactness, tree_length

SIDE = 20
DIAGONAL = math.hypot(SIDE, SIDE)


def drawn(*blocks: tuple[int, int, int, int]) -> torch.Tensor:
    found = torch.zeros(1, SIDE, SIDE)
    for top, left, rows, columns in blocks:
        found[0, top : top + rows, left : left + columns] = 1
    return found


@pytest.mark.parametrize("side", [2, 5, 8])
def test_a_square_by_hand(side):
    """side² pixels, a hull of (side - 1)², a tree of side² - 1 steps of one pixel."""
    count = side**2
    expected = 100 * DIAGONAL / (side - 1) * count / (count - 1)
    assert tree_compactness(drawn((3, 4, side, side))).item() == pytest.approx(expected)


def test_a_line_counts_as_spread_over_the_image():
    assert tree_compactness(drawn((3, 2, 1, 8))).item() == pytest.approx(100 * 8 / 7)
    slanted = torch.eye(SIDE)[None]
    expected = 100 * SIDE / ((SIDE - 1) * math.sqrt(2))
    assert tree_compactness(slanted).item() == pytest.approx(expected)


def test_gaps_between_clusters_cost():
    near, far = drawn((2, 2, 4, 4), (2, 7, 4, 4)), drawn((2, 2, 4, 4), (2, 15, 4, 4))
    scores = [tree_compactness(one).item() for one in (drawn((2, 2, 4, 8)), near, far)]
    assert scores == sorted(scores, reverse=True)
    # two clusters of 16 pixels, 10 apart: 15 + 15 + 10
    expected = 100 * DIAGONAL / math.sqrt(3 * 16) * 32 / 40
    assert scores[2] == pytest.approx(expected)


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_trees_are_as_short_as_of_all_pairs(sides):
    points = np.argwhere(np.random.default_rng(0).random((9,) * sides) > 0.6).astype(float)
    expected = minimum_spanning_tree(cdist(points, points)).sum()
    assert tree_length(points) == pytest.approx(expected)


def test_volumes_and_signals():
    cube = torch.zeros(1, 10, 10, 10)
    cube[0, 2:5, 2:5, 2:5] = 1
    expected = 100 * math.sqrt(300) / 2 * 27 / 26
    assert tree_compactness(cube).item() == pytest.approx(expected)
    signal = torch.zeros(1, 30)
    signal[0, 4:9] = 1
    assert tree_compactness(signal).item() == pytest.approx(100 * 30 / 4 * 5 / 4)


def test_pixels_of_zero_are_never_strong():
    """Of a map that is mostly 0, the percentile is 0, and says nothing."""
    few = drawn((3, 4, 3, 3))
    assert tree_compactness(few, 10).item() == tree_compactness(few, 90).item()
    assert tree_compactness(torch.zeros(1, 5, 5)).isnan().all()
    assert tree_compactness(drawn((3, 4, 1, 1))).isnan().all()
    with pytest.raises(OptionError, match="one in \\[0, 100\\)"):
        tree_compactness(few, 100)

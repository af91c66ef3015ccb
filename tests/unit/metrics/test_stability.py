"""Ratios of changes: by hand, the steady map, copies that change the class, sets of images."""

import math

import pytest
import torch

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics import functional
from torchsaliency.metrics.base import create_metric

MAP = torch.tensor([[[0.6, 0.8]]])
NOISY = torch.tensor([[[[0.6, 0.5]], [[0.3, 0.8]]]])
FAR = torch.tensor([[0.1, 0.6]])
RATIOS = ["local-lipschitz", "ris", "ros", "rrs", "continuity"]


def given(name, maps, copies):
    """What a metric takes, all distances 1 and no copy of another class."""
    ones = torch.ones(copies.shape[:2])
    known = {"maps": maps, "noisy_maps": copies, "translated_maps": copies, "same_class": ones > 0}
    entry = create_metric(name).entry
    return {key: known.get(key, ones) for key in entry.inputs}


def test_lipschitz_and_continuity_by_hand():
    """Changes (0.3, 0.3) over distances (0.1, 0.6): the first copy decides."""
    assert functional.local_lipschitz(MAP, NOISY, FAR).item() == pytest.approx(3)
    both = torch.tensor([[[[0.3, 0.5]]]])  # 0.3 + 0.3 in one norm, √0.18 in the other
    assert functional.continuity(MAP, both, torch.tensor([[2.0]])).item() == pytest.approx(0.3)
    found = functional.local_lipschitz(MAP, both, torch.tensor([[2.0]]))
    assert found.item() == pytest.approx(math.sqrt(0.18) / 2)


def test_relative_stability_by_hand():
    same = torch.tensor([[True, True]])
    found = functional.relative_input_stability(MAP, NOISY, FAR, same)
    assert found.item() == pytest.approx(max(0.3 / 0.8 / 0.1, 0.3 / 0.6 / 0.6))
    # the copy that decides is of another class
    other = functional.relative_input_stability(MAP, NOISY, FAR, torch.tensor([[False, True]]))
    assert other.item() == pytest.approx(0.3 / 0.6 / 0.6)
    assert functional.relative_input_stability(MAP, NOISY, FAR, ~same).isnan().all()
    # a pixel of 0 counts as `least`, in the map and in the denominator
    zero = torch.tensor([[[0.0, 0.8]]])
    found = functional.relative_stability(
        zero, zero[:, None] + 0.1, FAR[:, :1] * 0, same[:, :1], 0.01
    )
    assert found.item() == pytest.approx(math.hypot(0.1 / 0.01, 0.1 / 0.8) / 0.01, rel=1e-5)


@pytest.mark.parametrize("name", RATIOS)
def test_a_map_that_does_not_change_is_perfect(name):
    maps = torch.rand(3, 4, 5)
    made = create_metric(name)
    made.update(**given(name, maps, maps[:, None].expand(-1, 2, -1, -1)))
    assert made.per_image.tolist() == [0, 0, 0]
    assert made.entry.best == 0


def test_no_distance():
    still, moved = MAP[:, None], NOISY[:, :1]
    none = torch.zeros(1, 1)
    assert functional.local_lipschitz(MAP, still, none).item() == 0
    assert functional.continuity(MAP, moved, none).isnan().all()


def test_what_cannot_be_compared():
    with pytest.raises(InputError, match="one finite number"):
        functional.local_lipschitz(MAP, NOISY, -FAR)
    with pytest.raises(InputError, match="not one row of numbers"):
        functional.relative_output_stability(MAP, NOISY, None, None)
    with pytest.raises(OptionError, match="above 0"):
        create_metric("ris", {"least": "0"})


def test_consistency_by_hand():
    """Three images share a cell, two of them a class; one has a cell of its own."""
    codes, classes = torch.tensor([4, 4, 4, 7]), torch.tensor([1, 1, 2, 1])
    found = functional.consistency(codes, classes)
    assert found.tolist() == pytest.approx([200 / 3, 200 / 3, 100 / 3, 100])
    assert functional.consistency(codes[:2], classes[:2]).tolist() == [100, 100]  # perfect


def test_cells_of_peaks():
    maps = torch.zeros(3, 6, 7)
    maps[0, 0, 0] = maps[1, 5, 6] = 1
    maps[2, 2:4, 3] = 1
    assert functional.peak_cells(maps).tolist() == [0, 8, 4]
    assert functional.peak_cells(maps, 1).tolist() == [0, 0, 0]
    with pytest.raises(OptionError, match="1 to 6"):
        functional.peak_cells(maps, 7)


def test_consistency_is_of_all_images_and_not_of_a_batch():
    maps, classes = torch.rand(9, 6, 6), torch.arange(9) % 2
    made = create_metric("consistency")
    for part in (slice(0, 2), slice(2, 9)):
        made.update(maps[part], classes[part])
    expected = functional.consistency(functional.peak_cells(maps), classes)
    torch.testing.assert_close(made.per_image, expected)
    assert made.compute().item() == pytest.approx(expected.mean().item())

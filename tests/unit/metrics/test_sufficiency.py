"""Sufficiency and ARCC by hand."""

import pytest
import torch

from torchsaliency.metrics import create_metric, functional

MAPS = torch.stack([torch.eye(8), torch.eye(8), 1 - torch.eye(8), 1 - torch.eye(8)])


def test_maps_that_tell_the_class_are_perfect():
    assert functional.sufficiency(MAPS, torch.tensor([0, 0, 1, 1])).tolist() == [100] * 4
    assert functional.sufficiency(MAPS, torch.tensor([0, 1, 0, 1])).tolist() == [50] * 4
    alone = functional.sufficiency(MAPS, torch.tensor([0, 1, 1, 1]), itself=False)
    assert alone.tolist() == [0, 0, 100, 100]
    assert functional.sufficiency(MAPS[1:3], torch.tensor([0, 1]), itself=False).isnan().all()


def test_all_images_that_were_added_are_neighbours():
    metric = create_metric("sufficiency")
    for image, label in zip(MAPS, (0, 1, 0, 1), strict=True):
        metric.update(image[None], torch.tensor([label]))
    assert metric.per_image.tolist() == [50] * 4


def test_arcc_is_the_harmonic_mean_of_its_parts():
    parts = (torch.tensor([value]) for value in (80.0, 40.0, 10.0))
    expected = 300 / (1 / 0.8 + 1 / 0.6 + 1 / 0.6)
    assert float(functional.arcc(*parts)) == pytest.approx(expected)
    worst = (torch.tensor([value]) for value in (80.0, 40.0, -50.0))
    assert functional.arcc(*worst).tolist() == [0]

"""mIoU: counted by hand, at one threshold and at many."""

import pytest
import torch

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import create_metric, metric_entry
from torchsaliency.metrics.segmentation import MeanIoU, MeanIoUSweep, iou_at

MAPS = torch.tensor([[[0.2, 0.5], [0.6, 1.0]]])
MASK = torch.tensor([[[0, 7], [0, 20]]])


def some(count=5, size=12):
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(count, size, size, generator=draw)
    masks = torch.randint(0, 3, (count, size, size), generator=draw)
    masks[:, :2] = 255
    return maps, masks


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0, 50), (0.5, 200 / 3), (0.55, 100 / 3), (0.7, 50), (1, 50)]
)
def test_by_hand(threshold, expected):
    assert iou_at(MAPS, MASK, threshold).tolist() == pytest.approx([expected])


def test_the_threshold_belongs_to_the_map():
    """Eq. 10 prints ≤, which selects the background (erratum T4)."""
    maps = torch.tensor([[[0.0, 0.5], [0.5, 1.0]]])
    mask = torch.tensor([[[0, 1], [1, 1]]])
    assert iou_at(maps, mask).item() == 100
    assert iou_at(maps.double(), mask).item() == 100


def test_void_is_left_out_or_background():
    mask = torch.tensor([[[0, 1], [255, 1]]])
    assert iou_at(MAPS, mask).item() == 100
    assert iou_at(MAPS, mask, void="background").item() == pytest.approx(200 / 3)
    assert iou_at(MAPS, mask.to(torch.uint8)).item() == 100


def test_perfect_and_worst():
    _, masks = some()
    there = ((masks > 0) & (masks < 255)).float()
    for made in (MeanIoU(), MeanIoUSweep()):
        made.update(there, masks)
        assert made.compute() == metric_entry(made.name).best
        made.reset()
        made.update(1 - there, masks)
        assert made.compute() == metric_entry(made.name).worst


def test_nothing_found_where_there_is_nothing_is_undefined():
    maps, nothing = torch.full((2, 2, 2), 0.3), torch.zeros(2, 2, 2, dtype=torch.long)
    assert iou_at(maps, nothing).isnan().all()
    assert iou_at(maps, nothing, 0.2).tolist() == [0, 0]
    assert iou_at(maps, nothing + 255).isnan().all()
    made = MeanIoU()
    made.update(torch.cat([maps, MAPS]), torch.cat([nothing, MASK]))
    assert made.per_image.isnan().tolist() == [True, True, False]
    assert made.compute() == pytest.approx(200 / 3)
    assert made.summary().undefined == 2


def test_the_sweep_is_the_mean_of_its_curve():
    maps, masks = some()
    made = MeanIoUSweep()
    made.update(maps, masks)
    assert list(made.curve) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for threshold, value in made.curve.items():
        single = MeanIoU(threshold)
        single.update(maps, masks)
        assert value == pytest.approx(single.compute().item())
    assert made.compute().item() == pytest.approx(sum(made.curve.values()) / 6)
    assert made.per_image.mean().item() == pytest.approx(made.compute().item())
    assert made.summary().value == pytest.approx(made.compute().item())


@pytest.mark.parametrize("name", ["miou", "miou-sweep"])
def test_neither_batches_nor_order_matter(name):
    maps, masks = some()
    whole, parts, turned = (create_metric(name) for _ in range(3))
    whole.update(maps, masks)
    for start in (0, 1, 4):
        end = {0: 1, 1: 4, 4: 5}[start]
        parts.update(maps[start:end], masks[start:end])
    turned.update(maps.flip(0), masks.flip(0))
    assert torch.equal(whole.per_image, parts.per_image)
    assert torch.equal(whole.per_image, turned.per_image.flip(0))
    assert whole.compute() == pytest.approx(turned.compute().item())


def test_half_precision_maps_are_accepted():
    assert iou_at(MAPS.half(), MASK, 0.55).item() == pytest.approx(100 / 3)


def test_wrong_inputs_are_told():
    with pytest.raises(InputError, match="same size"):
        iou_at(MAPS, MASK[:, :1])
    with pytest.raises(InputError, match="not fractions"):
        iou_at(MAPS, MASK / 3)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        iou_at(MAPS * 2, MASK)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_thresholds_out_of_range_are_told(threshold):
    with pytest.raises(OptionError, match="threshold"):
        iou_at(MAPS, MASK, threshold)
    with pytest.raises(OptionError, match="threshold"):
        MeanIoU(threshold)
    with pytest.raises(OptionError, match="threshold"):
        MeanIoUSweep((0.5, threshold))


def test_a_sweep_needs_a_threshold():
    with pytest.raises(OptionError, match="at least one"):
        MeanIoUSweep(())


def test_options_come_from_strings():
    made = create_metric("miou", {"threshold": "0.7", "void": "background"})
    assert made.settings == {"threshold": 0.7, "void": "background"}
    with pytest.raises(OptionError, match="void"):
        create_metric("miou", {"void": "object"})


@pytest.mark.parametrize("name", ["miou", "miou-sweep"])
def test_the_registry_knows(name):
    entry = metric_entry(name)
    assert entry.annotations == "masks"
    assert entry.inputs == ("maps", "masks")
    assert all(entry.section(key) for key in ("Formula", "Rewards", "Misleads", "Undefined"))
    assert all(entry.section(key) for key in ("Differs", "Source"))

"""The drawn shapes: the same everywhere, with masks and boxes that are true."""

import pytest
import torch

from torchsaliency import OptionError
from torchsaliency.data import backgrounds, shapes
from torchsaliency.data.shapes import CLASSES


def test_sizes_and_ranges():
    drawn = shapes(16, seed=3)
    assert drawn.images.shape == (16, 3, 64, 64)
    assert 0 <= drawn.images.min() <= drawn.images.max() <= 1
    assert drawn.images.std() > 0.1
    assert drawn.kinds.shape == (16, 1)
    assert torch.equal(drawn.labels, drawn.kinds[:, 0])
    assert set(drawn.masks.unique().tolist()) == {0, 1}
    assert len(drawn) == 16


def test_an_image_is_its_number_and_seed():
    whole = shapes(12, seed=5)
    part = shapes(4, start=5, seed=5)
    for name in ("images", "labels", "masks", "boxes"):
        assert torch.equal(getattr(whole[5:9], name), getattr(part, name))
    assert not torch.equal(whole.images, shapes(12, seed=6).images)


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    shapes(2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("objects", [1, 2])
def test_boxes_are_tight(objects):
    drawn = shapes(40, seed=2, objects=objects)
    for place in range(objects):
        for mask, (left, top, right, bottom) in zip(
            drawn.masks == place + 1, drawn.boxes[:, place].long().tolist(), strict=True
        ):
            rows, columns = mask.nonzero().unbind(1)
            assert (columns.min(), columns.max() + 1) == (left, right)
            assert (rows.min(), rows.max() + 1) == (top, bottom)
            assert mask.sum() > 30


def test_every_object_is_whole():
    """None is cut by the border: a ring of background remains, or the object just touches it."""
    drawn = shapes(200, seed=4)
    areas = (drawn.masks > 0).float().mean((1, 2))
    assert areas.min() > 0.005
    assert areas.max() < 0.3


def test_two_objects_are_of_two_classes_and_apart():
    drawn = shapes(60, seed=7, objects=2)
    assert (drawn.kinds[:, 0] != drawn.kinds[:, 1]).all()
    assert {1, 2} <= set(drawn.masks.unique().tolist())
    assert ((drawn.masks == 1).any(2).any(1) & (drawn.masks == 2).any(2).any(1)).all()
    left = drawn.boxes[:, 0, 2] <= drawn.boxes[:, 1, 0] + 2
    right = drawn.boxes[:, 1, 2] <= drawn.boxes[:, 0, 0] + 2
    assert (left | right).all()
    assert 0.2 < left.float().mean() < 0.8


def test_classes_are_even_or_as_asked():
    counts = shapes(800, seed=9, side=16).labels.bincount(minlength=len(CLASSES))
    assert counts.min() > 60
    asked = [7, 0, 3]
    assert shapes(3, classes=asked).labels.tolist() == asked


def test_context_betrays_the_class_and_no_context_does_not():
    """The mean colour of the background tells the class, or nothing of it."""

    def told(context):
        drawn = shapes(600, seed=11, side=32, context=context)
        outside = (drawn.masks == 0)[:, None]
        colours = (drawn.images * outside).sum((2, 3)) / outside.sum((2, 3))
        # the hue, free of light: which classes' mean hues lie apart?
        hues = colours / colours.norm(dim=1, keepdim=True)
        means = torch.stack([hues[drawn.labels == one].mean(0) for one in range(len(CLASSES))])
        return float((torch.cdist(hues, means).argmin(1) == drawn.labels).float().mean())

    assert told(1.0) > 0.8
    assert told(0.0) < 0.3


def test_backgrounds_hold_no_object():
    empty = backgrounds(5, seed=1)
    assert empty.shape == (5, 3, 64, 64)
    assert backgrounds(0).shape == (0, 3, 64, 64)
    assert shapes(0, objects=2).boxes.shape == (0, 2, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"count": 1, "start": -1},
        {"count": 1, "side": 15},
        {"count": 1, "objects": 3},
        {"count": 1, "context": 1.5},
        {"count": 2, "classes": [1]},
        {"count": 1, "classes": [8]},
    ],
)
def test_mistakes(wrong):
    count = wrong.pop("count")
    with pytest.raises(OptionError):
        shapes(count, **wrong)

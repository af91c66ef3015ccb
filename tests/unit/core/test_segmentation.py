"""Targets of segmenters: a class over the region where the clean image is predicted as it."""

import pytest
import torch

from nets import TinySegmenter, images
from torchsaliency import InputError, MaskScore, OptionError, Segment, TargetError, default_layer
from torchsaliency.core.target import parse_target

OUTPUT = torch.zeros(2, 3, 2, 2)
OUTPUT[0, 2, 0] = torch.tensor([4.0, 6.0])  # the upper half of image 0 is of class 2
OUTPUT[0, 1, 1] = torch.tensor([1.0, 1.0])
OUTPUT[1, 1] = 3.0
OUTPUT[1, 2, 1, 1] = 5.0


def test_the_region_is_what_is_predicted_as_the_class():
    made = Segment(2).resolve(OUTPUT)
    assert made(OUTPUT).tolist() == [5, 5]
    assert made.describe() == {"kind": "MaskScore", "category": [2, 2], "areas": [0.5, 0.25]}
    assert made(2 * OUTPUT).tolist() == [10, 10]  # the region stays that of the clean image


def test_the_class_of_most_of_each_image_is_the_default():
    made = Segment().resolve(OUTPUT)
    assert made.category.tolist() == [1, 1]  # of equally many, the first
    index = torch.tensor([1, 0, 1])
    torch.testing.assert_close(made.take(index)(OUTPUT[index]), made(OUTPUT)[index])


def test_the_region_may_be_a_box():
    made = Segment(0, box=(0.0, 0.5, 0.5, 1.0)).resolve(OUTPUT)
    assert made.masks.tolist() == [[[0, 0], [1, 0]]] * 2
    small = Segment(0, box=(0.8, 0.8, 0.9, 0.9)).resolve(OUTPUT)  # between two centres
    assert small.masks.tolist() == [[[0, 0], [0, 1]]] * 2


def test_one_logit_says_whether_the_object_is_there():
    output = torch.tensor([[[[2.0, -1.0], [4.0, -3.0]]]])
    assert Segment().resolve(output)(output).tolist() == [3]


def test_mistakes():
    with pytest.raises(InputError, match="No part of image 0 is predicted as class 0"):
        Segment(0).resolve(OUTPUT)
    with pytest.raises(TargetError, match="classes 0 to 2"):
        Segment(3).resolve(OUTPUT)
    with pytest.raises(TargetError, match="classes 0 to 2"):
        MaskScore(torch.ones(2, 2, 2), -1)(OUTPUT)
    with pytest.raises(TargetError, match=r"dense output .* \(2, 5\)"):
        Segment().resolve(torch.ones(2, 5))
    with pytest.raises(OptionError, match="shares of the image"):
        Segment(0, box=(0.5, 0.0, 0.4, 1.0))


def test_words():
    def of_class(word):
        return {"cat": 8}[word]

    assert parse_target("segment", of_class) == Segment()
    assert parse_target("segment:cat", of_class) == Segment(8)
    assert parse_target("segment:cat,box=0,0.5,0.5,1", of_class) == Segment(8, (0.0, 0.5, 0.5, 1.0))


def test_the_default_layer_is_the_last_of_the_coarsest_grid():
    assert default_layer(TinySegmenter(), images(1, 32, 32)).name == "coarse"


def test_the_region_of_one_probability_is_where_it_is_above_one_half():
    logits = torch.tensor([[[[2.0, -1.0], [-3.0, 0.5]]]])
    for output in (logits, logits.sigmoid()):
        assert Segment().resolve(output).masks.tolist() == [[[1, 0], [0, 1]]]

"""The whole registry on detectors and segmenters: a right map, or a sentence that says why not."""

import pytest
import torch

from nets import (
    ATTENTION_NAMES,
    DETECTION_NAMES,
    NEEDS_A_LINEAR_HEAD,
    NEEDS_RELU,
    TinySegmenter,
    assert_good_map,
    assert_same_state,
    images,
    quick,
    state_of,
    tiny_detector,
)
from torchsaliency import Box, Segment, TorchSaliencyError
from torchsaliency.core.method import methods
from torchsaliency.methods.masking import DRISE
from torchsaliency.methods.masking.rise import RandomMasks

SUBJECTS = {
    "two-stage detector": (tiny_detector("fpn"), Box(least=0.1)),
    "single-shot detector": (tiny_detector("ssd"), Box("all", least=0.1)),
    "segmenter": (TinySegmenter(), Segment()),
}
KEYS = ("boxes", "labels", "scores")
FEW = {"passes": 6, "iterations": 2}
REFUSED = {
    "two-stage detector": {
        **dict.fromkeys([*ATTENTION_NAMES, "tibav"], "no attention"),
        **dict.fromkeys(NEEDS_A_LINEAR_HEAD, "global average pooling"),
        "finercam": "compares a class with others",
        **dict.fromkeys(NEEDS_RELU, "at ReLU"),
        **dict.fromkeys(["deeplift", "deepshap"], "another way for the baseline"),
        **dict.fromkeys(["fullgrad", "lrp", "relevance-cam", "shapleycam"], "roi_align"),
    },
    "single-shot detector": {
        **dict.fromkeys(NEEDS_RELU, "at ReLU"),
        **dict.fromkeys(["deeplift", "deepshap"], "another way for the baseline"),
        **dict.fromkeys(ATTENTION_NAMES, "no attention"),
        **dict.fromkeys(NEEDS_A_LINEAR_HEAD, "global average pooling"),
        "finercam": "compares a class with others",
    },
    "segmenter": {
        **dict.fromkeys(ATTENTION_NAMES, "no attention"),
        **dict.fromkeys(NEEDS_A_LINEAR_HEAD, "global average pooling"),
        "finercam": "compares a class with others",
        **dict.fromkeys(DETECTION_NAMES, "use rise"),
    },
}


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("name", sorted(methods()))
def test_a_right_map_or_a_sentence(name, subject):
    net, target = SUBJECTS[subject]
    known = methods()[name].options
    method = quick(name, **{key: value for key, value in FEW.items() if key in known})
    before = state_of(net)
    try:
        made = method(net, images(2, 64, 64), target)
    except TorchSaliencyError as error:
        assert name in REFUSED[subject], error
        assert REFUSED[subject][name] in str(error)
    else:
        assert name not in REFUSED[subject]
        assert_good_map(made, 2, (64, 64))
        assert "ok" in made.status or methods()[name].control
    assert_same_state(before, state_of(net))


def test_d_rise_is_a_loop_over_masks():
    net, x = tiny_detector("fasterrcnn"), images(1, 64, 64)
    method = DRISE(samples=20, cells=4)
    made = method(net, x, Box(least=0.1))
    masks = RandomMasks(method, (64, 64), x.device)(torch.arange(20))
    with torch.no_grad():
        clean = net(x)[0]
        total = torch.zeros(64, 64)
        for mask in masks:
            output = net(x * mask)[0]
            best = 0.0
            for box, label, score in zip(*(output[n] for n in KEYS), strict=True):
                if label == clean["labels"][0]:
                    low = torch.maximum(box[:2], clean["boxes"][0, :2])
                    high = torch.minimum(box[2:], clean["boxes"][0, 2:])
                    both = (high - low).clamp_min(0).prod()
                    areas = sum((one[2:] - one[:2]).prod() for one in (box, clean["boxes"][0]))
                    best = max(best, float(score * both / (areas - both)))
            total += best * mask
    torch.testing.assert_close(made.raw[0], total / (20 * 0.5), atol=1e-5, rtol=1e-4)
    assert made.target.describe()["boxes"] == [clean["boxes"][:1].tolist()]


def test_d_rise_ends_for_each_image_by_itself():
    net, x = tiny_detector("fasterrcnn"), images(2, 64, 64)
    method = DRISE(samples=24, cells=4, sampler="antithetic", control="linear", until=0.1)
    made = method(net, x, Box(least=0.1))
    alone = method(net, x[1:], Box(least=0.1), chunk=5)
    torch.testing.assert_close(alone.raw[0], made.raw[1], atol=1e-5, rtol=1e-4)
    assert made.details["samples"].tolist() == [24, 24]
    assert made.details["standard_error"].shape == (2, 64, 64)

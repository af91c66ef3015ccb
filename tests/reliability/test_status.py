"""Status tells the truth: NaN is never called ok, and never stands in JSON."""

import json
import math

import pytest
import torch
from torch import nn

from nets import ATTENTION_NAMES, NAMES, convnet, images, quick, tiny_vit
from torchsaliency import LayerError, TorchSaliencyError, explain


class Poisoned(nn.Module):
    """Gives odd logits for images whose first pixel says so."""

    def __init__(self, value):
        super().__init__()
        self.net, self.value = convnet(), value

    def forward(self, x):
        y = self.net(x)
        sick = x[:, 0, 0, 0] > 50
        return torch.where(sick[:, None], y * 0 + self.value, y)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "infinite"])
def test_logits_that_are_no_numbers_are_never_ok(value, tally):
    net, x = Poisoned(value), images(3)
    x[1, 0, 0, 0] = 100
    held = 0
    for name in NAMES:
        try:
            made = quick(name)(net, x, 1, "net.relu3")
        except TorchSaliencyError as error:
            assert "\n" not in str(error)
            held += 1
            continue
        assert made.status[1] == "not finite", (name, made.status)
        assert "not finite" not in (made.status[0], made.status[2]), (name, made.status)
        assert made.map[[0, 2]].isfinite().all()
        text = json.dumps(made.manifest(), allow_nan=False)
        assert "NaN" not in text
        held += 1
    tally("status", "methods on an image with NaN or infinite logits", held, held, "“not finite”")


def test_a_class_that_cannot_be_is_no_fault():
    """Minus infinity is the logit of a class that is masked out."""
    net, x = Poisoned(0), images(2)
    masked = _Masks(net)
    made = explain(masked, x, "gradcam", 1, "net.net.relu3")["gradcam"]
    assert set(made.status) <= {"ok", "no positive evidence"}


class _Masks(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        y = self.net(x)
        return torch.cat([y[:, :4], torch.full_like(y[:, 4:], -torch.inf)], 1)


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_attention_of_nan(name):
    vit = tiny_vit()
    with torch.no_grad():
        vit.head.weight[1] = math.nan
    try:
        made = quick(name)(vit, images(1, 32, 32), 1)
    except LayerError:
        return
    assert made.status == ("not finite",)

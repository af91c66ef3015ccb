"""What an explanation says of the work that it took."""

import importlib

import pytest
import torch
from torch import nn

from nets import images, known_apart
from torchsaliency import create, explain
from torchsaliency.core.explain import resolve_methods
from torchsaliency.errors import OptionError

FORWARD, BACKWARD = 7.0, 5.0


class Tick(torch.autograd.Function):
    """Lets a clock go on in each pass."""

    @staticmethod
    def forward(ctx, x, clock):
        ctx.clock = clock
        clock.append(FORWARD)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.append(BACKWARD)
        return gradient, None


class Timed(nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.tick = lambda y: Tick.apply(y, clock)

    def forward(self, x):
        return self.fc(self.tick(self.conv(x)).relu().mean((2, 3)))


def test_methods_that_share_passes_take_the_seconds_that_each_takes_alone(monkeypatch):
    clock = []
    for name in ("explain", "trace"):
        module = importlib.import_module(f"torchsaliency.core.{name}")
        monkeypatch.setattr(module, "seconds_now", lambda _: sum(clock))
    net, x = known_apart(Timed(clock).eval()), images(2)
    made = explain(net, x, ["gradcam", "layercam", "eigencam"], 1, "conv")
    assert sum(clock) == FORWARD + BACKWARD
    assert made["gradcam"].seconds == made["layercam"].seconds == FORWARD + BACKWARD
    assert made["eigencam"].seconds == FORWARD


def test_options_of_methods_are_written_as_in_a_plan():
    options = {"rise": {"samples": 7}}
    for given in (options, [options], [{"name": "rise", "options": {"samples": "7"}}]):
        assert resolve_methods(given) == {"rise": create("rise", {"samples": 7})}
    mixed = {"gradcam": {}, "mine": "tsm", "few": create("rise", options["rise"])}
    assert [(label, one.name) for label, one in resolve_methods(mixed).items()] == [
        ("gradcam", "gradcam"),
        ("mine", "tsm"),
        ("few", "rise"),
    ]
    assert [*resolve_methods([{"name": "rise", "label": "few"}, "rise"])] == ["few", "rise"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rise": {"bogus": 7}}, "rise has no option 'bogus'"),
        ({"mine": {"samples": 7}}, "no method 'mine'"),
        ({"rise": 7}, "7 was given as a method; give its name"),
        ([{"name": "gradcam", "augmented": True}], "which are fields of plans"),
        ([{"gradcam": {}}, "gradcam"], "2 methods with 1 different names"),
    ],
)
def test_options_of_methods_that_do_not_fit(given, sentence):
    with pytest.raises(OptionError, match=sentence):
        resolve_methods(given)

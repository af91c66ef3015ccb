"""What measures do when nothing else is said, and with parts they do not know."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from torchsaliency import measures
from torchsaliency.metrics import metrics

SHARED = [
    (measure, option, default)
    for entry in metrics().values()
    for measure in entry.requires
    for option, default in entry.options.items()
    if option in inspect.signature(getattr(measures, measure, lambda: None)).parameters
]


def test_there_are_some():
    assert {"removal_curves", "region_curve", "noisy_maps"} <= {measure for measure, *_ in SHARED}


@pytest.mark.parametrize(("measure", "option", "default"), SHARED)
def test_the_defaults_are_those_of_the_metrics(measure, option, default):
    parameter = inspect.signature(getattr(measures, measure)).parameters[option]
    assert parameter.default in (default, None)  # None: as many stages as the network has


RESULTS = [one for one in vars(measures).values() if dataclasses.is_dataclass(one)]


@pytest.mark.parametrize("kind", RESULTS)
def test_results_hold_tensors_and_can_be_compared(kind):
    one, other = object.__new__(kind), object.__new__(kind)
    for result in (one, other):
        for field in dataclasses.fields(kind):
            object.__setattr__(result, field.name, torch.ones(2))
    assert one != other
    assert len({one, other}) == 2


class Scaled(nn.Module):
    """A convolution whose result is scaled by parameters of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.scale = nn.Parameter(3 + 0.01 * torch.arange(4096.0).remainder(7))

    def forward(self, x):
        return self.conv(x) * self.scale.mean()


def test_parameters_of_unknown_kind_are_drawn_like_themselves():
    net = nn.Sequential(Scaled(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    (_, changed), *_ = measures.randomised_networks(net, stages=["0"])
    before, after = net[0].scale, changed[0].scale
    assert not torch.equal(before, after)
    assert float(after.detach().mean()) == pytest.approx(float(before.detach().mean()), rel=1e-3)
    assert float(after.detach().std()) == pytest.approx(float(before.detach().std()), rel=0.1)


def test_scores_made_of_logits_cost_nothing():
    logits = torch.eye(3)
    found = measures.MaskedScores.of_logits(logits, logits, torch.tensor([0, 1, 2]))
    assert found.passes == 0

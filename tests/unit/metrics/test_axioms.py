"""Completeness, non-sensitivity and input invariance: by hand and perfect by construction."""

import pytest
import torch
from torch import nn

from nets import convnet, images, quick
from torchsaliency import InputError, OptionError, explain
from torchsaliency.evaluation import score
from torchsaliency.measures import attribution_sums, shifted_maps
from torchsaliency.metrics import functional
from torchsaliency.metrics.base import create_metric

X = images(2, 12, 12, seed=1)


def test_completeness_by_hand():
    sums, rises = torch.tensor([2.0, 1.0, 0.0, 1.0]), torch.tensor([2.0, -2.0, 0.0, 0.0])
    found = functional.completeness(sums, rises)
    assert found[:3].tolist() == [0, 1.5, 0]
    assert found[3].isnan()


def test_a_linear_network_is_complete():
    """Σ w_u x_u is f(x) - f(0): input times gradient is complete, the gradient is not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 144, 5))
    made = explain(net, X, ["input-x-gradient", "saliency"], 1)
    found = score(net, made["input-x-gradient"], ["completeness"])["completeness"]
    assert found.per_image.max() < 1e-4
    # One image may add up by chance: the gradient is not complete if any does not.
    assert score(net, made["saliency"], ["completeness"])["completeness"].per_image.max() > 1
    sums = attribution_sums(net, made["input-x-gradient"])
    with torch.no_grad():
        expected = net(X)[:, 1] - net(torch.zeros_like(X))[:, 1]
    torch.testing.assert_close(sums.rises.float(), expected, atol=1e-5, rtol=1e-5)
    assert sums.passes == len(X)


def test_maps_without_attributions_are_refused():
    net = convnet(seed=3)
    made = explain(net, X, quick("gradcam"), 1, "relu3")["gradcam"]
    with pytest.raises(InputError, match="gradcam gives maps without a unit"):
        score(net, made, ["completeness"])


def test_non_sensitivity_by_hand():
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = 0.5
    squares = torch.tensor([[0, 0, 2, 2], [2, 2, 4, 4], [0, 2, 1, 3], [1, 0, 3, 1]])
    drops = torch.tensor([[1.0, 0.0, -1.0, 0.0]])
    assert functional.non_sensitivity(maps, squares, drops).item() == 25
    agree = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert functional.non_sensitivity(maps, squares, agree).item() == 0
    assert functional.non_sensitivity(maps, squares, 1 - agree).item() == 100
    with pytest.raises(OptionError, match="above 0"):
        create_metric("non-sensitivity", {"least": 0})


@pytest.mark.parametrize("bias", [True, False])
def test_the_shifted_network_is_the_same_function_at_the_edges_too(bias):
    """The gradient knows nothing of the shift; input times gradient multiplies by it."""
    net = convnet(seed=3)
    net.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = explain(net, X, ["gradcam", "input-x-gradient"], 1, "relu3")
    found = {
        name: functional.input_invariance(one.map, shifted_maps(net, one, shift=2.0).shifted_maps)
        for name, one in made.items()
    }
    assert found["gradcam"].max() < 1e-3
    assert found["input-x-gradient"].min() > 0.1
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Normalised(nn.Module):
    """Changes the image before its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convnet(seed=3)

    def forward(self, x):
        return self.net(2 * x)


def test_a_network_that_does_not_begin_with_its_first_layer_is_refused():
    net = Normalised().eval()
    made = explain(net, X, quick("gradcam"), 1, "net.relu3")["gradcam"]
    with pytest.raises(InputError, match="does not begin with a convolution"):
        score(net, made, ["input-invariance"])
    with pytest.raises(OptionError, match="not 0"):
        shifted_maps(net, made, shift=0)

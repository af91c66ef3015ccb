"""Guided backpropagation and DeconvNet at ReLU6, and where there is no ReLU."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchsaliency
from nets import OTHER_DTYPES, convnet, images, quick, settle
from torchsaliency import LayerError


class Clipped(nn.Module):
    """One convolution and a rectifier that also cuts at 6, as module or as function."""

    def __init__(self, kind):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU6(inplace=True) if kind == "module" else F.relu6
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.act(20 * self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("kind", ["module", "function"])
@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet"])
def test_relu6(name, kind):
    net, x = settle(Clipped(kind)), images(2)
    found = torchsaliency.explain(net, x, name, target=1, layer="conv")[name].raw
    with torch.no_grad():
        before = 20 * net.conv(x)
    assert (before > 6).any()
    assert (before < 0).any()
    slope = net.fc.weight[1].view(1, 4, 1, 1).expand_as(before) / before[0, 0].numel()
    active = (before > 0) & (before < 6)
    passed = slope.relu() * (active if name == "guided-backprop" else 1)
    gradient = 20 * F.conv_transpose2d(passed, net.conv.weight, padding=1)
    torch.testing.assert_close(found, gradient.detach().abs().amax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet"])
def test_a_network_without_relu_is_refused(name):
    net = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(), nn.Flatten(), nn.Linear(784, 5)))
    with pytest.raises(LayerError, match="at ReLU, and this network has none; use saliency"):
        torchsaliency.explain(net, images(1), name, layer="0")


@pytest.mark.parametrize("name", ["guided-backprop", "lrp", "deeplift", "saliency"])
@pytest.mark.parametrize("dtype", OTHER_DTYPES)
def test_scaling_gradients_in_half_precision_leaves_the_maps_scale(name, dtype):
    """Gradients of half precision are computed of a larger score, and divided again."""
    x = images(2, seed=1)
    exact = quick(name)(convnet(seed=3), x, 1, "relu3").raw
    found = quick(name)(convnet(seed=3).to(dtype), x, 1, "relu3").raw
    assert float(found.abs().sum()) == pytest.approx(float(exact.abs().sum()), rel=0.02)

"""NormGrad against the gradients of identity layers that are really put in, and by hand."""

import itertools
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import convnet, images, settle, two_layer_head
from torchsaliency import NormGrad, OptionError, create, explain
from torchsaliency.methods.attribution.normgrad import Aggregation, Virtual

VIRTUAL, AGGREGATION = get_args(Virtual), get_args(Aggregation)

AGGREGATE = {
    "norm": lambda numbers: numbers.norm(dim=1),
    "positive-norm": lambda numbers: numbers.clamp_min(0).norm(dim=1),
    "sum": lambda numbers: numbers.sum(1),
    "max": lambda numbers: numbers.amax(1),
}


class Signed(nn.Module):
    """Features and gradients of both signs, which differ from position to position."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.mixed = nn.Conv2d(4, 5, 3, padding=1)
        self.fc = nn.Linear(5 * 48, 5)

    def forward(self, x):
        return self.head(self.features(x))

    def head(self, y):
        return self.fc(self.mixed(y).tanh().flatten(1))


def put_in(kind: str, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights of an identity layer, each position's own, and the layer's output."""
    n, k, h, w = a.shape
    if kind == "bias":
        weights = torch.zeros(n, k, h, w, requires_grad=True)
        return weights, a + weights
    if kind == "scaling":
        weights = torch.ones(n, k, h, w, requires_grad=True)
        return weights, a * weights
    side = 3 if kind == "conv3x3" else 1
    patches = F.unfold(a, side, padding=side // 2).view(n, k, side**2, h, w)
    weights = torch.zeros(n, k, k, side**2, h, w)
    weights[:, range(k), range(k), side**2 // 2] = 1
    weights.requires_grad_()
    output = torch.einsum("nokphw,nkphw->nohw", weights, patches)
    torch.testing.assert_close(output, a)
    return weights, output


@pytest.mark.parametrize("aggregation", AGGREGATION)
@pytest.mark.parametrize("virtual", VIRTUAL)
def test_each_positions_share_of_the_gradient(virtual, aggregation):
    net, x = settle(Signed()), images(2, 16, 12)
    with torch.no_grad():
        a = net.features(x)
    weights, output = put_in(virtual, a)
    score = net.head(output)[[0, 1], [1, 3]].sum()
    (gradient,) = torch.autograd.grad(score, weights)
    expected = AGGREGATE[aggregation](gradient.reshape(2, -1, *a.shape[2:]))
    found = NormGrad(virtual, aggregation)(net, x, [1, 3], "features").raw
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_by_hand():
    """Two channels of 2x3 pixels, seen by one linear layer: a is the image, g the weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 1, bias=False))
    net.scores = "regression"
    a = torch.tensor([[[1.0, 2, 0], [0, -1, 3]], [[0.0, -2, 0], [0, 4, 1]]])
    g = torch.tensor([[[2.0, 1, 1], [-1, 0, 2]], [[0.0, 1, -1], [1, -3, 1]]])
    with torch.no_grad():
        net[1].weight.copy_(g.view(1, 12))
    # In the middle of the upper row, a = (2, -2) and g = (1, 1); on the right below, (3, 1), (2, 1)
    expected = {
        ("conv1x1", "norm"): (8**0.5 * 2**0.5, 10**0.5 * 5**0.5),
        ("conv1x1", "positive-norm"): (8**0.5, 50**0.5),
        ("conv1x1", "sum"): (0, 12),
        ("conv1x1", "max"): (2, 6),
        # all pixels lie in the patch of the former; 2, 0, -1, 3 and -2, 0, 4, 1 in the latter's
        ("conv3x3", "norm"): (36**0.5 * 2**0.5, 35**0.5 * 5**0.5),
        ("conv3x3", "positive-norm"): (31**0.5 * 2**0.5, 30**0.5 * 5**0.5),
        ("conv3x3", "sum"): (8 * 2, 7 * 3),
        ("conv3x3", "max"): (4, 8),
        ("scaling", "norm"): (8**0.5, 37**0.5),
        ("scaling", "positive-norm"): (2, 37**0.5),
        ("scaling", "sum"): (0, 7),
        ("scaling", "max"): (2, 6),
        ("bias", "norm"): (2**0.5, 5**0.5),
        ("bias", "positive-norm"): (2**0.5, 5**0.5),
        ("bias", "sum"): (2, 3),
        ("bias", "max"): (1, 2),
    }
    assert set(expected) == set(itertools.product(VIRTUAL, AGGREGATION))
    for options, (middle, corner) in expected.items():
        raw = NormGrad(*options)(net, a[None], 0, "input").raw[0]
        assert raw[0, 1].item() == pytest.approx(middle, abs=1e-5), options
        assert raw[1, 2].item() == pytest.approx(corner, abs=1e-5), options


def test_the_sum_of_a_scaling_is_hirescam_before_its_relu():
    net, x = two_layer_head(), images(2)
    made = explain(net, x, [NormGrad("scaling", "sum"), "hirescam"], 1, "relu")
    torch.testing.assert_close(made["normgrad"].raw.relu(), made["hirescam"].raw)


@pytest.mark.parametrize("aggregation", AGGREGATION)
def test_several_layers_are_joined_by_the_product(aggregation):
    net, x = convnet(), images(2)
    method = NormGrad(aggregation=aggregation)
    each = [method(net, x, 1, layer).map for layer in ("relu1", "relu3")]
    both = method(net, x, 1, ["relu1", "relu3"]).raw
    torch.testing.assert_close(both, each[0] * each[1], atol=1e-6, rtol=1e-4)


def test_a_bias_before_pooling_is_constant():
    """The reference leaves it out at the end of a ResNet."""
    made = NormGrad("bias")(convnet(), images(1), 1, "relu3")
    assert made.status == ("constant map",)


def test_options_are_words():
    made = create("normgrad", {"virtual": "conv3x3", "aggregation": "positive-norm"})
    assert made == NormGrad("conv3x3", "positive-norm")
    with pytest.raises(OptionError, match="aggregation"):
        create("normgrad", {"aggregation": "mean"})

"""Maps that keep their graph: a loss on a map has the gradient that finite differences find."""

import pytest
import torch
from torch import nn

from nets import NAMES, convnet, images, tiny_vit
from torchsaliency import create, explain
from torchsaliency.core.method import methods
from torchsaliency.errors import OptionError

ABLE = [name for name, entry in methods().items() if entry.factory.differentiable]


def smooth_net():
    """Return a network without kinks, in float64, all of whose channels are alive."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(5, 6, 3, stride=2, padding=1),
        nn.Softplus(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()
    with torch.no_grad():
        net[-1].weight.abs_()  # every channel speaks for every class
    return net


def loss_of(net, x, name):
    made = explain(net, x, name, 1, "3", differentiable=True)[name]
    weight = torch.linspace(0, 1, made.map[0].numel(), dtype=made.map.dtype)
    return (made.map.flatten(1) * weight).sum() / made.map.sum()


@pytest.mark.parametrize("name", ABLE)
def test_the_gradient_of_a_loss_is_that_of_finite_differences(name):
    net, x = smooth_net(), images(2, 9, 8, seed=1).double()
    weight = net[0].weight
    before = weight.detach().clone()
    loss_of(net, x, name).backward()
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)).to(weight)
    found = float((weight.grad * direction).sum())
    step, ends = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.copy_(before + sign * step * direction)
        ends.append(float(loss_of(net, x, name).detach()))
    assert found != 0
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2, abs=1e-7)


@pytest.mark.parametrize("name", ABLE)
def test_the_map_is_the_one_without_a_graph_and_the_network_is_given_back(name):
    net, x = convnet().train(), images(2, seed=3)
    net.fc.weight.requires_grad_(False)
    plain = explain(net, x, name, 1)[name]
    kept = explain(net, x, name, 1, differentiable=True)[name]
    torch.testing.assert_close(kept.map.detach(), plain.map, atol=1e-5, rtol=1e-4)
    assert not plain.map.requires_grad
    assert net.training
    assert [p.requires_grad for p in net.parameters()].count(False) == 1
    kept.map.sum().backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients), "dead channels give no NaN"


@pytest.mark.parametrize("name", ["gradcam", "mtsm", "saliency"])
def test_a_step_of_training_moves_the_map(name):
    net, x = smooth_net(), images(2, seed=3).double()
    half = torch.zeros(x.shape[2:])
    half[:, : x.shape[3] // 2] = 1

    def outside():
        made = explain(net, x, name, 1, differentiable=True)[name].map
        return (made * (1 - half)).sum() / made.sum()

    optimiser = torch.optim.SGD(net.parameters(), lr=1e-2)
    first = outside()
    for _ in range(5):
        optimiser.zero_grad()
        outside().backward()
        optimiser.step()
    assert outside() < first


def test_transformers_have_second_derivatives():
    net, x = tiny_vit(), images(1, 32, 32, seed=3)
    explain(net, x, "gradcam", 1, differentiable=True)["gradcam"].map.sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


@pytest.mark.parametrize("name", sorted({*NAMES} - {*ABLE}))
def test_others_are_refused(name):
    with pytest.raises(OptionError, match="without a graph"):
        explain(convnet(), images(1), create(name), 1, differentiable=True)

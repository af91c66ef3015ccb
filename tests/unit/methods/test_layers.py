"""Attribution to a layer's numbers, against closed forms."""

import pytest
import torch
from torch import nn

from nets import convnet, images
from torchsaliency import tracing
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.layers import find_conductance, integrate_layer, read_layer

X = images(3, 8, 8, seed=1)
BASE = 0.3 * images(3, 8, 8, seed=2)
PATHS = [integrate_layer, find_conductance]


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3))


@pytest.mark.parametrize("find", PATHS)
def test_of_a_linear_network_it_is_weight_times_difference(find):
    net = linear()
    with tracing(net, X, 2, chunk=2) as view:
        made = find(view, net[1], BASE, 3)
    weight = net[3].weight[2].view(5, 4, 4)
    expected = weight * (net[:2](X) - net[:2](BASE))
    torch.testing.assert_close(made, expected.detach())


@pytest.mark.parametrize("find", PATHS)
def test_shares_add_up_to_the_rise_of_the_score(find):
    net = convnet(inplace=True, seed=3)
    for module in (net.relu2, net.get_submodule("fc")):
        with tracing(net, X, [0, 1, 2]) as view:
            made = find(view, module, BASE, 400)
        with torch.no_grad():
            rise = (net(X) - net(BASE)).gather(1, torch.arange(3)[:, None])[:, 0]
        torch.testing.assert_close(made.flatten(1).sum(1), rise, atol=2e-3, rtol=1e-2)


def test_at_the_image_conductance_is_integrated_gradients():
    """What a first layer that copies the image gives is the image."""
    net = nn.Sequential(
        nn.Identity(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2)
    )
    with tracing(net, X, 1) as view:
        straight = integrate_layer(view, net[0], BASE, 50)
        along = find_conductance(view, net[0], BASE, 200)
    torch.testing.assert_close(straight, along, atol=1e-4, rtol=1e-3)


def test_layers_are_read_without_a_map():
    net = linear()
    with tracing(net, X, 1) as view:
        found, slopes = read_layer(view, net[3], X)
    torch.testing.assert_close(found, net(X).detach())
    torch.testing.assert_close(slopes, torch.eye(3)[1].expand(3, 3))


def test_a_layer_that_runs_twice_has_no_single_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x)).mean((2, 3))

    net = Twice()
    with tracing(net, X, 1) as view, pytest.raises(LayerError, match="ran 2 times in one pass"):
        read_layer(view, net.conv, X)

"""FullGrad: shares that make up the score, against hooks on modules."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchsaliency
from nets import convnet, images, settle
from torchsaliency.core.maps import minmax


def by_hooks(net, x, label):
    """The shares of the image and of every module's bias, one tensor each."""
    kept = []

    def keep(module, inputs, output):  # noqa: ARG001
        output.retain_grad()
        kept.append((module, output))
        return output.clone()

    parts = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    handles = [module.register_forward_hook(keep) for module in parts]
    x = x.clone().requires_grad_()
    net(x)[:, label].sum().backward()
    for handle in handles:
        handle.remove()
    found = [x.detach() * x.grad]
    for module, output in kept:
        bias = module.bias
        if isinstance(module, nn.BatchNorm2d):
            deviation = (module.running_var + module.eps).sqrt()
            bias = bias - module.weight * module.running_mean / deviation
        if bias is not None:
            sides = [1] * (output.ndim - 2)
            found.append((output.grad * bias.view(-1, *sides)).detach())
    return found


@pytest.mark.parametrize("inplace", [True, False])
def test_all_shares_add_up_and_the_map_is_the_sum_of_the_stretched_ones(inplace):
    net, x = convnet(seed=3, inplace=inplace).double(), images(2, 16, 20, seed=1).double()
    shares = by_hooks(convnet(seed=3, inplace=False).double(), x, 1)
    total = sum(part.flatten(1).sum(1) for part in shares)
    torch.testing.assert_close(total, net(x)[:, 1].detach())
    expected = torch.zeros(2, 16, 20).double()
    for part in shares:
        if part.ndim == 4:
            expected += F.interpolate(minmax(part.abs()), (16, 20), mode="bilinear").sum(1)
    made = torchsaliency.explain(net, x, "fullgrad", 1)["fullgrad"]
    torch.testing.assert_close(made.raw, expected)
    assert made.details["gap"].abs().max() < 1e-12
    assert made.status == ("ok", "ok")


class Gated(nn.Module):
    """Everything that has a bias of its own: constants, functions, products, quotients, norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(2))
        self.norm, self.fc = nn.GroupNorm(2, 4), nn.Linear(4, 5)

    def forward(self, x):
        y = F.gelu(self.conv(x)) + 0.5
        y = self.norm(y * torch.sigmoid(self.other(x)))
        y = F.max_pool2d(1 - y / (1 + y.square()), 2)
        return self.fc(y.mean((2, 3)) @ torch.ones(4, 4).to(y)).log_softmax(1)


def test_whatever_is_not_linear_has_a_bias():
    made = torchsaliency.explain(
        settle(Gated()).double(), images(2).double(), "fullgrad", [0, 3], "conv"
    )["fullgrad"]
    assert made.details["gap"].abs().max() < 1e-9

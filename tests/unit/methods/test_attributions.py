"""Attributions of pixels and superpixels against closed forms."""

import itertools
import math

import pytest
import scipy.ndimage
import torch
from torch import nn
from torch.nn import functional as F

import torchsaliency
from nets import CLASSES, convnet, images, quick, settle
from torchsaliency import GivenImage, OptionError, create, explain
from torchsaliency.core.method import methods
from torchsaliency.methods.attribution.coalitions import coalitions, ridge, shapley


def attributions(net, x, name, masking=None, **options):
    """Return (N, C, H, W) of a method at the first class, and the scores."""
    with torchsaliency.tracing(net, x, 0, ["input"], masking=masking) as trace:
        found = create(name, options).attributions(trace[["input"]])
        return getattr(found, "raw", found), trace.score


class Powers(nn.Module):
    """The first class is Σ w x³, whose gradient is quadratic."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 3 * 4 * 4).view(3, 4, 4))

    def forward(self, x):
        y = (self.weight * x**3).sum((1, 2, 3))
        return torch.stack([y, 0 * y], 1)


def test_integrated_gradients_of_a_sum_of_cubes_are_its_terms():
    net, x = Powers().double(), images(2, 4, 4).double()
    found, score = attributions(net, x, "integrated-gradients", steps=2)
    torch.testing.assert_close(found, (net.weight * x**3).detach())
    torch.testing.assert_close(found.sum((1, 2, 3)), score)


class Through(nn.Module):
    """Two convolutions with something in between that is not linear."""

    def __init__(self, between, channels=6):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.between = between
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x):
        return self.fc(self.between(self.first(x)).square().mean((2, 3)))


NETS = {
    "batch norm by its batch": lambda: Through(nn.BatchNorm2d(6, track_running_stats=False)),
    "group norm": lambda: Through(nn.GroupNorm(2, 6)),
    "glu": lambda: Through(lambda y: F.glu(y, 1), 3),
    "quotient": lambda: Through(lambda y: y / (1 + y.square())),
}


@pytest.mark.parametrize("kind", NETS)
def test_deeplift_adds_up(kind):
    net, x = settle(NETS[kind]()).double(), images(1, 6, 6).double()
    other = images(1, 6, 6, seed=1).double()
    found, score = attributions(net, x, "deeplift", GivenImage(other[0]))
    before = net(other)[:, 0].detach()
    torch.testing.assert_close(found.sum((1, 2, 3)), score - before)


@pytest.mark.parametrize("kind", NETS)
def test_deeplift_next_to_the_baseline_is_the_gradient_times_the_difference(kind):
    net, x = settle(NETS[kind]()).double(), images(1, 6, 6).double().requires_grad_()
    step = 1e-10 * images(1, 6, 6, seed=1).double()
    (slope,) = torch.autograd.grad(net(x)[0, 0], x)
    x = x.detach()
    found, _ = attributions(net, x, "deeplift", GivenImage((x - step)[0]))
    # the step is rounded to 1e-6 of itself
    torch.testing.assert_close(1e10 * found, 1e10 * slope * step, rtol=1e-4, atol=1e-5)


def test_blur_ig_of_a_linear_network_is_weight_times_what_the_blur_takes():
    net, x = settle(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5))).double(), images(2).double()
    blurred = scipy.ndimage.gaussian_filter(x.numpy(), (0, 0, 5, 5), mode="constant")
    expected = net[1].weight[0].view(3, 16, 16) * (x - torch.from_numpy(blurred))
    for steps in (1, 4):
        found, _ = attributions(net, x, "blur-ig", max_sigma=5, steps=steps)
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["blur-ig", "integrated-gradients", "gradientshap"])
def test_more_steps_bring_the_shares_closer_to_the_rise_of_the_score(name):
    net, x = NETS["group norm"]().double(), images(2).double()
    deltas = [
        explain(net, x, create(name, {option: steps}), 1)[name].convergence_delta.abs().max()
        for option in methods()[name].options
        if option in ("steps", "samples")
        for steps in (2, 64)
    ]
    assert deltas[1] < deltas[0] / 3


def test_shapley_values_are_the_mean_gain_over_all_orders():
    count = 4
    worth = torch.randn(2**count, generator=torch.Generator().manual_seed(0)).double()
    worth[0] = 0
    expected = torch.zeros(count).double()
    for order in itertools.permutations(range(count)):
        there = 0
        for player in order:
            expected[player] += worth[there | 1 << player] - worth[there]
            there |= 1 << player
    shown, weights = coalitions(count, 2**count, seed=0)
    shown = shown.double()
    gains = worth[(shown @ 2.0 ** torch.arange(count).double()).long()]
    found = shapley(shown, gains, worth[-1], weights)
    torch.testing.assert_close(found, expected / math.factorial(count))


def test_ridge_solves_its_normal_equations_with_a_free_intercept():
    draw = torch.Generator().manual_seed(0)
    z, y = torch.rand(9, 3, generator=draw).double(), torch.rand(9, generator=draw).double()
    weights = torch.rand(9, generator=draw).double() + 0.1
    beta = torch.zeros(4).double().requires_grad_()

    def loss(beta):
        off = y - z @ beta[:3] - beta[3]
        return (weights * off.square()).sum() + 0.7 * beta[:3].square().sum()

    hessian = torch.autograd.functional.hessian(loss, beta.detach())
    (slope,) = torch.autograd.grad(loss(beta), beta)
    torch.testing.assert_close(ridge(z, y, weights, 0.7), -torch.linalg.solve(hessian, slope)[:3])


def darker(images):
    return images - 0.5


@pytest.mark.parametrize("name", ["integrated-gradients", "deeplift", "occlusion", "kernelshap"])
def test_every_image_may_have_a_baseline_of_its_own(name):
    net, x, base = convnet(seed=3).double(), images(3).double(), images(3, seed=5).double()
    method = quick(name, **({"passes": 6} if name == "kernelshap" else {}))
    made = method(net, x, [0, 1, 2], "relu3", masking=GivenImage(base), chunk=2)
    alone = [
        method(net, x[i : i + 1], i, "relu3", masking=GivenImage(base[i])).raw for i in range(3)
    ]
    torch.testing.assert_close(made.raw, torch.cat(alone))
    assert torch.equal(made[1:].masking.image, base[1:])
    by_function = method(net, x, [0, 1, 2], "relu3", masking=GivenImage(darker))
    given = method(net, x, [0, 1, 2], "relu3", masking=GivenImage(x - 0.5))
    torch.testing.assert_close(by_function.raw, given.raw)
    assert by_function.masking.describe() == {"baseline": "function", "name": "darker"}
    with pytest.raises(OptionError, match=r"\(2, 3, 16, 16\) and the images are \(3, 3, 16, 16\)"):
        method(net, x, 1, "relu3", masking=GivenImage(base[:2]))

"""Rules that a user writes: plain backward rules, rules for LRP, rules for one layer."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from nets import convnet, images, settle
from torchsaliency import LayerError, create, explain, tracing
from torchsaliency.core.method import METHODS
from torchsaliency.core.rules import Observer, Recording, backward
from torchsaliency.methods.propagation import (
    layer_of,
    lrp_rules,
    propagate,
    share_by_epsilon,
)

PAGE = Path(__file__).parents[3] / "docs" / "rules.md"


@pytest.fixture(scope="module")
def page():
    """What the examples of docs/rules.md define, run in their order."""
    names = {}
    torch.manual_seed(0)
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
            exec(compile(block, PAGE.name, "exec"), names)
    finally:
        METHODS._table.pop("gamma-lrp", None)
    return names


def through(net, x, rules, **options):
    with tracing(net, x, 1, ["input"]) as trace:
        return propagate(trace["input"], rules, **options)


def guide(step):
    return [step.relevance.relu() * (step.operation.out > 0)]


def test_the_page_runs(page):
    assert page["explanation"].map.shape == (2, 16, 16)
    assert not torch.equal(page["everywhere"], page["at_one_relu"])
    torch.testing.assert_close(
        page["relevance"], page["shares"] * page["trace"].score[:, None, None, None]
    )


def test_a_plain_rule_of_the_user_equals_guided_backprop():
    net, x = convnet(), images(2)
    expected = explain(net, x, create("guided-backprop"), 1, "input")["guided-backprop"].raw
    found = through(net, x, {"relu": guide})
    torch.testing.assert_close(found.abs().amax(1), expected)


def test_a_rule_sees_the_operation_and_its_gradients():
    x = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    with Recording() as recording:
        score = x.relu().sum()

    def double(step):
        assert step.operation.name == "relu"
        assert torch.equal(step.operation.args[0], x)
        assert torch.equal(step.gradients[0], torch.tensor([[1.0, 0.0, 1.0]]))
        assert step.parents_of() == [None]
        assert [reader.name for reader in step.consumers_of()] == ["sum"]
        assert step.is_first({"relu"})
        return [2 * step.relevance]

    (found,) = backward(score, [x], recording, {"relu": double})
    assert found.tolist() == [[2, 2, 2]]


def test_what_a_rule_leaves_out_receives_nothing():
    a, b = (torch.ones(3, requires_grad=True) for _ in range(2))
    with Recording() as recording:
        score = (a * b).sum()
    found = backward(score, [a, b], recording, {"mul": lambda step: [step.relevance]})
    assert [part.tolist() for part in found] == [[1, 1, 1], [0, 0, 0]]


class Epsilon:
    """LRP's ε rule, written outside of the library."""

    def __call__(self, step):
        layer = layer_of(step)
        bias = 0 if layer.bias is None else layer.bias
        share = share_by_epsilon(
            step.relevance, layer.x, lambda x: layer.apply(x, layer.weight.to(x)), 1e-9, bias
        )
        return [None] * layer.place + [share]


def test_a_rule_of_the_user_in_lrp_equals_the_librarys():
    """With the batch normalisations of the network folded into its convolutions."""
    net, x = convnet().double(), images(2).double()
    expected = through(net, x, lrp_rules("epsilon"), conserves="lrp")
    rules = lrp_rules("alpha-beta") | dict.fromkeys(("convolution", "addmm"), Epsilon())
    rules["mean"] = lrp_rules("epsilon")["mean"]
    found = through(net, x, rules, conserves="mine")
    torch.testing.assert_close(found, expected)
    other = through(net, x, lrp_rules("alpha-beta"), conserves="lrp")
    assert (other - expected).abs().max() > 1e-3 * expected.abs().max()


def test_the_gamma_rule_by_hand(page):
    net = nn.Sequential(nn.Conv2d(1, 1, (1, 2), bias=False), nn.Flatten())
    net.scores = "regression"
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([2.0, -1.0]).view(1, 1, 1, 2))
    x = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)  # score 5; with γ = 1: 3 · 4 and 1 · (-1) of 11
    rules = lrp_rules() | {"convolution": page["Gamma"](1.0)}
    with tracing(net, x, [0], ["input"]) as trace:
        found = propagate(trace["input"], rules, conserves="gamma")
    torch.testing.assert_close(found.flatten(), torch.tensor([12 / 11, -1 / 11]))


def test_a_rule_for_one_layer_comes_first():
    net, x = convnet(), images(2)

    def at_second(step):
        inside = "relu2" in step.operation.layers
        return guide(step) if inside else step.gradients

    def forbid(step):
        raise AssertionError(step)

    chunked = {"relu2:relu": guide}
    with tracing(net, x, 1, ["input"], chunk=1) as trace:
        found = propagate(trace["input"], chunked)
    torch.testing.assert_close(
        found, through(net, x, {"relu2:relu": at_second, "relu1:mul": forbid})
    )
    plain, everywhere = through(net, x, {}), through(net, x, {"relu": guide})
    assert not torch.equal(found, plain)
    assert not torch.equal(found, everywhere)
    same = {"relu": guide, "relu1:relu": lambda step: step.gradients}
    same["relu3:relu"] = same["relu1:relu"]
    torch.testing.assert_close(found, through(net, x, same))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_the_innermost_layer_comes_first():
    net = settle(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten()))
    x = images(1)
    net.append(nn.Linear(4 * 14 * 14, 5))

    def double(step):
        return [2 * step.gradients[0]]

    plain = through(net, x, {})
    outer, inner = {"0:relu": double}, {"0:relu": double, "0.1:relu": lambda step: step.gradients}
    torch.testing.assert_close(through(net, x, outer), 2 * plain)
    torch.testing.assert_close(through(net, x, inner), plain)


def test_an_unknown_layer_is_named():
    with pytest.raises(LayerError, match="no layer 'relu9'"):
        through(convnet(), images(1), {"relu9:relu": guide})


def test_a_conserving_method_names_an_operation_without_a_rule():
    rules = lrp_rules()
    del rules["addmm"]
    with pytest.raises(LayerError, match="mine has no rule for addmm"):
        through(convnet(), images(1), rules, conserves="mine")


def test_an_observer_shows_operations_inside_the_graph():
    seen = []
    x = torch.randn(2, 3, requires_grad=True)
    with Observer({"relu": seen.append}):
        y = (x * 2).relu_()
    assert [operation.name for operation in seen] == ["relu"]
    assert seen[0].out.requires_grad
    assert torch.equal(seen[0].out, y)


@pytest.mark.parametrize("part", [slice(0, 2), slice(None)])
def test_a_rule_of_work_in_place_is_given_the_gradient_of_its_part(part):
    class Clips(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            y = self.conv(x).clone()
            y[:, part].relu_()
            return self.fc(y.mean((2, 3)))

    net, x, seen = settle(Clips()), images(2).requires_grad_(), []

    def keep(step):
        seen.append(step.gradients[0].shape)
        return step.gradients

    (expected,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    torch.testing.assert_close(through(net, x.detach(), {"relu": keep}), expected)
    assert seen == [(2, 4 if part == slice(None) else 2, 14, 14)]

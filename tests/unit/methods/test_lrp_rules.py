"""A rule of LRP for each module: closed forms, and what one module's rule leaves alone."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from nets import convnet, images, settle
from torchsaliency import LRP, explain
from torchsaliency.errors import LayerError, OptionError
from torchsaliency.methods.propagation import (
    BoundedRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    LayerRule,
    PositiveRule,
)

X = images(2, 8, 8, seed=1)


def relevances(net: nn.Module, **options) -> torch.Tensor:
    found = explain(net, X, LRP(rule="epsilon", **options), 1)["lrp"].attributions
    assert found is not None
    return found


def two_layers() -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 3))
    return settle(net)


def share(x, weight, relevance, bias=0.0):
    """Hand relevance (N, J) back through x (N, I) and weights (J, I), part by part."""
    parts = x[:, None] * weight
    return (parts / (parts.sum(2) + bias)[..., None] * relevance[..., None]).sum(1)


RULES = [
    (EpsilonRule(), lambda w: w, 1.0),
    (GammaRule(0.5), lambda w: w + 0.5 * w.clamp_min(0), 1.0),
    (GammaRule(0.0), lambda w: w, 1.0),
]


@pytest.mark.parametrize(("rule", "modify", "bias"), RULES)
def test_a_rule_changes_its_own_step_alone(rule, modify, bias):
    net, flat = two_layers(), X.flatten(1)
    hidden = net[:3](X)
    score = net(X)[:, [1]]
    above = share(hidden, net[3].weight[[1]], score, net[3].bias[[1]])
    expected = share(flat, modify(net[1].weight), above, bias * net[1].bias)
    made = relevances(net, rules={"1": rule})
    torch.testing.assert_close(made, expected.view_as(X).detach(), rtol=1e-3, atol=1e-5)


def test_flat_gives_every_input_the_same():
    net = two_layers()
    hidden = net[:3](X)
    above = share(hidden, net[3].weight[[1]], net(X)[:, [1]], net[3].bias[[1]])
    expected = (above.sum(1) / 192).view(2, 1, 1, 1).expand_as(X)
    torch.testing.assert_close(relevances(net, rules={"1": "flat"}), expected.detach())


@pytest.mark.parametrize("rule", [GammaRule(), PositiveRule(), BoundedRule(), FlatRule()])
def test_relevance_is_conserved_by_every_rule(rule):
    net = convnet(seed=3)
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    found = explain(net, X, LRP(rule="epsilon", bias="excluded", rules={"conv2": rule}), 1)["lrp"]
    torch.testing.assert_close(
        found.attributions.flatten(1).sum(1), found.score, rtol=1e-3, atol=1e-4
    )


def test_names_go_before_types_and_inner_modules_before_outer_ones():
    net = two_layers()
    by_name = relevances(net, rules={"1": GammaRule(0.5)})
    both = relevances(net, rules={nn.Linear: FlatRule(), "1": "gamma:0.5", "3": "epsilon"})
    torch.testing.assert_close(both, by_name)
    nested = nn.Sequential(net[:3], net[3])
    inner = relevances(nested, rules={"0": FlatRule(), "0.1": GammaRule(0.5)})
    torch.testing.assert_close(inner, by_name)


def test_rules_of_all_modules_are_the_rule_of_the_network():
    net = convnet(seed=3)
    kinds = {nn.Conv2d: PositiveRule(), nn.Linear: PositiveRule()}
    whole = explain(net, X, LRP(rule="alpha-beta"), 1)["lrp"].attributions
    made = explain(net, X, LRP(rule="alpha-beta", rules=kinds), 1)["lrp"].attributions
    torch.testing.assert_close(made, whole)


def test_a_rule_of_ones_own():
    @dataclass(frozen=True)
    class Half(LayerRule):
        def share(self, relevance, layer, *, excluded):
            return EpsilonRule().share(relevance / 2, layer, excluded=excluded)

    net = two_layers()
    torch.testing.assert_close(relevances(net, rules={"1": Half()}), relevances(net) / 2)


def test_what_is_no_rule_is_refused():
    net = two_layers()
    with pytest.raises(LayerError, match="conv9"):
        relevances(net, rules={"conv9": "flat"})
    for wrong in ("beta", "flat:2", "gamma:much", 3):
        with pytest.raises(OptionError, match="give a LayerRule or one of epsilon, gamma"):
            relevances(net, rules={"1": wrong})
    with pytest.raises(OptionError, match="the name of a module, or a type"):
        relevances(net, rules={1: "flat"})

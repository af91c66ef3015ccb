"""Rules of LRP for single layers, as objects that a user can choose for a module, or write.

With z_ij = x_i w_ij what input i adds to output j of a layer, and z_j their sum and the bias.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.layer import Layer
from torchsaliency.errors import OptionError
from torchsaliency.methods.propagation.operations import WeightedLayer, plain
from torchsaliency.methods.propagation.shares import (
    share_bounded,
    share_by_epsilon,
    share_positive,
)


class LayerRule(abc.ABC):
    """How a linear layer (a convolution, a product with weights) hands relevance to its input."""

    @abc.abstractmethod
    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:
        """Return the relevance of the layer's input, of its shape.

        Args:
            relevance: of the layer's output.
            layer: its input, weights and bias, and how to apply it to others.
            excluded: whether biases get no share.
        """


@final
@dataclass(frozen=True)
class EpsilonRule(LayerRule):
    """R_i = Σ_j z_ij / (z_j + ε sign z_j) R_j.

    Attributes:
        epsilon: ε, absolute.
    """

    epsilon: float = 1e-9

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:
        """Return the relevance of the layer's input."""
        return share_by_weight(relevance, layer, plain(layer.weight), self.epsilon, excluded)


@final
@dataclass(frozen=True)
class GammaRule(LayerRule):
    """The ε rule with the weights w + γ w⁺: positive contributions count more.

    Source: Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019, for inputs that
    are not below zero.

    Attributes:
        gamma: γ; 0 is the ε rule.
        epsilon: ε, absolute.
    """

    gamma: float = 0.25
    epsilon: float = 1e-9

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:
        """Return the relevance of the layer's input."""
        weight = plain(layer.weight)
        weight = weight + self.gamma * weight.clamp_min(0)
        return share_by_weight(relevance, layer, weight, self.epsilon, excluded)


@final
@dataclass(frozen=True)
class PositiveRule(LayerRule):
    """The αβ rule with α = 1 and β = 0: positive contributions alone, biases left out."""

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:
        """Return the relevance of the layer's input."""
        weight = plain(layer.weight)
        return share_positive(relevance, layer.x, weight, layer.apply, conserves=excluded)


@final
@dataclass(frozen=True)
class BoundedRule(LayerRule):
    """The z^B rule: of inputs between the extremes of each image, for a first layer."""

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:  # noqa: ARG002
        """Return the relevance of the layer's input."""
        return share_bounded(relevance, layer.x, plain(layer.weight), layer.apply)


@final
@dataclass(frozen=True)
class FlatRule(LayerRule):
    """All inputs that an output reads get the same share of its relevance."""

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:  # noqa: ARG002
        """Return the relevance of the layer's input."""
        ones = torch.ones_like(plain(layer.weight))
        return share_by_epsilon(
            relevance, torch.ones_like(layer.x), lambda x: layer.apply(x, ones.to(x)), 0.0
        )


def share_by_weight(
    relevance: Tensor, layer: WeightedLayer, weight: Tensor, epsilon: float, excluded: bool
) -> Tensor:
    """Return the relevance of a layer's input by the ε rule with other weights."""
    bias = 0 if layer.bias is None or excluded else plain(layer.bias)
    return share_by_epsilon(
        relevance, layer.x, lambda x: layer.apply(x, weight.to(x)), epsilon, bias
    )


_NAMED: dict[str, type[LayerRule]] = {
    "epsilon": EpsilonRule,
    "gamma": GammaRule,
    "positive": PositiveRule,
    "bounded": BoundedRule,
    "flat": FlatRule,
}


def read_rule(given: Any) -> LayerRule:
    """Return a rule, or the rule that words name, such as "gamma", "gamma:0.5" or "flat".

    Raises:
        OptionError: there is no such rule, or it takes no such number.
    """
    if isinstance(given, LayerRule):
        return given
    name, _, number = str(given).partition(":")
    try:
        return _NAMED[name](*([float(number)] if number else []))
    except (KeyError, ValueError, TypeError):
        raise OptionError(
            f"lrp.rules has the rule {given!r}; give a LayerRule or one of {', '.join(_NAMED)}, of "
            "which epsilon and gamma take a number, as in gamma:0.25."
        ) from None


def find_rules(net: nn.Module, given: Mapping[Any, Any]) -> dict[str, LayerRule]:
    """Return the rules by the names of a network's modules.

    Args:
        net: the network.
        given: by name or by type of modules; a module's own name goes before its type.

    Raises:
        LayerError: there is no module of that name.
        OptionError: a key is neither, or a value is no rule.
    """
    types = {key: read_rule(rule) for key, rule in given.items() if isinstance(key, type)}
    found = {
        name: rule
        for kind, rule in types.items()
        for name, module in net.named_modules()
        if name and isinstance(module, kind)
    }
    for key, rule in given.items():
        if isinstance(key, type):
            continue
        if not isinstance(key, str):
            raise OptionError(
                f"lrp.rules has the key {key!r}; give the name of a module, or a type of modules."
            )
        Layer(key).module_of(net)
        found[key] = read_rule(rule)
    return found

"""The rules that captum's users set on modules: `model.conv1.rule = GammaRule()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from torchsaliency.methods.propagation.layer_rules import EpsilonRule, share_by_weight
from torchsaliency.methods.propagation.layer_rules import LayerRule as PropagationRule
from torchsaliency.methods.propagation.operations import WeightedLayer, plain

__all__ = ["Alpha1_Beta0_Rule", "EpsilonRule", "GammaRule", "IdentityRule", "PropagationRule"]


@final
@dataclass(frozen=True)
class GammaRule(PropagationRule):
    """The ε rule with the weights w + γ w⁺."""

    gamma: float = 0.25
    set_bias_to_zero: bool = False

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:
        """Return the relevance of the layer's input."""
        weight = plain(layer.weight)
        weight = weight + self.gamma * weight.clamp_min(0)
        return share_by_weight(relevance, layer, weight, 1e-9, excluded or self.set_bias_to_zero)


@final
@dataclass(frozen=True)
class Alpha1_Beta0_Rule(PropagationRule):  # noqa: N801 (the other library's)
    """The ε rule with the weights w⁺ alone, of inputs that are not below zero."""

    set_bias_to_zero: bool = False

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:
        """Return the relevance of the layer's input."""
        weight = plain(layer.weight).clamp_min(0)
        return share_by_weight(relevance, layer, weight, 1e-9, excluded or self.set_bias_to_zero)


@final
@dataclass(frozen=True)
class IdentityRule(PropagationRule):
    """The input gets the relevance of the output, which has its shape."""

    def share(self, relevance: Tensor, layer: WeightedLayer, *, excluded: bool) -> Tensor:  # noqa: ARG002
        """Return the relevance of the layer's input."""
        return relevance.reshape(layer.x.shape)

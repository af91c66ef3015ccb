"""Backward passes by rules: guided, DeepLIFT, and the propagation of relevance."""

from torchsaliency.methods.passes import (
    propagate,
)
from torchsaliency.methods.propagation.backprop import (
    DeconvNet,
    GuidedBackprop,
    GuidedGradCAM,
)
from torchsaliency.methods.propagation.deeplift import DeepLIFT, DeepSHAP
from torchsaliency.methods.propagation.fullgrad import FullGrad
from torchsaliency.methods.propagation.layer_rules import (
    BoundedRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    LayerRule,
    PositiveRule,
)
from torchsaliency.methods.propagation.lrp import LRP, lrp_rules
from torchsaliency.methods.propagation.operations import layer_of
from torchsaliency.methods.propagation.shares import share_by_epsilon
from torchsaliency.methods.propagation.tibav import TIBAV

__all__ = [
    "LRP",
    "TIBAV",
    "BoundedRule",
    "DeconvNet",
    "DeepLIFT",
    "DeepSHAP",
    "EpsilonRule",
    "FlatRule",
    "FullGrad",
    "GammaRule",
    "GuidedBackprop",
    "GuidedGradCAM",
    "LayerRule",
    "PositiveRule",
    "layer_of",
    "lrp_rules",
    "propagate",
    "share_by_epsilon",
]

"""Backward passes by rules of their own: guided, DeepLIFT, and the propagation of relevance."""

from torchsaliency.methods.propagation.backprop import DeconvNet, GuidedBackprop
from torchsaliency.methods.propagation.deeplift import DeepLIFT
from torchsaliency.methods.propagation.lrp import LRP
from torchsaliency.methods.propagation.shap import DeepSHAP
from torchsaliency.methods.propagation.tibav import TIBAV

__all__ = ["LRP", "TIBAV", "DeconvNet", "DeepLIFT", "DeepSHAP", "GuidedBackprop"]

"""Attribution to pixels: gradients, DeepLIFT and SHAP, superpixels, NormGrad."""

from torchsaliency.methods.attribution.backprop import DeconvNet, GuidedBackprop
from torchsaliency.methods.attribution.deeplift import DeepLIFT
from torchsaliency.methods.attribution.gradient import (
    GradientSHAP,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    VanillaGradient,
)
from torchsaliency.methods.attribution.lrp import LRP
from torchsaliency.methods.attribution.normgrad import NormGrad
from torchsaliency.methods.attribution.reduction import Attribution
from torchsaliency.methods.attribution.segments import LIME, FeatureAblation, KernelSHAP
from torchsaliency.methods.attribution.shap import DeepSHAP

__all__ = [
    "LIME",
    "LRP",
    "Attribution",
    "DeconvNet",
    "DeepLIFT",
    "DeepSHAP",
    "FeatureAblation",
    "GradientSHAP",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "NormGrad",
    "SmoothGrad",
    "VanillaGradient",
]

"""Attribution to pixels: gradients, DeepLIFT and SHAP, superpixels, NormGrad."""

from torchsaliency.methods.attribution.gradient import (
    BlurIG,
    GradientSHAP,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    SmoothGradSquared,
    VanillaGradient,
    VarGrad,
)
from torchsaliency.methods.attribution.normgrad import NormGrad
from torchsaliency.methods.attribution.reduction import Attribution
from torchsaliency.methods.attribution.segments import LIME, FeatureAblation, KernelSHAP
from torchsaliency.methods.attribution.xrai import XRAI
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
)
from torchsaliency.registry import make_moved_getattr

__getattr__ = make_moved_getattr(__name__)

__all__ = [
    "IMAGE_PASSES",
    "LIME",
    "XRAI",
    "Attribution",
    "BlurIG",
    "FeatureAblation",
    "GradientSHAP",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "NormGrad",
    "SmoothGrad",
    "SmoothGradSquared",
    "VanillaGradient",
    "VarGrad",
]

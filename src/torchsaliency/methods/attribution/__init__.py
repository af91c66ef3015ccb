"""Attribution to pixels: gradients, DeepLIFT and SHAP, superpixels, NormGrad."""

from torchsaliency.methods.attribution.gradient import (
    GradientSHAP,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    VanillaGradient,
)
from torchsaliency.methods.attribution.normgrad import NormGrad
from torchsaliency.methods.attribution.reduction import Attribution
from torchsaliency.methods.attribution.segments import LIME, FeatureAblation, KernelSHAP
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
)
from torchsaliency.registry import make_moved_getattr

__getattr__ = make_moved_getattr(__name__)

__all__ = [
    "IMAGE_PASSES",
    "LIME",
    "Attribution",
    "FeatureAblation",
    "GradientSHAP",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "NormGrad",
    "SmoothGrad",
    "VanillaGradient",
]

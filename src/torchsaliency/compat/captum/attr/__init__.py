"""Attribution methods by captum's names and calls."""

from torchsaliency.compat.captum.attr import visualization
from torchsaliency.compat.captum.attr.base import Attribution
from torchsaliency.compat.captum.attr.gradients import (
    LRP,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Saliency,
)
from torchsaliency.compat.captum.attr.layers import GuidedGradCam, LayerAttribution, LayerGradCam
from torchsaliency.compat.captum.attr.noise import NoiseTunnel
from torchsaliency.compat.captum.attr.perturbations import (
    FeatureAblation,
    KernelShap,
    Lime,
    Occlusion,
)

__all__ = [
    "LRP",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "FeatureAblation",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerAttribution",
    "LayerGradCam",
    "Lime",
    "NoiseTunnel",
    "Occlusion",
    "Saliency",
    "visualization",
]

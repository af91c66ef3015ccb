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
from torchsaliency.compat.captum.attr.layers import (
    GuidedGradCam,
    LayerActivation,
    LayerAttribution,
    LayerConductance,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from torchsaliency.compat.captum.attr.neurons import (
    NeuronAttribution,
    NeuronDeconvolution,
    NeuronGradient,
    NeuronGuidedBackprop,
    NeuronIntegratedGradients,
)
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
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "Lime",
    "NeuronAttribution",
    "NeuronDeconvolution",
    "NeuronGradient",
    "NeuronGuidedBackprop",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "Saliency",
    "visualization",
]

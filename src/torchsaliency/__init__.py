"""torchsaliency: what is this vision network looking at?

Opti-CAM, Tucker saliency maps and their rivals on PyTorch. In one line:

    torchsaliency.explain(model, x, ["opticam", "mtsm"])["opticam"].map
"""

from torchsaliency import methods as methods
from torchsaliency.api import overlay, preprocess
from torchsaliency.core.discovery import default_layer, register_default_layer
from torchsaliency.core.errors import (
    CheckpointError,
    DataError,
    InputError,
    LayerError,
    OptionError,
    TargetError,
    TorchSaliencyError,
)
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.layer import ChannelsLast, Grid, Layer, Tokens
from torchsaliency.core.masking import BlackPixel, Blur, GivenImage, Masking, MeanColour
from torchsaliency.core.method import ChannelCAM, Method, Saliency
from torchsaliency.core.registry import Needs, create, register
from torchsaliency.core.target import (
    BoxScore,
    EmbeddingSimilarity,
    Logit,
    LogProbability,
    Margin,
    MaskScore,
    Probability,
    Regression,
    Target,
)
from torchsaliency.core.tracing import Trace, View, tracing
from torchsaliency.methods.cam import (
    CAM,
    AblationCAM,
    FakeCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    OptiCAM,
    ScoreCAM,
    XGradCAM,
)
from torchsaliency.methods.decomposition import (
    MTSM,
    TSM,
    EigenCAM,
    MultivecEigenCAM,
    dominant_variance,
)
from torchsaliency.methods.smoothing import Augmented, EigenSmoothed
from torchsaliency.viz import Panel, Row, grid
from torchsaliency.zoo import Network, Preprocessing, load_model, paper_layer

register_default_layer(paper_layer)

__all__ = [
    "CAM",
    "MTSM",
    "TSM",
    "AblationCAM",
    "Augmented",
    "BlackPixel",
    "Blur",
    "BoxScore",
    "ChannelCAM",
    "ChannelsLast",
    "CheckpointError",
    "DataError",
    "EigenCAM",
    "EigenSmoothed",
    "EmbeddingSimilarity",
    "Explanation",
    "FakeCAM",
    "GivenImage",
    "GradCAM",
    "GradCAMPlusPlus",
    "Grid",
    "HiResCAM",
    "InputError",
    "Layer",
    "LayerCAM",
    "LayerError",
    "LogProbability",
    "Logit",
    "Margin",
    "MaskScore",
    "Masking",
    "MeanColour",
    "Method",
    "MultivecEigenCAM",
    "Needs",
    "Network",
    "OptiCAM",
    "OptionError",
    "Panel",
    "Preprocessing",
    "Probability",
    "Regression",
    "Row",
    "Saliency",
    "ScoreCAM",
    "Target",
    "TargetError",
    "Tokens",
    "TorchSaliencyError",
    "Trace",
    "View",
    "XGradCAM",
    "create",
    "default_layer",
    "dominant_variance",
    "explain",
    "grid",
    "load_model",
    "methods",
    "overlay",
    "preprocess",
    "register",
    "register_default_layer",
    "tracing",
]

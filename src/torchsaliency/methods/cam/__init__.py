"""Class activation maps: a weighted sum of feature maps."""

from torchsaliency.methods.cam.ablation import AblationCAM
from torchsaliency.methods.cam.classifier import CAM
from torchsaliency.methods.cam.fake import FakeCAM
from torchsaliency.methods.cam.gradient import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from torchsaliency.methods.cam.opticam import OptiCAM
from torchsaliency.methods.cam.score import ScoreCAM

__all__ = [
    "CAM",
    "AblationCAM",
    "FakeCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "OptiCAM",
    "ScoreCAM",
    "XGradCAM",
]

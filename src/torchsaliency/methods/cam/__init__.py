"""Class activation maps: a weighted sum of feature maps."""

from torchsaliency.methods.cam.gradient import (
    CAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from torchsaliency.methods.cam.opticam import OptiCAM
from torchsaliency.methods.cam.scores import AblationCAM, FakeCAM, ScoreCAM

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

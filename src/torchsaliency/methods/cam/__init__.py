"""Class activation maps: a weighted sum of feature maps."""

from torchsaliency.methods.cam.contrast import FinerCAM
from torchsaliency.methods.cam.controls import Edges, FakeCAM, RandomCAM
from torchsaliency.methods.cam.fem import FEM
from torchsaliency.methods.cam.gradient import (
    CAM,
    GradCAM,
    GradCAMElementwise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ShapleyCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from torchsaliency.methods.cam.opticam import OptiCAM
from torchsaliency.methods.cam.refine import RefineCAM
from torchsaliency.methods.cam.relevance import RelevanceCAM
from torchsaliency.methods.cam.scores import ISCAM, SSCAM, AblationCAM, GroupCAM, ScoreCAM

__all__ = [
    "CAM",
    "FEM",
    "ISCAM",
    "SSCAM",
    "AblationCAM",
    "Edges",
    "FakeCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMElementwise",
    "GradCAMPlusPlus",
    "GroupCAM",
    "HiResCAM",
    "LayerCAM",
    "OptiCAM",
    "RandomCAM",
    "RefineCAM",
    "RelevanceCAM",
    "ScoreCAM",
    "ShapleyCAM",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
]

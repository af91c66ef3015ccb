"""MONAI's names and calls: `from torchsaliency.compat.monai import GradCAM, OcclusionSensitivity`.

They stand for `monai.visualize`. What changes, and what is corrected, is in docs/from-monai.md.
"""

from torchsaliency.compat.monai.cams import (
    CAM,
    GradCAM,
    GradCAMpp,
    default_normalizer,
    default_upsampler,
)
from torchsaliency.compat.monai.occlusion import OcclusionSensitivity

__all__ = [
    "CAM",
    "GradCAM",
    "GradCAMpp",
    "OcclusionSensitivity",
    "default_normalizer",
    "default_upsampler",
]

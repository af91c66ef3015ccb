"""Maps from the structure of the feature maps, most of them without a class or a gradient."""

from torchsaliency.methods.tucker.eigen import (
    KPCACAM,
    EigenCAM,
    EigenGradCAM,
    MultivecEigenCAM,
    SegEigenCAM,
)
from torchsaliency.methods.tucker.spectrum import dominant_variance
from torchsaliency.methods.tucker.tucker import MTSM, TSM

__all__ = [
    "KPCACAM",
    "MTSM",
    "TSM",
    "EigenCAM",
    "EigenGradCAM",
    "MultivecEigenCAM",
    "SegEigenCAM",
    "dominant_variance",
]

"""Label-independent maps from the structure of the feature maps: no class, no gradient."""

from torchsaliency.methods.tucker.eigen import EigenCAM, MultivecEigenCAM
from torchsaliency.methods.tucker.spectrum import dominant_variance
from torchsaliency.methods.tucker.tucker import MTSM, TSM

__all__ = ["MTSM", "TSM", "EigenCAM", "MultivecEigenCAM", "dominant_variance"]

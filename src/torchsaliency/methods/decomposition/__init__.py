"""Label-independent maps from the structure of the feature maps: no class, no gradient."""

from torchsaliency.methods.decomposition.eigen import EigenCAM, MultivecEigenCAM
from torchsaliency.methods.decomposition.spectrum import dominant_variance
from torchsaliency.methods.decomposition.tucker import MTSM, TSM

__all__ = ["MTSM", "TSM", "EigenCAM", "MultivecEigenCAM", "dominant_variance"]

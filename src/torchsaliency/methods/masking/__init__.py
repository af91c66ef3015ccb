"""Maps from what the network says when parts of the image, or of a layer, are hidden."""

from torchsaliency.methods.masking.extremal import ExtremalPerturbation
from torchsaliency.methods.masking.iba import IBA
from torchsaliency.methods.masking.meaningful import MeaningfulPerturbation
from torchsaliency.methods.masking.occlusion import Occlusion
from torchsaliency.methods.masking.rise import DRISE, RISE

__all__ = ["DRISE", "IBA", "RISE", "ExtremalPerturbation", "MeaningfulPerturbation", "Occlusion"]

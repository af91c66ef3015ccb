"""Networks by name, with their preprocessing, class names, default layers and weights."""

from torchsaliency.zoo.classes import imagenet_classes
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.loading import DEFAULT_MODEL, ModelEntry, load_model, models
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.placement import Placement
from torchsaliency.zoo.preprocessing import Fit, Preprocessing, imagenet
from torchsaliency.zoo.readers import from_hf, from_timm, from_torchvision
from torchsaliency.zoo.texts import similarity_to_text

__all__ = [
    "DEFAULT_MODEL",
    "Fit",
    "ModelEntry",
    "Network",
    "Placement",
    "Preprocessing",
    "from_hf",
    "from_timm",
    "from_torchvision",
    "imagenet",
    "imagenet_classes",
    "load_model",
    "models",
    "paper_layer",
    "similarity_to_text",
]

"""Networks by name, with their preprocessing, class names, default layers and weights."""

from torchsaliency.options import DEFAULT_MODEL
from torchsaliency.zoo.inputs import InputFacts
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.loading import ModelEntry, load_model, models
from torchsaliency.zoo.network import Network, imagenet_classes
from torchsaliency.zoo.placement import Placement
from torchsaliency.zoo.preprocessing import Fit, Preprocessing, imagenet
from torchsaliency.zoo.sources.huggingface import from_hf, similarity_to_text
from torchsaliency.zoo.sources.source import Request, register_source
from torchsaliency.zoo.sources.timm import from_timm
from torchsaliency.zoo.sources.torchvision import from_torchvision
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing

__all__ = [
    "DEFAULT_MODEL",
    "ClipPreprocessing",
    "Fit",
    "InputFacts",
    "ModelEntry",
    "Network",
    "Placement",
    "Preprocessing",
    "Request",
    "ScanPreprocessing",
    "from_hf",
    "from_timm",
    "from_torchvision",
    "imagenet",
    "imagenet_classes",
    "load_model",
    "models",
    "paper_layer",
    "register_source",
    "similarity_to_text",
]

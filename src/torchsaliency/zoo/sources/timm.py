"""timm's networks, with the weights it fetches or a file."""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import difflib
import functools
from typing import Any

from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo.checkpoints import Checkpoint
from torchsaliency.zoo.classes import IMAGENET_CLASSES, imagenet_classes
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.readers import from_timm
from torchsaliency.zoo.sources.request import (
    RANDOM,
    Request,
    build_and_fill,
    facts,
    hub_as_allowed,
    refuse_offline,
    unreachable,
)


def families() -> dict[str, str]:
    """Return the names of timm's networks, each with the module that defines it."""
    import timm

    return {
        name: timm.model_entrypoint(name).__module__.rpartition(".")[2]
        for name in timm.list_models()
    }


def load(request: Request) -> Network:
    """Load a timm network."""
    _check_name(request.name)
    build = functools.partial(_build, request.name)
    checkpoint = request.checkpoint()
    weights: Checkpoint | str = RANDOM
    if checkpoint is not None:
        model, _ = build_and_fill(build, checkpoint, request.num_classes)
        weights = checkpoint
    elif request.pretrained:
        request.refuse_other_classes()
        model = _pretrained(request.name)
        weights = _weights_name(model)
    else:
        model = build(request.num_classes)
    return Network(
        model,
        name=f"timm/{request.name}",
        preprocessing=from_timm(model),
        classes=_classes(model),
        layer=paper_layer(model),
        source=facts("timm", model, weights, "timm"),
    )


def _check_name(name: str) -> None:
    import timm

    if not timm.is_model(name):
        architecture = name.partition(".")[0]
        close = (
            ", ".join(difflib.get_close_matches(architecture, timm.list_models(), n=4)) or "none"
        )
        raise CheckpointError(
            f"timm has no network {name!r}; close names are {close}, and `torchsaliency models` "
            "lists all."
        )


def _build(name: str, num_classes: int | None) -> nn.Module:
    """Build the network with random weights."""
    import timm

    options = {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model


def _pretrained(name: str) -> nn.Module:
    import timm

    if not timm.is_model_pretrained(name):
        raise CheckpointError(
            f"timm has no pretrained weights for {name}; give weights=FILE, or pretrained=False "
            "for random weights."
        )
    if not timm.get_pretrained_cfg(name).hf_hub_id:
        refuse_offline(f"timm/{name}")  # some weights lie elsewhere
    try:
        with hub_as_allowed():
            model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise unreachable(f"timm/{name}", error) from error
    return model


def _weights_name(model: Any) -> str:
    config = model.pretrained_cfg
    named = config.get("hf_hub_id") or config.get("url") or config.get("tag")
    return str(named or "pretrained")


def _classes(model: Any) -> tuple[str, ...] | None:
    """Return the class names: ImageNet's 1000, or one of its larger subsets that timm knows."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if model.num_classes == 0:
        return ()
    if model.num_classes == IMAGENET_CLASSES:
        return imagenet_classes()
    subset = infer_imagenet_subset(model)
    if not subset:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))

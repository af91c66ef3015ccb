"""timm's networks, with the weights it fetches or a file."""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import nn

from torchsaliency.errors import CheckpointError, describe_error, describe_unknown
from torchsaliency.zoo.inputs import find_channels
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import IMAGENET_CLASSES, Network, imagenet_classes
from torchsaliency.zoo.preprocessing import Fit, Preprocessing, as_channels
from torchsaliency.zoo.sources.source import (
    Request,
    facts,
    make_download_error,
    make_model,
    refuse_offline,
    register_source,
    restrict_hub,
)


def from_timm(model: nn.Module | Mapping[str, Any]) -> Preprocessing:
    """Read a timm model's, or a timm `pretrained_cfg`'s, evaluation transform.

    A network of one channel gets the mean of the three colours' statistics; of other channels than
    the configuration has, the numbers stay as they are.

    Example:
        >>> import timm
        >>> from_timm(timm.create_model("resnet18")).size
        (224, 224)
    """
    from timm.data import resolve_data_config

    source = {"model": model} if isinstance(model, nn.Module) else {"pretrained_cfg": dict(model)}
    config = resolve_data_config(**source)
    channels, height, width = config["input_size"]
    if isinstance(model, nn.Module):  # its configuration is that of the weights, for photographs
        channels = find_channels(model) or channels
    box = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    fits = {"squash": Fit.SQUASH, "border": Fit.CONTAIN}
    return Preprocessing(
        size=(height, width),
        resize=box,
        fit=fits.get(config["crop_mode"], Fit.COVER),
        interpolation=Image.Resampling[config["interpolation"].upper()],
        mean=_as_channels(config["mean"], channels, 0.0),
        std=_as_channels(config["std"], channels, 1.0),
    )


def _as_channels(values: Any, channels: int, otherwise: float) -> tuple[float, ...]:
    fits = len(values) in {1, channels} or channels == 1
    return as_channels(values if fits else otherwise, channels)


def families() -> dict[str, str]:
    """Return the names of timm's networks, each with the module that defines it."""
    import timm

    return {
        name: timm.model_entrypoint(name).__module__.rpartition(".")[2]
        for name in timm.list_models()
    }


@register_source("timm", networks=families)
def load(request: Request) -> Network:
    """Load a timm network."""
    import timm

    name = request.name
    if not timm.is_model(name):
        known = timm.list_models()
        near = describe_unknown("timm network", name.partition(".")[0], known)
        raise CheckpointError(f"{near[:-1]}, and `torchsaliency models` lists all.")
    model, weights = make_model(
        request,
        functools.partial(_build, name, request.options),
        functools.partial(_load_pretrained, name, request.options),
    )
    return Network(
        model,
        name=f"timm/{name}",
        preprocessing=from_timm(model),
        classes=_classes(model),
        layer=paper_layer(model),
        source=facts("timm", model, weights, "timm"),
    )


def _build(name: str, options: Mapping[str, Any], num_classes: int | None) -> nn.Module:
    import timm

    options = {**options, **({} if num_classes is None else {"num_classes": num_classes})}
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
    except Exception as error:
        if not options:
            raise
        raise CheckpointError(
            f"timm cannot make {name} with {dict(options)} ({describe_error(error)}); give options "
            "that timm.create_model takes for it."
        ) from error
    return model


def _load_pretrained(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, str]:
    import timm

    if not timm.is_model_pretrained(name):
        raise CheckpointError(
            f"timm has no pretrained weights for {name}; give weights=FILE, or pretrained=False "
            "for random weights."
        )
    if not timm.get_pretrained_cfg(name).hf_hub_id:
        refuse_offline(f"timm/{name}")  # some weights lie elsewhere
    try:
        with restrict_hub():
            model: Any = timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise make_download_error(f"timm/{name}", error) from error
    config = model.pretrained_cfg
    named = config.get("hf_hub_id") or config.get("url") or config.get("tag")
    return model, str(named or "pretrained")


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

"""torchvision's classifiers, detectors and semantic segmenters, with its weights or a file.

`resnet50` has torchvision's default weights, `resnet50.imagenet1k_v1` those of that name. A file
that torchvision published is recognised by its hash, so that it gets its own transforms.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from torchsaliency.errors import CheckpointError, describe_unknown
from torchsaliency.zoo.checkpoints import Checkpoint
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network, imagenet_classes
from torchsaliency.zoo.preprocessing import Fit, Preprocessing, as_pair, as_triple
from torchsaliency.zoo.sources.source import (
    RANDOM,
    Request,
    build_and_fill,
    facts,
    make_download_error,
    refuse_offline,
    register_source,
)
from torchsaliency.zoo.volumes import ClipPreprocessing

# Both were trained on inputs scaled otherwise than their transforms scale, and undo it themselves
# where `transform_input` is set, as torchvision sets it for its published weights.
_RESCALES_INPUT = ("googlenet", "inception_v3")
_WITH_AUXILIARY = ("fcn_", "deeplabv3_")  # a second head for training
_FRAMES = 16  # as its video networks were trained and are validated
_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def from_torchvision(weights: Any) -> Preprocessing:
    """Read a torchvision weights entry, such as `ResNet50_Weights.DEFAULT`, or its `transforms()`.

    A classifier's crops the photograph. A detector's leaves it as it is, in [0, 1], because the
    network scales and normalises by itself; a segmenter's scales the shorter side, and crops
    nothing.

    Raises:
        CheckpointError: the object is no preset of one of these.

    Example:
        >>> import torchvision
        >>> from_torchvision(torchvision.models.ResNet50_Weights.DEFAULT).size
        (224, 224)
    """
    preset = weights.transforms() if hasattr(weights, "transforms") else weights
    if type(preset).__name__ == "ObjectDetection":
        return Preprocessing(size=None, resize=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    try:
        if type(preset).__name__ == "SemanticSegmentation":
            return Preprocessing(
                size=None,
                resize=as_pair(preset.resize_size),
                interpolation=Image.Resampling[preset.interpolation.name],
                mean=as_triple(preset.mean),
                std=as_triple(preset.std),
            )
        crop, resize = preset.crop_size, preset.resize_size
        exact = isinstance(resize, list | tuple) and len(resize) == 2  # noqa: PLR2004
        return Preprocessing(
            size=as_pair(crop),
            resize=as_pair(resize),
            fit=Fit.SQUASH if exact else Fit.COVER,
            interpolation=Image.Resampling[preset.interpolation.name],
            mean=as_triple(preset.mean),
            std=as_triple(preset.std),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{type(weights).__name__} is no torchvision preset of a classifier, detector or "
            "segmenter; give a weights entry such as ResNet50_Weights.DEFAULT or what its "
            "transforms() returns."
        ) from error


def families() -> dict[str, str]:
    """Return the names of torchvision's networks, each with the module that defines it."""
    from torchvision import models

    kinds = (models, models.detection, models.segmentation, models.video)
    names = [name for kind in kinds for name in models.list_models(module=kind)]
    return {name: models.get_model_builder(name).__module__.rpartition(".")[2] for name in names}


@register_source("torchvision", networks=families)
def load(request: Request) -> Network:
    """Load a torchvision network."""
    architecture, _, tag = request.name.partition(".")
    entry = _entry(architecture, tag)
    weights: Checkpoint | str = RANDOM
    count = request.num_classes
    if (checkpoint := request.checkpoint()) is not None:
        checkpoint = weights = checkpoint.rename(_modern_densenet_key)
        entry = _find_published(architecture, checkpoint) or entry
        build = functools.partial(_build, architecture, entry, checkpoint=checkpoint)
        model, count = build_and_fill(build, checkpoint, count)
    elif request.pretrained:
        request.refuse_other_classes()
        model, weights = _load_pretrained(architecture, entry), entry.name
    else:
        model = _build(architecture, entry, count)
    return Network(
        model,
        name=f"torchvision/{request.name}",
        preprocessing=from_torchvision(entry),
        classes=_classes(entry) if count in {None, _class_count(entry)} else None,
        layer=paper_layer(model),
        volumes=ClipPreprocessing(_FRAMES, from_torchvision(entry)) if _is_video(entry) else None,
        source=facts("torchvision", model, weights, "torchvision"),
    )


def _entry(architecture: str, tag: str) -> Any:
    from torchvision.models import get_model_weights

    if architecture not in (known := families()):
        near = describe_unknown("torchvision network", architecture, known)
        raise CheckpointError(f"{near[:-1]}, and `torchsaliency models` lists all.")
    entries = get_model_weights(architecture)
    if not tag:
        return entries.DEFAULT
    for entry in entries:
        if entry.name.lower() == tag.lower():
            return entry
    raise CheckpointError(
        f"torchvision has no weights {tag!r} for {architecture}; accepted are "
        f"{', '.join(entry.name.lower() for entry in entries)}."
    )


def _find_published(architecture: str, checkpoint: Checkpoint) -> Any | None:
    """Return the entry whose file this is: published names end with the start of the SHA-256."""
    from torchvision.models import get_model_weights

    for entry in get_model_weights(architecture):
        published = entry.url.rpartition("-")[2].partition(".")[0]
        if published and checkpoint.sha256.startswith(published):
            return entry
    return None


def _load_pretrained(architecture: str, entry: Any) -> nn.Module:
    from torchvision.models import get_model

    what = f"torchvision/{architecture} ({entry.name})"
    if not Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name).exists():
        refuse_offline(what)
    try:
        model: nn.Module = get_model(architecture, weights=entry)
    except Exception as error:  # no connection, no space, another hash, or a damaged file
        raise make_download_error(what, error) from error
    return model


def _build(
    architecture: str, entry: Any, num_classes: int | None, checkpoint: Checkpoint | None = None
) -> nn.Module:
    """Build the network with random weights, fit for those of the checkpoint if there is one."""
    from torchvision.models import get_model

    options: dict[str, Any] = {"num_classes": num_classes or _class_count(entry)}
    if not _is_classifier(entry):
        options["weights_backbone"] = None  # or they were downloaded
    if architecture.startswith(_WITH_AUXILIARY):
        options["aux_loss"] = checkpoint is None or _has_auxiliary(checkpoint)
    if architecture in _RESCALES_INPUT:
        options["init_weights"] = checkpoint is None  # slow, and in vain when a file overwrites it
        options["transform_input"] = checkpoint is not None
        options["aux_logits"] = checkpoint is None or _has_auxiliary(checkpoint)
    model: nn.Module = get_model(architecture, weights=None, **options)
    return model


def _is_classifier(entry: Any) -> bool:
    return hasattr(entry.transforms(), "crop_size")


def _is_video(entry: Any) -> bool:
    return ".video." in type(entry).__module__


def _classes(entry: Any) -> tuple[str, ...]:
    named = _is_video(entry) or not _is_classifier(entry)
    return tuple(entry.meta["categories"]) if named else imagenet_classes()


def _class_count(entry: Any) -> int:
    return len(_classes(entry))


def _has_auxiliary(checkpoint: Checkpoint) -> bool:
    return any("aux" in key.lower() for key in checkpoint.tensors)


def _modern_densenet_key(key: str) -> str:
    """Undo the dots that torchvision's published DenseNet files have inside layer names."""
    return _DENSENET_KEY.sub(r"\1\2.", key)

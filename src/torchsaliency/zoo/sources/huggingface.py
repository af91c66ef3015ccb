"""Image classifiers, and CLIP's image encoders, of the Hugging Face hub or of a local folder.

They need the extra `torchsaliency[hf]`.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import importlib.util
import re
from typing import Any

from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo.checkpoints import Checkpoint, require_finite
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import Preprocessing, imagenet
from torchsaliency.zoo.readers import from_hf
from torchsaliency.zoo.sources.request import (
    RANDOM,
    Request,
    facts,
    hub_as_allowed,
    unreachable,
)

_CLIP = ("clip", "clip_vision_model")
_UNNAMED = re.compile(r"LABEL_\d+")


def load(request: Request) -> Network:
    """Load a Hugging Face image classifier by hub name or folder."""
    _require_transformers()
    with hub_as_allowed():
        return _load(request)


def _load(request: Request) -> Network:
    folder = request.weights if request.weights is not None and request.weights.is_dir() else None
    place = str(folder or request.name)
    weights: Checkpoint | str = RANDOM
    if folder is None and (checkpoint := request.checkpoint()) is not None:
        model = _filled(place, checkpoint, request.num_classes)
        weights = checkpoint
    elif request.pretrained or folder is not None:
        request.refuse_other_classes()
        model, weights = _pretrained(place), place
    else:
        model = _build(place, request.num_classes)
    return Network(
        model,
        name=f"hf/{request.name}",
        preprocessing=_preprocessing(place, model, required=weights != RANDOM),
        classes=_classes(model),
        layer=paper_layer(model),
        source=facts("huggingface", model, weights, "transformers"),
    )


def _require_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError(
            "Networks of the Hugging Face hub need the package transformers, which is not "
            "installed; "
            "run pip install 'torchsaliency[hf]'."
        )


def _kind(config: Any) -> Any:
    """Return the class that builds the network: a classifier, or CLIP's image encoder."""
    from transformers import AutoModelForImageClassification, CLIPVisionModelWithProjection

    return (
        CLIPVisionModelWithProjection
        if config.model_type in _CLIP
        else AutoModelForImageClassification
    )


def _config(place: str, **options: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(place, **options)


def _build(place: str, num_classes: int | None) -> nn.Module:
    """Build the network with random weights, from its configuration."""
    options = {} if num_classes is None else {"num_labels": num_classes}
    try:
        config = _config(place, **options)
        kind = _kind(config)
        clip = config.model_type in _CLIP
        model: nn.Module = (
            kind(getattr(config, "vision_config", config)) if clip else kind.from_config(config)
        )
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise unreachable(f"hf/{place}", error) from error
    return model.float()


def _filled(place: str, checkpoint: Checkpoint, num_classes: int | None) -> nn.Module:
    """Build the network of a configuration and load a file, of this or of an older naming."""
    model = _build(place, num_classes)
    checkpoint = checkpoint.without_prefixes(model)
    if num_classes is None and (count := checkpoint.class_count(model)) is not None:
        model = _build(place, count)
    checkpoint.check_values(model)
    try:
        filled, report = type(model).from_pretrained(  # type: ignore[attr-defined]
            None,
            config=model.config,
            state_dict=dict(checkpoint.tensors),
            output_loading_info=True,
        )
    except Exception as error:  # a tensor of another shape, or a name that its renaming breaks on
        raise CheckpointError(
            f"{checkpoint.path} does not fit {place}: its tensors have other shapes; "
            "give the weights of this architecture."
        ) from error
    return _checked(filled, report, str(checkpoint.path))


def _pretrained(place: str) -> nn.Module:
    """Load the network with the weights beside its configuration."""
    try:
        model, report = _kind(_config(place)).from_pretrained(place, output_loading_info=True)
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise unreachable(f"hf/{place}", error) from error
    return _checked(model, report, f"hf/{place}")


def _checked(model: nn.Module, report: dict[str, Any], weights: str) -> nn.Module:
    """Refuse a network that its weights leave random in part, which the library only remarks on."""
    unfilled = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if unfilled:
        raise CheckpointError(
            f"The weights {weights} leave {', '.join(unfilled[:4])} random; "
            "give those of the same architecture, trained as an image classifier."
        )
    require_finite(model.state_dict().items(), model, weights)
    return model.float()


def _preprocessing(place: str, model: Any, *, required: bool) -> Preprocessing:
    """Read the processor beside the weights; random weights, trained on nothing, may do without."""
    from transformers import AutoImageProcessor

    try:
        return from_hf(AutoImageProcessor.from_pretrained(place))
    except CheckpointError:
        raise
    except Exception as error:  # the hub's clients raise their own kinds of errors
        if not required:
            return imagenet(getattr(model.config, "image_size", 224))
        raise CheckpointError(
            f"hf/{place} has no readable image processor ({type(error).__name__}); "
            "put its preprocessor_config.json beside the weights."
        ) from error


def _classes(model: Any) -> tuple[str, ...] | None:
    """Return the class names, unless they are the library's placeholders."""
    if model.config.model_type in _CLIP:
        return ()
    labels = dict(model.config.id2label or {})
    names = tuple(str(labels.get(index, "")) for index in range(model.config.num_labels))
    known = all(name and not _UNNAMED.fullmatch(name) for name in names)
    return names if names and known else None

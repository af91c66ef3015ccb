"""Image classifiers of the Hugging Face hub or of a local folder (extra: `torchsaliency[hf]`)."""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import functools
import importlib.util
import re
from typing import Any

from torch import nn

from torchsaliency.core.errors import CheckpointError
from torchsaliency.zoo.checkpoints import Checkpoint
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import Preprocessing, imagenet
from torchsaliency.zoo.readers import from_hf
from torchsaliency.zoo.sources.request import Request, build_and_fill, facts, unreachable

_UNNAMED = re.compile(r"LABEL_\d+")


def load(request: Request) -> Network:
    """Load a Hugging Face image classifier by hub name or folder."""
    _require_transformers()
    folder = request.weights if request.weights is not None and request.weights.is_dir() else None
    place = str(folder or request.name)
    weights: Checkpoint | str = "random"
    if folder is None and (checkpoint := request.checkpoint()) is not None:
        build = functools.partial(_build, place)
        model, _ = build_and_fill(build, checkpoint, request.num_classes)
        weights = checkpoint
    elif request.pretrained or folder is not None:
        request.refuse_other_classes()
        model, weights = _pretrained(place), place
    else:
        model = _build(place, request.num_classes)
    return Network(
        model,
        name=f"hf/{request.name}",
        preprocessing=_preprocessing(place, model, required=weights != "random"),
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


def _build(place: str, num_classes: int | None) -> nn.Module:
    """Build the network with random weights, from its configuration."""
    from transformers import AutoConfig, AutoModelForImageClassification

    options = {} if num_classes is None else {"num_labels": num_classes}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        model: nn.Module = AutoModelForImageClassification.from_config(config)
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise unreachable(f"hf/{place}", error) from error
    return model.float()


def _pretrained(place: str) -> nn.Module:
    """Load a network, refusing one whose classifier the weights do not fill."""
    from transformers import AutoModelForImageClassification

    try:
        model, report = AutoModelForImageClassification.from_pretrained(
            place, output_loading_info=True
        )
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise unreachable(f"hf/{place}", error) from error
    unfilled = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if unfilled:
        raise CheckpointError(
            f"The weights of hf/{place} leave {', '.join(unfilled[:4])} random; "
            "choose a network that was trained as an image classifier."
        )
    filled: nn.Module = model.float()
    return filled


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
    labels = dict(model.config.id2label or {})
    names = tuple(str(labels.get(index, "")) for index in range(model.config.num_labels))
    known = all(name and not _UNNAMED.fullmatch(name) for name in names)
    return names if names and known else None

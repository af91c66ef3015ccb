"""Image classifiers, and CLIP's image encoders, of the Hugging Face hub or of a local folder.

They need the extra `torchsaliency[hf]`.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from torchsaliency.core.target import EmbeddingSimilarity
from torchsaliency.errors import CheckpointError, InputError
from torchsaliency.zoo.checkpoints import Checkpoint, require_finite
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import Fit, Preprocessing, as_pair, as_triple, imagenet
from torchsaliency.zoo.sources.source import (
    RANDOM,
    Request,
    facts,
    make_download_error,
    register_source,
    restrict_hub,
)

_CLIP = ("clip", "clip_vision_model")
_WARPED_FROM = 384  # ConvNeXt's processor crops below this side and squashes from it on
_UNNAMED = re.compile(r"LABEL_\d+")


@register_source("hf")
def load(request: Request) -> Network:
    """Load a Hugging Face image classifier, or CLIP's image encoder, by hub name or folder."""
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError(
            "Networks of the Hugging Face hub need the package transformers, which is not "
            "installed; run pip install 'torchsaliency[hf]'."
        )
    with restrict_hub():
        return _load(request)


def from_hf(processor: Any) -> Preprocessing:
    """Read a Hugging Face image processor or its configuration (`preprocessor_config.json`).

    Raises:
        CheckpointError: the processor describes no fixed input size.
    """
    config = dict(processor if isinstance(processor, Mapping) else processor.to_dict())
    resize, fit = _read_resize(config)
    if config.get("do_center_crop") and config.get("crop_size"):
        size = _size(config["crop_size"])
    else:
        uncropped, resize, fit = _read_uncropped(config, resize, fit)
        if uncropped is None:
            raise CheckpointError(
                f"The image processor resizes to {config.get('size')} and crops nothing, which "
                "gives no fixed input size; give a processor with a height and a width, or one "
                "that crops."
            )
        size = uncropped
    mean, std = _read_statistics(config)
    return Preprocessing(
        size=size,
        resize=resize,
        fit=fit,
        interpolation=Image.Resampling(int(config.get("resample", Image.Resampling.BILINEAR))),
        mean=mean,
        std=std,
    )


def _read_resize(config: Mapping[str, Any]) -> tuple[tuple[int, int] | None, Fit]:
    if not config.get("do_resize", True) or not config.get("size"):
        return None, Fit.COVER
    size = config["size"]
    exact = isinstance(size, Mapping) and "height" in size
    return _size(size), Fit.SQUASH if exact else Fit.COVER


def _read_uncropped(
    config: Mapping[str, Any], resize: tuple[int, int] | None, fit: Fit
) -> tuple[tuple[int, int] | None, tuple[int, int] | None, Fit]:
    """Return input size, box and fit of a processor without a crop step of its own."""
    if resize is None or fit is Fit.SQUASH:
        return resize, resize, fit
    if "crop_pct" not in config:  # every photograph has its own size
        return None, resize, fit
    if resize[0] >= _WARPED_FROM:
        return resize, resize, Fit.SQUASH
    side = int(resize[0] / (config["crop_pct"] or 224 / 256))
    return resize, (side, side), Fit.COVER


def _read_statistics(
    config: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Fold rescaling (v · factor - offset, v in 0..255) and normalising into one mean and std."""
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    normalised = config.get("do_normalize", True)
    mean = as_triple(config.get("image_mean") or 0.0) if normalised else (0.0,) * 3
    std = as_triple(config.get("image_std") or 1.0) if normalised else (1.0,) * 3
    unit = 1.0 if math.isclose(255 * factor, 1) else 255 * factor
    return as_triple([(m + offset) / unit for m in mean]), as_triple([s / unit for s in std])


def _size(size: Any) -> tuple[int, int]:
    if not isinstance(size, Mapping):
        return as_pair(size)
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    if "shortest_edge" in size:
        return as_pair(size["shortest_edge"])
    raise CheckpointError(
        f"The image processor's size is {dict(size)}; accepted are height and width, or "
        "shortest_edge."
    )


def similarity_to_text(
    network: Network, texts: str | Sequence[str], kind: str = "cosine"
) -> EmbeddingSimilarity:
    """Return the similarity of images to texts as a target.

    Args:
        network: a CLIP image encoder, `load_model("hf/openai/clip-vit-base-patch32")`.
        texts: one for all images, or one for each.
        kind: as `EmbeddingSimilarity`; CLIP was trained on the cosine.

    Raises:
        InputError: no text.
        CheckpointError: the network has no text encoder beside it, or it cannot be had.

    Example:
        >>> clip = load_model("hf/openai/clip-vit-base-patch32")  # doctest: +SKIP
        >>> explain(clip, x, "gradcam", similarity_to_text(clip, "a dog"))  # doctest: +SKIP
    """
    several = [texts] if isinstance(texts, str) else list(texts)
    if not several or not all(text.strip() for text in several):
        raise InputError("No text was given; similarity to a text needs some words.")
    return EmbeddingSimilarity(_embed(network, several), kind)


def _embed(network: Network, texts: Sequence[str]) -> Tensor:
    if type(network.module).__name__ != "CLIPVisionModelWithProjection":
        raise CheckpointError(
            f"{network.name} has no text encoder beside it; give a CLIP network, such as "
            "hf/openai/clip-vit-base-patch32."
        )
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    place = network.name.removeprefix("hf/")
    try:
        with restrict_hub():
            tokenizer: Any = AutoTokenizer.from_pretrained(place)
            encoder = CLIPTextModelWithProjection.from_pretrained(place).float().eval()
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise make_download_error(f"the texts of {network.name}", error) from error
    with torch.no_grad():
        found: Tensor = encoder(**tokens).text_embeds
    return found


def _load(request: Request) -> Network:
    folder = request.weights if request.weights is not None and request.weights.is_dir() else None
    place = str(folder or request.name)
    weights: Checkpoint | str = RANDOM
    if folder is None and (checkpoint := request.checkpoint()) is not None:
        model = _fill(place, checkpoint, request.num_classes)
        weights = checkpoint
    elif request.pretrained or folder is not None:
        request.refuse_other_classes()
        model, weights = _load_pretrained(place), place
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


def _kind(config: Any) -> Any:
    from transformers import AutoModelForImageClassification, CLIPVisionModelWithProjection

    return (
        CLIPVisionModelWithProjection
        if config.model_type in _CLIP
        else AutoModelForImageClassification
    )


def _build(place: str, num_classes: int | None) -> nn.Module:
    from transformers import AutoConfig

    options = {} if num_classes is None else {"num_labels": num_classes}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        kind = _kind(config)
        clip = config.model_type in _CLIP
        model: nn.Module = (
            kind(getattr(config, "vision_config", config)) if clip else kind.from_config(config)
        )
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise make_download_error(f"hf/{place}", error) from error
    return model.float()


def _fill(place: str, checkpoint: Checkpoint, num_classes: int | None) -> nn.Module:
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
    return _check(filled, report, str(checkpoint.path))


def _load_pretrained(place: str) -> nn.Module:
    from transformers import AutoConfig

    try:
        kind = _kind(AutoConfig.from_pretrained(place))
        model, report = kind.from_pretrained(place, output_loading_info=True)
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise make_download_error(f"hf/{place}", error) from error
    return _check(model, report, f"hf/{place}")


def _check(model: nn.Module, report: dict[str, Any], weights: str) -> nn.Module:
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
    if model.config.model_type in _CLIP:
        return ()
    labels = dict(model.config.id2label or {})
    names = tuple(str(labels.get(index, "")) for index in range(model.config.num_labels))
    known = all(name and not _UNNAMED.fullmatch(name) for name in names)
    return names if names and known else None

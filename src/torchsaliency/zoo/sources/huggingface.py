"""Image classifiers, detectors, segmenters and encoders of the Hugging Face hub or a folder.

They need the extra `torchsaliency[hf]`.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import importlib.util
import inspect
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from torchsaliency.core.target import EmbeddingSimilarity
from torchsaliency.errors import CheckpointError, InputError, describe_error
from torchsaliency.zoo.checkpoints import Checkpoint, require_finite
from torchsaliency.zoo.inputs import InputFacts
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import (
    Fit,
    Preprocessing,
    as_channels,
    as_pair,
)
from torchsaliency.zoo.sources.source import (
    RANDOM,
    Request,
    facts,
    make_download_error,
    register_source,
    restrict_hub,
)
from torchsaliency.zoo.sources.timm import from_timm

_IMAGE_TOWERS = {
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "metaclip_2": "MetaClip2VisionModelWithProjection",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
}
"""The image encoder of a text-and-image network, by the type of its configuration."""

_TEXT_TOWERS: dict[str, tuple[str, bool | str]] = {
    "CLIPVisionModelWithProjection": ("CLIPTextModelWithProjection", True),
    "MetaClip2VisionModelWithProjection": ("MetaClip2TextModelWithProjection", True),
    "SiglipVisionModel": ("SiglipTextModel", "max_length"),
    "Siglip2VisionModel": ("Siglip2TextModel", "max_length"),
}
"""The text encoder beside an image encoder, and how texts are padded, as both were trained."""

_WHOLE = ("ForObjectDetection", "ForSemanticSegmentation")
"""What is found anywhere in a photograph, of which nothing is cropped."""

_WARPED_FROM = 384  # ConvNeXt's processor crops below this side and squashes from it on
_UNNAMED = re.compile(r"LABEL_\d+")


@register_source("hf")
def load(request: Request) -> Network:
    """Load a network of images of Hugging Face's, by hub name or folder."""
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError(
            "Networks of the Hugging Face hub need the package transformers, which is not "
            "installed; run pip install 'torchsaliency[hf]'."
        )
    with restrict_hub():
        return _load(request)


def from_hf(processor: Any, channels: int = 3, *, whole: bool = False) -> Preprocessing:
    """Read a Hugging Face image processor or its configuration (`preprocessor_config.json`).

    A processor that scales the shorter side and crops nothing gives each photograph its own size,
    which makes no batch: the network's own way is then the square in the middle, and the fit
    "whole" shows all of a photograph, at its own aspect where the network takes any.

    Args:
        processor: as described.
        channels: of the network's input, the `num_channels` of its config.
        whole: whether nothing is cropped of a photograph that is resized by its shorter side, as
            detectors want it.

    Raises:
        CheckpointError: the processor neither resizes nor crops, and `whole` is False.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> from_hf(ViTImageProcessor(size={"height": 32, "width": 32})).size
        (32, 32)
    """
    if not isinstance(processor, Mapping):
        # a class is named in the file, and not by every version's to_dict
        kind = type(processor).__name__
        processor = {"image_processor_type": kind, **processor.to_dict()}
    config = dict(processor)
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    if "architecture" in config and "pretrained_cfg" in config:
        return from_timm(config["pretrained_cfg"])
    if "max_num_patches" in config and "patch_size" in config:  # any size of so many patches
        side = int(config["patch_size"]) * math.isqrt(int(config["max_num_patches"]))
        config = {**config, "size": {"height": side, "width": side}}
    resize, fit = _read_resize(config)
    if kind.startswith("Levit") and resize is not None and fit is Fit.COVER:
        resize = as_pair(int(256 / 224 * resize[0]))
    elif kind.startswith("PoolFormer") and resize is not None and config.get("crop_pct"):
        resize, fit = as_pair([int(side / config["crop_pct"]) for side in resize]), Fit.COVER
    elif kind.startswith("PPLCNet") and config.get("resize_short"):
        resize, fit = as_pair(config["resize_short"]), Fit.COVER
    elif kind.startswith("Perceiver") and config.get("do_center_crop"):
        # it crops first, a share of the shorter side, and resizes what is left
        config = {**config, "crop_size": config["size"], "size": config["crop_size"]}
        resize, fit = _size(config["size"]), Fit.COVER
    size: tuple[int, int] | None
    if whole and fit is Fit.COVER:
        size = None
    elif config.get("do_center_crop") and config.get("crop_size"):
        size = _size(config["crop_size"])
    else:
        uncropped, resize, fit = _read_uncropped(config, resize, fit)
        if uncropped is None:
            raise CheckpointError(
                "The image processor neither resizes nor crops, which gives no input size; give a "
                "processor with a size."
            )
        size = uncropped
    mean, std = _read_statistics(config, kind, channels)
    bgr = channels == len("RGB") and (
        bool(config.get("do_flip_channel_order")) or kind.startswith("PPLCNet")
    )
    if kind.startswith("PPLCNet"):
        mean, std = mean[::-1], std[::-1]  # it flips what is normalised
    return Preprocessing(
        size=size,
        resize=resize,
        fit=fit,
        interpolation=Image.Resampling(int(config.get("resample", Image.Resampling.BILINEAR))),
        mean=mean,
        std=std,
        order="bgr" if bgr else "rgb",
        longest=config["size"].get("longest_edge") if size is None and resize else None,
    )


def _describe_square(processor: Any, found: Preprocessing) -> str:
    """Return what is assumed of a processor that crops nothing, in words; "" of any other."""
    config = processor.to_dict()
    crops = config.get("do_center_crop") or "crop_pct" in config
    resizes, size = config.get("do_resize", True), config.get("size")
    if not resizes or crops or not isinstance(size, Mapping) or "shortest_edge" not in size:
        return ""
    sides = "x".join(map(str, found.size or ()))
    return f"size {sides} (its processor gives each photograph its own)"


def find_processor(model: Any) -> Preprocessing | None:
    """Return the preprocessing beside the weights of a network that `from_pretrained` made.

    Only what lies on this machine is read. None if the network is none of Hugging Face's, or has no
    image processor.
    """
    config = getattr(model, "config", None)
    place = getattr(config, "name_or_path", "") or getattr(config, "_name_or_path", "")
    if not place or importlib.util.find_spec("transformers") is None:
        return None
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(place, local_files_only=True)
    except Exception:  # the hub's clients raise their own kinds of errors
        return None
    inner = getattr(config, "vision_config", config)
    return from_hf(processor, getattr(inner, "num_channels", None) or len("RGB"))


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
    if "crop_pct" not in config:
        return resize, resize, fit
    if resize[0] >= _WARPED_FROM:
        return resize, resize, Fit.SQUASH
    side = int(resize[0] / (config["crop_pct"] or 224 / 256))
    return resize, (side, side), Fit.COVER


def _read_statistics(
    config: Mapping[str, Any], kind: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fold rescaling (v · factor - offset, v in 0..255) and normalising into one mean and std."""
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    normalised = config.get("do_normalize", not kind.startswith("MobileViT"))
    mean = as_channels((config.get("image_mean") if normalised else None) or 0.0, channels)
    std = as_channels((config.get("image_std") if normalised else None) or 1.0, channels)
    again = std if config.get("include_top") else (1.0,) * channels  # EfficientNet divides twice
    unit = 1.0 if math.isclose(255 * factor, 1) else 255 * factor
    return (
        tuple((m + offset) / unit for m in mean),
        tuple(s * more / unit for s, more in zip(std, again, strict=True)),
    )


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
        network: an image encoder of CLIP or SigLIP, such as
            `load_model("hf/openai/clip-vit-base-patch32")`.
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
    module = network.module
    kind = type(module.model if isinstance(module, PatchInput) else module).__name__
    names = _TEXT_TOWERS.get(kind)
    if names is None:
        raise CheckpointError(
            f"{network.name} has no text encoder beside it; give a CLIP or SigLIP network, such as "
            "hf/openai/clip-vit-base-patch32."
        )
    import transformers

    place, (tower, padding) = network.name.removeprefix("hf/"), names
    try:
        with restrict_hub():
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(place)
            encoder = getattr(transformers, tower).from_pretrained(place).float().eval()
        tokens = tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise make_download_error(f"the texts of {network.name}", error) from error
    with torch.no_grad():
        found = encoder(**tokens)
    embedded: Tensor = found.text_embeds if hasattr(found, "text_embeds") else found.pooler_output
    return embedded


class PatchInput(nn.Module):
    """A network that reads an image as a list of patches (SigLIP 2), fed with images.

    Attributes:
        model: the network: (N, T, P · P · C) patches, their mask, and the rows and columns.
        patch: P, in pixels; the sides of an image must be multiples.
    """

    def __init__(self, model: nn.Module, patch: int) -> None:
        super().__init__()
        self.model, self.patch = model, patch

    @property
    def config(self) -> Any:
        """The network's configuration."""
        return self.model.config

    def forward(self, images: Tensor) -> Any:
        """Cut images (N, C, H, W) into patches and run the network."""
        height, width = images.shape[2:]
        if height % self.patch or width % self.patch:
            raise InputError(
                f"The images are {height}x{width}, and the network cuts them into patches of "
                f"{self.patch} pixels; give sides that are multiples."
            )
        rows, columns = height // self.patch, width // self.patch
        cells = images.unflatten(3, (columns, self.patch)).unflatten(2, (rows, self.patch))
        patches = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        ones = torch.ones(patches.shape[:2], dtype=torch.int32, device=images.device)
        shapes = torch.tensor([[rows, columns]] * len(images), device=images.device)
        return self.model(patches, ones, shapes)


def feed_images(model: Any) -> nn.Module:
    """Return a network that takes images: itself, or a `PatchInput` around it."""
    if "spatial_shapes" not in inspect.signature(model.forward).parameters:
        found: nn.Module = model
        return found
    return PatchInput(model, getattr(model.config, "vision_config", model.config).patch_size)


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
    if (reads := getattr(model, "main_input_name", "")) == "input_ids":
        raise CheckpointError(
            f"hf/{request.name} ({type(model).__name__}) reads {reads}, numbers of words or "
            "colours and no image; give a network that reads pixel_values."
        )
    preprocessing, assumed = _preprocessing(place, model, request.given, required=weights != RANDOM)
    return Network(
        feed_images(model),
        name=f"hf/{request.name}",
        preprocessing=preprocessing,
        classes=_classes(model),
        layer=paper_layer(model),
        source=facts("huggingface", model, weights, "transformers") | assumed,
    )


def _kind(config: Any) -> Any:
    """Return the class that loads a network: a classifier, or an encoder of images."""
    import transformers

    named = [name for name in config.architectures or () if hasattr(transformers, name)]
    for task in _WHOLE:
        if any(task in name for name in named):
            return getattr(transformers, f"AutoModel{task}")
    if not any("ForImageClassification" in name for name in named):
        tower = _IMAGE_TOWERS.get(config.model_type)
        # a text-and-image network, or one without any head
        for name in ([tower] if tower else []) + [name for name in named if name.endswith("Model")]:
            if hasattr(transformers, name):
                return getattr(transformers, name)
        if named and type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise CheckpointError(
                f"A {named[0]} was given, whose output is not read; give a network "
                "ForImageClassification, ForObjectDetection or ForSemanticSegmentation, or an "
                "encoder of images."
            )
    return transformers.AutoModelForImageClassification


def _build(place: str, num_classes: int | None) -> nn.Module:
    from transformers import AutoConfig

    options = {} if num_classes is None else {"num_labels": num_classes}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        kind = _kind(config)
        tower = kind.__name__ in _IMAGE_TOWERS.values()
        model: nn.Module = (
            kind(getattr(config, "vision_config", config))
            if tower
            else kind.from_config(config)
            if hasattr(kind, "from_config")
            else kind(config)
        )
    except CheckpointError:
        raise
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
    except CheckpointError:
        raise
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise make_download_error(f"hf/{place}", error) from error
    return _check(model, report, f"hf/{place}")


def _check(model: nn.Module, report: dict[str, Any], weights: str) -> nn.Module:
    """Refuse a network that its weights leave random in part, which the library only remarks on."""
    unfilled = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if unfilled:
        raise CheckpointError(
            f"The weights {weights} leave {', '.join(unfilled[:4])} random; "
            "give those of the same architecture, trained for the same task."
        )
    require_finite(model.state_dict().items(), model, weights)
    return model.float()


def _preprocessing(
    place: str, model: Any, given: InputFacts, *, required: bool
) -> tuple[Preprocessing, dict[str, str]]:
    """Read the processor beside the weights; without one, say what is assumed.

    Of a folder it may be missing, and of random weights (`required` is False), not of the hub.
    """
    from transformers import AutoImageProcessor

    config = getattr(model.config, "vision_config", model.config)
    channels = getattr(config, "num_channels", None) or len("RGB")
    try:
        whole = any(task in type(model).__name__ for task in _WHOLE)
        processor = AutoImageProcessor.from_pretrained(place)
        found = from_hf(processor, channels, whole=whole)
        words = "" if whole or given.size is not None else _describe_square(processor, found)
    except CheckpointError:
        raise
    except Exception as error:  # the hub's clients raise their own kinds of errors
        local = os.path.isdir(place)
        if os.path.isfile(os.path.join(place, "preprocessor_config.json")) if local else required:
            raise CheckpointError(
                f"hf/{place} has no readable image processor ({describe_error(error)}); "
                "put its preprocessor_config.json beside the weights."
            ) from error
        known = InputFacts(size=as_pair(getattr(config, "image_size", None) or 224))
        known = given.or_else(replace(known, channels=channels))
        preprocessing = known.apply(None, model)
        words = given.describe_assumptions(preprocessing)
        reason = f"{words} (there is no preprocessor_config.json)" if words else ""
        return preprocessing, {"assumed": reason} if reason else {}
    return found, {"assumed": words} if words else {}


def _classes(model: Any) -> tuple[str, ...] | None:
    if not any(task in type(model).__name__ for task in ("ForImageClassification", *_WHOLE)):
        return ()
    labels = dict(model.config.id2label or {})
    names = tuple(str(labels.get(index, "")) for index in range(model.config.num_labels))
    known = all(name and not _UNNAMED.fullmatch(name) for name in names)
    return names if names and known else None

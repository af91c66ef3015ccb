"""Reads the preprocessing that torchvision, timm and Hugging Face ship with their weights."""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo.preprocessing import Fit, Preprocessing

_HF_WARPED_FROM = 384  # ConvNeXt's processor crops below this side and squashes from it on


def from_torchvision(weights: Any) -> Preprocessing:
    """Read a torchvision weights entry, such as `ResNet50_Weights.DEFAULT`, or its `transforms()`.

    Raises:
        CheckpointError: the object is no image-classification preset.
    """
    preset = weights.transforms() if hasattr(weights, "transforms") else weights
    try:
        crop, resize = preset.crop_size, preset.resize_size
        return Preprocessing(
            size=_pair(crop),
            resize=_pair(resize),
            interpolation=Image.Resampling[preset.interpolation.name],
            mean=_triple(preset.mean),
            std=_triple(preset.std),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{type(weights).__name__} is no torchvision classification preset; give a weights "
            "entry such as "
            "ResNet50_Weights.DEFAULT or what its transforms() returns."
        ) from error


def from_timm(model: nn.Module | Mapping[str, Any]) -> Preprocessing:
    """Read a timm model's, or a timm `pretrained_cfg`'s, evaluation transform.

    Raises:
        CheckpointError: the network does not take three channels.
    """
    from timm.data import resolve_data_config

    source = {"model": model} if isinstance(model, nn.Module) else {"pretrained_cfg": dict(model)}
    config = resolve_data_config(**source)
    channels, height, width = config["input_size"]
    if channels != len("RGB"):
        raise CheckpointError(
            f"The network takes {channels} channels; photographs have 3, so choose a network for "
            "RGB input."
        )
    box = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    fits = {"squash": Fit.SQUASH, "border": Fit.CONTAIN}
    return Preprocessing(
        size=(height, width),
        resize=box,
        fit=fits.get(config["crop_mode"], Fit.COVER),
        interpolation=Image.Resampling[config["interpolation"].upper()],
        mean=_triple(config["mean"]),
        std=_triple(config["std"]),
    )


def from_hf(processor: Any) -> Preprocessing:
    """Read a Hugging Face image processor or its configuration (`preprocessor_config.json`).

    Raises:
        CheckpointError: the processor describes no fixed input size.
    """
    config = dict(processor if isinstance(processor, Mapping) else processor.to_dict())
    resize, fit = _hf_resize(config)
    if config.get("do_center_crop") and config.get("crop_size"):
        size = _hf_pair(config["crop_size"])
    else:
        uncropped, resize, fit = _hf_uncropped(config, resize, fit)
        if uncropped is None:
            raise CheckpointError(
                f"The image processor resizes to {config.get('size')} and crops nothing, which "
                "gives "
                "no fixed input size; give a processor with a height and a width, or one that "
                "crops."
            )
        size = uncropped
    mean, std = _hf_statistics(config)
    return Preprocessing(
        size=size,
        resize=resize,
        fit=fit,
        interpolation=Image.Resampling(int(config.get("resample", Image.Resampling.BILINEAR))),
        mean=mean,
        std=std,
    )


def _hf_resize(config: Mapping[str, Any]) -> tuple[tuple[int, int] | None, Fit]:
    """Return the box and the fit of the processor's own resize step."""
    if not config.get("do_resize", True) or not config.get("size"):
        return None, Fit.COVER
    size = config["size"]
    exact = isinstance(size, Mapping) and "height" in size
    return _hf_pair(size), Fit.SQUASH if exact else Fit.COVER


def _hf_uncropped(
    config: Mapping[str, Any], resize: tuple[int, int] | None, fit: Fit
) -> tuple[tuple[int, int] | None, tuple[int, int] | None, Fit]:
    """Return input size, box and fit of a processor without a crop step of its own."""
    if resize is None or fit is Fit.SQUASH:
        return resize, resize, fit
    if (
        "crop_pct" not in config
    ):  # an aspect ratio kept and nothing cropped: every photograph has its own size
        return None, resize, fit
    if resize[0] >= _HF_WARPED_FROM:
        return resize, resize, Fit.SQUASH
    side = int(resize[0] / (config["crop_pct"] or 224 / 256))
    return resize, (side, side), Fit.COVER


def _hf_statistics(
    config: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Fold rescaling (v · factor - offset, v in 0..255) and normalising into one mean and std."""
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    normalised = config.get("do_normalize", True)
    mean = _triple(config.get("image_mean") or 0.0) if normalised else (0.0,) * 3
    std = _triple(config.get("image_std") or 1.0) if normalised else (1.0,) * 3
    unit = 1.0 if math.isclose(255 * factor, 1) else 255 * factor
    return _triple([(m + offset) / unit for m in mean]), _triple([s / unit for s in std])


def _hf_pair(size: Any) -> tuple[int, int]:
    """Return (height, width) of a size in any of the hub's spellings."""
    if not isinstance(size, Mapping):
        return _pair(size)
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    if "shortest_edge" in size:
        return _pair(size["shortest_edge"])
    raise CheckpointError(
        f"The image processor's size is {dict(size)}; accepted are height and width, or "
        "shortest_edge."
    )


def _pair(size: Any) -> tuple[int, int]:
    values = [int(size)] if isinstance(size, int | float) else [int(value) for value in size]
    return values[0], values[-1]


def _triple(values: Any) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        values = [values]
    spread = [float(value) for value in values]
    return spread[0], spread[len(spread) // 2], spread[-1]

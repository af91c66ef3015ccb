"""The few calls between a photograph and its picture that need both the zoo and the images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from torchsaliency import viz
from torchsaliency.core.detection import DetectionScore
from torchsaliency.core.explanation import Explanation, set_renderer
from torchsaliency.core.maps import normalise_signed
from torchsaliency.core.method import require_signs
from torchsaliency.data import Photo
from torchsaliency.data.clips import Clip, open_clip
from torchsaliency.data.scans import Scan, open_scan
from torchsaliency.errors import DataError, InputError
from torchsaliency.zoo import (
    ClipPreprocessing,
    Network,
    Preprocessing,
    ScanPreprocessing,
    imagenet,
)
from torchsaliency.zoo.volumes import VolumePreprocessing


def preprocess(
    photos: Photo | Scan | Clip | Sequence[Photo | Scan | Clip],
    model: Network | Preprocessing | VolumePreprocessing | None = None,
) -> Tensor:
    """Read photographs, or scans or videos, and make them the network's input.

    A photograph gives the same input whether it is a path, the image that PIL opens there or the
    array of its pixels: see `torchsaliency.data.to_rgb`.

    Args:
        photos: one photograph, or a list or tuple of several: paths, PIL images, or arrays or
            tensors (H, W), (H, W, C) or (C, H, W) of uint8, uint16 or floats in [0, 1] or [0, 255].
            For a network of scans or videos: paths, `Scan` or `Clip` objects.
        model: whose preprocessing is used; None means the ImageNet standard (short side 256,
            224x224 from the centre, mean and std of ImageNet).

    Returns:
        (N, 3, H, W), normalised; (N, C, D, H, W) of scans, (N, 3, T, H, W) of videos.

    Raises:
        DataError: a photograph cannot be read, or none was given.
        InputError: scans of different sizes become inputs of different sizes.

    Example:
        >>> x = torchsaliency.preprocess("cat.jpg", net)  # doctest: +SKIP
    """
    several = photos if isinstance(photos, list | tuple) else [cast("Photo", photos)]
    if not several:
        raise DataError("No photograph was given; give one, or a list of at least one.")
    volumes = model.volumes if isinstance(model, Network) else model
    if isinstance(volumes, ScanPreprocessing | ClipPreprocessing):
        return _stack([_read_volume(one, volumes) for one in several])
    preparation = _preprocessing(cast("Network | Preprocessing | None", model))
    return torch.stack([preparation(cast("Photo", photo)) for photo in several])


def _read_volume(source: Photo | Scan | Clip, preparation: VolumePreprocessing) -> Tensor:
    path = isinstance(source, str | os.PathLike)
    if isinstance(preparation, ScanPreprocessing) and (path or isinstance(source, Scan)):
        return preparation(source if isinstance(source, Scan) else open_scan(cast("str", source)))
    if isinstance(preparation, ClipPreprocessing) and (path or isinstance(source, Clip)):
        return preparation(source if isinstance(source, Clip) else open_clip(cast("str", source)))
    wanted = "scans" if isinstance(preparation, ScanPreprocessing) else "videos"
    raise DataError(
        f"A {type(source).__name__} was given to a network of {wanted}; give a path, or what "
        f"torchsaliency.data.open_{'scan' if wanted == 'scans' else 'clip'} returned."
    )


def _stack(inputs: Sequence[Tensor]) -> Tensor:
    if len({tuple(one.shape) for one in inputs}) > 1:
        raise InputError(
            f"The scans become inputs of {', '.join(str(tuple(one.shape)) for one in inputs)}; "
            "give ScanPreprocessing(size=…), or one scan at a time."
        )
    return torch.stack(list(inputs))


def overlay(  # noqa: PLR0913 (all but the first three by name)
    photo: Photo,
    explanation: Explanation,
    model: Network | Preprocessing | None = None,
    *,
    index: int = 0,
    alpha: float | None = None,
    colormap: str | None = None,
    classes: Sequence[str] | None = None,
    signed: bool = False,
) -> Image.Image:
    """Draw a map over the photograph it explains, at the photograph's own size.

    Where a detection is explained, its box is drawn, too.

    Args:
        photo: the photograph that was preprocessed, in any form that `preprocess` takes.
        explanation: what `explain` made of it.
        model: whose preprocessing was used; it tells where on the photograph the map lies.
        index: of the image in the explained batch.
        alpha: strength of the colour, in [0, 1]; 0.5 by default, 0.8 if signed.
        colormap: any matplotlib name; "turbo" by default, "bwr" if signed.
        classes: names for the labels of boxes; the model's by default.
        signed: whether the explanation's signed values are drawn instead of its map, red where the
            image speaks for the target and blue where it speaks against it, over the photograph in
            pale grey.

    Returns:
        An RGB image of the photograph's size.

    Raises:
        DataError: the photograph cannot be read.
        OptionError: there is no such colormap, or signed values of a method without signs are to
            be drawn.
    """
    preparation = _preprocessing(model)
    picture = preparation.picture(photo)
    values = explanation.map
    if signed:
        require_signs(explanation.method)
        values = normalise_signed(cast("Tensor", explanation.signed))
    saliency = place_map(values[index], picture, preparation)
    drawn = viz.overlay(picture, saliency, alpha=alpha, colormap=colormap, signed=signed)
    if classes is None and isinstance(model, Network):
        classes = model.classes
    found = explained_boxes(explanation, index, (picture.height, picture.width), preparation)
    return viz.draw_boxes(drawn, found[0], box_labels(found, classes)) if len(found[0]) else drawn


def explained_boxes(
    explanation: Explanation,
    index: int,
    photo_size: tuple[int, int],
    preparation: Preprocessing,
) -> tuple[Tensor, list[int], list[float | None]]:
    """Return what was explained of a detector: boxes on the photograph, labels and scores.

    Args:
        explanation: of a batch.
        index: of the image in it.
        photo_size: (H, W) of the photograph.
        preparation: how it became the network's input.

    Returns:
        Boxes (B, 4), x0 y0 x1 y1 in the photograph's pixels; class indices; scores on the clean
        image, None where they are not known. None at all where no detection was explained.
    """
    target = explanation.target
    if not isinstance(target, DetectionScore):
        return torch.zeros(0, 4), [], []
    real = target.labels[index] >= 0
    boxes, labels = target.boxes[index][real], target.labels[index][real].tolist()
    where = preparation.placement(photo_size)
    placed = where.boxes_to_photo(boxes.float().cpu(), preparation.input_size(photo_size))
    found = target.found
    return placed, labels, [None] * len(labels) if found is None else found[index][real].tolist()


def box_labels(
    found: tuple[Tensor, Sequence[int], Sequence[float | None]], classes: Sequence[str] | None
) -> list[str]:
    """Return class and score of each box in words, "dog 0.97"."""
    return [
        (classes[label] if classes is not None and label < len(classes) else str(label))
        + ("" if score is None else f" {score:.2f}")
        for label, score in zip(*found[1:], strict=True)
    ]


def place_map(saliency: Tensor, photo: Image.Image, preparation: Preprocessing) -> Tensor:
    """Put a map (h, w) over the network's input back onto the photograph's pixels (H, W)."""
    where = preparation.placement((photo.height, photo.width))
    return where.to_photo(saliency.detach().float().cpu())


def _preprocessing(model: Network | Preprocessing | None) -> Preprocessing:
    if model is None:
        return imagenet()
    if isinstance(model, Preprocessing):
        return model
    if isinstance(model, Network):
        return model.preprocessing
    raise InputError(
        f"A {type(model).__name__} has no preprocessing; give what load_model returned, a "
        "Preprocessing, or None for the ImageNet standard."
    )


def _notebook_png(explanation: Explanation) -> bytes:
    titles = [
        f"{explanation.method.name}\n{score:.2f}" for score in explanation.score.float().tolist()
    ]
    images, maps = explanation.images.float().cpu(), explanation.map.float().cpu()
    return viz.png_bytes(images, maps, titles)


set_renderer(_notebook_png)

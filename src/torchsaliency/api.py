"""The few calls between a photograph and its picture that need both the zoo and the images."""

from __future__ import annotations

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
from torchsaliency.errors import DataError, InputError
from torchsaliency.zoo import Network, Preprocessing, imagenet


def preprocess(
    photos: Photo | Sequence[Photo],
    model: Network | Preprocessing | None = None,
) -> Tensor:
    """Read photographs and make them the network's input.

    A photograph gives the same input whether it is a path, the image that PIL opens there or the
    array of its pixels: see `torchsaliency.data.to_rgb`.

    Args:
        photos: one photograph, or a list or tuple of several: paths, PIL images, or arrays or
            tensors (H, W), (H, W, C) or (C, H, W) of uint8, uint16 or floats in [0, 1] or [0, 255].
        model: whose preprocessing is used; None means the ImageNet standard (short side 256,
            224x224 from the centre, mean and std of ImageNet).

    Returns:
        (N, 3, H, W), normalised.

    Raises:
        DataError: a photograph cannot be read, or none was given.

    Example:
        >>> x = torchsaliency.preprocess("cat.jpg", net)  # doctest: +SKIP
    """
    several = photos if isinstance(photos, list | tuple) else [cast("Photo", photos)]
    if not several:
        raise DataError("No photograph was given; give one, or a list of at least one.")
    preparation = _preprocessing(model)
    return torch.stack([preparation(photo) for photo in several])


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

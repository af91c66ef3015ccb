"""The few calls between a photograph and its picture that need both the zoo and the images."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from torchsaliency import viz
from torchsaliency.concepts import ConceptBank, Factorisation
from torchsaliency.core.detection import DetectionScore
from torchsaliency.core.explain import set_reader
from torchsaliency.core.explanation import Explanation, set_renderer
from torchsaliency.core.inputs import Inputs
from torchsaliency.core.maps import minmax, normalise_signed, signed_peak, upsample
from torchsaliency.core.method import require_signs
from torchsaliency.core.network import find_fact, unwrap
from torchsaliency.data import Photo, find_photos
from torchsaliency.data.clips import Clip, open_clip
from torchsaliency.data.scans import Scan, open_scan
from torchsaliency.errors import DataError, InputError
from torchsaliency.zoo import (
    ClipPreprocessing,
    Fit,
    Network,
    Preprocessing,
    ScanPreprocessing,
    from_timm,
    imagenet,
)
from torchsaliency.zoo.network import frame_for
from torchsaliency.zoo.preprocessing import PHOTOGRAPHIC
from torchsaliency.zoo.sources.huggingface import find_processor
from torchsaliency.zoo.volumes import VolumePreprocessing


def preprocess(
    photos: Photo | Scan | Clip | Sequence[Photo | Scan | Clip],
    model: nn.Module | Preprocessing | VolumePreprocessing | None = None,
    *,
    fit: str | None = None,
) -> Tensor:
    """Read photographs, or scans or videos, and make them the network's input.

    A photograph gives the same input whether it is a path, the image that PIL opens there or the
    array of its pixels: see `torchsaliency.data.to_rgb`.

    Args:
        photos: one photograph, or a list or tuple of several: paths, PIL images, or arrays or
            tensors (H, W), (H, W, C) or (C, H, W) of uint8, uint16 or floats in [0, 1] or [0, 255];
            or a batch of those, with one more dimension. For a network of scans or videos: paths,
            `Scan` or `Clip` objects.
        model: whose preprocessing is used: what `load_model` returned, a network of timm or of
            Hugging Face, one with an attribute `preprocessing`, or a preprocessing itself; None
            means the ImageNet standard (short side 256, 224x224 from the centre, mean and std of
            ImageNet).
        fit: how photographs fit the input: "whole" shows all of them, at their own aspect where
            the network takes any, else letterboxed in the mean colour; "crop", "squash" and "fill"
            are those of the command line. None is the network's own way. `overlay` must be told
            the same.

    Returns:
        (N, 3, H, W), normalised; (N, C, D, H, W) of scans, (N, 3, T, H, W) of videos.

    Raises:
        DataError: a photograph cannot be read, or none was given.
        InputError: the network says no preprocessing; photographs or scans become inputs of
            different sizes; or a fit was given for scans or videos.
        OptionError: there is no such fit.

    Example:
        >>> from torchsaliency import load_model
        >>> preprocess(Image.new("RGB", (80, 60)), load_model("builtin/shapes_cnn")).shape
        torch.Size([1, 3, 64, 64])
    """
    several = _as_list(photos)
    if not several:
        raise DataError("No photograph was given; give one, or a list of at least one.")
    volumes = model.volumes if isinstance(model, Network) else model
    if isinstance(volumes, ScanPreprocessing | ClipPreprocessing):
        if fit is not None:
            raise InputError(
                f"The fit {fit} is for photographs; leave it out for scans and videos."
            )
        return _stack([_read_volume(one, volumes) for one in several])
    of = photos.dtype if isinstance(photos, np.ndarray | Tensor) else type(photos).__name__
    preparation = _preprocessing(cast("nn.Module | Preprocessing | None", model), fit, f"{of}")
    return _stack([preparation(cast("Photo", photo)) for photo in several])


def _as_list(photos: Any) -> list[Any]:
    """Return one photograph, several, or a batch of arrays as a list."""
    if isinstance(photos, list | tuple):
        return list(photos)
    batch = isinstance(photos, np.ndarray | Tensor) and photos.ndim == 4  # noqa: PLR2004
    return list(photos) if batch else [photos]


def read_images(model: nn.Module, x: Any) -> Any:
    """Return what `explain` was given as inputs of the network.

    Floating-point tensors are inputs already, as are several of them in a tuple or a dict. A list
    of such tensors (C, H, W) becomes a batch; all else are photographs, see `preprocess`, and so
    are paths and PIL images among several inputs, and all photographs in a folder.

    Raises:
        DataError: a photograph cannot be read.
        InputError: the network does not say how photographs are prepared.
    """
    if isinstance(x, list) and x and all(map(_is_input, x)):
        return _stack(x)
    if _is_input(x):
        _warn_of_pixels(model, x)
        return x
    if isinstance(x, Mapping):
        return {name: _read_part(model, part) for name, part in x.items()}
    if isinstance(x, tuple):
        return tuple(_read_part(model, part) for part in x)
    if isinstance(x, str | os.PathLike) and os.path.isdir(x) and not _takes_volumes(model):
        x = find_photos(x)
    return x if isinstance(x, Inputs) else preprocess(x, model)


def _takes_volumes(model: nn.Module) -> bool:
    """Whether a folder may be a scan."""
    return isinstance(model, Network) and model.volumes is not None


def _read_part(model: nn.Module, part: Any) -> Any:
    """Return one of several inputs; photographs, and lists of them, are prepared."""
    several = part if isinstance(part, list) and part else [part]
    return preprocess(part, model) if all(map(_is_photo, several)) else part


def _is_photo(part: Any) -> bool:
    """Whether this is a photograph; other strings may be texts."""
    return isinstance(part, Image.Image | os.PathLike) or (
        isinstance(part, str) and os.path.isfile(part)
    )


def _is_input(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


_WIDEST = 32.0
"""Normalised colours, also of small deviations, stay below; pixels in 0…255 do not."""

_BYTE = 255
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def _warn_of_pixels(model: nn.Module, x: Tensor) -> None:
    """Warn once a network that images in 0…255 were not normalised for it."""
    if x.ndim != 4 or x.shape[1] not in PHOTOGRAPHIC or 0 in x.shape or model in _warned:  # noqa: PLR2004
        return
    low, high = (float(end) for end in x.detach().aminmax())
    if not (low >= 0 and _WIDEST < high <= _BYTE):
        return
    known = find_preprocessing(model)
    if known is not None and high <= max(
        (1 - mean) / std for mean, std in zip(known.mean, known.std, strict=True)
    ):
        return
    _warned.add(model)
    warnings.warn(
        f"The images run from {low:.4g} to {high:.4g}, as pixels do before normalisation; if the "
        "network was trained on normalised images, give torchsaliency.preprocess(photos, model), "
        "or the photographs themselves.",
        stacklevel=4,
    )


def find_preprocessing(model: nn.Module) -> Preprocessing | None:
    """Return how a network says that photographs are prepared; None if it does not say.

    It says so by an attribute `preprocessing` (`Network` has it), timm's `pretrained_cfg`, or the
    image processor that lies beside a Hugging Face network's weights.
    """
    found = find_fact(model, "preprocessing")
    net = unwrap(model)
    found = getattr(net, "preprocessing", None) if found is None else found
    if isinstance(found, Preprocessing):
        return found
    if isinstance(getattr(net, "pretrained_cfg", None), Mapping):
        return from_timm(net)
    return find_processor(net)


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
            f"There are inputs of {', '.join(str(tuple(one.shape)) for one in inputs)}, which make "
            "no batch; give ScanPreprocessing(size=…) for scans, a fit such as crop or squash for "
            "photographs, or one input at a time."
        )
    return torch.stack(list(inputs))


@overload
def overlay(
    photo: list[Any] | tuple[Any, ...],
    explanation: Explanation,
    model: nn.Module | Preprocessing | None = None,
    *,
    index: int = 0,
    alpha: float | None = None,
    colormap: str | None = None,
    classes: Sequence[str] | None = None,
    signed: bool = False,
    fit: str | None = None,
    limits: viz.Limits | None = None,
    colour_bar: bool = False,
) -> list[Image.Image]: ...


@overload
def overlay(
    photo: Photo,
    explanation: Explanation,
    model: nn.Module | Preprocessing | None = None,
    *,
    index: int = 0,
    alpha: float | None = None,
    colormap: str | None = None,
    classes: Sequence[str] | None = None,
    signed: bool = False,
    fit: str | None = None,
    limits: viz.Limits | None = None,
    colour_bar: bool = False,
) -> Image.Image: ...


def overlay(  # noqa: PLR0913 (all but the first three by name)
    photo: Any,
    explanation: Explanation,
    model: nn.Module | Preprocessing | None = None,
    *,
    index: int = 0,
    alpha: float | None = None,
    colormap: str | None = None,
    classes: Sequence[str] | None = None,
    signed: bool = False,
    fit: str | None = None,
    limits: viz.Limits | None = None,
    colour_bar: bool = False,
) -> Image.Image | list[Image.Image]:
    """Draw a map over the photograph it explains, at the photograph's own size.

    Where a detection is explained, its box is drawn, too. Of a letterboxed photograph (the fit
    "whole") the margin is cut away, and the map is scaled to what it has on the photograph.

    Args:
        photo: the photograph that was preprocessed, in any form that `preprocess` takes, or a list
            of all photographs of the batch.
        explanation: what `explain` made of it.
        model: whose preprocessing was used; it tells where on the photograph the map lies.
        index: of the image in the explained batch.
        alpha: strength of the colour, in [0, 1]; 0.6 by default, 0.8 if signed.
        colormap: any matplotlib name; "plasma" by default, "bwr" if signed.
        classes: names for the labels of boxes; the model's by default.
        signed: whether the explanation's signed values are drawn instead of its map, red where the
            image speaks for the target and blue where it speaks against it, over the photograph in
            pale grey.
        fit: the one that `preprocess` was told.
        limits: the raw values, or signed values, that have the first colour and the last, such as
            `viz.find_limits` returns for several explanations; by default the map's own range.
        colour_bar: whether a labelled scale is put on the right of the photograph.

    Returns:
        An RGB image of the photograph's size, wider with the scale, or a list of them.

    Raises:
        DataError: the photograph cannot be read.
        InputError: there are other photographs than explained images, the explained image is of
            another size than the photograph's input, or the model takes scans or videos.
        OptionError: there is no such colormap, or signed values of a method without signs are to
            be drawn.

    Example:
        >>> from torchsaliency import explain, load_model
        >>> net = load_model("builtin/shapes_cnn")
        >>> photo = Image.new("RGB", (80, 60), "red")
        >>> found = explain(net, preprocess(photo, net), "gradcam")
        >>> overlay(photo, found["gradcam"], net).size
        (80, 60)
    """
    if isinstance(model, Network) and model.volumes is not None:
        raise InputError(
            f"{model.name} takes scans or videos, and overlay draws over photographs; draw with "
            "torchsaliency.viz.montage(volume, map) or torchsaliency.viz.animate(frames, maps)."
        )
    preparation = _preprocessing(model, fit)
    if signed:
        require_signs(explanation.method)
    if classes is None and isinstance(model, Network):
        classes = model.classes

    def draw(one: Photo, row: int) -> Image.Image:
        picture = preparation.picture(one)
        size = picture.height, picture.width
        _require_size(explanation.map, preparation.input_size(size))
        letterboxed = fit == "whole" and preparation.fit is Fit.CONTAIN
        saliency, words = _scale_map(
            explanation[row],
            lambda values: place_map(values, picture, preparation),
            limits=limits,
            signed=signed,
            letterboxed=letterboxed,
        )
        drawn = viz.overlay(picture, saliency, alpha=alpha, colormap=colormap, signed=signed)
        found = explained_boxes(explanation, row, size, preparation)
        if len(found[0]):
            drawn = viz.draw_boxes(drawn, found[0], box_labels(found, classes))
        return viz.add_scale(drawn, words, colormap, signed=signed) if colour_bar else drawn

    if not isinstance(photo, list | tuple):
        return draw(photo, index)
    if len(photo) != len(explanation):
        raise InputError(
            f"{len(photo)} photographs were given for {len(explanation)} explained images; "
            "give all of the batch in order, or one with index=."
        )
    return [draw(one, row) for row, one in enumerate(photo)]


def _scale_map(
    one: Explanation,
    place: Callable[[Tensor], Tensor],
    *,
    limits: viz.Limits | None,
    signed: bool,
    letterboxed: bool,
) -> tuple[Tensor, Sequence[str]]:
    """Return the map of one image as its colours show it, and the words beside their scale."""
    values = cast("Tensor", one.signed) if signed else one.map
    if limits is not None:
        raw = values if signed else upsample(one.raw.float(), tuple(one.map.shape[1:]))
        shown = place(viz.apply_limits(raw, limits, signed=signed))
        return shown[0], viz.write_limits(limits, signed=signed)
    if letterboxed:  # the margin must not set the scale
        values = place(values)
    most = float(signed_peak(values.float())) if signed else 1.0
    words = viz.write_limits((-most, most), signed=True) if signed else viz.MAP_WORDS
    if signed or letterboxed:
        values = (normalise_signed if signed else minmax)(values)
    return (values if letterboxed else place(values))[0], words


def overlay_concepts(
    photo: Photo,
    found: Factorisation | ConceptBank,
    model: nn.Module | Preprocessing | None = None,
    *,
    index: int = 0,
    alpha: float = 0.75,
    classes: Sequence[str] | None = None,
    fit: str | None = None,
) -> Image.Image:
    """Draw over a photograph which concept is strongest where, with a legend below.

    Args:
        photo: the photograph that was preprocessed, in any form that `preprocess` takes.
        found: what `dff` or `craft` found in it.
        model: whose preprocessing was used; it tells where on the photograph the maps lie.
        index: of the image in the batch.
        alpha: strength of the colours, in [0, 1].
        classes: names of the classes; the model's by default.
        fit: the one that `preprocess` was told.

    Raises:
        DataError: the photograph cannot be read.
        InputError: the image is of another size than the photograph's input.
        OptionError: the strength is out of range.

    Example:
        >>> from torchsaliency import dff, load_model
        >>> net = load_model("builtin/shapes_cnn")
        >>> photo = Image.new("RGB", (80, 60), "red")
        >>> found = dff(net, preprocess(photo, net), concepts=2)
        >>> overlay_concepts(photo, found, net).mode
        'RGB'
    """
    picture, maps = place_concepts(photo, found, _preprocessing(model, fit), index)
    if classes is None and isinstance(model, Network):
        classes = model.classes
    return viz.draw_concepts(picture, maps, describe_concepts(found, classes), alpha=alpha)


def place_concepts(
    photo: Photo, found: Factorisation | ConceptBank, preparation: Preprocessing, index: int
) -> tuple[Image.Image, Tensor]:
    """Return a photograph and the maps (R, H, W) of its concepts on its own pixels."""
    picture, maps = preparation.picture(photo), found.maps[index]
    _require_size(maps, preparation.input_size((picture.height, picture.width)))
    return picture, place_map(maps, picture, preparation).clamp(0, 1)


def describe_concepts(
    found: Factorisation | ConceptBank, classes: Sequence[str] | None
) -> list[str]:
    """Say of every concept its classes, or how important it is."""
    return found.describe(classes) if isinstance(found, Factorisation) else found.describe()


def _require_size(maps: Tensor, expected: tuple[int, int]) -> None:
    if tuple(maps.shape[1:]) != expected:
        given, wanted = ("x".join(map(str, size)) for size in (maps.shape[1:], expected))
        raise InputError(
            f"The explained image has {given} pixels, and this photograph's input has {wanted}; "
            "give the photograph, the model and the fit that `preprocess` was given."
        )


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
    """Put maps (…, h, w) over the network's input back onto the photograph's pixels (…, H, W)."""
    where = preparation.placement((photo.height, photo.width))
    return where.to_photo(saliency.detach().float().cpu())


def _preprocessing(
    model: Any, fit: str | None = None, given: str = "a photograph"
) -> Preprocessing:
    if model is None:
        return imagenet().frame(fit)
    if isinstance(model, Preprocessing):
        return model.frame(fit)
    found = find_preprocessing(model) if isinstance(model, nn.Module) else None
    if found is None:
        kind = type(unwrap(model) if isinstance(model, nn.Module) else model).__name__
        raise InputError(
            f"Photographs ({given}) were given, and this {kind} does not say how "
            "photographs are prepared for it; set its attribute preprocessing to a "
            "torchsaliency.zoo.Preprocessing, such as from_torchvision(weights), "
            "from_hf(processor) or imagenet(224), or give a tensor of preprocessed floats."
        )
    return frame_for(model, found, fit)


def draw_strip(explanation: Explanation) -> bytes:
    """Return the first eight images of an explanation under their maps as one PNG."""
    titles = [
        f"{explanation.method.name}\n{score:.2f}" for score in explanation.score.float().tolist()
    ]
    images, maps = explanation.images.float().cpu(), explanation.map.float().cpu()
    return viz.png_bytes(images, maps, titles)


set_renderer(draw_strip)
set_reader(read_images)

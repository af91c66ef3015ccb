"""From explanations to what the viewer shows: a photograph, its classes and its maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from torchsaliency.api import box_labels, explained_boxes, find_preprocessing
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.maps import normalise_signed, upsample
from torchsaliency.core.method import require_signs
from torchsaliency.data import Clip, Photo, Scan, to_rgb
from torchsaliency.errors import InputError
from torchsaliency.pages.pictures import GRID
from torchsaliency.pages.slices import Stack, Volume, look_at_clip, look_at_pixels, look_at_scan
from torchsaliency.pages.words import describe_target, name_class
from torchsaliency.viz.notebook import denormalise_images
from torchsaliency.zoo import Network, Placement, Preprocessing
from torchsaliency.zoo.network import frame_for
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing, VolumePreprocessing

TOP = 5
"""Classes that are listed beside a photograph."""


@final
@dataclass(frozen=True)
class BoxView:
    """A box on a photograph: x0 y0 x1 y1 in parts of its width and height, and its label.

    Attributes:
        corners: x0 y0 x1 y1 as shares of the photograph's width and height, in [0, 1].
        label: above it; empty for none.
    """

    corners: tuple[float, float, float, float]
    label: str = ""


@final
@dataclass(frozen=True, eq=False)
class MapView:
    """One map over a photograph.

    Attributes:
        title: above it: the method.
        values: (h, w) over the whole photograph, in [0, 1], or in [-1, 1] if signed; (n, h, w) of
            a stack.
        signed: whether its values have signs.
        low: what the lowest value, 0 (or -1), stands for in the method's own unit; NaN if the map
            is not finite, which takes no part in a shared scale.
        high: what 1 stands for.
        group: maps of one group may share a colour scale.
        about: what is explained, such as a class: a heading below the title.
        facts: lines below the map.
        remark: what is wrong with the map; empty if nothing.
        boxes: drawn over it.

    Example:
        >>> box = BoxView((0.1, 0.1, 0.5, 0.6), "cat")
        >>> MapView("gradcam", torch.zeros(7, 7), boxes=(box,)).title
        'gradcam'
    """

    title: str
    values: Tensor
    signed: bool = False
    low: float = 0.0
    high: float = 1.0
    group: str = ""
    about: str = ""
    facts: tuple[str, ...] = ()
    remark: str = ""
    boxes: tuple[BoxView, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class PhotoView:
    """A photograph and its maps.

    Attributes:
        title: its name.
        photo: the picture; every map lies over all of it. Of a stack, the first that is shown.
        maps: in the order in which they are shown.
        classes: names and probabilities of the likeliest classes.
        note: a line below the photograph.
        stack: slices or frames that a slider goes through, in place of one picture.

    Example:
        >>> shown = torch.zeros(7, 7)
        >>> view = PhotoView("cat", Image.new("RGB", (8, 8)), (MapView("gradcam", shown),))
        >>> len(view.maps)
        1
    """

    title: str
    photo: Image.Image
    maps: tuple[MapView, ...] = ()
    classes: tuple[tuple[str, float], ...] = ()
    note: str = ""
    stack: Stack | None = None


def view_photo(  # noqa: PLR0913 (all but the first two by name)
    photo: Photo,
    explanations: Mapping[str, Explanation],
    *,
    model: Any = None,
    classes: Sequence[str] | None = None,
    index: int = 0,
    fit: str | None = None,
    title: str = "",
    signed: bool = False,
    facts: Mapping[str, Sequence[str]] | None = None,
) -> PhotoView:
    """Return a photograph with the maps of one image of a batch, as the viewer shows them.

    Args:
        photo: the photograph that was preprocessed.
        explanations: by label, of `explain`.
        model: the explained network, which says where on the photograph a map lies, or its
            preprocessing; None lays maps over the whole photograph.
        classes: names of the classes; the model's by default.
        index: of the image in the batch.
        fit: the one that `preprocess` was told.
        title: the photograph's name.
        signed: whether signed values are shown, of methods that have them.
        facts: further lines below each map, by label.

    Raises:
        DataError: the photograph cannot be read.
        OptionError: signed values are asked of a method that has none.

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> photo = torchsaliency.data.sample_photo("chelsea").path
        >>> found = torchsaliency.explain(net, torchsaliency.preprocess(photo, net), ["gradcam"])
        >>> len(view_photo(photo, found, model=net).maps)
        1
    """
    preparation = _find_preparation(model, fit)
    picture = to_rgb(photo) if preparation is None else preparation.picture(photo)
    if classes is None and isinstance(model, Network):
        classes = model.classes
    maps = []
    for label, explanation in explanations.items():
        view = _view_map(label, explanation, index, classes, signed=signed)
        boxes = (
            () if preparation is None else _boxes(explanation, index, preparation, picture, classes)
        )
        lines = (*view.facts, *((facts or {}).get(label, ())))
        values = _place(view.values, picture, preparation)
        maps.append(replace(view, values=values, boxes=boxes, facts=lines))
    first = next(iter(explanations.values()), None)
    top = () if first is None else top_classes(first, index, classes)
    return PhotoView(title, picture, tuple(maps), top)


def view_inputs(  # noqa: PLR0913 (all but the first by name)
    explanations: Mapping[str, Explanation],
    *,
    classes: Sequence[str] | None = None,
    names: Sequence[str] = (),
    signed: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    most: int = 8,
    facts: Sequence[Mapping[str, Sequence[str]]] = (),
) -> list[PhotoView]:
    """Return the explained images themselves with their maps, where there is no photograph.

    Of volumes and videos the slices along each side are shown, which a slider goes through from
    the first map's maximum, of signals a strip.

    Args:
        explanations: by label, of one batch.
        classes: names of the classes.
        names: of the images.
        signed: whether signed values are shown.
        mean: of the images' normalisation; None stretches each to its own range.
        std: as `mean`.
        most: images that are shown, the first ones.
        facts: of each image, further lines below each map, by label.

    Raises:
        InputError: no explanation, or of several batches.
        OptionError: signed values are asked of a method that has none.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), ["gradcam", "tsm"])
        >>> [view.title for view in view_inputs(found, names=["a", "b"])]
        ['a', 'b']
    """
    counts = {len(one) for one in explanations.values()}
    if len(counts) != 1:
        raise InputError(
            f"{len(explanations)} explanations of {sorted(counts)} images were given; give at "
            "least one, and all of one batch."
        )
    first = next(iter(explanations.values()))
    found = []
    for index in range(min(counts.pop(), most)):
        maps = [
            _view_map(label, one, index, classes, signed=signed)
            for label, one in explanations.items()
        ]
        if facts:
            lines = [tuple(facts[index].get(label, ())) for label in explanations]
            maps = [replace(view, facts=more) for view, more in zip(maps, lines, strict=True)]
        title = names[index] if names else f"image {index}"
        top = top_classes(first, index, classes)
        image = first.images[index].detach().float().cpu()
        if image.ndim == 4:  # noqa: PLR2004 (a volume)
            flat = denormalise_images(image.flatten(2), mean, std)
            volume = look_at_pixels(flat.unflatten(1, image.shape[2:]))
            found += _view_stacks(title, volume, maps, top)
            continue
        pixels, cuts = _flat(image, [view.values for view in maps])
        picture = Image.fromarray(denormalise_images(pixels, mean, std).numpy())
        shown = tuple(replace(view, values=values) for view, values in zip(maps, cuts, strict=True))
        found.append(PhotoView(title, picture, shown, top))
    return found


def view_volume(  # noqa: PLR0913 (all but the first three by name)
    source: Scan | Clip,
    explanations: Mapping[str, Explanation],
    preprocessing: VolumePreprocessing,
    *,
    classes: Sequence[str] | None = None,
    index: int = 0,
    title: str = "",
    signed: bool = False,
    facts: Mapping[str, Sequence[str]] | None = None,
) -> list[PhotoView]:
    """Return a scan's slices along each side, or a video's frames, with the maps over them.

    Args:
        source: the scan or the video that was preprocessed.
        explanations: by label, of `explain`.
        preprocessing: how it became the network's input.
        classes: names of the classes.
        index: of the scan or video in the batch.
        title: its name.
        signed: whether signed values are shown, of methods that have them.
        facts: further lines below each map, by label.

    Returns:
        Three views of a scan, whose slices have its voxels' proportions, one of a video.

    Raises:
        InputError: there is no explanation.
        OptionError: signed values are asked of a method that has none.

    Example:
        >>> import torchsaliency
        >>> from pathlib import Path
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
        ...     nn.Flatten())
        >>> pictures = (Image.new("RGB", (16, 16), "red"),) * 4
        >>> clip = Clip(pictures, seconds=0.1, path=Path("clip.gif"))
        >>> frames = ClipPreprocessing(4, Preprocessing((16, 16), (16, 16)))
        >>> x = torchsaliency.preprocess(clip, frames)
        >>> found = torchsaliency.explain(net, x, ["gradcam"])
        >>> [len(view.maps) for view in view_volume(clip, found, frames)]
        [1]
    """
    if not explanations:
        raise InputError("There are no maps to show; give at least one explanation.")
    maps = [
        _view_map(label, one, index, classes, signed=signed) for label, one in explanations.items()
    ]
    values = [view.values for view in maps]
    if isinstance(source, Scan):
        assert isinstance(preprocessing, ScanPreprocessing)
        volume, placed = look_at_scan(source, values, preprocessing)
    else:
        assert isinstance(preprocessing, ClipPreprocessing)
        volume, placed = look_at_clip(source, values, preprocessing)
    maps = [
        replace(view, values=one, facts=tuple((facts or {}).get(view.title, ())))
        for view, one in zip(maps, placed, strict=True)
    ]
    top = top_classes(next(iter(explanations.values())), index, classes)
    return _view_stacks(title, volume, maps, top)


def _view_stacks(
    title: str, volume: Volume, maps: Sequence[MapView], top: tuple[tuple[str, float], ...]
) -> list[PhotoView]:
    found = []
    for stack, cuts in volume.stacks([view.values for view in maps]):
        shown = tuple(replace(view, values=one) for view, one in zip(maps, cuts, strict=True))
        words = f"{title}, {stack.name}s" if len(volume.names) > 1 else title
        picture = stack.pictures[stack.first]
        found.append(PhotoView(words, picture, shown, top, stack=stack))
    return found


def top_classes(
    explanation: Explanation, index: int, classes: Sequence[str] | None, count: int = TOP
) -> tuple[tuple[str, float], ...]:
    """Return the likeliest classes of an image with their probabilities; none without classes."""
    output = explanation.output
    if not explanation.scores.classes or not isinstance(output, Tensor) or output.ndim != 2:  # noqa: PLR2004
        return ()
    probabilities = explanation.scores.probabilities(output[index : index + 1].detach().float())[0]
    best = probabilities.topk(min(count, len(probabilities)))
    return tuple(
        (name_class(label, classes), value)
        for label, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def format_probability(value: float) -> str:
    """Return a probability as a percentage of one decimal."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _find_preparation(model: Any, fit: str | None) -> Preprocessing | None:
    if isinstance(model, Preprocessing):
        return model.frame(fit)
    found = find_preprocessing(model) if isinstance(model, torch.nn.Module) else None
    return None if found is None else frame_for(model, found, fit)


def _view_map(
    label: str, explanation: Explanation, index: int, classes: Sequence[str] | None, *, signed: bool
) -> MapView:
    """Return a map over the network's input."""
    if signed:
        require_signs(explanation.method)
    status = explanation.status[index]
    about, probability = describe_target(explanation, index, classes)
    if probability is not None:
        about = f"{about} · {format_probability(probability)}"
    view = MapView(
        title=label,
        values=explanation.map[index].detach().float().cpu(),
        group=label,
        about=about,
        remark="" if status == "ok" else status,
    )
    if status == "not finite":
        shown = signed and explanation.signed is not None
        return replace(view, values=torch.zeros_like(view.values), signed=shown, low=nan, high=nan)
    if signed and explanation.signed is not None:
        values = explanation.signed[index : index + 1].detach().float().cpu()
        scaled = normalise_signed(values)[0]
        inside = (scaled != 0) & (scaled.abs() < 1)
        whole = values[0][inside] / scaled[inside]  # what 1 stands for: the same everywhere
        peak = float(whole[0]) if len(whole) else float(values.abs().max())
        return replace(view, values=scaled, signed=True, low=-peak, high=peak)
    scaling = getattr(explanation.method, "scaling", "range")
    if scaling == "range" and len(explanation.layers) == 1:
        raw = explanation.raw[index : index + 1].detach().float().cpu()
        raw = upsample(raw, tuple(explanation.map.shape[1:]))
        return replace(view, low=float(raw.min()), high=float(raw.max()))
    return view


def _place(values: Tensor, picture: Image.Image, preparation: Preprocessing | None) -> Tensor:
    """Return a map over the network's input on the small grid over the whole photograph."""
    scale = min(1.0, GRID / max(picture.size))
    size = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    if preparation is None:
        where = Placement(size, 0, 0, *size)
    else:
        at = preparation.placement((picture.height, picture.width))
        down, across = size[0] / picture.height, size[1] / picture.width
        where = Placement(
            size, at.top * down, at.left * across, at.height * down, at.width * across
        )
    return where.to_photo(values).float()


def _boxes(
    explanation: Explanation,
    index: int,
    preparation: Preprocessing,
    picture: Image.Image,
    classes: Sequence[str] | None,
) -> tuple[BoxView, ...]:
    found = explained_boxes(explanation, index, (picture.height, picture.width), preparation)
    if not len(found[0]):
        return ()
    ends = torch.tensor([picture.width, picture.height] * 2)
    corners = (found[0] / ends).clamp(0, 1).tolist()
    labels = box_labels(found, classes)
    return tuple(
        BoxView((x0, y0, x1, y1), label)
        for (x0, y0, x1, y1), label in zip(corners, labels, strict=True)
    )


def _flat(image: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return an image as (C, H, W) with its maps: a signal is a strip."""
    if image.ndim == 3:  # noqa: PLR2004
        return image, list(maps)
    strip = max(1, image.shape[1] // 6)
    return image[:, None].expand(-1, strip, -1), [one[None].expand(strip, -1) for one in maps]

"""torch data sets of any origin as a `DataSet`: torchvision's, Hugging Face's, and a user's own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index as whole_number
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from torchsaliency.data.dataset import DataSet, Picture, Sample
from torchsaliency.data.files import MISSING
from torchsaliency.data.fingerprints import COUNTS_FOR
from torchsaliency.data.photos import Frame, to_rgb
from torchsaliency.data.photosets import place_boxes
from torchsaliency.errors import DataError, describe_error, describe_unknown

Annotate = Callable[[Any], Any]
"""Finds the boxes or the mask in what the torch data set gives for an image."""

_BYTE = 255
_lock = threading.Lock()
"""Fingerprints are made by several threads, and a user's data set may stand one only."""


def as_dataset(
    dataset: Any,
    *,
    classes: Sequence[str] | None = None,
    name: str = "",
    columns: tuple[str, str] = ("image", "label"),
    boxes: Annotate | None = None,
    masks: Annotate | None = None,
) -> DataSet:
    """Return a torch data set as a `DataSet`, for `evaluate`, `finetune` and Python.

    It must give the same image each time: leave random transforms and normalisation out. Labels are
    taken from its `targets` or its label column where it has one; otherwise each image is read
    once.

    Args:
        dataset: of torchvision, Hugging Face or a user: anything with a length whose items are
            (image, label, …) or {"image": image, "label": label, …}. An image is one of PIL, or an
            array or a tensor (H, W), (H, W, C) or (C, H, W) of uint8, or of floats in [0, 1]. A
            label is a class index or one of `classes`.
        classes: names in the order of the class indices; by default those that the data set has.
        name: for tables; by default that of the data set's class.
        columns: where items are dictionaries, the keys of the image and of the label.
        boxes: returns the boxes x0 y0 x1 y1 of the object, in the image's pixels, from an item of
            the data set; None where it has none.
        masks: returns the mask (H, W) from an item: 0 background, 1 to 254 objects, 255 void.

    Raises:
        DataError: it cannot be listed, an item has no image or no label, or a label or the values
            of an image do not fit.

    Example:
        >>> pairs = [(Image.new("RGB", (32, 32)), 0), (Image.new("RGB", (32, 32), "red"), 1)]
        >>> data = as_dataset(pairs, classes=["black", "red"], name="colours")
        >>> len(data), data[1][1], data.picture(1).sample.id
        (2, 1, 'colours/1')
    """
    if isinstance(dataset, DataSet):
        return dataset
    if isinstance(dataset, Mapping):
        raise DataError(
            f"The data set is a {type(dataset).__name__} with the keys "
            f"{', '.join(map(str, dataset)) or 'none'}; give one data set, such as its training "
            "part, or the name of one."
        )
    if isinstance(dataset, IterableDataset) or not all(
        hasattr(dataset, needed) for needed in ("__len__", "__getitem__")
    ):
        raise DataError(
            f"The data set is a {type(dataset).__name__}, which has no length or no order, and "
            "images are read by number; give a map-style data set, such as list(dataset) of a "
            "small one (of Hugging Face's in Parquet files, hf:OWNER/NAME:SPLIT?streaming=true "
            "reads by number)."
        )
    if not len(dataset):
        raise DataError(f"The data set is an empty {type(dataset).__name__}; give some images.")
    names = tuple(map(str, classes or _class_names(dataset, columns[1]) or ()))
    found = _list_labels(dataset, columns[1])
    if found is None:
        found = [_pair(dataset[place], place, columns)[1] for place in range(len(dataset))]
    labels = [_label(label, place, names) for place, label in enumerate(found)]
    name = name or type(dataset).__name__.lower()
    annotations = {"labels": True, "boxes": boxes is not None, "masks": masks is not None}
    data = TorchDataSet(
        name=name,
        samples=tuple(
            Sample(f"{name}/{place}", place, label) for place, label in enumerate(labels)
        ),
        classes=names or None,
        annotations=frozenset(kind for kind, there in annotations.items() if there),
        dataset=dataset,
        columns=columns,
        boxes=boxes,
        masks=masks,
    )
    first, second = (data.mark(data.samples[0]) for _ in range(2))
    if first == MISSING:
        try:
            item = dataset[0]
        except Exception:
            pass
        else:
            _pair(item, 0, columns)
    if first != second:
        raise DataError(
            f"The data set {name} gives another image each time it is read; leave its random "
            "transforms out."
        )
    return data


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class TorchDataSet(DataSet):
    """A torch data set with what `as_dataset` was told of it.

    Attributes:
        dataset: the torch data set; a sample's source is its place there.
        columns: keys of the image and of the label.
        boxes: finds an item's boxes; None for none.
        masks: finds an item's mask; None for none.
    """

    dataset: Any = field(repr=False)
    columns: tuple[str, str]
    boxes: Annotate | None = None
    masks: Annotate | None = None

    def picture(self, index: int) -> Picture:
        """Read one item.

        Raises:
            DataError: it cannot be read, or its image, its label or an annotation does not fit.
        """
        return self._open(self.samples[index])

    def mark(self, sample: Sample) -> str:
        """Return a hash of the image's pixels and its annotations; "missing" if unreadable."""
        digest = hashlib.blake2b(digest_size=16)
        try:
            with _lock:
                picture = self._open(sample)
        except DataError:
            return MISSING
        digest.update(f"{picture.image.size}".encode() + picture.image.tobytes())
        for annotation in (picture.boxes, picture.mask):
            if annotation is not None:
                digest.update(f"{annotation.dtype}".encode() + annotation.numpy().tobytes())
        return digest.hexdigest()

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return what an image counts for; its size is not known before it is read."""
        del sample
        return COUNTS_FOR, ""

    def _open(self, sample: Sample) -> Picture:
        place = int(str(sample.source))
        try:
            item = self.dataset[place]
        except Exception as error:  # a user's own code
            raise DataError(
                f"{sample.id} cannot be read ({describe_error(error)}); make the data set give it."
            ) from error
        found, label = _pair(item, place, self.columns)
        if _label(label, place, self.classes or ()) != sample.label:
            raise DataError(
                f"{sample.id} has the label {label!r}, and {sample.label} is listed for it; give a "
                "data set whose labels do not change."
            )
        image = _image(found, sample.id)
        boxes = None if self.boxes is None else self.boxes(item)
        mask = None if self.masks is None else self.masks(item)
        if boxes is not None:
            boxes = torch.as_tensor(boxes).reshape(-1, 4).tolist()
            boxes = place_boxes(boxes, None, Frame(image.size), f"of {sample.id}")
        return Picture(
            sample, image, boxes, None if mask is None else _mask(mask, image, sample.id)
        )


def _class_names(dataset: Any, column: str) -> Sequence[str] | None:
    """Return the names that Hugging Face's features or torchvision's data set have."""
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset, column)
    feature = getattr(dataset, "features", {})
    names = getattr(feature.get(column) if isinstance(feature, Mapping) else None, "names", None)
    return names or getattr(dataset, "classes", None)


def _list_labels(dataset: Any, column: str) -> Sequence[Any] | None:
    """Return all labels without reading an image, None if the data set does not list them."""
    if isinstance(dataset, Subset):
        inner = _list_labels(dataset.dataset, column)
        return None if inner is None else [inner[place] for place in dataset.indices]
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping) and column in features:
        try:
            return [*dataset[column]]
        except Exception:
            return None
    targets = getattr(dataset, "targets", None)
    if getattr(dataset, "target_transform", None) is not None or targets is None:
        return None
    return targets if len(targets) == len(dataset) else None


def _pair(item: Any, place: int, columns: tuple[str, str]) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        found = [item.get(column) for column in columns]
    else:
        found = [*item[:2]] if isinstance(item, tuple | list) else [item]
    if len(found) < 2 or any(part is None for part in found):  # noqa: PLR2004
        keys = f" with the keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
        raise DataError(
            f"Item {place} of the data set ({type(item).__name__}{keys}) has no image or no "
            f"label; give (image, label), or a dictionary with {columns[0]!r} and {columns[1]!r} "
            "(columns= names others)."
        )
    return found[0], found[1]


def _label(label: Any, place: int, classes: Sequence[str]) -> int:
    """Return the class index that a label stands for."""
    if isinstance(label, str) and classes:
        if label not in classes:
            raise DataError(describe_unknown("class", label, classes, where=f" (item {place})"))
        return classes.index(label)
    try:
        number = -1 if isinstance(label, bool | np.bool_) else whole_number(label)
    except TypeError:
        number = -1
    if number < 0 or (classes and number >= len(classes)):
        accepted = f"0 to {len(classes) - 1}" if classes else "a class index from 0, or classes="
        raise DataError(f"Item {place} of the data set has the label {label!r}; give {accepted}.")
    return number


def _image(found: Any, name: str) -> Image.Image:
    """Return an item's image as RGB; the range of its values must say what white is."""
    if isinstance(found, Tensor | np.ndarray):
        kind = str(found.dtype).removeprefix("torch.")
        ends = (
            (float(found.min()), float(found.max())) if found.size and 0 not in found.shape else ()
        )
        if kind != "uint8" and not ("float" in kind and ends and 0 <= ends[0] <= ends[1] <= 1):
            span = f" from {ends[0]:.4g} to {ends[1]:.4g}" if ends else ""
            raise DataError(
                f"The image of {name} has values of {kind}{span}, which do not say what white is; "
                "give images of PIL, uint8, or floats in [0, 1], before any normalisation."
            )
    elif not isinstance(found, Image.Image):
        raise DataError(
            f"The image of {name} is a {type(found).__name__}; give an image of PIL, an array or a "
            "tensor."
        )
    return to_rgb(found)


def _mask(found: Any, image: Image.Image, name: str) -> Tensor:
    mask = torch.as_tensor(np.array(found) if isinstance(found, Image.Image) else found)
    size = (image.height, image.width)
    if (
        tuple(mask.shape) != size
        or mask.is_floating_point()
        or not 0 <= mask.min() <= mask.max() <= _BYTE
    ):
        raise DataError(
            f"The mask of {name} is {tuple(mask.shape)} of {mask.dtype}; give whole numbers from 0 "
            f"to {_BYTE} of the image's size {size}."
        )
    return mask.to(torch.uint8)

"""Data sets: images with what is known of them, listed without opening a single one.

A `DataSet` is a `torch.utils.data.Dataset`: a list of samples and a way to open one. It is frozen
and holds no open file, so that it goes to worker processes as it is; a subset is the same data set
with fewer samples.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, final

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from torchsaliency.data.files import list_names
from torchsaliency.data.fingerprints import draw_key, make_fingerprint
from torchsaliency.errors import DataError, describe_unknown

VOID = 255
"""The mask's label of pixels that count neither as object nor as background (Pascal VOC)."""

PARTS = ("train", "val", "test")
"""Of a data set: `draw_parts` makes them, and published ones come with them."""

UNKNOWN = -1
"""The label that `DataSet.__getitem__` gives where it is not known; batches hold numbers."""


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one image before it is opened.

    Attributes:
        id: unique in its data set, and the same on every machine; printable UTF-8 text, whatever
            the name of the file.
        source: the image's file, or the number of an image that is drawn.
        label: class index; None where it is unknown.
        labels: in a data set of several labels an image, all of them that are true of it, none
            perhaps; there is a sample for each of them. None in a data set of one label an image.
        columns: what else a table of labels says of it, by column; None without a table.
    """

    id: str
    source: Path | int
    label: int | None = None
    labels: tuple[int, ...] | None = None
    columns: Mapping[str, str] | None = field(default=None, repr=False, compare=False)


@final
@dataclass(frozen=True, eq=False)
class Picture:
    """One sample, opened.

    Attributes:
        sample: which.
        image: RGB, upright; of files that are read as another kind, a `Scan`, a `Clip` or an array
            (H, W, C).
        boxes: x0 y0 x1 y1 of the objects of the sample's class in the image's pixels, the maximum
            side exclusive; None where the image has no boxes.
        mask: 0 background, 1 and more an object or its class, 255 void; None where there is none.
    """

    sample: Sample
    image: Any
    boxes: Float[Tensor, "b 4"] | None = None
    mask: UInt8[Tensor, "h w"] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class DataSet(Dataset[tuple[Any, int]], abc.ABC):
    """Images with labels, boxes or masks.

    As a torch data set it gives (image, label), the image through `transform`; `picture` gives all
    that is known of an image.

    Attributes:
        name: of the data set, for tables.
        samples: in a fixed order.
        classes: names, in the order of the class indices; None where there are none.
        codes: other names of the classes, in the same order (ImageNet's synsets).
        annotations: of "labels", "boxes" and "masks", those that it has.
        facts: what a record of a run should say: the split, the version.
        transform: of the images that indexing gives; None leaves them RGB images of PIL. `picture`
            and `fingerprint` do not use it.

    Example:
        >>> import torchsaliency
        >>> network = torchsaliency.load_model("builtin/shapes_cnn")
        >>> shapes = torchsaliency.data.open_data("shapes:100")
        >>> image, label = shapes.with_transform(network.preprocessing)[0]
        >>> image.shape, len(shapes)
        (torch.Size([3, 64, 64]), 100)
    """

    name: str
    samples: tuple[Sample, ...] = field(repr=False)
    classes: tuple[str, ...] | None = field(default=None, repr=False)
    codes: tuple[str, ...] = field(default=(), repr=False)
    annotations: frozenset[str] = frozenset()
    facts: tuple[str, ...] = ()
    transform: Callable[[Image.Image], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        ids = Counter(sample.id for sample in self.samples)
        if len(ids) != len(self.samples):
            twice = ids.most_common(1)[0][0]
            raise DataError(f"The data set {self.name} has {twice} twice; list each image once.")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def several_labels(self) -> bool:
        """Whether several labels may be true of an image; each has a sample then."""
        return any(sample.labels is not None for sample in self.samples)

    @final
    def by_image(self) -> DataSet:
        """Return a data set of several labels an image with one sample an image, its first."""
        found: dict[Path | int, Sample] = {}
        for sample in self.samples:
            name = sample.id
            if sample.label is not None and self.classes is not None:
                name = name.removesuffix(f" ({self.classes[sample.label]})")
            found.setdefault(sample.source, replace(sample, id=name))
        return replace(self, samples=tuple(found.values())) if self.several_labels else self

    @final
    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return an image and its label, -1 where the label is not known.

        Raises:
            DataError: as `picture`.
        """
        index = range(len(self))[index]
        label = self.samples[index].label
        image = self.picture(index).image
        return (
            image if self.transform is None else self.transform(image),
            UNKNOWN if label is None else label,
        )

    @final
    def with_transform(self, transform: Callable[[Image.Image], Any] | None) -> DataSet:
        """Return the data set with another transform, such as a network's `preprocessing`."""
        return replace(self, transform=transform)

    @abc.abstractmethod
    def picture(self, index: int) -> Picture:
        """Open one sample.

        Raises:
            DataError: its image or its annotation is missing, damaged or does not fit.
        """

    @abc.abstractmethod
    def mark(self, sample: Sample) -> str:
        """Return what tells a sample from others of its id: a hash of its files' content."""

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return the bytes that `mark` reads, and what can be said of them without reading them.

        By default nothing is read, and `mark` costs nothing.
        """
        del sample
        return 0, ""

    def block(self, sample: Sample) -> str:
        """Return what is read at once for `mark`: the same for samples that are read together."""
        return sample.id

    @final
    def fingerprint(self, like: str = "") -> str:
        """Return a SHA-256 over the data set's content, in hexadecimal.

        Names, ids, labels, the kinds of annotation and the bytes of the images' and annotations'
        files count; where the files lie does not. Of data of more than 256 MiB the sizes of all
        files count and the bytes of about 256 MiB of them, which a hash of the ids draws; it then
        begins with "sampled:". The documentation gives the odds that a change goes unnoticed.

        Args:
            like: a fingerprint to compare with, whose kind is made; by default the size decides.
        """
        return make_fingerprint(self, like)

    @final
    def check(self) -> dict[str, str]:
        """Open every sample; return the ids of those that cannot be read, with the reason."""
        broken = {}
        for index, sample in enumerate(self.samples):
            try:
                self.picture(index)
            except DataError as error:
                broken[sample.id] = str(error)
        return broken

    @final
    def subset(
        self,
        *,
        count: int | None = None,
        seed: int = 0,
        classes: Sequence[int | str] | None = None,
        ids: Collection[str] | None = None,
    ) -> DataSet:
        """Return the data set with fewer samples, in the same order.

        A sample is drawn by a hash of the seed and its id alone: the same on every machine and in
        every version, and a smaller count's samples are among a larger one's.

        Args:
            count: how many to draw, of those that `classes` and `ids` leave; all if there are not
                as many.
            seed: of the draw.
            classes: indices, names or codes to keep.
            ids: samples to keep.

        Raises:
            DataError: a negative count, a class or an id that does not exist, or classes of a data
                set without labels.

        Example:
            >>> import torchsaliency
            >>> shapes = torchsaliency.data.open_data("shapes:100")
            >>> len(shapes.subset(classes=["star"], count=5))
            5
        """
        kept = self.samples
        if ids is not None:
            wanted = set(ids)
            if unknown := wanted - {sample.id for sample in kept}:
                raise DataError(
                    f"{len(unknown)} ids are not in the data set {self.name}: "
                    f"{list_names(sorted(unknown))}; its ids look like "
                    f"{kept[0].id if kept else 'nothing, it is empty'}."
                )
            kept = tuple(sample for sample in kept if sample.id in wanted)
        if classes is not None:
            labels = {self.class_index(name) for name in classes}
            kept = tuple(sample for sample in kept if sample.label in labels)
        if count is not None:
            if count < 0:
                raise DataError(f"A subset of {count} samples was asked for; give 0 or more.")
            drawn = {*sorted((sample.id for sample in kept), key=partial(draw_key, seed))[:count]}
            kept = tuple(sample for sample in kept if sample.id in drawn)
        return replace(self, samples=kept)

    @final
    def class_index(self, wanted: int | str) -> int:
        """Return the index of a class by its number, name, one of its synonyms, or code.

        Raises:
            DataError: there is no such class, or more than one.
        """
        if "labels" not in self.annotations:
            raise DataError(
                f"The data set {self.name} has no labels, and class {wanted!r} was asked for; "
                "choose samples by ids."
            )
        names = self.classes or ()
        known = range(len(names)) if names else {sample.label for sample in self.samples}
        if isinstance(wanted, int):
            if wanted in known:
                return wanted
            raise DataError(
                f"The data set {self.name} has no class {wanted}; it has {len(known)} classes."
            )
        found = [
            index
            for index, name in enumerate(names)
            if wanted in (name, *name.split(", "), *self.codes[index : index + 1])
        ]
        if len(found) == 1:
            return found[0]
        if found:
            numbers = " and ".join(map(str, found))
            raise DataError(f"The classes {numbers} go by the name {wanted!r}; give a number.")
        where = f" in the data set {self.name}"
        raise DataError(describe_unknown("class", wanted, names or map(str, known), where=where))


def select(data: DataSet, keep: Sequence[bool]) -> DataSet:
    """Return the samples for which `keep` is true.

    Args:
        data: any data set.
        keep: one truth value for each sample.

    Raises:
        DataError: another number of values.

    Example:
        >>> from torchsaliency.data import open_data
        >>> len(select(open_data("shapes:3"), [True, False, True]))
        2
    """
    if len(keep) != len(data):
        raise DataError(f"{len(keep)} choices were given for {len(data)} samples; give one each.")
    kept = (sample for sample, wanted in zip(data.samples, keep, strict=True) if wanted)
    return replace(data, samples=tuple(kept))


def correct(data: DataSet, predictions: Mapping[str, int]) -> DataSet:
    """Return the samples whose prediction is their label.

    Args:
        data: a data set with labels.
        predictions: class index by the sample's id; samples without one are left out.

    Raises:
        DataError: the data set has no labels, or there are predictions for other ids.

    Example:
        >>> from torchsaliency.data import open_data
        >>> data = open_data("shapes:2")
        >>> len(correct(data, {sample.id: sample.label for sample in data.samples}))
        2
    """
    if "labels" not in data.annotations:
        raise DataError(
            f"The data set {data.name} has no labels, so no prediction is right or wrong; give one "
            "with labels."
        )
    predicted = data.subset(ids=predictions.keys())
    return select(
        predicted, [predictions[sample.id] == sample.label for sample in predicted.samples]
    )


def misclassified(data: DataSet, predictions: Mapping[str, int]) -> DataSet:
    """Return the samples whose prediction is another class than their label; see `correct`.

    Args:
        data: with labels.
        predictions: class number by id.

    Example:
        >>> from torchsaliency.data import open_data
        >>> data = open_data("shapes:2")
        >>> len(misclassified(data, {sample.id: -1 for sample in data.samples}))
        2
    """
    right = {sample.id for sample in correct(data, predictions).samples}
    predicted = data.subset(ids=predictions.keys())
    return select(predicted, [sample.id not in right for sample in predicted.samples])


def spread_labels(image: Sample, labels: Sequence[int], classes: Sequence[str]) -> Iterator[Sample]:
    """Yield a sample for each label that is true of an image, `id (class)`; one if none is."""
    every = tuple(sorted(labels))
    for label in every:
        name = f"{image.id} ({classes[label]})"
        yield replace(image, id=name, label=label, labels=every)
    if not every:
        yield replace(image, labels=())


def draw_parts(samples: Sequence[Sample], seed: int = 0) -> Mapping[str, str]:
    """Return "train", "val" or "test" for each sample's id: 6/8, 1/8 and 1/8 of every class.

    What cannot be divided goes to "test". A sample's part depends on the seed and the ids of its
    class alone.
    """
    parts: dict[str, str] = {}
    for label in {sample.label for sample in samples}:
        ids = [sample.id for sample in samples if sample.label == label]
        ids.sort(key=lambda name: draw_key(seed, name))
        ends = (0, len(ids) * 6 // 8, len(ids) * 7 // 8, len(ids))
        for part, first, last in zip(PARTS, ends, ends[1:], strict=False):
            parts |= dict.fromkeys(ids[first:last], part)
    return parts

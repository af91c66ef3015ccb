"""Images and labels for training: a data set's parts, and batches of them, mirrored or not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from torchsaliency.data import DataSet, Sample, open_data, select
from torchsaliency.data.dataset import PARTS, Picture, draw_parts
from torchsaliency.data.files import folders_in, list_names
from torchsaliency.data.folders import SPLITS
from torchsaliency.data.medical import ALL, find_chest_xray, find_kvasir
from torchsaliency.errors import DataError
from torchsaliency.evaluation.batches import Unreadable, load_groups
from torchsaliency.zoo import Preprocessing

TRAIN, VAL, TEST = PARTS

_NAMES = {"training": TRAIN, "valid": VAL, "validation": VAL}
_FINDERS: dict[str, Callable[[Path], object]] = {
    "chest-xray": find_chest_xray,
    "kvasir": find_kvasir,
}
_KINDS = (*_FINDERS, "folder")


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of one data set.

    Attributes:
        name: of the data set.
        classes: names, in the order of the labels; the same in every part.
        sets: by "train", "val" and "test", those that there are; "train" always is.
        drawn: whether the parts were drawn here, and not by the data set's folders or layout.
    """

    name: str
    classes: tuple[str, ...]
    sets: dict[str, DataSet]
    drawn: bool

    @property
    def train(self) -> DataSet:
        """The training images."""
        return self.sets[TRAIN]

    @property
    def several_labels(self) -> bool:
        """Whether several labels may be true of an image."""
        return self.train.several_labels


def open_parts(spec: str | DataSet | Mapping[str, DataSet]) -> Parts:
    """Open a data set for training.

    The chest X-rays have their parts as folders; Kvasir is divided as `open_data` divides it, so
    that its test images here are those that are evaluated later. A folder of one's own may have
    train, val and test folders; any other data is divided 6 : 1 : 1 in each class by a hash of
    the images' names.

    Args:
        spec: as `open_data`; or a data set, or one for each part.

    Raises:
        DataError: the data set is missing, has another layout, has no labels, or has a class
            without training images.

    Example:
        >>> open_parts("shapes:64").drawn
        True
    """
    drawn = False
    if isinstance(spec, DataSet):
        return _join(divide(spec.by_image()), drawn=True)
    if not isinstance(spec, str):
        return _join(spec, drawn=False)
    kind, folder = _find_layout(spec)
    if kind == "chest-xray":
        data = open_data(f"{kind}:{folder}", split=ALL)
        ids = [sample.id for sample in data.samples]
        sets = {part: select(data, [id_.startswith(f"{part}/") for id_ in ids]) for part in PARTS}
    elif kind == "kvasir":
        sets = {part: open_data(f"{kind}:{folder}", split=part) for part in PARTS}
    elif splits := _find_splits(folder):
        sets = {
            part: open_data(f"folder:{folder}", split=splits[part])
            for part in PARTS
            if part in splits
        }
    else:
        data = open_data(spec).by_image()
        _check_labels(data)
        sets, drawn = divide(data), True
    return _join(sets, drawn=drawn)


def data_contains(spec: str, path: Path) -> bool:
    """Return whether a path is in the folder of a data set, so that it would be read as part."""
    _, folder = _find_layout(spec)
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


def divide(data: DataSet) -> dict[str, DataSet]:
    """Divide each class 6 : 1 : 1 into train, val and test; what cannot be divided goes to test.

    An image's part depends on the names of the images of its class alone.

    Example:
        >>> from torchsaliency.data import open_data
        >>> sorted(divide(open_data("shapes:64")))
        ['test', 'train', 'val']
    """
    part_of = draw_parts(data.samples)
    parts = [part_of[sample.id] for sample in data.samples]
    return {part: select(data, [other == part for other in parts]) for part in PARTS}


def _find_layout(spec: str) -> tuple[str, Path]:
    """Return the layout, as it is forced or recognised ("" if neither), and where the data lies."""
    kind, colon, rest = spec.partition(":")
    if colon and kind in _KINDS:
        return kind, Path(rest).expanduser()
    folder = Path(spec).expanduser()
    fitting = (name for name, finds in _FINDERS.items() if folder.is_dir() and finds(folder))
    return next(fitting, ""), folder


def _find_splits(folder: Path) -> dict[str, str]:
    """Return a folder's own train, val and test folders, if it has such and nothing else."""
    names = folders_in(folder) if folder.is_dir() else []
    if not names or not SPLITS.issuperset(names):
        return {}
    found = {_NAMES.get(name, name): name for name in names}
    if len(found) < len(names):
        raise DataError(
            f"{folder} has {', '.join(names)}, two for the same part; leave one of train, val and "
            "test each."
        )
    return found


def _join(sets: Mapping[str, DataSet], *, drawn: bool) -> Parts:
    """Bring all parts to the same classes; parts without an image are left out."""
    sets = {part: data.by_image() for part, data in sets.items() if len(data)}
    if TRAIN not in sets:
        found = ", ".join(sets) or "no images"
        raise DataError(
            f"There is nothing to learn from: the data has {found}, and no image in {TRAIN}; give "
            "data with training images."
        )
    for data in sets.values():
        _check_labels(data)
    train = sets[TRAIN]
    classes = train.classes
    if classes is None:  # labels without names are numbers
        highest = max(sample.label or 0 for data in sets.values() for sample in data.samples)
        classes = tuple(map(str, range(highest + 1)))
    _check_classes(train, classes)
    sets = {part: _number_labels(data, classes, part) for part, data in sets.items()}
    return Parts(train.name, classes, sets, drawn)


def _check_labels(data: DataSet) -> None:
    if "labels" not in data.annotations:
        raise DataError(
            f"The data set {data.name} has no labels to learn; give a folder for each class, or a "
            "CSV of labels."
        )


def _check_classes(train: DataSet, classes: Sequence[str]) -> None:
    """Require two classes and training images of each."""
    if len(classes) < 2:  # noqa: PLR2004
        raise DataError(
            f"The data set {train.name} has one class, {', '.join(classes)}, and nothing to tell "
            "apart; give a folder for each of two or more classes."
        )
    labels = {label for sample in train.samples for label in sample.labels or (sample.label,)}
    if lacking := [name for label, name in enumerate(classes) if label not in labels]:
        raise DataError(
            f"{len(lacking)} of {len(classes)} classes have no training image: "
            f"{list_names(lacking)}; add images (about three quarters of those without a part of "
            "their own are for training), or leave these classes out."
        )


def _number_labels(data: DataSet, classes: tuple[str, ...], part: str) -> DataSet:
    """Number the labels of a part as the training images' are: its folders may lack a class."""
    if data.classes is None or data.classes == classes:
        return replace(data, classes=classes)
    if foreign := [name for name in data.classes if name not in classes]:
        raise DataError(
            f"The part {part} has the class {foreign[0]!r}, which {TRAIN} does not have "
            f"({list_names(classes)}); give both the same classes."
        )
    numbers = {label: classes.index(name) for label, name in enumerate(data.classes)}
    samples = (
        replace(
            sample,
            label=None if sample.label is None else numbers[sample.label],
            labels=None if sample.labels is None else tuple(numbers[one] for one in sample.labels),
        )
        for sample in data.samples
    )
    return replace(data, classes=classes, samples=tuple(samples))


# --- batches --------------------------------------------------------------------------------------


def read_batches(
    data: DataSet,
    preprocessing: Preprocessing,
    groups: Sequence[Sequence[int]],
    *,
    mirrored: Collection[str] = (),
    workers: int | None = None,
    pinned: bool = False,
) -> Iterator[tuple[Tensor, Tensor, list[Unreadable]]]:
    """Read groups of samples, each into one batch: images, labels and what cannot be read.

    `mirrored` are ids; all else is as in `load_groups`. Labels are (N,) numbers, or (N, K) of 0 and
    1 where several may be true of an image.
    """
    several = len(data.classes or ()) if data.several_labels else 0
    prepare = functools.partial(_prepare, preprocessing, mirrored)
    for read, failed in load_groups(data, prepare, groups, workers=workers, pinned=pinned):
        images = torch.stack([image for image, _ in read]) if read else torch.empty(0)
        if several:
            labels = torch.zeros(len(read), several, device="cpu")
            for row, (_, sample) in zip(labels, read, strict=True):
                row[list(sample.labels or ())] = 1
        else:
            labels = torch.tensor([sample.label for _, sample in read], dtype=torch.int64)
        yield images, labels, failed


def _prepare(
    preprocessing: Preprocessing, mirrored: Collection[str], picture: Picture
) -> tuple[Tensor, Sample]:
    image = preprocessing(picture.image)
    return (image.flip(-1) if picture.sample.id in mirrored else image), picture.sample

"""The parts of a data set: train, val and test, as its folders have them or drawn by a hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torchsaliency.data import DataSet, Sample, open_data, select
from torchsaliency.data.dataset import PARTS, draw_parts
from torchsaliency.data.files import folders_in
from torchsaliency.data.folders import SPLITS
from torchsaliency.data.medical import ALL, find_chest_xray, find_kvasir
from torchsaliency.errors import DataError

TRAIN, VAL, TEST = "train", "val", "test"

_NAMES = {"training": TRAIN, "valid": VAL, "validation": VAL}
_FINDERS: dict[str, Callable[[Path], object]] = {
    "chest-xray": find_chest_xray,
    "kvasir": find_kvasir,
}
_KINDS = (*_FINDERS, "folder")
_MOST_LISTED = 6


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """One data set in its parts.

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
        """The images that are learnt from."""
        return self.sets[TRAIN]

    def fingerprints(self) -> dict[str, str]:
        """Return each part's."""
        return {part: data.fingerprint() for part, data in self.sets.items()}


def open_parts(spec: str) -> Parts:
    """Open a data set for training.

    The chest X-rays have their parts as folders; Kvasir is divided as `open_data` divides it, so
    that its test images here are those that are evaluated later. A folder of one's own may have
    train, val and test folders; any other data is divided 6 : 1 : 1 in each class by a hash of
    the images' names.

    Args:
        spec: as `open_data`.

    Raises:
        DataError: the data set is missing, has another layout, has no labels, or has a class
            without training images.
    """
    kind, folder = _kind_and_folder(spec)
    if kind == "chest-xray":
        parts = _by_folder(open_data(f"{kind}:{folder}", split=ALL))
    elif kind == "kvasir":
        sets = {part: open_data(f"{kind}:{folder}", split=part) for part in PARTS}
        parts = _made(sets, drawn=False)
    elif splits := _split_folders(folder):
        sets = {
            part: open_data(f"folder:{folder}", split=name)
            for part, name in sorted(splits.items(), key=lambda one: PARTS.index(one[0]))
        }
        parts = _made(sets, drawn=False)
    else:
        data = open_data(spec)
        _insist_on_labels(data)
        parts = _made(divided(data), drawn=True)
    return _checked(parts)


def lies_in(path: Path, spec: str) -> bool:
    """Whether a path is in the folder of a data set, and would be taken for a part of it."""
    _, folder = _kind_and_folder(spec)
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


def divided(data: DataSet) -> dict[str, DataSet]:
    """Divide each class 6 : 1 : 1 into train, val and test; what cannot be divided goes to test.

    An image's part depends on the names of the images of its class alone.
    """
    part_of = draw_parts(data.samples)
    return {
        part: select(data, [part_of[sample.id] == part for sample in data.samples])
        for part in PARTS
    }


def _kind_and_folder(spec: str) -> tuple[str, Path]:
    """Return the layout, as it is forced or recognised ("" if neither), and where the data lies."""
    kind, colon, rest = spec.partition(":")
    if colon and kind in _KINDS:
        return kind, Path(rest).expanduser()
    folder = Path(spec).expanduser()
    fitting = (one for one, finds in _FINDERS.items() if folder.is_dir() and finds(folder))
    return next(fitting, ""), folder


def _by_folder(data: DataSet) -> Parts:
    """Divide by the first folder of each image's id."""
    sets = {
        part: select(data, [one.id.startswith(f"{part}/") for one in data.samples])
        for part in PARTS
    }
    return _made(sets, drawn=False)


def _split_folders(folder: Path) -> dict[str, str]:
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


def _made(sets: Mapping[str, DataSet], *, drawn: bool) -> Parts:
    """Bring all parts to the same classes; parts without an image are left out."""
    filled = {part: data for part, data in sets.items() if len(data)}
    if TRAIN not in filled:
        found = ", ".join(filled) or "no images"
        raise DataError(
            f"There is nothing to learn from: the data has {found}, and no image in {TRAIN}; give "
            "data with training images."
        )
    for data in filled.values():
        _insist_on_labels(data)
    classes = _class_names(filled)
    return Parts(
        name=filled[TRAIN].name,
        classes=classes,
        sets={part: _in_order(data, classes, part) for part, data in filled.items()},
        drawn=drawn,
    )


def _insist_on_labels(data: DataSet) -> None:
    if "labels" not in data.annotations:
        raise DataError(
            f"The data set {data.name} has no labels to learn; give a folder for each class, or a "
            "CSV of labels."
        )


def _class_names(sets: Mapping[str, DataSet]) -> tuple[str, ...]:
    """Return the training images' class names; where labels are numbers, those."""
    if (names := sets[TRAIN].classes) is not None:
        return names
    highest = max(one.label or 0 for data in sets.values() for one in data.samples)
    return tuple(map(str, range(highest + 1)))


def _in_order(data: DataSet, classes: tuple[str, ...], part: str) -> DataSet:
    """Number the labels of a part as the training images' are: its folders may lack a class."""
    if data.classes is None or data.classes == classes:
        return replace(data, classes=classes)
    if foreign := [one for one in data.classes if one not in classes]:
        raise DataError(
            f"The part {part} has the class {foreign[0]!r}, which {TRAIN} does not have "
            f"({', '.join(classes[:_MOST_LISTED])}); give both the same classes."
        )
    index = [classes.index(one) for one in data.classes]
    samples = (
        Sample(one.id, one.source, None if one.label is None else index[one.label])
        for one in data.samples
    )
    return replace(data, classes=classes, samples=tuple(samples))


def _checked(parts: Parts) -> Parts:
    """Insist on two classes and on training images of each."""
    if len(parts.classes) < 2:  # noqa: PLR2004
        raise DataError(
            f"The data set {parts.name} has one class, {', '.join(parts.classes)}, and nothing to "
            "tell apart; give a folder for each of two or more classes."
        )
    there = {one.label for one in parts.train.samples}
    if lacking := [name for label, name in enumerate(parts.classes) if label not in there]:
        shown = ", ".join(lacking[:_MOST_LISTED]) + (", …" if len(lacking) > _MOST_LISTED else "")
        raise DataError(
            f"{len(lacking)} of {len(parts.classes)} classes have no training image: {shown}; add "
            "some (of 8 images 6 are trained on), or remove the folders."
        )
    return parts

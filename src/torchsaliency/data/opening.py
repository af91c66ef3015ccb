"""Opens a data set by a short description: a folder, or the name of what is built in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torchsaliency.data.builtin import sample_set, shapes_set
from torchsaliency.data.folders import find_image_folder, image_folder
from torchsaliency.data.imagenet import find_imagenet, imagenet
from torchsaliency.data.layouts import unknown_layout
from torchsaliency.data.medical import chest_xray, find_chest_xray, find_kvasir, kvasir
from torchsaliency.data.names import shown
from torchsaliency.data.sets import DataSet
from torchsaliency.data.voc import find_voc, voc2012
from torchsaliency.errors import DataError, OptionError


@dataclass(frozen=True)
class _Kind:
    """A layout: how it is recognised, how it is read, and which options that takes."""

    fits: Callable[[Path], bool]
    read: Callable[..., DataSet]
    options: frozenset[str]


_KINDS = {
    "voc": _Kind(find_voc, voc2012, frozenset({"split"})),
    "chest-xray": _Kind(find_chest_xray, chest_xray, frozenset({"split"})),
    "kvasir": _Kind(find_kvasir, kvasir, frozenset({"split", "seed"})),
    "imagenet": _Kind(find_imagenet, imagenet, frozenset({"split", "boxes", "labels"})),
    "folder": _Kind(find_image_folder, image_folder, frozenset({"split", "labels"})),
}
"""In the order in which they are tried."""

_NUMBERS: dict[str, Callable[[str], int | float]] = {
    "seed": int,
    "objects": int,
    "context": float,
    "side": int,
}


def open_data(
    spec: str | Path,
    *,
    split: str | None = None,
    boxes: Path | None = None,
    labels: Path | None = None,
    seed: int | None = None,
) -> DataSet:
    """Open a data set.

    Args:
        spec: "samples"; "shapes", "shapes:2000" or "shapes:2000?seed=2&objects=2&context=0.5"; a
            folder, whose layout is recognised; or a folder after the kind it is to be read as:
            "imagenet:", "voc:", "chest-xray:", "kvasir:" or "folder:".
        split: of the data set; its validation or test images by default.
        boxes: ImageNet's boxes, if they do not lie with the images.
        labels: the label file, if it does not lie with the images.
        seed: of Kvasir's split into training, validation and test images, 0 by default.

    Raises:
        DataError: the data set is missing or has another layout; the message shows the expected
            one.
        OptionError: an option that this data set does not take.

    Example:
        >>> data = open_data("shapes:100?seed=5")
        >>> len(data), data.picture(3).sample.id
        (100, 'shapes/3')
    """
    options = {"split": split, "boxes": boxes, "labels": labels, "seed": seed}
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(spec, str) and (built := _built_in(spec)) is not None:
        _refuse(given, frozenset(), spec)
        return built
    kind, path = _path_of(spec)
    try:
        chosen = _KINDS[kind or _recognised(path)]
        _refuse(given, chosen.options, shown(spec))
        data = chosen.read(path, **given)
    except OSError as error:
        raise DataError(
            f"{shown(error.filename or path)} cannot be read ({error.strerror or error}); check "
            "its permissions."
        ) from error
    if not len(data):
        where = "" if split is None else f" in the split {split}"
        raise DataError(
            f"{shown(path)} has the right folders and no images{where}; unpack it again."
        )
    return data


def _built_in(spec: str) -> DataSet | None:
    """Return the built-in data set of a description, if it is one."""
    head, _, query = spec.partition("?")
    name, _, count = head.partition(":")
    if spec == "samples":
        return sample_set()
    if name != "shapes":
        return None
    settings: dict[str, Any] = {}
    try:
        if count:
            settings["count"] = int(count)
        for key, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
            settings[key] = _NUMBERS[key](value)
    except (KeyError, ValueError) as error:
        raise OptionError(
            f"{spec!r} cannot be read; give shapes, shapes:2000 or shapes:2000?seed=2&objects=2, "
            f"with {', '.join(_NUMBERS)} after the question mark."
        ) from error
    return shapes_set(**settings)


def _path_of(spec: str | Path) -> tuple[str | None, Path]:
    """Return the kind that is forced, if any, and the path, which exists."""
    head, colon, rest = str(spec).partition(":")
    kind = head if isinstance(spec, str) and colon and head in _KINDS else None
    path = Path(os.path.expanduser(rest if kind else spec))
    if not os.path.exists(path):
        kinds = ", ".join(_KINDS)
        raise DataError(
            f"{shown(path)} does not exist; give samples, shapes, a folder of images, or "
            f"kind:folder with one of the kinds {kinds}."
        )
    if not path.is_dir() and (path.suffix.lower() != ".csv" or kind not in (None, "folder")):
        raise DataError(
            f"{shown(path)} is a file; give the folder of the images, or a CSV of labels."
        )
    return kind, path


def _recognised(path: Path) -> str:
    """Return the first kind whose layout a folder has."""
    if path.is_file():
        return "folder"
    found = next((name for name, kind in _KINDS.items() if kind.fits(path)), None)
    if found is None:
        raise unknown_layout(path)
    return found


def _refuse(given: dict[str, Any], taken: frozenset[str], spec: str) -> None:
    """Insist that every option is one that the data set takes."""
    for name in given:
        if name not in taken:
            accepted = ", ".join(sorted(taken)) or "none"
            raise OptionError(f"{spec} takes no {name}; the options it takes are {accepted}.")

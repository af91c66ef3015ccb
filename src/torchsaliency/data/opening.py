"""Opens a data set by a short description: a folder, or the name of a registered kind."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from torchsaliency.data.dataset import DataSet
from torchsaliency.data.files import printable
from torchsaliency.data.places import is_pattern
from torchsaliency.errors import DataError, OptionError
from torchsaliency.registry import Entry, Registry

IN_MEMORY = "in memory: "
"""What stands before the name of a data set from Python, where a description is recorded."""

_GENERAL = "folder"
"""The kind that takes nearly any folder, and is tried last."""


@dataclass(frozen=True)
class DataSetEntry(Entry):
    """A registered kind of data set.

    Attributes:
        layout: how its files lie, as a tree; "" for a kind without files.
        finds: true of a folder that has that layout; None for a kind without files.
        takes: true of the name of a file, or of a pattern or an address, that the kind reads in
            place of a folder; None if there is none.
    """

    layout: str = ""
    finds: Callable[[Path], object] | None = None
    takes: Callable[[str], object] | None = None

    @property
    def options(self) -> Mapping[str, Any]:
        """The options and their defaults; the folder of a kind with files is none of them."""
        parameters = [*inspect.signature(self.factory).parameters.values()]
        return {field.name: field.default for field in parameters[self.finds is not None :]}


DATASETS: Registry[DataSetEntry] = Registry(
    "kind of data set", "torchsaliency.datasets", error=DataError
)

F = TypeVar("F", bound=Callable[..., DataSet])


def register_dataset(
    name: str,
    *,
    layout: str = "",
    finds: Callable[[Path], object] | None = None,
    takes: Callable[[str], object] | None = None,
) -> Callable[[F], F]:
    """Register the function that makes a kind of data set.

    With `finds`, the function takes a folder and is called for `name:FOLDER`, and for a folder that
    `finds` recognises. Without, it is called for `name`, `name:FIRST` and `name:FIRST?option=value`
    where FIRST is its first parameter. Its keyword parameters are options of `open_data`.

    Args:
        name: of the kind.
        layout: how its files lie, as a tree that errors show.
        finds: true of a folder that has that layout.
        takes: true of the name of a file that is read in place of a folder. It may be a pattern
            (`{00..49}.tar`) or an address (`s3://…`), which the function gets as a text.

    Raises:
        OptionError: the name is taken.

    Example:
        >>> @register_dataset("mine")
        ... def open_mine(path):
        ...     return image_folder(path)
        >>> "mine" in DATASETS.names()
        True
    """
    return DATASETS.decorate(lambda factory: DataSetEntry(name, factory, layout, finds, takes))


def open_data(spec: str | Path, **options: Any) -> DataSet:
    """Open a data set.

    Args:
        spec: "samples"; "shapes", "shapes:2000" or "shapes:2000?seed=2&objects=2&context=0.5"; a
            folder, whose layout is recognised; a tar, or a pattern such as
            "shards/{000..049}.tar"; or a folder after the kind it is to be read as: "imagenet:",
            "voc:", "chest-xray:", "kvasir:", "tar:" or "folder:". Plug-ins may add kinds.
        **options: of the kind; None stands for the default. `split` is part of a published data
            set, its validation or test images by default; `boxes` and `labels` are the files of
            ImageNet's, if they do not lie with the images; `seed` divides Kvasir, 0 by default.

    Raises:
        DataError: the data set is missing or has another layout; the message shows the expected
            one.
        OptionError: an option that this data set does not take.

    Example:
        >>> data = open_data("shapes:100?seed=5")
        >>> len(data), data.picture(3).sample.id
        (100, 'shapes/3')
    """
    if isinstance(spec, str) and spec.startswith(IN_MEMORY):
        raise DataError(
            f"The data set {spec.removeprefix(IN_MEMORY)} was given from Python and cannot be "
            "opened by its name; give it again as data=."
        )
    given = {name: value for name, value in options.items() if value is not None}
    entry, rest = _split(spec)
    if entry is not None and entry.finds is None:
        return _create(entry, rest, given)
    path = _find_path(os.path.expanduser(rest), entry)
    try:
        entry = entry or _recognise(path)
        reads = DataSetEntry(entry.name, functools.partial(entry.factory, path))
        data: DataSet = reads.create(given)
    except OSError as error:
        raise DataError(
            f"{printable(error.filename or path)} cannot be read ({error.strerror or error}); "
            "check its permissions."
        ) from error
    if not len(data):
        where = f" in the split {given['split']}" if "split" in given else ""
        raise DataError(
            f"{printable(path)} has the right folders and no images{where}; unpack it again."
        )
    return data


def _find_path(text: str, entry: DataSetEntry | None) -> Path | str:
    """Return the path of a folder or a file that is read in its place, or a pattern of such.

    Raises:
        DataError: it does not exist, or is a file that is not read.
    """
    kinds = [*DATASETS.entries().values()]
    asked = kinds if entry is None else [entry]
    taken = any(kind.takes is not None and kind.takes(text) for kind in asked)
    if taken and is_pattern(text):
        return text
    path = Path(text)
    if not os.path.exists(path):
        names, layouts = (
            ", ".join(kind.name for kind in kinds if (kind.finds is None) is without_files)
            for without_files in (True, False)
        )
        raise DataError(
            f"{printable(text)} does not exist; give {names}, a folder of images, or kind:folder "
            f"with one of the kinds {layouts}."
        )
    if not taken and not path.is_dir():
        raise DataError(
            f"{printable(path)} is a file; give the folder of the images, a CSV of labels, or a "
            ".tar."
        )
    return path


def _split(spec: str | Path) -> tuple[DataSetEntry | None, str]:
    """Return the kind that a description names, if any, and what follows it."""
    text = os.fspath(spec)
    if isinstance(spec, str):
        name = text.partition("?")[0].partition(":")[0]
        entry = DATASETS.entries().get(name)
        if entry is not None and (entry.finds is None or text.startswith(f"{name}:")):
            return entry, text[len(name) :].removeprefix(":")
    return None, text


def make_layout_error(kind: str, path: Path, found: str) -> DataError:
    """Return the error for a folder that does not hold what its kind needs.

    Args:
        kind: of the data set.
        path: that was given.
        found: what is wrong with it, as the sentence's predicate.
    """
    return DataError(
        f"{printable(path)} {found}; expected is\n\n{DATASETS.get(kind).layout.strip()}"
    )


def _create(entry: DataSetEntry, rest: str, given: dict[str, Any]) -> DataSet:
    """Make a data set without files from what follows its name: `FIRST?option=value&…`."""
    first, _, query = rest.partition("?")
    names = [*entry.options]
    try:
        settings = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise OptionError(
            f"{query!r} cannot be read ({error}); give options of {entry.name} as "
            f"{'=…&'.join(names)}=…."
        ) from error
    if first and not names:
        raise OptionError(f"{entry.name} takes nothing after its name, and {first!r} was given.")
    settings |= {names[0]: first} if first else {}
    data: DataSet = entry.create({**settings, **given})
    return data


def _recognise(path: Path | str) -> DataSetEntry:
    """Return the kind of a folder or a file: plug-ins are asked first, and plain folders last."""
    kinds = {name: entry for name, entry in DATASETS.entries().items() if entry.finds}
    general = kinds.pop(_GENERAL)
    for entry in [*reversed(kinds.values()), general]:
        if entry.takes is not None and entry.takes(os.fspath(path)):
            return entry
    path = Path(path)
    for entry in [*reversed(kinds.values()), general]:
        if entry.finds is not None and entry.finds(path):
            return entry
    trees = "\n\n".join(entry.layout.strip() for entry in [*kinds.values(), general])
    raise DataError(
        f"{printable(path)} holds no images in a known layout; expected is one of\n\n{trees}"
    )

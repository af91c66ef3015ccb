"""What a network takes beside its images, said in words: a row of numbers for each image.

`NAME=VALUE` gives an argument of the network's forward. VALUE is numbers for all images
(`age=63`, `meta=0.2,1.5`), columns of the data set's table (`meta=age,sex`), or a file with a row
for each image, or one for all. The command line and plans share this grammar.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.core.inputs import Inputs, find_images_argument, required_arguments
from torchsaliency.core.network import find_fact, unwrap
from torchsaliency.data.dataset import Sample
from torchsaliency.data.files import find_fault, list_names, printable, read_text
from torchsaliency.errors import DataError, InputError, OptionError, describe_error

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".json")

_MOST_NUMBERS = 64
"""Numbers of a row that a manifest lists; of a longer one it has the SHA-256."""


@final
@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image when its row is looked up.

    Attributes:
        name: by which `SideInputs.beside` finds its rows.
        aliases: other names that a file may call it.
        columns: of the data set's table, if it has one.
    """

    name: str
    aliases: tuple[str, ...] = ()
    columns: Mapping[str, str] | None = None


@final
@dataclass(frozen=True, eq=False)
class SideInputs:
    """The rows of all images.

    Attributes:
        of: the argument of the images.
        rows: by argument, (N, ...), in the order of `names`.
        names: of the images.
        words: what was given, by argument.
    """

    of: str
    rows: Mapping[str, Tensor]
    names: Sequence[str]
    words: Mapping[str, str]

    def __post_init__(self) -> None:
        places = {name: place for place, name in enumerate(self.names)}
        object.__setattr__(self, "_places", places)  # frozen, and set once

    def beside(self, images: Tensor, names: Sequence[str]) -> Inputs:
        """Return the network's inputs of some of the images (n, C, *size)."""
        places = torch.tensor([self._places[name] for name in names], device="cpu")  # type: ignore[attr-defined]
        rows = {name: rows[places].to(images.device) for name, rows in self.rows.items()}
        return Inputs({self.of: images, **rows}, self.of, follows=frozenset(rows))

    def describe(self) -> dict[str, Any]:
        """Return what a manifest says of all images (JSON types only)."""
        given = {
            name: {"value": word, "shape": [*rows.shape[1:]], "type": _type_of(rows)}
            for (name, rows), word in zip(self.rows.items(), self.words.values(), strict=True)
        }
        return {"of": self.of, "given": given}

    def describe_row(self, name: str) -> dict[str, Any]:
        """Return an image's numbers by argument, of long rows their SHA-256 (JSON types only)."""
        place = self._places[name]  # type: ignore[attr-defined]
        found: dict[str, Any] = {}
        for argument, rows in self.rows.items():
            row = rows[place]
            found[argument] = row.tolist() if row.numel() <= _MOST_NUMBERS else _digest(row)
        return found

    def identity(self) -> dict[str, Any]:
        """Return all that decides what the network is given (JSON types only)."""
        return {"of": self.of, "rows": {name: _digest(rows) for name, rows in self.rows.items()}}


def read_side_inputs(
    words: Sequence[str], of: str | None, images: Sequence[ImageFacts], model: nn.Module
) -> SideInputs | None:
    """Return what a network takes beside its images; None if nothing was given.

    Numbers of text (`NAME=63`, columns, JSON) are float32, and a row of one number has the shape
    (1,). Those of .npy, .npz and .pt keep their type and shape. JSON, .npz and .pt may hold rows by
    the names of the images' files; other files have them in the order of the images.

    Args:
        words: `NAME=VALUE` each.
        of: the argument of the images; None for the one that the network's forward has left.
        images: all of them, in order.
        model: the network, whose forward has the arguments.

    Raises:
        DataError: a file or a column cannot be read, or has not a finite row for each image.
        InputError: the argument of the images cannot be known, or another one is not given.
        OptionError: a word is no `NAME=VALUE`, or names an argument twice.
    """
    always = find_fact(model, "forward_kwargs") or {}
    net = unwrap(model)
    if not words and of is None and len({*required_arguments(net)} - {*always}) <= 1:
        return None
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or not value.strip():
            raise OptionError(
                f"The input {word!r} was given; accepted is NAME=VALUE, with an argument of the "
                "network's forward and numbers, columns of the labels or a file."
            )
        if name in given or name == of:
            raise OptionError(f"The input {name} was given twice; give each argument once.")
        given[name] = value.strip()
    images_argument = find_images_argument(net, {*given, *always}) if of is None else of
    needed = required_arguments(net)
    missing = {*needed} - {*given, *always, images_argument}
    if missing and images_argument in needed:  # or it takes one dict, or it says what it takes
        name = min(missing)
        raise InputError(
            f"The network's forward takes {name} beside {images_argument}, and it was not given; "
            f"say --input {name}=VALUE, or inputs in a plan."
        )
    rows = {name: _read_rows(name, value, images) for name, value in given.items()}
    return SideInputs(images_argument, rows, [image.name for image in images], given)


def list_images(samples: Iterable[Sample]) -> list[ImageFacts]:
    """Return what is known of images; a file's name stands for it if no other has that name."""
    samples = [*samples]
    files = {sample.source for sample in samples if isinstance(sample.source, Path)}
    count = Counter(file.name for file in files)
    return [
        ImageFacts(
            sample.id,
            (sample.source.name,)
            if isinstance(sample.source, Path) and count[sample.source.name] == 1
            else (),
            sample.columns,
        )
        for sample in samples
    ]


# --- one argument ---------------------------------------------------------------------------------


def _read_rows(name: str, value: str, images: Sequence[ImageFacts]) -> Tensor:
    """Return the rows (N, ...) of one argument."""
    words = [word.strip() for word in value.split(",")]
    columns = images[0].columns or {}
    numbers = [_number(word) for word in words]
    if all(number is not None for number in numbers):
        if ambiguous := columns.keys() & {*words}:
            raise DataError(
                f"The input {name}={value} was given, and {min(ambiguous)} is a number and also a "
                "column of the labels; give the column another name."
            )
        rows = torch.tensor([numbers], dtype=torch.float32, device="cpu")
    elif value.lower().endswith(SUFFIXES):
        rows = _read_file(Path(value).expanduser(), images)
    elif columns:
        return _check_finite(name, value, _read_columns(words, images))
    else:
        raise DataError(
            f"The input {name}={value} was given; accepted are numbers, a file "
            f"({', '.join(SUFFIXES)}), or columns of a data set's labels table, of which there is "
            "none."
        )
    if rows.ndim < 1 or len(rows) not in (1, len(images)):
        shape = tuple(rows.shape)
        raise DataError(
            f"The input {name}={printable(value)} has the shape {shape}, and there are "
            f"{len(images)} images; give a row for each, ({len(images)}, …), or one for all, "
            "(1, …)."
        )
    return _check_finite(name, value, rows.expand(len(images), *rows.shape[1:]))


def _check_finite(name: str, value: str, rows: Tensor) -> Tensor:
    if not bool(rows.isfinite().all()):
        raise DataError(
            f"The input {name}={printable(value)} has NaN or infinite numbers; give finite ones."
        )
    return rows


def _read_columns(words: Sequence[str], images: Sequence[ImageFacts]) -> Tensor:
    rows = []
    for image in images:
        columns = image.columns or {}
        if missing := [word for word in words if word not in columns]:
            raise DataError(
                f"The labels have no column {missing[0]!r} of {printable(image.name)}; they have "
                f"{list_names(sorted(columns))}."
            )
        row = [_number(columns[word]) for word in words]
        if None in row:
            word = words[row.index(None)]
            raise DataError(
                f"{printable(image.name)} has {columns[word]!r} in the column {word}, and an input "
                "of the network is a number; fill it in, or write words as numbers."
            )
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float32, device="cpu")


def _read_file(path: Path, images: Sequence[ImageFacts]) -> Tensor:
    """Return the rows of a file: of all images in order or by name, or one for all."""
    if fault := find_fault(path):
        raise DataError(f"{printable(path)} {fault}; give a file with a row for each image.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            found = json.loads(read_text(path))
        elif suffix in (".pt", ".pth"):
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            found = np.load(path, allow_pickle=False)
            if suffix == ".npz":
                found = {key: found[key] for key in found.files}
                found = next(iter(found.values())) if len(found) == 1 else found
        return _find_rows(found, images)
    except DataError:
        raise
    except Exception as error:  # a damaged file breaks its reader in many ways
        raise DataError(
            f"{printable(path)} has no rows that can be read ({describe_error(error)}); give "
            "numbers, a row for each image, all of one length."
        ) from error


def _find_rows(found: Any, images: Sequence[ImageFacts]) -> Tensor:
    if not isinstance(found, Mapping):
        return _as_rows(found)
    rows = []
    for image in images:
        key = next((name for name in (image.name, *image.aliases) if name in found), None)
        if key is None:
            raise DataError(
                f"The file of an input has no row for {printable(image.name)}; it has rows for "
                f"{list_names([*map(str, found)])}."
            )
        row = found[key]
        is_text = isinstance(row, list | float | int)
        rows.append(_as_rows([row]) if is_text else _as_tensor(row)[None])
    return torch.cat(rows)


def _as_rows(found: Any) -> Tensor:
    """Return rows of text as float32, at least (N, 1), and of typed numbers as they are."""
    if not isinstance(found, list):
        return _as_tensor(found)
    rows = torch.tensor(found, dtype=torch.float32, device="cpu")
    return rows[:, None] if rows.ndim == 1 else rows


def _as_tensor(found: Any) -> Tensor:
    if isinstance(found, np.ndarray):
        found = torch.from_numpy(np.ascontiguousarray(found))
    if not isinstance(found, Tensor):
        raise TypeError(f"a {type(found).__name__} is no array")
    return found.detach().clone()


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _type_of(rows: Tensor) -> str:
    return str(rows.dtype).removeprefix("torch.")


def _digest(rows: Tensor) -> str:
    digest = hashlib.sha256(f"{_type_of(rows)} {tuple(rows.shape)}".encode())
    digest.update(rows.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

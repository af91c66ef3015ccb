"""Data sets in tars, as WebDataset writes them: members that share a key are one sample.

The tars are indexed once (`tar_index`). Then an image is read by its place in its tar, where and
when it is used, in any order: worker processes get numbers and names, and no image but those that
they open. webdataset itself reads a tar from its first byte to its last, and has no such index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from os.path import isdir
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchsaliency.data.dataset import VOID, DataSet, Picture, Sample, spread_labels
from torchsaliency.data.files import (
    MISSING,
    files_in,
    find_fault,
    folders_in,
    images_in,
    list_names,
    printable,
    read_lines,
    readable_id,
)
from torchsaliency.data.opening import make_layout_error, register_dataset
from torchsaliency.data.photos import decode_photo
from torchsaliency.data.photosets import Box, place_boxes, read_mask
from torchsaliency.data.places import expand_braces, is_pattern, read_part
from torchsaliency.data.tables import number_labels
from torchsaliency.data.tar_index import BOX_FIELDS, IMAGES, Key, parse_json, read_index
from torchsaliency.errors import DataError, OptionError, describe_unknown

_CLASSES_FILE = "classes.txt"
_LONGEST_NAME = 100
"""Letters of a class's name; a longer .txt is a caption."""

_THREADS = 8
_PARTS = ("image", "json", "mask")
_ROW = np.dtype([("shard", "u4"), *((part, "i8", (2,)) for part in _PARTS)])
_NONE = -1

_LAYOUT = """
shards/
├── 000000.tar                        WebDataset: 1.jpg and, if known, 1.cls (or 1.json, 1.txt) …
├── 000001.tar …
└── classes.txt                       names of the classes, a line each, where labels are numbers
(or one .tar, or a pattern of them: tar:shards/{000000..000049}.tar)
"""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class TarSet(DataSet):
    """Images in tars.

    Attributes:
        shards: paths or addresses of the tars.
        places: by a sample's source: the number of its tar, and offset and size there of its image,
            its JSON (if there are boxes in it) and its mask; -1 without one.
        faults: by source, why an image cannot be used, as a predicate.
    """

    shards: tuple[str, ...] = field(repr=False)
    places: NDArray[Any] = field(repr=False)
    faults: Mapping[int, str] = field(default_factory=dict, repr=False)

    def picture(self, index: int) -> Picture:
        """Read one image, and its boxes and mask.

        Raises:
            DataError: its key has no image or several, or one of its members cannot be read.
        """
        sample = self.samples[index]
        row = int(str(sample.source))
        name = f"{self.shards[self.places[row]['shard']]}/{sample.id}"
        if fault := self.faults.get(row):
            raise DataError(f"{printable(name)} {fault}")
        image, frame = decode_photo(self._read(row, "image") or b"", name)
        boxes = mask = None
        if (text := self._read(row, "json")) is not None and (found := find_boxes(text, name)):
            boxes = place_boxes(found, None, frame, f"of {printable(name)}")
        if (drawn := self._read(row, "mask")) is not None:
            mask = read_mask(BytesIO(drawn), f"The mask of {printable(name)}", frame, VOID)
        return Picture(sample, image, boxes=boxes, mask=mask)

    def mark(self, sample: Sample) -> str:
        """Return hashes of the contents of the image, its boxes and its mask."""
        try:
            parts = [self._read(int(str(sample.source)), part) for part in _PARTS]
        except DataError:
            return MISSING
        return " ".join(
            "none" if part is None else hashlib.blake2b(part, digest_size=16).hexdigest()
            for part in parts
        )

    def outline(self, sample: Sample) -> tuple[int, str]:
        """Return the sizes of the image, its boxes and its mask, as the tar's headers have them."""
        sizes = [int(self.places[part][int(str(sample.source)), 1]) for part in _PARTS]
        return sum(size for size in sizes if size != _NONE), str(sizes)

    def _read(self, row: int, part: str) -> bytes | None:
        place = self.places[row]
        start, size = map(int, place[part])
        return None if size == _NONE else read_part(self.shards[place["shard"]], start, size)


def find_tars(path: Path) -> bool:
    """Whether a folder holds tars, and neither images nor folders."""
    return bool(_tars_in(path)) and not images_in(path) and not folders_in(path)


def takes_tars(text: str) -> bool:
    """Whether a text is a tar, or a pattern or an address of tars."""
    return text.lower().endswith(".tar")


@register_dataset("tar", layout=_LAYOUT, finds=find_tars, takes=takes_tars)
def tar_set(path: str | Path, *, split: str | None = None, labels: Path | None = None) -> TarSet:
    """Read tars of images (WebDataset).

    Args:
        path: a folder of tars, one tar, or a pattern or an address of tars.
        split: a folder in it that is read instead.
        labels: the names of the classes, a line each; by default `classes.txt` beside the tars.

    Raises:
        DataError: a tar is damaged, truncated or compressed, two samples have one key, a label does
            not fit, or there are no images.
        OptionError: there is no such split.
    """
    shards = _list_shards(path, split)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = [*pool.map(read_index, shards)]
    _check_keys(shards, found)
    keys = [*chain.from_iterable(index.values() for index in found)]
    names = [readable_id(name) for name in chain.from_iterable(found)]
    if not any("image" in key.members for key in keys):
        raise DataError(
            f"{printable(path)} has no images, and the keys {list_names(names)}; give tars with "
            f"members KEY.EXT, where EXT is one of {', '.join(sorted(IMAGES))}."
        )
    places = np.full(len(keys), _NONE, dtype=_ROW)
    places["shard"] = np.repeat(range(len(shards)), [*map(len, found)])
    for row, key in enumerate(keys):
        for part in key.members.keys() & {*_PARTS}:
            if part != "json" or key.has_boxes:
                places[part][row] = key.members[part]
    samples, classes = _list_samples(names, keys, _read_classes(shards[0], labels), str(path))
    annotations = {
        "labels": any(sample.label is not None for sample in samples),
        "boxes": any(key.has_boxes for key in keys),
        "masks": any("mask" in key.members for key in keys),
    }
    return TarSet(
        name="tar",
        samples=tuple(samples),
        classes=classes,
        annotations=frozenset(kind for kind, there in annotations.items() if there),
        facts=(f"split {split}",) if split else (),
        shards=tuple(shards),
        places=places,
        faults={row: key.fault for row, key in enumerate(keys) if key.fault},
    )


def find_boxes(text: bytes, where: str) -> list[Box]:
    """Return the boxes x0 y0 x1 y1 in a key's JSON: `boxes` of such, or `bbox` of x y w h (COCO).

    Raises:
        DataError: they are no lists of four numbers.
    """
    fields = parse_json(text, where)
    name = next(name for name in sorted(BOX_FIELDS, reverse=True) if name in fields)
    try:
        boxes = np.array(fields[name], dtype=float).reshape(-1, 4)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{printable(where)} has a {name} that is no list of four numbers each; give "
            '"boxes": [[x0, y0, x1, y1], …], or "bbox": [[x, y, width, height], …].'
        ) from error
    if name == "bbox":
        boxes[:, 2:] += boxes[:, :2]
    return [*map(tuple, boxes.tolist())]


def _list_shards(path: str | Path, split: str | None) -> list[str]:
    if is_pattern(path):
        if split is not None:
            raise OptionError(
                f"The split {split!r} was given with {printable(path)}; name the split's tars."
            )
        shards = expand_braces(str(path))
    else:
        place = Path(path)
        if split is not None:
            if not isdir(place / split):
                known = folders_in(place) if isdir(place) else []
                raise OptionError(describe_unknown("split", split, known, where=f" in {path}"))
            place = place / split
        shards = [str(place / name) for name in _tars_in(place)] if isdir(place) else [str(place)]
        if not shards:
            raise make_layout_error("tar", place, "holds no .tar")
    if missing := [shard for shard in shards if _is_missing(shard)]:
        raise DataError(
            f"{len(missing)} of {len(shards)} tars do not exist: {list_names(missing)}; give those "
            "that do."
        )
    return shards


def _is_missing(shard: str) -> bool:
    return "://" not in shard and find_fault(Path(shard)) == "does not exist"


def _tars_in(folder: Path) -> list[str]:
    return [name for name in files_in(folder) if takes_tars(name)]


def _check_keys(shards: Sequence[str], found: Sequence[Mapping[str, Key]]) -> None:
    holders: dict[str, str] = {}
    for shard, index in zip(shards, found, strict=True):
        for name in index:
            if (first := holders.setdefault(name, shard)) != shard:
                raise DataError(
                    f"The key {printable(name)} is in {printable(first)} and in "
                    f"{printable(shard)}; give every image a key of its own, or fewer tars."
                )


def _read_classes(shard: str, labels: Path | None) -> tuple[str, ...] | None:
    """Return the names of the classes, by their numbers; None where no file has them."""
    beside = Path(shard).with_name(_CLASSES_FILE)
    if labels is None and (is_pattern(shard) or not beside.is_file()):
        return None
    return tuple(map(readable_id, read_lines(labels or beside)))


def _list_samples(
    names: Sequence[str], keys: Sequence[Key], classes: tuple[str, ...] | None, where: str
) -> tuple[list[Sample], tuple[str, ...] | None]:
    """Return a sample for each key, or for each of its labels, and the names of the classes."""
    several = any(key.labels is not None for key in keys)
    words = [key.label for key in keys]
    if several:
        if any(key.has_boxes for key in keys):
            raise DataError(
                f"{printable(where)} has boxes beside several labels an image, and of which label "
                "a box is cannot be known; leave the boxes out, or give one label an image."
            )
    elif not any(words) and _are_names(texts := [key.text for key in keys]):
        words = texts
    lists = [
        key.labels or (() if word is None else (word,))
        for key, word in zip(keys, words, strict=True)
    ]
    every = {*chain.from_iterable(lists)}
    index: dict[str, int] = {}
    if classes is None:
        classes, index = number_labels(every, printable(where))
    else:
        index = {word: _find_class(word, classes, where) for word in every}
    if not several:
        return [
            Sample(name, row, index[found[0]] if found else None)
            for row, (name, found) in enumerate(zip(names, lists, strict=True))
        ], classes
    spelt = classes or tuple(map(str, range(max(index.values(), default=0) + 1)))
    return [
        sample
        for row, (name, found) in enumerate(zip(names, lists, strict=True))
        for sample in spread_labels(
            Sample(name, row), sorted({index[word] for word in found}), spelt
        )
    ], spelt


def _are_names(texts: Sequence[str | None]) -> bool:
    """Whether texts may be the names of classes: lines, and no captions."""
    return all(
        text is None or (len(text) <= _LONGEST_NAME and len(text.splitlines()) == 1)
        for text in texts
    )


def _find_class(word: str, classes: Sequence[str], where: str) -> int:
    if readable_id(word) in classes:
        return classes.index(readable_id(word))
    if word.isascii() and word.isdecimal() and int(word) < len(classes):
        return int(word)
    raise DataError(
        describe_unknown(
            "class", word, classes, where=f" in {printable(where)} (0 to {len(classes) - 1})"
        )
    )

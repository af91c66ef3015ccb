"""What lies where in a tar: members that share a key, found by reading the headers alone.

A member `KEY.EXT` is named up to the first dot after its folders, as WebDataset names it. tarfile
seeks over the contents of images and masks; the small members that hold labels are read. Nothing is
ever extracted to a disk, and links, devices and sparse files are left out, so that a member's name
is a name and nothing else.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torchsaliency.data.files import LEFT_BY_SYSTEMS, PHOTO_SUFFIXES, printable
from torchsaliency.data.places import open_place
from torchsaliency.errors import DataError, describe_error

IMAGES = frozenset(suffix[1:] for suffix in PHOTO_SUFFIXES) - {"dcm", "dicom"}
"""Extensions of a key's image."""

MASKS = frozenset({"mask.png", "seg.png"})
"""Extensions of a key's mask, a PNG of palette indices."""

LABEL_FIELDS = ("label", "cls", "class")
"""Of a key's JSON, those that may hold its label; the first one there counts."""

BOX_FIELDS = frozenset({"boxes", "bbox"})
"""Of a key's JSON, lists of x0 y0 x1 y1 and of x y width height, in the image's pixels."""

_TEXTS = frozenset({"cls", "json", "txt"})
_MOST_TEXT = 1 << 20
_BLOCK = 512
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@final
@dataclass
class Key:
    """What a tar holds of a key.

    Attributes:
        members: offset and size of its "image", "mask", "json", "cls" and "txt".
        label: of its .cls or .json, as it is written.
        labels: all that are true of it, of its .json; None if that has no such list.
        text: of its .txt.
        has_boxes: whether its .json has boxes.
        repeated: extensions of members that are there beside another of their kind.
    """

    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    label: str | None = None
    labels: tuple[str, ...] | None = None
    text: str | None = None
    has_boxes: bool = False
    repeated: list[str] = field(default_factory=list)

    @property
    def fault(self) -> str:
        """Why it cannot be used, as a predicate; "" if it can."""
        if self.repeated:
            return (
                f"is the key of two members of one kind, the second .{self.repeated[0]}, and "
                "which counts cannot be known; give every image a key of its own."
            )
        if "image" not in self.members:
            return "has a label or a mask and no image; add the image, or take them out."
        return ""


def read_index(place: str) -> dict[str, Key]:
    """Return the keys of a tar in their order.

    Args:
        place: its path or address.

    Raises:
        DataError: it cannot be read, is compressed, damaged or truncated, or holds a label that
            cannot be read.
    """
    keys: dict[str, Key] = {}
    with open_place(place) as file:
        _refuse_compressed(file, place)
        for member in _read_headers(file, place):
            split = _split_name(member.name)
            if split is None or not member.isreg() or member.issparse():
                continue
            name, extension = split
            kind = _find_kind(extension)
            if kind is None:
                continue
            key = keys.setdefault(name, Key())
            if kind in key.members:
                key.repeated.append(extension)
            key.members[kind] = (member.offset_data, member.size)
            if kind in _TEXTS:
                _add_text(key, kind, _read_text(file, member, place), f"{place}/{member.name}")
    return keys


def parse_json(text: bytes | str, where: str) -> Mapping[str, Any]:
    """Return the fields of a key's JSON.

    Raises:
        DataError: it is none, or no object.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{printable(where)} is no JSON that can be read ({describe_error(error)}); save it "
            "again."
        ) from error
    if not isinstance(fields, dict):
        raise DataError(
            f"{printable(where)} is a {type(fields).__name__} and no object; give fields such as "
            '{"label": 3}.'
        )
    return fields


def _read_headers(file: Any, place: str) -> Iterator[tarfile.TarInfo]:
    last = -1
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if tar.offset <= last or member.size < 0:  # or it would be read in a circle
                    raise tarfile.ReadError("a member has a negative size")
                last = tar.offset
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every header
                yield member
            file.seek(tar.offset)
            end = file.read(_BLOCK)
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{printable(place)} is truncated or damaged, or no tar ({describe_error(error)}); get "
            "the file again."
        ) from error
    if len(end) < _BLOCK or any(end):
        raise DataError(
            f"{printable(place)} is truncated or damaged: at byte {last if last > 0 else 0} there "
            "is neither a member nor a tar's end; get the file again."
        )


def _refuse_compressed(file: Any, place: str) -> None:
    head = file.read(max(map(len, _COMPRESSED)))
    file.seek(0)
    for magic, program in _COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(
                f"{printable(place)} is compressed by {program}, and a compressed tar can only be "
                "read from its beginning to its end; unpack it to a .tar (images are compressed "
                "already)."
            )


def _split_name(name: str) -> tuple[str, str] | None:
    """Return key and extension of a member; None of a hidden one, or one without either."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if not parts or any(
        (part.startswith(".") and part != "..") or part in LEFT_BY_SYSTEMS for part in parts
    ):
        return None
    stem, _, extension = parts[-1].partition(".")
    return ("/".join([*parts[:-1], stem]), extension.lower()) if stem and extension else None


def _find_kind(extension: str) -> str | None:
    if extension in IMAGES:
        return "image"
    if extension in MASKS:
        return "mask"
    return extension if extension in _TEXTS else None


def _read_text(file: Any, member: tarfile.TarInfo, place: str) -> str:
    where = printable(f"{place}/{member.name}")
    if member.size > _MOST_TEXT:
        raise DataError(f"{where} has {member.size} bytes; give labels of at most {_MOST_TEXT}.")
    file.seek(member.offset_data)
    try:
        text: str = file.read(member.size).decode("utf-8-sig").strip()
    except ValueError as error:
        raise DataError(f"{where} is no text in UTF-8; save it so.") from error
    return text


def _add_text(key: Key, kind: str, text: str, where: str) -> None:
    if kind == "txt":
        key.text = text or None
    elif kind == "cls":
        key.label = _read_label(text, where)
    else:
        fields = parse_json(text, where)
        found = next((fields[name] for name in LABEL_FIELDS if name in fields), None)
        if key.label is None and found is not None:
            key.label = _read_label(found, where)
        if isinstance(several := fields.get("labels"), list):
            key.labels = tuple(_read_label(label, where) for label in several)
        key.has_boxes = not BOX_FIELDS.isdisjoint(fields)


def _read_label(found: Any, where: str) -> str:
    if isinstance(found, str | int) and not isinstance(found, bool) and str(found).strip():
        return str(found).strip()
    raise DataError(
        f"{printable(where)} has the label {str(found)[:40]!r}; give a class number or a name."
    )

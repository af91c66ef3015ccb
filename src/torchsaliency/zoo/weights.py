"""Opens weights files, safetensors or torch, and executes nothing in them."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from torchsaliency.core.runtime import without_warnings
from torchsaliency.data.files import find_fault
from torchsaliency.errors import CheckpointError, describe_error, shorten

_CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
_ACCEPTED = "a .safetensors file or one that torch.save wrote"
_MOST_LISTED = 4
_MOST_TENSORS = 100_000
_FOLDER = 0x10
"""The attribute of folders in a zip archive."""

_ZIP_END = 22
"""Bytes of the record that ends a zip archive, before its comment."""

_HEAD = 1024
"""Bytes that tell a web page or a text from a damaged file."""


def read_content(path: Path) -> tuple[OrderedDict[str, Tensor], Any]:
    """Return the tensors of a weights file, with the layout versions that torch stores with them.

    Returns:
        The tensors, and all that the file holds.

    Raises:
        CheckpointError: the file is damaged, carries code, or holds no state dict of dense tensors.
    """
    content = _read(path)
    found = _find_state_dict(content, path)
    _require_count(len(found), path)
    _require_plain_tensors(found, path)
    tensors = OrderedDict((key, tensor.detach()) for key, tensor in found.items())
    tensors._metadata = _layout_versions(found)  # type: ignore[attr-defined]
    return tensors, content


def require_file(path: Path) -> None:
    """Refuse a path that is no file with content.

    Raises:
        CheckpointError: as described.
    """
    if fault := find_fault(path):
        raise CheckpointError(f"The weights file {path} {fault}; give {_ACCEPTED}.")


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"The weights file {path} may not be read ({error.strerror or error}); check its "
            "permissions."
        ) from error


def make_damage_error(path: Path, reason: str = "") -> CheckpointError:
    """Return the error for a file that cannot be decoded."""
    reason = describe_content(path) or reason
    return CheckpointError(
        f"{path} is truncated or is no weights file{f' ({reason})' if reason else ''}; get it "
        f"again, as {_ACCEPTED}."
    )


def list_names(names: Iterable[str]) -> str:
    """Return the first few names for a message, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    return f"{', '.join(shorten(name) for name in listed[:_MOST_LISTED])}{more}"


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                count = len(file.keys())
            _require_count(count, path)
            return load_file(path)
        except CheckpointError:
            raise
        except Exception as error:  # the library raises several types for a damaged file
            raise make_damage_error(path, describe_error(error)) from error
    try:
        fault = _archive_fault(path)
    except Exception as error:  # as above
        raise make_damage_error(path, describe_error(error)) from error
    if fault:
        raise make_damage_error(path, fault)
    # Training scripts keep their command line beside the weights; a Namespace is a bag of values.
    # One thread at a time: torch's list of safe types belongs to the whole process.
    with without_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "GLOBAL" not in str(error).upper():
                raise make_damage_error(path) from error
            raise CheckpointError(
                f"{path} holds Python objects besides tensors, and loading them would run code, so "
                "nothing was loaded; "
                "save the network's weights alone with torch.save(model.state_dict(), path)."
            ) from error
        except Exception as error:  # torch's readers raise many types for a damaged file
            raise make_damage_error(path) from error


def _archive_fault(path: Path) -> str:
    """Return why torch must not see an archive: it compares no checksums, and may run programs.

    torch.save writes a zip archive of uncompressed files, with checksums unless it was told
    otherwise; then all are zero.
    """
    if not _is_zip(path):
        # torch before 2.6 runs the code in a tar archive
        return "it is a tar archive, or empty" if tarfile.is_tarfile(path) else ""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        file.seek(-_ZIP_END - len(archive.comment), os.SEEK_END)
        faults = {
            "there are bytes behind its end": file.read(4) != b"PK\x05\x06",
            "it is a TorchScript program": any(
                PurePosixPath(entry.filename).name == "constants.pkl" for entry in entries
            ),
            # torch would take what lies in memory for their content
            "its files are marked as folders": any(
                entry.external_attr & _FOLDER for entry in entries
            ),
            "it is compressed": any(entry.compress_type != zipfile.ZIP_STORED for entry in entries),
        }
        for fault, found in faults.items():
            if found:
                return fault
        checked = any(entry.CRC for entry in entries)
        return "its checksums do not hold" if checked and archive.testzip() is not None else ""


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def describe_content(path: Path) -> str:
    """Return what a file holds instead of weights, "" where that cannot be said."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        text = head.decode("utf-8", errors="strict" if len(head) < _HEAD else "ignore")
    except (OSError, ValueError):
        return ""
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return ""
    if text.startswith("version https://git-lfs"):
        return "it is a pointer of Git LFS, so run `git lfs pull`"
    return "it is a web page" if text.lstrip().startswith("<") else "it is a text"


def _find_state_dict(content: Any, path: Path) -> Mapping[str, Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        candidates = [content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)]
        candidates.append(content)
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and _all_tensors(candidate):
            return candidate
    found = f"an object of type {type(content).__name__}"
    if isinstance(content, Mapping):
        found = f"the entries {list_names(map(str, content))}" if content else "nothing"
    raise CheckpointError(
        f"{path} holds {found} and no state dict; accepted is a dictionary of tensors, "
        f"bare or under {', '.join(_CONTAINERS)}."
    )


def _all_tensors(candidate: Mapping[Any, Any]) -> bool:
    return all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in candidate.items()
    )


def _require_count(count: int, path: Path) -> None:
    if count > _MOST_TENSORS:
        raise CheckpointError(
            f"{path} holds {count} tensors, where networks have {_MOST_TENSORS} at most; give the "
            "weights of one network."
        )


def _require_plain_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    kinds = {key: _special_kind(tensor) for key, tensor in tensors.items()}
    special = {key: kind for key, kind in kinds.items() if kind}
    if special:
        kind = next(iter(special.values()))
        raise CheckpointError(
            f"{path} holds tensors that are {kind}: {list_names(special)}; accepted are dense ones "
            "with their values, so save model.state_dict() of the unconverted network."
        )


def _special_kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout is not torch.strided:
        return "sparse"
    return "on the meta device, without values" if tensor.is_meta else ""


def _layout_versions(found: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """Return the versions of the modules' layouts, by module, where they are what torch writes."""
    versions = getattr(found, "_metadata", None)
    if not isinstance(versions, Mapping):
        return {}
    return {
        key: {"version": facts["version"]}
        for key, facts in versions.items()
        if isinstance(key, str)
        and isinstance(facts, Mapping)
        and isinstance(facts.get("version"), int)
    }

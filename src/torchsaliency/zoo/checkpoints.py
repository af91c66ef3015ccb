"""Reads weights files, safetensors or torch, and executes nothing in them.

A file either fills every parameter of the network or is refused; there are no half-loaded networks.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from torchsaliency.core.errors import CheckpointError
from torchsaliency.zoo.preprocessing import Preprocessing

_NOTE = "torchsaliency"
"""The entry of a safetensors file's metadata that holds a `Note`."""

_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MOST_LISTED = 4


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a weights file.

    Attributes:
        path: the file.
        sha256: of the file, in hexadecimal.
        tensors: parameters and buffers by name.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]

    def renamed(self, rename: Callable[[str], str]) -> Checkpoint:
        """Return the checkpoint with its tensors' names changed."""
        return replace(self, tensors=_renamed(self.tensors, rename))

    def without_prefixes(self, model: nn.Module) -> Checkpoint:
        """Return the checkpoint without the prefixes that training puts before every name."""
        return replace(self, tensors=_without_prefixes(self.tensors, model.state_dict()))

    def fill(self, model: nn.Module) -> None:
        """Load every tensor into the network.

        Raises:
            CheckpointError: a name or a shape differs; the first few are listed.
        """
        wanted = model.state_dict()
        tensors = self.without_prefixes(model).tensors
        # files older than torch 0.4.1 do not count batches, and evaluation does not need the count
        missing = [
            key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")
        ]
        unexpected = [key for key in tensors if key not in wanted]
        misshaped = _misshaped(tensors, wanted)
        if missing or unexpected or misshaped:
            described = [
                f"{key} is {_shape(tensors[key])} for {_shape(wanted[key])}" for key in misshaped
            ]
            problems = (
                _problem("missing", missing),
                _problem("unexpected", unexpected),
                _problem("of another shape", described),
            )
            raise CheckpointError(
                f"{self.path} does not fit the {type(model).__name__}: "
                f"{'; '.join(filter(None, problems))}; "
                "give the weights of this architecture (and num_classes= where its number of "
                "classes differs)."
            )
        try:
            model.load_state_dict(tensors, strict=False)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} does not fit the {type(model).__name__} ({_first_line(error)}); "
                "give the weights of this architecture."
            ) from error

    def class_count(self, model: nn.Module) -> int | None:
        """Return the file's number of classes when only the classifier's size differs."""
        wanted = model.state_dict()
        tensors = self.without_prefixes(model).tensors
        misshaped = _misshaped(tensors, wanted)
        if any(_shape(tensors[key])[1:] != _shape(wanted[key])[1:] for key in misshaped):
            return None
        counts = {len(tensors[key]) for key in misshaped if tensors[key].ndim}
        return counts.pop() if len(counts) == 1 else None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a safetensors or torch weights file.

    A state dict is accepted bare or under `state_dict`, `model_state_dict` or `model`.

    Raises:
        CheckpointError: the file is missing, damaged, carries code, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"The weights file {path} {what}; give a .safetensors file or one that torch.save "
            "wrote."
        )
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"The weights file {path} cannot be read ({error.strerror}); check its permissions."
        ) from error
    read = _read_safetensors if path.suffix.lower() == ".safetensors" else _read_torch
    return Checkpoint(path=path, sha256=sha256, tensors=_state_dict(read(path), path))


@dataclass(frozen=True)
class Note:
    """What a weights file says of its network beside the tensors.

    Attributes:
        classes: names of the outputs, in order.
        preprocessing: that the network was trained with.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def metadata(self) -> dict[str, str]:
        """Return the metadata for a safetensors file.

        It is one entry, so that equal files have equal bytes: several are written in any order.
        """
        facts = {"classes": self.classes, "preprocessing": self.preprocessing.to_dict()}
        return {_NOTE: json.dumps(facts, ensure_ascii=False)}


def read_note(path: str | Path) -> Note | None:
    """Return what a safetensors file says of its network, None where it says nothing.

    Only the file's header is read.

    Raises:
        CheckpointError: it says something that cannot be understood.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_NOTE)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if text is None:
        return None
    try:
        facts = json.loads(text)
        classes = tuple(map(str, facts["classes"]))
        return Note(classes, Preprocessing.from_dict(facts["preprocessing"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"The metadata of {path} cannot be understood ({_first_line(error)}); write the file "
            f"again, without the entry {_NOTE!r} or as `torchsaliency finetune` writes it."
        ) from error


def state_dict_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous()
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    # training scripts keep their command line beside the weights; a Namespace is a bag of values
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "GLOBAL" not in str(error).upper():
                raise _damaged(path, error) from error
            raise CheckpointError(
                f"{path} holds Python objects besides tensors, and loading them would run code, so "
                "nothing was loaded; "
                "save the network's weights alone with torch.save(model.state_dict(), path)."
            ) from error
        except Exception as error:  # torch's readers raise many types for a damaged file
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or is no weights file ({_first_line(error)}); "
        "get it again, as a .safetensors file or one that torch.save wrote."
    )


def _state_dict(content: Any, path: Path) -> Mapping[str, Tensor]:
    """Return the state dict inside a file's content."""
    candidates = [content]
    if isinstance(content, Mapping):
        candidates = [content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)]
        candidates.append(content)
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and _all_tensors(candidate):
            return candidate
    found = (
        f"the entries {', '.join(map(str, list(content)[:_MOST_LISTED]))}"
        if isinstance(content, Mapping)
        else f"a {type(content).__name__}"
    )
    raise CheckpointError(
        f"{path} holds {found} and no state dict; accepted is a dictionary of tensors, "
        f"bare or under {', '.join(_CONTAINERS)}."
    )


def _all_tensors(candidate: Mapping[Any, Any]) -> bool:
    return all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in candidate.items()
    )


def _without_prefixes(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Take off the prefixes that data-parallel, compiled and Lightning training leave."""
    while True:
        for prefix in _PREFIXES:
            ours = any(key.startswith(prefix) for key in wanted)
            if tensors and not ours and all(key.startswith(prefix) for key in tensors):
                tensors = _renamed(tensors, functools.partial(_stripped, prefix))
                break
        else:
            return tensors


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> Mapping[str, Tensor]:
    """Rename the tensors, keeping the layout versions that torch stores with a state dict."""
    renamed = OrderedDict((rename(key), tensor) for key, tensor in tensors.items())
    versions: Mapping[str, Any] = getattr(tensors, "_metadata", {})
    moved = {rename(f"{key}.").removesuffix("."): value for key, value in versions.items()}
    renamed._metadata = moved  # type: ignore[attr-defined]
    return renamed


def _stripped(prefix: str, key: str) -> str:
    return key.removeprefix(prefix)


def _misshaped(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    return [key for key in tensors if key in wanted and tensors[key].shape != wanted[key].shape]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _problem(what: str, keys: Iterable[str]) -> str:
    listed = list(keys)
    if not listed:
        return ""
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    return f"{what}: {', '.join(listed[:_MOST_LISTED])}{more}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__

"""Weights files and the networks that they fill: exactly, or not at all.

A file either fills every parameter of the network or is refused; there are no half-loaded networks.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.core.errors import CheckpointError
from torchsaliency.zoo.messages import describe_error
from torchsaliency.zoo.notes import Note, read_note
from torchsaliency.zoo.weights import file_sha256, list_names, read_tensors

__all__ = [
    "Checkpoint",
    "Note",
    "read_checkpoint",
    "read_note",
    "require_finite",
    "state_dict_sha256",
    "tensors_sha256",
]

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

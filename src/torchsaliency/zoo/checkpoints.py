"""Weights files and the networks that they fill: exactly, or not at all.

A file either fills every parameter of the network or is refused; there are no half-loaded networks.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.errors import CheckpointError, describe_error
from torchsaliency.zoo.inputs import InputFacts, find_facts
from torchsaliency.zoo.notes import Note, read_note
from torchsaliency.zoo.weights import file_sha256, list_names, read_content, require_file

__all__ = [
    "Checkpoint",
    "Note",
    "read_checkpoint",
    "read_note",
    "require_finite",
    "state_dict_sha256",
    "tensors_sha256",
]

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
_MOST_PREFIXES = 8
_UNCOUNTED = "num_batches_tracked"
"""Files older than torch 0.4.1 do not count batches, averaged ones count them in fractions."""

_FLOATING = {torch.float32, torch.float64, torch.float16, torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a weights file.

    Attributes:
        path: the file.
        sha256: of the file, in hexadecimal.
        tensors: parameters and buffers by name.
        facts: what the file says of the network's input.
        options: the hyper-parameters of training (Lightning's) that are plain values.
        stripped: what `without_prefixes` took off and left out, in words.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    facts: InputFacts = field(default_factory=InputFacts)
    options: Mapping[str, Any] = field(default_factory=dict)
    stripped: str = ""

    def rename(self, rename: Callable[[str], str]) -> Checkpoint:
        """Return the checkpoint with its tensors' names changed.

        Raises:
            CheckpointError: two tensors get one name.
        """
        tensors = _rename(self.tensors, rename)
        if len(tensors) < len(self.tensors):
            raise CheckpointError(
                f"{self.path} holds several tensors under spellings of one name; give a file with "
                "each tensor once."
            )
        return replace(self, tensors=tensors)

    def without_prefixes(self, model: nn.Module) -> Checkpoint:
        """Return the checkpoint without the prefixes that training puts before every name.

        Tensors beside the network's, such as a loss's, are left out if the prefix is not theirs.
        """
        tensors, stripped = _without_prefixes(self.tensors, model.state_dict())
        return replace(self, tensors=tensors, stripped=stripped)

    def fill(self, model: nn.Module) -> None:
        """Load every tensor into the network.

        Raises:
            CheckpointError: a name, a shape or a type differs, or there are numbers that are not
                finite; the first few are listed.
        """
        wanted = model.state_dict()
        checkpoint = self.without_prefixes(model)
        tensors = checkpoint.tensors
        missing = [key for key in wanted if key not in tensors and not key.endswith(_UNCOUNTED)]
        unexpected = [key for key in tensors if key not in wanted]
        misshaped = _find_misshaped(tensors, wanted)
        if missing or unexpected or misshaped:
            described = [
                f"{key} is {_shape(tensors[key])} for {_shape(wanted[key])}" for key in misshaped
            ]
            problems = {
                "missing": missing,
                "unexpected": unexpected,
                "of another shape": described,
            }
            listed = [f"{what}: {list_names(names)}" for what, names in problems.items() if names]
            raise CheckpointError(
                f"{self.path} does not fit the {type(model).__name__}: {'; '.join(listed)}; "
                "give the weights of this architecture (and num_classes= where its number of "
                "classes differs)."
            )
        checkpoint.check_values(model)
        try:
            model.load_state_dict(tensors, strict=False)
        except Exception as error:  # a module's own code may take part
            raise CheckpointError(
                f"{self.path} does not fit the {type(model).__name__} ({describe_error(error)}); "
                "give the weights of this architecture."
            ) from error

    def check_values(self, model: nn.Module) -> None:
        """Refuse tensors whose types or numbers cannot be those of the network's.

        Raises:
            CheckpointError: of the names that the network has, one has integers for floating-point
                numbers or the other way round, or one holds NaN or infinity.
        """
        wanted = model.state_dict()
        matched = {key: value for key, value in self.tensors.items() if key in wanted}
        mistyped = [
            f"{key} is {_type(tensor)} for {_type(wanted[key])}"
            for key, tensor in matched.items()
            if not _fits(tensor.dtype, wanted[key].dtype, key)
        ]
        if mistyped:
            raise CheckpointError(
                f"{self.path} holds numbers of another type than the {type(model).__name__}: "
                f"{list_names(mistyped)}; give floating-point weights, as they were trained."
            )
        converted = ((key, tensor.to(wanted[key].dtype)) for key, tensor in matched.items())
        require_finite(converted, model, str(self.path))

    def class_count(self, model: nn.Module) -> int | None:
        """Return the file's number of classes when only the classifier's size differs."""
        wanted = model.state_dict()
        tensors = self.without_prefixes(model).tensors
        misshaped = _find_misshaped(tensors, wanted)
        if any(_shape(tensors[key])[1:] != _shape(wanted[key])[1:] for key in misshaped):
            return None
        counts = {len(tensors[key]) for key in misshaped if _is_whole(tensors[key])}
        return counts.pop() if len(counts) == 1 else None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a safetensors or torch weights file.

    A state dict is accepted bare or under `state_dict`, `model_state_dict` or `model`. Where a
    `Note` beside it has the tensors' SHA-256, they are compared with it.

    Raises:
        CheckpointError: the file is missing, damaged, carries code, or holds no state dict of dense
            tensors.
    """
    path = Path(path)
    require_file(path)
    sha256, (tensors, content), note = file_sha256(path), read_content(path), read_note(path)
    if note is not None and note.sha256 not in {None, tensors_sha256(tensors)}:
        raise CheckpointError(
            f"{path} is damaged: its tensors are not those whose checksum stands beside them; get "
            "the file again."
        )
    return Checkpoint(path, sha256, tensors, find_facts(content), _plain_options(content))


def _plain_options(content: Any) -> dict[str, Any]:
    """Return the hyper-parameters that Lightning keeps, as far as they are plain values."""
    kept = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    if not isinstance(kept, Mapping):
        return {}
    return {str(key): value for key, value in kept.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors, in any order: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_dict_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers: names, types, shapes and bytes."""
    state = model.state_dict().items()
    return tensors_sha256({key: value for key, value in state if isinstance(value, Tensor)})


def require_finite(tensors: Iterable[tuple[str, Tensor]], model: nn.Module, weights: str) -> None:
    """Refuse weights that make every answer of the network NaN.

    Parameters must be finite; a buffer may hold infinity, as masks of attention do, but not NaN.

    Args:
        tensors: names, as in the network's state dict, and values of its types.
        model: tells parameters from buffers.
        weights: what they are called in the message.

    Raises:
        CheckpointError: as described; the first few tensors are named.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    broken = [
        key
        for key, tensor in tensors
        if not (tensor.isfinite() if key in parameters else ~tensor.isnan()).all()
    ]
    if broken:
        raise CheckpointError(
            f"{weights} holds NaN or infinite numbers in {list_names(broken)}; give weights of a "
            "training that did not diverge."
        )


def _without_prefixes(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], str]:
    """Take off the prefixes that data-parallel, compiled and Lightning training leave.

    Returns:
        The tensors, and in words what was taken off and left out.
    """
    taken, beside = "", []
    for _ in range(_MOST_PREFIXES):
        for prefix in _PREFIXES:
            ours = any(key.startswith(prefix) for key in wanted)
            under = [key for key in tensors if key.startswith(prefix)]
            whole = len(under) == len(tensors) or _covers(
                {key.removeprefix(prefix) for key in under}, wanted
            )
            if under and not ours and whole:
                beside += [taken + key for key in tensors if not key.startswith(prefix)]
                kept = _with_versions({key: tensors[key] for key in under}, tensors)
                tensors, taken = _rename(kept, functools.partial(_strip, prefix)), taken + prefix
                break
        else:
            break
    left_out = f", left out: {list_names(beside)}" if beside else ""
    return tensors, f"the prefix {taken}{left_out}" if taken else ""


def _covers(names: set[str], wanted: Mapping[str, Tensor]) -> bool:
    """Whether names are, after further prefixes, all that the network has."""
    if all(key in names or key.endswith(_UNCOUNTED) for key in wanted):
        return True
    under = ({key.removeprefix(p) for key in names if key.startswith(p)} for p in _PREFIXES)
    return any(found and _covers(found, wanted) for found in under)


def _with_versions(
    kept: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return some of the tensors with the layout versions that torch stores with them all."""
    found = OrderedDict(kept)
    found._metadata = getattr(tensors, "_metadata", {})  # type: ignore[attr-defined]
    return found


def _rename(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> Mapping[str, Tensor]:
    """Rename the tensors, keeping the layout versions that torch stores with a state dict."""
    renamed = OrderedDict((rename(key), tensor) for key, tensor in tensors.items())
    versions: Mapping[str, Any] = getattr(tensors, "_metadata", {})
    moved = {rename(f"{key}.").removesuffix("."): value for key, value in versions.items()}
    renamed._metadata = moved  # type: ignore[attr-defined]
    return renamed


def _strip(prefix: str, key: str) -> str:
    return key.removeprefix(prefix)


def _find_misshaped(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    return [key for key in tensors if key in wanted and tensors[key].shape != wanted[key].shape]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor has a first axis, and each of its numbers stands in the file."""
    return bool(tensor.ndim) and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _fits(found: torch.dtype, wanted: torch.dtype, key: str) -> bool:
    """Whether numbers of one type can be loaded as another."""
    if wanted.is_floating_point or wanted.is_complex:
        return found in _FLOATING or (found == wanted)
    whole = not (found.is_floating_point or found.is_complex)
    return whole or (found in _FLOATING and key.endswith(_UNCOUNTED))

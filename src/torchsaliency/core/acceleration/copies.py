"""Copies of a network, and whether one still is the network: structure, weights and attributes.

Counters of changes do not tell: writing through `.data` counts nothing, and nothing counts when a
module is replaced or an option set. So numbers are compared, once a call of the library: a fifth of
what one image's pass takes.
"""

from __future__ import annotations

import copy
import enum
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

_LEFT_OUT = frozenset(
    {"training", "_parameters", "_buffers", "_modules", "_compiled_call_impl"}
    | {"_non_persistent_buffers_set", "_is_full_backward_hook", "_version"}
)
"""Attributes of a module that do not decide its numbers, or are compared apart."""

_PLAIN = (
    *(bool, int, float, complex, str, bytes, range, slice, enum.Enum, type(None), type(...)),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout),
)


def copy_network(net: nn.Module) -> nn.Module:
    """Return a deep copy of a network, also of one that keeps tensors of a graph.

    Such tensors (features that a pass left behind) are out of the graph in the copy.
    """
    kept = {id(t): t.detach().clone() for t in _graph_tensors(net, set())}
    copied: nn.Module = copy.deepcopy(net, dict(kept))
    return copied


def _graph_tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Find the tensors that torch refuses to copy."""
    if id(value) in seen or isinstance(value, _PLAIN):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value
        return
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    elif not isinstance(value, type | types.ModuleType | types.FunctionType):
        parts = getattr(value, "__dict__", {}).values()
    for part in parts:
        yield from _graph_tensors(part, seen)


@final
class Likeness:
    """What a network was when it was copied.

    Args:
        net: the network.
        copied: its copy, whose weights it is compared with.
    """

    def __init__(self, net: nn.Module, copied: nn.Module) -> None:
        self._copied = copied
        self._modules = _structure(net)
        self._attributes = _attributes(net)
        self._steady = set(self._attributes)
        self._known = set(self._attributes)
        self._written: set[str] = set()

    def ignore_what_passes_write(self, net: nn.Module, versions: Mapping[str, int]) -> None:
        """Leave out what a pass changed: attributes, and buffers whose count of changes grew."""
        now = _attributes(net)
        self._steady = {
            name for name, value in self._attributes.items() if now.get(name, _NONE) == value
        }
        self._known |= now.keys()
        after = buffer_versions(net)
        self._written = {name for name, version in versions.items() if after.get(name) != version}

    def matches(self, net: nn.Module) -> bool:
        """Whether the network still is what was copied."""
        if _structure(net) != self._modules:
            return False
        now = _attributes(net)
        return (
            not now.keys() - self._known
            and all(now.get(name, _NONE) == self._attributes[name] for name in self._steady)
            and self._has_same_tensors(net)
        )

    def _has_same_tensors(self, net: nn.Module) -> bool:
        copies = {**dict(self._copied.named_parameters()), **dict(self._copied.named_buffers())}
        return all(
            name in self._written or _is_same(tensor, copies.get(name))
            for name, tensor in (*net.named_parameters(), *net.named_buffers())
        )


_NONE = object()


def _is_same(tensor: Tensor, other: Tensor | None) -> bool:
    return (
        other is not None
        and tensor.shape == other.shape
        and tensor.dtype == other.dtype
        and tensor.device == other.device
        and torch.equal(tensor, other)
    )


def buffer_versions(net: nn.Module) -> dict[str, int]:
    """Return how often each buffer was written to."""
    return {name: b._version for name, b in net.named_buffers() if not b.is_inference()}


def _structure(net: nn.Module) -> tuple[tuple[str, type, Any], ...]:
    """Return names and types of all modules, and the code that runs them."""
    return tuple(
        (name, type(module), getattr(type(module).forward, "__code__", None))
        for name, module in net.named_modules()
    )


def _attributes(net: nn.Module) -> dict[str, Any]:
    """Return a print of every attribute of every module that is neither weight nor module."""
    seen: dict[int, Any] = {}
    found = {}
    for name, module in net.named_modules():
        for key, value in list(vars(module).items()):
            if key not in _LEFT_OUT and "hook" not in key:
                found[f"{name}.{key}"] = _print_of(value, seen)
    return found


def _print_of(value: Any, seen: dict[int, Any]) -> Any:  # noqa: PLR0911 (a table of types)
    """Return what compares equal as long as a value's contents do."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value) if isinstance(value, float) else value
    if id(value) in seen:
        return "again", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, Tensor):
        return _print_of_tensor(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, hashlib.blake2b(value.tobytes()).digest()
    if isinstance(value, Mapping):
        return type(value), tuple(
            (_print_of(key, seen), _print_of(part, seen)) for key, part in value.items()
        )
    if isinstance(value, list | tuple):
        return type(value), tuple(_print_of(part, seen) for part in value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(_print_of(part, seen) for part in value)
    if isinstance(value, types.FunctionType):
        cells = tuple(_print_of(cell.cell_contents, seen) for cell in value.__closure__ or ())
        return value.__code__, _print_of(value.__defaults__, seen), cells
    if isinstance(value, types.MethodType):
        return value.__func__.__code__, _print_of(value.__self__, seen)
    if isinstance(value, functools.partial):
        return _print_of((value.func, value.args, value.keywords), seen)
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return id(value)
    inner = getattr(value, "__dict__", None)
    return type(value), id(value) if inner is None else _print_of(inner, seen)


def _print_of_tensor(value: Tensor) -> Any:
    facts = value.shape, value.dtype, value.device
    if value.device.type == "meta" or value.layout is not torch.strided:
        return *facts, id(value)
    numbers = value.detach().cpu().contiguous().reshape(-1)
    raw = numbers.view(torch.uint8).numpy().tobytes() if numbers.numel() else b""
    return *facts, hashlib.blake2b(raw).digest()

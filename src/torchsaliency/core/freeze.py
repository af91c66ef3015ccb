"""Freezes a network while it is explained, and gives it back exactly as it was.

One thread at a time: a thread that holds a network holds all of its modules, so that networks that
share some wait for each other. A thread may hold a network several times, one inside the other; the
first entry saves the state and the last exit restores it.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.errors import TorchSaliencyError

_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")
"""What timm and transformers call the switch that computes activations again; frozen networks save
nothing by it, and it may hide their layers."""

_TABLES = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is not an attribute of it."""

_PLAIN = frozenset({bool, int, float, str, type(None), tuple, torch.Size})
"""Types of attributes in which a pass leaves nothing."""

_DEEPEST, _LONGEST = 3, 1000
"""Lists and dicts in attributes are restored down to this depth and up to this length."""

_MISSING = object()

_changed = threading.Condition()
_owners: weakref.WeakKeyDictionary[nn.Module, list[int]] = weakref.WeakKeyDictionary()
"""The thread that holds a module, and how often."""

_holds: weakref.WeakKeyDictionary[nn.Module, Hold] = weakref.WeakKeyDictionary()
_steady: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Networks whose passes were seen to leave all buffers alone."""


@final
class Hold:
    """A network held by one thread.

    Attributes:
        modules: all modules of the network.
    """

    def __init__(self, net: nn.Module) -> None:
        self.modules = list(net.modules())
        self._net, self._thread, self._depth = net, threading.get_ident(), 1
        self._state: _State | None = None

    @staticmethod
    def enter(net: nn.Module, device: torch.device, *, learnable: bool = False) -> Hold:
        """Hold a network, or hold it once more; other threads wait."""
        hold = get_hold(net)
        if hold is not None:
            hold._depth += 1
            return hold
        hold = Hold(net)
        me = [hold._thread]
        with _changed:
            _changed.wait_for(lambda: all(_owners.get(m, me)[0] == me[0] for m in hold.modules))
            for module in hold.modules:
                _owners.setdefault(module, [*me, 0])[1] += 1
            _holds[net] = hold
        try:
            hold._state = _State(net, hold.modules, device, learnable=learnable)
        except BaseException:
            hold._release()
            raise
        return hold

    def leave(self) -> None:
        """Release the network and restore it, if this is the last exit."""
        self._depth -= 1
        if self._depth:
            return
        try:
            assert self._state is not None  # the first entry makes it
            self._state.restore()
        finally:
            self._release()

    def _release(self) -> None:
        with _changed:
            _holds.pop(self._net, None)
            for module in self.modules:
                owner = _owners[module]
                owner[1] -= 1
                if not owner[1]:
                    del _owners[module]
            _changed.notify_all()


def get_hold(net: nn.Module) -> Hold | None:
    """Return the hold of this thread on a network, None if it does not hold it."""
    hold = _holds.get(net)
    return hold if hold is not None and hold._thread == threading.get_ident() else None


@contextmanager
def frozen_eval(net: nn.Module, device: torch.device, *, learnable: bool = False) -> Iterator[Hold]:
    """Put the network in evaluation mode with frozen parameters, and restore all of it at the end.

    Other threads wait. Restored on success and on error: every attribute of every submodule,
    training flags and hooks among them, buffers, `requires_grad` of every parameter, the random
    state.
    Gradients are off unless asked for; inference mode is left. Compiled modules run uncompiled,
    and gradient checkpointing is off, because both hide what is read.

    Args:
        net: without a wrapper.
        device: of the images; its random state is restored, too.
        learnable: whether parameters keep their gradients, for maps that are trained with.

    Yields:
        The hold; the same one for as long as this thread holds the network.

    Raises:
        TorchSaliencyError: the network was built in inference mode and cannot be restored.
    """
    hold = Hold.enter(net, device, learnable=learnable)
    try:
        with torch.inference_mode(mode=False), torch.no_grad():
            yield hold
    finally:
        hold.leave()


class _State:
    """A network's state, from which it is restored."""

    def __init__(
        self,
        net: nn.Module,
        modules: list[nn.Module],
        device: torch.device,
        *,
        learnable: bool = False,
    ) -> None:
        parameters = _tensors(modules, "_parameters")
        if any(parameter.is_inference() for parameter in parameters):
            raise TorchSaliencyError(
                "The network was built under torch.inference_mode(), so torch keeps no gradients "
                "of it; build it outside."
            )
        self._net = net
        self._tables = [
            (table, table.copy())
            for module in modules
            for table in (module.__dict__, *map(module.__dict__.get, _TABLES))
            if isinstance(table, dict) and table
        ]
        # a pass may install hooks and note in an attribute that they are there, as transformers do
        self._tables += [
            (table, table.copy())
            for module in modules
            for name, table in module.__dict__.items()
            if name.endswith("_hooks") and isinstance(table, dict)
        ]
        attributes = [
            value
            for module in modules
            for name, value in module.__dict__.items()
            if type(value) not in _PLAIN and name not in _TABLES and "hook" not in name
        ]
        self._containers = [
            (found, found.copy()) for value in attributes for found in _containers(value)
        ]
        # attributes of scripted modules lie elsewhere
        self._scripted = [(m, m.training) for m in modules if isinstance(m, torch.jit.ScriptModule)]
        frozen = [] if learnable else parameters
        self._learnable = [parameter for parameter in frozen if parameter.requires_grad]
        buffers = [buffer for buffer in _tensors(modules, "_buffers") if not buffer.is_inference()]
        steady = net in _steady
        self._buffers = [(b, b._version, None if steady else b.clone()) for b in buffers]
        devices = {tensor.device for tensor in (*parameters, *buffers)} | {device}
        generators = [value for value in attributes if isinstance(value, torch.Generator)]
        self._generators = _generator_states(devices, generators)
        for module in modules:
            _freeze(module)
        for parameter in self._learnable:
            parameter.requires_grad = False

    def restore(self) -> None:
        """Put back everything that changed."""
        for table, before in reversed(self._tables):
            _restore_dict(table, before)
        for container, before in self._containers:
            if isinstance(container, dict):
                _restore_dict(container, before)
            elif len(container) != len(before) or not all(map(is_, container, before)):
                container[:] = before
        for scripted, training in self._scripted:
            if scripted.training != training:
                scripted.training = training
        for parameter in self._learnable:
            parameter.requires_grad = True
        self._restore_buffers()
        for generator, state in self._generators:
            if not torch.equal(generator.get_state(), state):
                generator.set_state(state)

    def _restore_buffers(self) -> None:
        written = [
            (buf, before) for buf, version, before in self._buffers if buf._version != version
        ]
        if not written:
            _steady.add(self._net)
            return
        _steady.discard(self._net)
        for buffer, before in written:
            if before is not None:
                with torch.no_grad():
                    buffer.copy_(before)
        if any(before is None for _, before in written):
            warnings.warn(
                f"A pass of the {type(self._net).__name__} wrote to its buffers, which earlier "
                "passes did not: this once they are not given back as they were.",
                stacklevel=2,
            )


def _freeze(module: nn.Module) -> None:
    if module.training:
        module.training = False
    attributes = module.__dict__
    for name in _CHECKPOINTING:
        if attributes.get(name):
            attributes[name] = False
    if attributes.get("_compiled_call_impl") is not None:  # net.compile()
        attributes["_compiled_call_impl"] = None
    children = attributes.get("_modules")
    inner = children.get("_orig_mod") if isinstance(children, dict) else None
    if inner is not None:  # a part inside torch.compile(part)
        attributes["forward"] = inner


def _tensors(modules: list[nn.Module], table: str) -> list[Tensor]:
    """Return all parameters or buffers, each once."""
    found: dict[int, Tensor] = {}
    for module in modules:
        # scripted modules keep theirs elsewhere, behind a property
        scripted = isinstance(module, torch.jit.ScriptModule)
        tensors = getattr(module, table) if scripted else module.__dict__[table]
        found.update((id(tensor), tensor) for tensor in tensors.values() if tensor is not None)
    return list(found.values())


def _generator_states(
    devices: set[torch.device], generators: list[torch.Generator]
) -> list[tuple[torch.Generator, Tensor]]:
    """Return torch's generators and those that the network keeps, with their states."""
    found = [torch.default_generator, *generators]
    for device in devices:
        if device.type == "cuda":
            place = torch.cuda.current_device() if device.index is None else device.index
            found.append(torch.cuda.default_generators[place])
    return [(generator, generator.get_state()) for generator in found]


def _restore_dict(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Let a dict hold the same objects under the same names as before.

    The same objects in the same order are never under other names: a pass renames nothing.
    """
    if len(table) == len(before) and all(map(is_, table.values(), before.values())):
        return
    for name in [name for name in table if name not in before]:
        del table[name]
    for name, value in before.items():
        if table.get(name, _MISSING) is not value:
            table[name] = value


def _containers(value: Any, depth: int = 0) -> Iterator[Any]:
    """Find the lists and dicts in an attribute, in which a pass may leave something."""
    if not isinstance(value, list | dict) or depth > _DEEPEST or len(value) > _LONGEST:
        return
    yield value
    for part in value.values() if isinstance(value, dict) else value:
        yield from _containers(part, depth + 1)

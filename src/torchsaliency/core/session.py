"""Holds a network still while it is looked at, and gives it back exactly as it was.

One thread at a time: whoever holds a network holds all of its modules, so that networks that share
some wait for each other. The same thread may hold it several times, one inside the other; the first
to come saves the state and the last to go restores it.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import is_
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.draws import normal
from torchsaliency.core.maps import wide
from torchsaliency.core.target import unwrap_output
from torchsaliency.errors import InputError, TorchSaliencyError, out_of_memory

_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")
"""What timm and transformers call the switch that computes activations again; frozen networks save
nothing by it, and it may hide their layers."""

_TABLES = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is no attribute of it."""

_MIXES = 1e-3
"""How far an image's output may be off beside another image, relative to the largest number."""

_changed = threading.Condition()
_owners: weakref.WeakKeyDictionary[nn.Module, list[int]] = weakref.WeakKeyDictionary()
"""Who holds a module: the thread and how often."""

_sessions: weakref.WeakKeyDictionary[nn.Module, Session] = weakref.WeakKeyDictionary()
_steady: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Networks whose passes were seen to leave all buffers alone."""

_mixing: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[type, ...], bool]] = (
    weakref.WeakKeyDictionary()
)


@final
@dataclass(eq=False)
class Session:
    """One network held still.

    Attributes:
        net: the network.
        modules: all of it.
        thread: that holds it.
        depth: how often it holds it.
    """

    net: nn.Module
    modules: list[nn.Module]
    thread: int
    depth: int = 1
    _state: _State | None = field(default=None, repr=False)


@contextmanager
def held_still(net: nn.Module, device: torch.device) -> Iterator[Session]:
    """Put the network in evaluation mode with frozen parameters, and restore all of it at the end.

    Other threads wait. Restored on success and on error: every attribute of every submodule,
    training flags among them, buffers, `requires_grad` of every parameter, the random state.
    Gradients are off unless asked for; inference mode is left. Compiled modules run as they are
    written, and gradient checkpointing is off, for both hide what is read.

    Args:
        net: without a wrapper.
        device: of the images; its random state is restored, too.

    Yields:
        The session; the same one for as long as this thread holds the network.

    Raises:
        TorchSaliencyError: the network was built in inference mode and cannot be restored.
    """
    session = _enter(net, device)
    try:
        with torch.inference_mode(mode=False), torch.no_grad():
            yield session
    finally:
        _leave(session)


def current_session(net: nn.Module) -> Session | None:
    """Return the session in which this thread holds a network, None if it does not."""
    session = _sessions.get(net)
    return session if session is not None and session.thread == threading.get_ident() else None


def call(net: nn.Module, images: Tensor) -> Any:
    """Run a network on at least one image and return its unwrapped output.

    Every pass of the library goes through here, so that none is empty.
    """
    if not len(images):
        raise InputError("No image was given; a network runs on one at least.")
    try:
        return unwrap_output(net(images))
    except SystemExit as error:  # a network does not end the program that explains it
        raise InputError(
            f"The network tried to end the program (exit code {error.code})."
        ) from error


def notice_probabilities(net: nn.Module, output: Any) -> None:
    """Say once a network that its scores are probabilities already, if they are.

    They are where every row adds up to 1, or where the last module is a sigmoid and all numbers lie
    in [0, 1].

    Args:
        net: held still.
        output: that it gave.
    """
    if net in _noticed or not isinstance(output, Tensor) or output.ndim != 2:  # noqa: PLR2004
        return
    numbers = wide(output.detach())
    if numbers.shape[1] == 0 or not bool(((numbers >= 0) & (numbers <= 1)).all()):
        return
    last = list(net.modules())[-1]
    summed = numbers.shape[1] > 1 and bool(((numbers.sum(1) - 1).abs() < _SUMMED).all())
    if not summed and not isinstance(last, nn.Sigmoid):
        return
    _noticed.add(net)
    kind = "softmax" if summed else "a sigmoid"
    warnings.warn(
        f"The {type(net).__name__} ends in {kind}, so its scores are probabilities already, and "
        "class probabilities (Probability, AD, AI, AG, insertion, deletion …) take their softmax "
        "once more; give the network without that last step.",
        stacklevel=2,
    )


_SUMMED = 1e-3
"""How far a row of probabilities may be from adding up to 1."""

_noticed: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def mixes_images(net: nn.Module, images: Tensor) -> bool:
    """Whether an image's output depends on its batch mates, or a batch cannot be run at all.

    Found once a network by running an image alone and beside another one: normalisation by the
    statistics of the batch mixes them, a reshaping to a fixed number of images refuses them. Such
    networks run one image at a time.

    Args:
        net: held still.
        images: (N, C, H, W), N at least 1.
    """
    session = current_session(net)
    kinds = tuple(map(type, net.modules() if session is None else session.modules))
    known = _mixing.get(net)
    if known is None or known[0] != kinds:
        known = _mixing[net] = kinds, _mixes(net, images)
    return known[1]


def _mixes(net: nn.Module, images: Tensor) -> bool:
    first = images[:1]
    draw = torch.Generator().manual_seed(0)
    noise = normal(draw, *first.shape).to(first)
    other = images[1:2] if len(images) > 1 else first.mean() + first.std() * noise
    with torch.no_grad():
        alone = call(net, first.clone())
        try:
            both = call(net, torch.cat([first, other]))
        except Exception as error:  # a network may raise anything
            if out_of_memory(error):
                raise
            return True
    if not isinstance(alone, Tensor) or not isinstance(both, Tensor):
        return False
    if len(both) != 2 * len(alone):
        return True
    near = _MIXES if alone.dtype in (torch.float32, torch.float64) else 50 * _MIXES
    a, b = wide(alone), wide(both[: len(alone)])
    scale = float(a[a.isfinite()].abs().amax()) if bool(a.isfinite().any()) else 0.0
    return not torch.allclose(a, b, rtol=0, atol=near * scale, equal_nan=True)


# --- who holds what ------------------------------------------------------------------------------


def _enter(net: nn.Module, device: torch.device) -> Session:
    me = threading.get_ident()
    session = current_session(net)
    if session is not None:
        session.depth += 1
        return session
    modules = list(net.modules())
    with _changed:
        _changed.wait_for(lambda: all(_owners.get(one, (me,))[0] == me for one in modules))
        for one in modules:
            _owners.setdefault(one, [me, 0])[1] += 1
        session = _sessions[net] = Session(net, modules, me)
    try:
        session._state = _State(net, modules, device)
    except BaseException:
        _give_back(session)
        raise
    return session


def _leave(session: Session) -> None:
    session.depth -= 1
    if session.depth:
        return
    try:
        assert session._state is not None  # only the first to come makes it
        session._state.restore()
    finally:
        _give_back(session)


def _give_back(session: Session) -> None:
    with _changed:
        _sessions.pop(session.net, None)
        for one in session.modules:
            owner = _owners[one]
            owner[1] -= 1
            if not owner[1]:
                del _owners[one]
        _changed.notify_all()


# --- what is restored ----------------------------------------------------------------------------


class _State:
    """A network's state, from which it is restored."""

    def __init__(self, net: nn.Module, modules: list[nn.Module], device: torch.device) -> None:
        parameters = _members(modules, "_parameters")
        if any(parameter.is_inference() for parameter in parameters):
            raise TorchSaliencyError(
                "The network was built under torch.inference_mode(), so torch keeps no gradients "
                "of it; build it outside."
            )
        self._net = net
        self._tables = [
            (table, table.copy())
            for one in modules
            for table in (one.__dict__, *map(one.__dict__.get, _TABLES))
            if isinstance(table, dict) and table
        ]
        kept = [
            value
            for one in modules
            for name, value in one.__dict__.items()
            if type(value) not in _PLAIN and name not in _TABLES and "hook" not in name
        ]
        self._containers = [(found, found.copy()) for value in kept for found in _containers(value)]
        self._scripted = [
            (one, one.training) for one in modules if isinstance(one, torch.jit.ScriptModule)
        ]
        self._learnable = [parameter for parameter in parameters if parameter.requires_grad]
        buffers = [one for one in _members(modules, "_buffers") if not one.is_inference()]
        known = net in _steady
        self._buffers = [(one, one._version, None if known else one.clone()) for one in buffers]
        places = {one.device for one in (*parameters, *buffers)} | {device}
        own = [value for value in kept if isinstance(value, torch.Generator)]
        self._generators = _generators(places, own)
        for one in modules:
            _hold_still(one)
        for parameter in self._learnable:
            parameter.requires_grad = False

    def restore(self) -> None:
        """Put everything back that changed."""
        for table, before in reversed(self._tables):
            _put_back(table, before)
        for container, before in self._containers:
            if isinstance(container, dict):
                _put_back(container, before)
            elif not _same_objects(container, before):
                container.clear()
                container.extend(before)
        for scripted, training in self._scripted:  # their attributes lie elsewhere
            if scripted.training != training:
                scripted.training = training
        for parameter in self._learnable:
            parameter.requires_grad = True
        self._restore_buffers()
        for generator, state in self._generators:
            if not torch.equal(generator.get_state(), state):
                generator.set_state(state)

    def _restore_buffers(self) -> None:
        written = [one for one in self._buffers if one[0]._version != one[1]]
        if not written:
            _steady.add(self._net)
            return
        _steady.discard(self._net)
        lost = False
        for buffer, _, before in written:
            lost = lost or before is None
            if before is not None:
                with torch.no_grad():
                    buffer.copy_(before)
        if lost:
            warnings.warn(
                f"A pass of the {type(self._net).__name__} wrote to its buffers, which earlier "
                "passes did not: this once they are not given back as they were.",
                stacklevel=2,
            )


def _hold_still(module: nn.Module) -> None:
    if module.training:
        module.training = False
    own = module.__dict__
    for name in _CHECKPOINTING:
        if own.get(name):
            own[name] = False
    if own.get("_compiled_call_impl") is not None:  # net.compile()
        own["_compiled_call_impl"] = None
    parts = own.get("_modules")
    inner = parts.get("_orig_mod") if isinstance(parts, dict) else None
    if inner is not None:  # a part inside torch.compile(part)
        own["forward"] = inner


_PLAIN = frozenset({bool, int, float, str, type(None), tuple, torch.Size})
"""Types of attributes in which a pass leaves nothing."""


def _members(modules: list[nn.Module], table: str) -> list[Tensor]:
    """Return all parameters or buffers, each once."""
    found: dict[int, Tensor] = {}
    for one in modules:
        # scripted modules keep theirs elsewhere, behind a property
        own = (
            getattr(one, table) if isinstance(one, torch.jit.ScriptModule) else one.__dict__[table]
        )
        found.update((id(tensor), tensor) for tensor in own.values() if tensor is not None)
    return list(found.values())


def _generators(
    devices: set[torch.device], own: list[torch.Generator]
) -> list[tuple[torch.Generator, Tensor]]:
    """Return torch's generators and those that the network keeps, with their states."""
    found = [torch.default_generator, *own]
    for device in devices:
        if device.type == "cuda":
            place = torch.cuda.current_device() if device.index is None else device.index
            found.append(torch.cuda.default_generators[place])
    return [(one, one.get_state()) for one in found]


def _put_back(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Let a table hold the same objects under the same names as before.

    The same objects in the same order are never under other names: none is renamed by a pass.
    """
    if len(table) == len(before) and all(map(is_, table.values(), before.values())):
        return
    for name in [one for one in table if one not in before]:
        del table[name]
    for name, value in before.items():
        if table.get(name, _MISSING) is not value:
            table[name] = value


_MISSING = object()


def _containers(value: Any, depth: int = 0) -> Iterator[Any]:
    """Find the lists and dicts in an attribute, in which a pass may leave something."""
    if not isinstance(value, list | dict) or depth > _DEEPEST or len(value) > _LONGEST:
        return
    yield value
    for part in value.values() if isinstance(value, dict) else value:
        yield from _containers(part, depth + 1)


_DEEPEST, _LONGEST = 3, 1000


def _same_objects(now: list[Any], before: list[Any]) -> bool:
    pairs = zip(now, before, strict=False)
    return len(now) == len(before) and all(one is other for one, other in pairs)

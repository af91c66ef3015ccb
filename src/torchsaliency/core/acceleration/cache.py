"""Which engine runs a pass, and the few copies that are kept of each network."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

from torchsaliency.core.acceleration.engine import (
    ENGINES,
    Call,
    Engine,
    NetworkCopy,
    get_place,
    warn_unused,
)
from torchsaliency.core.freeze import get_hold
from torchsaliency.core.layer import Layer

_MOST_KEPT = 4
"""Copies kept of one network, the ones used last: each has all of its weights."""

_GLOBAL_HOOKS = (
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
)
"""torch's tables of the hooks that are on every module."""

_Kept = OrderedDict[tuple[Any, ...], NetworkCopy]
_engine: ContextVar[type[Engine] | None] = ContextVar("torchsaliency_engine", default=None)
_kept: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()
_originals: weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module]] = (
    weakref.WeakKeyDictionary()
)
_refused: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_lock = threading.Lock()


@contextmanager
def accelerated(engine: str) -> Iterator[None]:
    """Let passes inside run by an engine, one of `ENGINES`.

    The engines' classes say how each runs, docs/speed.md which to choose; "bf16" and "fast" alone
    change the numbers.

    A copy is tried on the first images beside the network itself. If it fails, or its output is off
    by more than 1e-4 (of 1 or of the output), the network itself runs, and a `UserWarning` says so
    once. In every call its weights, modules and options are compared with the network's, and it is
    made anew if they differ. The network itself also runs wherever something watches its passes:
    hooks, torch's function and dispatch modes.

    Raises:
        OptionError: there is no such engine, or its packages are missing.

    Example:
        >>> import torchsaliency
        >>> net, x = torchsaliency.load_model("builtin/shapes_cnn"), torch.rand(1, 3, 64, 64)
        >>> with accelerated("channels-last"):
        ...     found = torchsaliency.explain(net, x, "scorecam")
    """
    chosen: type[Engine] = ENGINES.get(engine).factory
    chosen.require_packages()
    token = _engine.set(None if engine == "off" else chosen)
    try:
        yield
    finally:
        _engine.reset(token)


def run(call: Call, net: nn.Module, images: Tensor, batch: int = 1) -> Any:
    """Run a network on images, accelerated as the context says; return its unwrapped output.

    If the network carries hooks (a method reads or changes a layer) or its copy does not give its
    numbers, the network itself runs.

    Args:
        call: runs a network.
        net: frozen, without a wrapper.
        images: (N, C, *size).
        batch: images that later passes may hold; a compiler has to know with the first.

    Raises:
        OptionError: the images are on a device that the engine is not made for.
    """
    engine = _engine.get()
    if engine is None or is_watched(net):
        return call(net, images)
    engine.require_device(images.device)
    original = _originals[net]() if net in _originals else None
    net = net if original is None else original  # a copy's passes need no copy of their own
    if torch.is_grad_enabled():
        engine = _with_graph(engine)
    return _copy_of(engine, call, net, images, batch)(net, images)


def stand_in(call: Call, net: nn.Module, images: Tensor, layers: Sequence[Layer] = ()) -> nn.Module:
    """Return the network that traced passes of such images should run: its copy, or itself.

    Args:
        call: runs a network.
        net: frozen, without a wrapper.
        images: (N, C, *size), N at least 1; one of them is tried if none of the size was before.
        layers: all that is read from these passes: no other layer, no gradient of the image.

    Raises:
        OptionError: the images are on a device that the engine is not made for.
    """
    engine = _engine.get()
    if engine is None or not engine.traceable or is_watched(net):
        return net
    engine.require_device(images.device)
    if engine.reader is not None and len(layers) == 1:
        layer, make = layers[0].name, engine.reader
        key = (engine.name, layer, images.dtype, tuple(images.shape[1:]), get_place(call))
        reader = _keep(net, key, images, lambda: make(call, net, layer, images))
        if reader.faithful:
            _originals[reader.copy] = weakref.ref(net)
            return reader.copy
    runner = _copy_of(_with_graph(engine), call, net, images, 1)
    if runner.faithful is None:
        with torch.no_grad():
            runner(net, images)
    if not runner.faithful:
        return net
    _originals[runner.copy] = weakref.ref(net)
    return runner.copy


def step_aside(net: nn.Module, why: str) -> None:
    """Warn once a network that the context's engine makes no use of a copy of it."""
    engine = _engine.get()
    if engine is not None and net not in _refused:
        _refused.add(net)
        warn_unused(engine.name, net, why)


def is_watched(net: nn.Module) -> bool:
    """Whether something beside the network itself runs in its passes."""
    modes = torch.overrides._get_current_function_mode_stack()
    if any(not isinstance(mode, DeviceContext) for mode in modes):
        return True
    if _get_current_dispatch_mode() is not None or any(map(vars(torch_module).get, _GLOBAL_HOOKS)):
        return True
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in net.modules()
    )


def _with_graph(engine: type[Engine]) -> type[Engine]:
    return ENGINES.get(engine.with_graph).factory if engine.with_graph else engine


def _copy_of(
    engine: type[Engine], call: Call, net: nn.Module, images: Tensor, batch: int
) -> Engine:
    key = (engine.name, images.device, images.dtype, tuple(images.shape[1:]), get_place(call))
    found = _keep(net, key, images, lambda: engine(call, net, batch))
    assert isinstance(found, Engine)
    return found


def _keep(
    net: nn.Module, key: tuple[Any, ...], images: Tensor, make: Callable[[], NetworkCopy]
) -> NetworkCopy:
    """Return what is kept of a network if it is still the network's, else make it and keep it."""
    with _lock:
        kept = _kept.setdefault(net, OrderedDict())
        found = kept.get(key)
        if found is not None:
            kept.move_to_end(key)
    if found is not None and found.is_current(net, get_hold(net), images):
        return found
    found = make()
    with _lock:
        kept[key] = found
        kept.move_to_end(key)
        while len(kept) > _MOST_KEPT:
            kept.popitem(last=False)
    return found

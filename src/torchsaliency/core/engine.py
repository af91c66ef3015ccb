"""Many passes of one network on images of one size, faster than one by one.

Masking methods, insertion and deletion, sensitivity: hundreds of passes that differ only in the
image. A copy of the network, frozen and laid out or compiled for just that, gives the same numbers
sooner. The user's network is not touched, and whatever hooks into it runs on the network itself.
"""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn

from torchsaliency.core.errors import OptionError

Acceleration = Literal["off", "channels-last", "compile", "bf16", "auto"]

ACCELERATIONS = get_args(Acceleration)

_wanted: ContextVar[str] = ContextVar("torchsaliency_acceleration", default="off")
_built: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Engine]] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()

_ATOL, _RTOL = 1e-4, 1e-4
"""How far an exact engine's output may be from the network's own."""


@contextmanager
def accelerated(mode: str) -> Iterator[None]:
    """Let passes inside run as `mode` says.

    * "off": the network as it is.
    * "channels-last": a copy whose convolutions read pixel by pixel.
    * "compile": a copy compiled by inductor with frozen weights, for one batch size; the first
      pass takes as long as the compilation, and a C++ compiler is needed on a processor. Passes
      with gradients run channels-last.
    * "bf16": channels-last under bfloat16 autocast: the only one that changes the numbers.
    * "auto": the faster of "off" and "channels-last", tried on the first passes.

    Raises:
        OptionError: another mode.

    Example:
        >>> with accelerated("channels-last"):  # doctest: +SKIP
        ...     made = explain(net, x, ["scorecam", "rise"])
    """
    if mode not in ACCELERATIONS:
        raise OptionError(
            f"accelerate={mode!r} was given; choose one of {', '.join(ACCELERATIONS)}."
        )
    token = _wanted.set(mode)
    try:
        yield
    finally:
        _wanted.reset(token)


def run(net: nn.Module, images: Tensor) -> Any:
    """Run a network on images, accelerated as the context says.

    Where the network carries hooks (a method reads or changes a layer), runs twice as large
    batches, or its copy does not give its numbers, the network itself runs.
    """
    mode = _wanted.get()
    if mode == "off" or _hooked(net):
        return net(images)
    with _lock:
        engines = _built.setdefault(net, {})
        key = (mode, images.device, images.dtype, tuple(images.shape[1:]))
        engine = engines.get(key)
        if engine is None or not engine.current(net):
            engine = engines[key] = Engine(net, mode)
    return engine(net, images)


def _hooked(net: nn.Module) -> bool:
    """Whether something beside the network itself runs in its passes."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in net.modules()
    )


@final
class Engine:
    """A frozen copy of a network.

    Attributes:
        mode: how it runs.
        faithful: whether its first output was the network's own; None before the first pass.
    """

    def __init__(self, net: nn.Module, mode: str) -> None:
        self.mode = mode
        self.faithful: bool | None = None
        self._stamp = _stamp(net)
        self._copy = copy.deepcopy(net).eval().requires_grad_(False)
        self._copy = self._copy.to(memory_format=torch.channels_last)
        self._compiled: Callable[..., Any] | None = None
        self._batch = 0

    def current(self, net: nn.Module) -> bool:
        """Whether the network has the weights that were copied."""
        return self._stamp == _stamp(net)

    def __call__(self, net: nn.Module, images: Tensor) -> Any:
        """Run, and on the first pass look whether the copy says the same as the network."""
        if self.faithful is None:
            return self._first(net, images)
        return self._fast(images) if self.faithful else net(images)

    def _first(self, net: nn.Module, images: Tensor) -> Any:
        try:
            own, slow = _timed(lambda: net(images))
            found, quick = _timed(lambda: self._fast(images))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # a network that cannot be copied into another layout, or a compiler that is missing
            self.faithful = False
            return net(images)
        exact = self.mode != "bf16"
        self.faithful = _alike(own, found, _ATOL if exact else 0.5, _RTOL if exact else 0.5)
        if self.faithful and self.mode == "auto":
            _, again = _timed(lambda: self._fast(images))  # the first pass of a copy is slow
            self.faithful = min(quick, again) < slow
        if not self.faithful:
            self._copy = nn.Identity()  # its memory is not needed any more
        return own

    def _fast(self, images: Tensor) -> Any:
        if self.mode == "compile" and not torch.is_grad_enabled():
            return self._padded(images)
        laid = images.to(memory_format=torch.channels_last)
        if self.mode == "bf16":
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                return self._copy(laid)
        return self._copy(laid)

    def _padded(self, images: Tensor) -> Any:
        """Run the compiled copy on batches of one size: another size would compile anew."""
        if self._compiled is None:
            self._compiled = torch.compile(self._copy, dynamic=False, options={"freezing": True})
            self._batch = len(images)
        if len(images) > self._batch:
            parts = [self._padded(part) for part in images.split(self._batch)]
            return (
                torch.cat(parts)
                if all(isinstance(p, Tensor) for p in parts)
                else self._copy(images)
            )
        missing = self._batch - len(images)
        full = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        with torch.no_grad():
            output = self._compiled(full.contiguous(memory_format=torch.channels_last))
        return output[: len(images)]  # a tensor, or the first pass would not have been alike


def _stamp(net: nn.Module) -> tuple[Any, ...]:
    """Return what changes when a weight or buffer changes, without reading any."""
    tensors = [*net.parameters(), *net.buffers()]
    return tuple((one.data_ptr(), one._version, one.dtype, str(one.device)) for one in tensors)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    found = work()
    if isinstance(found, Tensor) and found.is_cuda:
        torch.cuda.synchronize(found.device)
    return found, time.perf_counter() - begun


def _alike(own: Any, found: Any, atol: float, rtol: float) -> bool:
    if not isinstance(own, Tensor) or not isinstance(found, Tensor) or own.shape != found.shape:
        return False
    return torch.allclose(own.float(), found.float(), atol=atol, rtol=rtol)

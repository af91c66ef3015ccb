"""Many passes of one network on images of one size, faster than one by one.

Masking methods, insertion and deletion, sensitivity: hundreds of passes that differ only in the
image. A copy of the network, frozen and laid out or compiled for just that, gives the same numbers
sooner. The user's network is not touched, and whatever hooks into it runs on the network itself.
"""

from __future__ import annotations

import copy
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn

from torchsaliency.core.errors import OptionError, TargetError
from torchsaliency.core.exported import Session, insist_on_onnx, missing_packages
from torchsaliency.core.layer import Layer, replace_first
from torchsaliency.core.memory import out_of_memory
from torchsaliency.core.target import unwrap_output

Acceleration = Literal["off", "channels-last", "compile", "onnx", "bf16", "auto"]

ACCELERATIONS = get_args(Acceleration)

_NO_GRADIENTS = ("compile", "onnx")
"""Modes whose passes keep no graph: those with gradients run channels-last."""

_wanted: ContextVar[str] = ContextVar("torchsaliency_acceleration", default="off")
_built: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Engine]] = (
    weakref.WeakKeyDictionary()
)
_readers: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Reader]] = (
    weakref.WeakKeyDictionary()
)
_originals: weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module]] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()

_ATOL, _RTOL = 1e-4, 1e-4
"""How far an exact engine's output may be from the network's own."""

_ROUNDED = 0.5
"""The same under bfloat16: far off is a defect, near is rounding."""

_PATIENCE = 15.0
"""Seconds of passes after which "auto" tries ONNX Runtime, whose export takes about as long: work
that ends right after has lost no more than it took, and longer work gains."""

_COMPILED = 16
"""The most images a compiled pass holds on a processor: more are no faster, and what is missing to
a full batch is run for nothing."""


@contextmanager
def accelerated(mode: str) -> Iterator[None]:
    """Let passes inside run as `mode` says.

    * "off": the network as it is.
    * "channels-last": a copy whose convolutions read pixel by pixel; torch's own attention layers
      project all positions at once in passes with gradients.
    * "compile": a copy compiled by inductor with frozen weights, for one batch size; the first
      pass takes as long as the compilation, and a C++ compiler is needed on a processor. On a GPU
      the passes are replayed as a CUDA graph. Passes with gradients or hooks run channels-last.
    * "onnx": the network exported to ONNX Runtime, on a processor, for any batch; the first pass
      takes as long as the export. Needs `torchsaliency[onnx]`. Passes with gradients or hooks run
      channels-last.
    * "bf16": channels-last under bfloat16 autocast, with TF32 for what stays in float32: the only
      one that changes the numbers.
    * "auto": the faster of "off" and "channels-last", tried on the first passes. On a processor,
      ONNX Runtime too, if its packages are there and once passes without gradients took as long as
      an export may; where the network cannot be exported, or gains nothing, all stays as it is.

    A copy is tried on the first images beside the network itself. Where it fails, or its output is
    off by more than 1e-4 (of 1 or of the output), the network itself runs, and a `UserWarning` says
    so once.

    Raises:
        OptionError: another mode, or "onnx" without its packages.

    Example:
        >>> with accelerated("channels-last"):  # doctest: +SKIP
        ...     made = explain(net, x, ["scorecam", "rise"])
    """
    if mode not in ACCELERATIONS:
        raise OptionError(
            f"accelerate={mode!r} was given; choose one of {', '.join(ACCELERATIONS)}."
        )
    if mode == "onnx":
        insist_on_onnx()
    token = _wanted.set(mode)
    try:
        yield
    finally:
        _wanted.reset(token)


def run(net: nn.Module, images: Tensor, most: int = 1) -> Any:
    """Run a network on images, accelerated as the context says; return its unwrapped output.

    Where the network carries hooks (a method reads or changes a layer) or its copy does not give
    its numbers, the network itself runs.

    Args:
        net: held still, without a wrapper.
        images: (N, C, H, W).
        most: images that later passes may hold; a compiler has to know with the first.

    Raises:
        OptionError: the images are on a device that the mode is not made for.
    """
    mode = _wanted.get()
    if mode == "off" or not len(images) or _hooked(net):
        return unwrap_output(net(images))
    _insist_on_device(mode, images)
    original = _originals[net]() if net in _originals else None
    net = net if original is None else original  # a copy's passes need no copy of their own
    return _engine(net, mode, images, most)(net, images)


def stand_in(net: nn.Module, images: Tensor, layers: Sequence[Layer] = ()) -> nn.Module:
    """Return the network that traced passes of such images should run: its copy, or itself.

    A compiled copy has no layers to read, and autocast is no property of a module: "compile" gives
    the channels-last copy, "bf16" the network. "onnx" runs all that comes before the layer in ONNX
    Runtime, if a single one is read and what follows reads nothing but it; else channels-last.

    Args:
        net: held still, without a wrapper.
        images: (N, C, H, W), N at least 1; one of them is tried where none of the size was before.
        layers: all that is read from these passes: no other layer, no gradient of the image.

    Raises:
        OptionError: the images are on a device that the mode is not made for.
    """
    mode = _wanted.get()
    if mode in ("off", "bf16") or _hooked(net):
        return net
    _insist_on_device(mode, images)
    if mode == "onnx" and len(layers) == 1:
        reader = _reader(net, layers[0].name, images)
        if reader.faithful:
            _originals[reader.copy] = weakref.ref(net)
            return reader.copy
    engine = _engine(net, "auto" if mode == "auto" else "channels-last", images)
    if engine.faithful is None:
        with torch.no_grad():
            engine(net, images)
    if not engine.faithful:
        return net
    _originals[engine.copy] = weakref.ref(net)
    return engine.copy


def _engine(net: nn.Module, mode: str, images: Tensor, most: int = 1) -> Engine:
    if mode in _NO_GRADIENTS and torch.is_grad_enabled():
        mode = "channels-last"
    with _lock:
        engines = _built.setdefault(net, {})
        key = (mode, images.device, images.dtype, tuple(images.shape[1:]))
        engine = engines.get(key)
        if engine is None or not engine.current(net):
            engine = engines[key] = Engine(net, mode, most)
    return engine


def _insist_on_device(mode: str, images: Tensor) -> None:
    if mode == "onnx" and images.device.type != "cpu":
        raise OptionError(
            f"accelerate='onnx' runs on a processor, and the images are on {images.device}; choose "
            "compile, bf16 or channels-last."
        )


def _reader(net: nn.Module, layer: str, images: Tensor) -> Reader:
    with _lock:
        readers = _readers.setdefault(net, {})
        key = (layer, images.dtype, tuple(images.shape[1:]))
        if key not in readers or not readers[key].current(net):
            readers[key] = Reader(net, layer, images)
    return readers[key]


def _hooked(net: nn.Module) -> bool:
    """Whether something beside the network itself runs in its passes."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in net.modules()
    )


@final
class Engine:
    """A frozen copy of a network.

    Args:
        net: the network.
        mode: how its copy runs.
        most: images that its passes may hold.

    Attributes:
        mode: how it runs.
        copy: the copy, channels-last.
        faithful: whether its first output was the network's own; None before the first pass.
    """

    def __init__(self, net: nn.Module, mode: str, most: int = 1) -> None:
        self.mode = mode
        self._most = most
        self.faithful: bool | None = None
        self._stamp = _stamp(net)
        self.copy = _laid(net)
        self._compiled: Callable[..., Any] | None = None
        self._batch = 0
        self._spent = 0.0

    def current(self, net: nn.Module) -> bool:
        """Whether the network has the weights that were copied."""
        return self._stamp == _stamp(net)

    def __call__(self, net: nn.Module, images: Tensor) -> Any:
        """Run, and on the first pass look whether the copy says the same as the network."""
        if self.faithful is None:
            return self._first(net, images)
        if self.mode == "auto" and images.device.type == "cpu" and not torch.is_grad_enabled():
            return self._patient(net, images)
        return self._settled(net, images)

    def _settled(self, net: nn.Module, images: Tensor) -> Any:
        return self._fast(images) if self.faithful else unwrap_output(net(images))

    def _patient(self, net: nn.Module, images: Tensor) -> Any:
        """Run, and after many passes in ONNX Runtime, if that is there and faster."""
        if self._compiled is not None:
            return self._compiled(images)
        output, took = _timed(lambda: self._settled(net, images))
        before, self._spent = self._spent, self._spent + took
        late = before < _PATIENCE <= self._spent
        if late and isinstance(output, Tensor) and not missing_packages():
            self._compiled = self._quicker(net, images, output, took)
        return output

    def _quicker(self, net: nn.Module, images: Tensor, own: Tensor, slow: float) -> Session | None:
        """Return a session that gives the same output sooner; None where there is none."""
        try:
            session = Session(self.copy if self.faithful else _laid(net), images)
            session(images)  # the first pass of a session is slow
            found, quick = _timed(lambda: session(images))
        except (RuntimeError, MemoryError):
            return None
        return session if quick < slow and _alike(own, found, _ATOL, _RTOL) else None

    def _first(self, net: nn.Module, images: Tensor) -> Any:
        own, slow = _timed(lambda: unwrap_output(net(images)))
        if not isinstance(own, Tensor):
            self._give_up(net, f"its output is a {type(own).__name__}, not one tensor")
            return own
        try:
            found, quick = _timed(lambda: self._fast(images))
        except (RuntimeError, TargetError) as error:
            if out_of_memory(error):
                self._compiled, self._most = None, 1  # its batch was too large
                raise
            # a network that cannot be copied into another layout, or a compiler that is missing
            self._give_up(net, f"it failed: {str(error).strip().partition(chr(10))[0][:200]}")
            return own
        near = (_ROUNDED, _ROUNDED) if self.mode == "bf16" else (_ATOL, _RTOL)
        self.faithful = _alike(own, found, *near)
        if not self.faithful:
            self._give_up(net, "its output on the first images is not the network's own")
        elif self.mode == "auto":
            _, again = _timed(lambda: self._fast(images))  # the first pass of a copy is slow
            self.faithful = min(quick, again) < slow
            if not self.faithful:
                self.copy = nn.Identity()  # its memory is not needed any more
        return own

    def _give_up(self, net: nn.Module, why: str) -> None:
        self.faithful = False
        self.copy = nn.Identity()
        _warn(self.mode, net, why)

    def _fast(self, images: Tensor) -> Any:
        if self.mode == "compile":
            return self._padded(images)
        if self.mode == "onnx":
            if self._compiled is None:
                self._compiled = Session(self.copy, images)
            return self._compiled(images)
        laid = images.to(memory_format=torch.channels_last)
        if self.mode == "bf16":
            with torch.autocast(images.device.type, dtype=torch.bfloat16), _tf32(images):
                return unwrap_output(self.copy(laid))
        return unwrap_output(self.copy(laid))

    def _padded(self, images: Tensor) -> Any:
        """Run the compiled copy on batches of one size: another size would compile anew."""
        if self._compiled is None:
            graphs = {"triton.cudagraphs": True} if images.is_cuda else {}
            self._compiled = torch.compile(
                self.copy, dynamic=False, options={"freezing": True, **graphs}
            )
            most = max(len(images), self._most)
            self._batch = most if images.is_cuda else min(most, _COMPILED)
        if len(images) > self._batch:
            return torch.cat([self._padded(part) for part in images.split(self._batch)])
        missing = self._batch - len(images)
        full = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        with torch.no_grad():
            output = self._compiled(full.contiguous(memory_format=torch.channels_last))
        # a copy, as the next replay of a CUDA graph writes its output into the same place
        return unwrap_output(output)[: len(images)].clone()


@final
class Reader:
    """A copy of a network that runs what comes before one layer in ONNX Runtime.

    Its first image alone passes through the copy up to the layer; there the features of all images
    take its place, and what follows runs as ever, with a graph where one is wanted.

    Attributes:
        copy: the copy, whose hooks do that.
        faithful: whether its output on two different images was the network's own.
    """

    def __init__(self, net: nn.Module, layer: str, images: Tensor) -> None:
        self._stamp = _stamp(net)
        self._features: Tensor | None = None
        self.copy: nn.Module = nn.Identity()
        self.faithful = False
        if layer not in dict(net.named_modules()):
            return  # the image itself
        copied = _laid(net)
        try:
            self._session = Session(copied, images, layer)
        except RuntimeError as error:
            _warn("onnx", net, f"it failed: {str(error)[:200]}")
            return
        copied.register_forward_pre_hook(self._enter)
        copied.get_submodule(layer).register_forward_hook(self._leave)
        self.faithful = self._tried(net, copied, images)
        if self.faithful:
            self.copy = copied

    def current(self, net: nn.Module) -> bool:
        """Whether the network has the weights that were copied."""
        return self._stamp == _stamp(net)

    def _tried(self, net: nn.Module, copied: nn.Module, images: Tensor) -> bool:
        """Whether what follows reads the layer alone: two images must not show in each other."""
        draw = torch.Generator().manual_seed(0)
        other = torch.randn(images[:1].shape, generator=draw).to(images)
        both = torch.cat([images[:1], other])
        with torch.no_grad():
            own = unwrap_output(net(both.clone()))
            try:
                found = unwrap_output(copied(both))
            except (RuntimeError, ValueError, IndexError) as error:
                if out_of_memory(error):
                    raise
                return False  # what follows joins earlier features, or remembers the batch
        return isinstance(own, Tensor) and _alike(own, found, _ATOL, _RTOL)

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:  # noqa: ARG002
        images = inputs[0]
        self._features = None
        if images.requires_grad:
            return None  # a graph that reaches the image
        self._features = self._session(images)
        return (images[:1], *inputs[1:])

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG002
        features, self._features = self._features, None
        return output if features is None else replace_first(output, features)


def _laid(net: nn.Module) -> nn.Module:
    """Return a frozen copy whose convolutions read pixel by pixel, and whose attention folds."""
    copied: nn.Module = copy.deepcopy(net).eval().requires_grad_(False)
    for module in copied.modules():
        if type(module) is nn.MultiheadAttention and module.batch_first:
            module.__class__ = _FoldedAttention
    return copied.to(memory_format=torch.channels_last)


class _FoldedAttention(nn.MultiheadAttention):
    """Self-attention whose projections are one matrix product each, in passes with a graph, too.

    torch turns (N, L, E) into (L, N, E) without moving it; a product of that with frozen weights is
    taken position by position, at half the speed. Moved first, it is the same in one.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **more: Any) -> Any:
        """Attend, as torch does."""
        if torch.is_grad_enabled() and query is key is value and query.ndim == 3:  # noqa: PLR2004
            query = key = value = query.transpose(0, 1).contiguous().transpose(0, 1)
        return super().forward(query, key, value, *args, **more)


def _warn(mode: str, net: nn.Module, why: str) -> None:
    warnings.warn(
        f"accelerate={mode!r} makes no use of its copy of {type(net).__name__}, as {why}. "
        "The network itself runs, with the same numbers.",
        stacklevel=2,
    )


@contextmanager
def _tf32(images: Tensor) -> Iterator[None]:
    """Let products that stay in float32 run as TF32 on a GPU."""
    if not images.is_cuda:
        yield
        return
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)


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


def _alike(own: Tensor, found: Any, atol: float, rtol: float) -> bool:
    if not isinstance(found, Tensor) or own.shape != found.shape:
        return False
    return torch.allclose(own.float(), found.float(), atol=atol, rtol=rtol)

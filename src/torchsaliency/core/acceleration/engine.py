"""Many passes of one network on images of one size, faster than one by one.

Masking methods, insertion and deletion, sensitivity: hundreds of passes that differ only in the
image. A copy of the network, frozen and laid out or compiled for just that, gives the same numbers
sooner. The user's network is not touched, and whatever hooks into it runs on the network itself.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

from torchsaliency.core.acceleration.copies import Likeness, buffer_versions, copy_network
from torchsaliency.core.acceleration.onnx import ExportedNetwork, missing_packages, require_onnx
from torchsaliency.core.clock import seconds_now
from torchsaliency.core.draws import normal
from torchsaliency.core.layer import Layer, replace_first
from torchsaliency.core.session import Session, call, current_session
from torchsaliency.core.target import unwrap_output
from torchsaliency.errors import OptionError, TargetError, out_of_memory

Acceleration = Literal["off", "channels-last", "compile", "onnx", "bf16", "auto"]

ACCELERATIONS = get_args(Acceleration)

_NO_GRADIENTS = ("compile", "onnx")
"""Modes whose passes keep no graph: those with gradients run channels-last."""

_wanted: ContextVar[str] = ContextVar("torchsaliency_acceleration", default="off")
_MOST_KEPT = 4
"""Copies kept of one network, the ones used last: each has all of its weights."""

_kept: weakref.WeakKeyDictionary[nn.Module, OrderedDict[tuple[Any, ...], Engine | Reader]] = (
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
    * "bf16": channels-last under bfloat16 autocast: the only one that changes the numbers.
    * "auto": the faster of "off" and "channels-last", tried on the first passes. On a processor,
      ONNX Runtime too, if its packages are there and once passes without gradients took as long as
      an export may; where the network cannot be exported, or gains nothing, all stays as it is.

    A copy is tried on the first images beside the network itself. Where it fails, or its output is
    off by more than 1e-4 (of 1 or of the output), the network itself runs, and a `UserWarning` says
    so once. In every call its weights, modules and options are compared with the network's, and it
    is made anew where they differ. The network itself also runs wherever something watches its
    passes: hooks, torch's function and dispatch modes.

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
        require_onnx()
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
    if mode == "off" or _watched(net):
        return call(net, images)
    _require_device(mode, images)
    session = current_session(net)
    original = _originals[net]() if net in _originals else None
    net = net if original is None else original  # a copy's passes need no copy of their own
    return _engine(net, mode, images, most, session)(net, images)


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
    if mode in ("off", "bf16") or _watched(net):
        return net
    _require_device(mode, images)
    if mode == "onnx" and len(layers) == 1:
        reader = _reader(net, layers[0].name, images)
        if reader.faithful:
            _originals[reader.copy] = weakref.ref(net)
            return reader.copy
    mode = "auto" if mode == "auto" else "channels-last"
    engine = _engine(net, mode, images, 1, current_session(net))
    if engine.faithful is None:
        with torch.no_grad():
            engine(net, images)
    if not engine.faithful:
        return net
    _originals[engine.copy] = weakref.ref(net)
    return engine.copy


def _engine(
    net: nn.Module, mode: str, images: Tensor, most: int, session: Session | None
) -> Engine:
    if mode in _NO_GRADIENTS and torch.is_grad_enabled():
        mode = "channels-last"
    key = (mode, images.device, images.dtype, tuple(images.shape[1:]))
    found = _fresh(net, key, session, images) or _keep(net, key, Engine(net, mode, most))
    assert isinstance(found, Engine)
    return found


def _reader(net: nn.Module, layer: str, images: Tensor) -> Reader:
    key = ("layer", layer, images.dtype, tuple(images.shape[1:]))
    session = current_session(net)
    found = _fresh(net, key, session, images) or _keep(net, key, Reader(net, layer, images))
    assert isinstance(found, Reader)
    return found


def _fresh(
    net: nn.Module, key: tuple[Any, ...], session: Session | None, images: Tensor
) -> Engine | Reader | None:
    """Return what is kept of a network, if it is still the network's."""
    with _lock:
        kept = _kept.setdefault(net, OrderedDict())
        found = kept.get(key)
        if found is not None:
            kept.move_to_end(key)
    if found is None or not found.likeness.current(
        net, session, lambda: found.agrees(net, images[:1])
    ):
        return None
    return found


def _keep(net: nn.Module, key: tuple[Any, ...], made: Engine | Reader) -> Engine | Reader:
    with _lock:
        kept = _kept.setdefault(net, OrderedDict())
        kept[key] = made
        kept.move_to_end(key)
        while len(kept) > _MOST_KEPT:
            kept.popitem(last=False)
    return made


def _require_device(mode: str, images: Tensor) -> None:
    if mode == "onnx" and images.device.type != "cpu":
        raise OptionError(
            f"accelerate='onnx' runs on a processor, and the images are on {images.device}; choose "
            "compile, bf16 or channels-last."
        )


_EVERYONES = (
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
)
"""torch's tables of the hooks that are on every module."""


def _watched(net: nn.Module) -> bool:
    """Whether something beside the network itself runs in its passes."""
    modes = torch.overrides._get_current_function_mode_stack()
    if any(not isinstance(mode, DeviceContext) for mode in modes):
        return True
    if _get_current_dispatch_mode() is not None or any(map(vars(torch_module).get, _EVERYONES)):
        return True
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in net.modules()
    )


@final
class _Checked:
    """A copy's likeness, looked at once a session."""

    def __init__(self, net: nn.Module, copied: nn.Module) -> None:
        self._likeness: Likeness | None = Likeness(net, copied)
        self._session: weakref.ref[Session] | None = None

    def current(self, net: nn.Module, session: Session | None, agrees: Callable[[], bool]) -> bool:
        """Whether the network still is what was copied, and `agrees` with it where it was baked."""
        if session is not None and self._session is not None and self._session() is session:
            return True
        if self._likeness is not None and not (self._likeness.holds(net) and agrees()):
            return False
        self._session = None if session is None else weakref.ref(session)
        return True

    def run(self, net: nn.Module, images: Tensor) -> Any:
        """Run the network itself once, and leave out of the likeness what the pass wrote."""
        versions = buffer_versions(net)
        output = call(net, images)
        if self._likeness is not None:
            self._likeness.leave_out_what_passes_write(net, versions)
        return output

    def give_up(self) -> None:
        """Compare no more: the network itself runs."""
        self._likeness = None


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
        self.copy = _laid(net)
        self.likeness = _Checked(net, self.copy)
        self._compiled: Callable[..., Any] | None = None
        self._batch = 0
        self._spent = 0.0

    def __call__(self, net: nn.Module, images: Tensor) -> Any:
        """Run, and on the first pass look whether the copy says the same as the network."""
        if self.faithful is None:
            return self._first(net, images)
        if self.mode == "auto" and images.device.type == "cpu" and not torch.is_grad_enabled():
            return self._patient(net, images)
        return self._settled(net, images)

    def agrees(self, net: nn.Module, image: Tensor) -> bool:
        """Whether an exported copy still says what the network says of an image.

        An export bakes in what the network reads outside of itself: globals, closures.
        """
        if self._compiled is None or self.mode == "compile":  # torch.compile looks itself
            return True
        with torch.no_grad():
            own, found = call(net, image), self._compiled(image)
        return isinstance(own, Tensor) and _alike(own, found, _ATOL, _RTOL)

    def _settled(self, net: nn.Module, images: Tensor) -> Any:
        return self._fast(images) if self.faithful else call(net, images)

    def _patient(self, net: nn.Module, images: Tensor) -> Any:
        """Run, and after many passes in ONNX Runtime, if that is there and faster."""
        if self._compiled is not None:
            return self._compiled(images)
        output, took = _timed(lambda: self._settled(net, images), images)
        before, self._spent = self._spent, self._spent + took
        late = before < _PATIENCE <= self._spent
        if late and isinstance(output, Tensor) and not missing_packages():
            self._compiled = self._quicker(net, images, output, took)
        return output

    def _quicker(
        self, net: nn.Module, images: Tensor, own: Tensor, slow: float
    ) -> ExportedNetwork | None:
        """Return a session that gives the same output sooner; None where there is none."""
        try:
            copied = self.copy if self.faithful else _laid(net)
            session = ExportedNetwork(copied, images)
            session(images)  # the first pass of a session is slow
            found, quick = _timed(lambda: session(images), images)
        except (RuntimeError, MemoryError):
            return None
        if quick >= slow or not _alike(own, found, _ATOL, _RTOL):
            return None
        if not self.faithful:  # the copy was let go, and with it what it is compared by
            self.likeness = _Checked(net, copied)
        return session

    def _first(self, net: nn.Module, images: Tensor) -> Any:
        own = self.likeness.run(net, images)
        if not isinstance(own, Tensor):
            self._give_up(net, f"its output is a {type(own).__name__}, not one tensor")
            return own
        try:
            found = self._fast(images)
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
            # both were warmed up by their first pass
            _, slow = _timed(lambda: call(net, images), images)
            _, quick = _timed(lambda: self._fast(images), images)
            self.faithful = quick < slow
            if not self.faithful:
                self._let_go()
        return own

    def _give_up(self, net: nn.Module, why: str) -> None:
        self.faithful = False
        self._let_go()
        _warn(self.mode, net, why)

    def _let_go(self) -> None:
        """Free the copy's memory, which is not needed any more."""
        self.copy = nn.Identity()
        self.likeness.give_up()

    def _fast(self, images: Tensor) -> Any:
        if self.mode == "compile":
            return self._padded(images)
        if self.mode == "onnx":
            if self._compiled is None:
                self._compiled = ExportedNetwork(self.copy, images)
            return self._compiled(images)
        laid = images.to(memory_format=torch.channels_last)
        if self.mode == "bf16":
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                return call(self.copy, laid)
        return call(self.copy, laid)

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
        self._features: Tensor | None = None
        self.copy: nn.Module = nn.Identity()
        self.faithful = False
        copied = _laid(net)
        self.likeness = _Checked(net, copied)
        if layer not in dict(net.named_modules()):
            return  # the image itself
        try:
            self._session = ExportedNetwork(copied, images, layer)
        except RuntimeError as error:
            _warn("onnx", net, f"it failed: {str(error)[:200]}")
            return
        copied.register_forward_pre_hook(self._enter)
        copied.get_submodule(layer).register_forward_hook(self._leave)
        self.faithful = self._tried(net, copied, images)
        if self.faithful:
            self.copy = copied

    def agrees(self, net: nn.Module, image: Tensor) -> bool:
        """Whether the copy still says what the network says of an image, and of another one."""
        return not self.faithful or self._tried(net, self.copy, image)

    def _tried(self, net: nn.Module, copied: nn.Module, images: Tensor) -> bool:
        """Whether what follows reads the layer alone: two images must not show in each other."""
        draw = torch.Generator().manual_seed(0)
        other = normal(draw, *images[:1].shape).to(images)
        both = torch.cat([images[:1], other])
        with torch.no_grad():
            own = self.likeness.run(net, both.clone())
            try:
                found = call(copied, both)
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
    copied = copy_network(net).eval().requires_grad_(False)
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


def _timed(work: Callable[[], Any], images: Tensor) -> tuple[Any, float]:
    """Do the work; return its result and the seconds until the images' device is done."""
    begun = seconds_now(images.device)
    found = work()
    return found, seconds_now(images.device) - begun


def _alike(own: Tensor, found: Any, atol: float, rtol: float) -> bool:
    if not isinstance(found, Tensor) or own.shape != found.shape:
        return False
    return torch.allclose(own.float(), found.float(), atol=atol, rtol=rtol)

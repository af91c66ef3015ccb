"""What an engine is: one way to run a frozen copy of a network, checked against the network."""

from __future__ import annotations

import abc
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration.copies import Likeness, buffer_versions, copy_network
from torchsaliency.core.freeze import Hold
from torchsaliency.core.space import format_of
from torchsaliency.errors import TargetError, out_of_memory
from torchsaliency.registry import Entry, Registry

Call = Callable[[Callable[[Tensor], Any], Tensor], Any]
"""Runs a network on images and unwraps its output: `session.call_network`, which engines get."""


def get_place(call: Call) -> int | str | None:
    """Return where in the output a call takes its tensor from, None if it finds it."""
    place: int | str | None = getattr(call, "keywords", {}).get("where")
    return place


class NetworkCopy:
    """A copy of a network and what the network was when it was copied.

    Args:
        call: runs a network.
        net: the network.

    Attributes:
        copy: frozen, channels-last; nothing once the copy is of no use.
        faithful: whether its output was the network's own; None before the first pass.
        likeness: what the network is compared with; None once it is compared no more.
    """

    def __init__(self, call: Call, net: nn.Module) -> None:
        self.call = call
        self.copy = lay_out(net)
        self.faithful: bool | None = None
        self.likeness: Likeness | None = Likeness(net, self.copy)
        self._hold: weakref.ref[Hold] | None = None

    def is_current(self, net: nn.Module, hold: Hold | None, images: Tensor) -> bool:
        """Whether the network still is what was copied; looked at once a hold."""
        if hold is not None and self._hold is not None and self._hold() is hold:
            return True
        if self.likeness is not None and not (
            self.likeness.matches(net) and self.agrees(net, images[:1])
        ):
            return False
        self._hold = None if hold is None else weakref.ref(hold)
        return True

    def agrees(self, net: nn.Module, image: Tensor) -> bool:  # noqa: ARG002
        """Whether the copy still gives the network's output for an image, if that is in doubt."""
        return True

    def run_network(self, net: nn.Module, images: Tensor) -> Any:
        """Run the network itself once, and leave out of the likeness what the pass wrote."""
        versions = buffer_versions(net)
        output = self.call(net, images)
        if self.likeness is not None:
            self.likeness.ignore_what_passes_write(net, versions)
        return output

    def drop(self) -> None:
        """Free the copy's memory and compare no more: the network itself runs."""
        self.copy = nn.Identity()
        self.likeness = None


class Engine(NetworkCopy, abc.ABC):
    """One way to run a frozen copy of a network; the summary is its line in lists of engines.

    Args:
        call: runs a network.
        net: the network.
        batch: images that later passes may hold; a compiler has to know with the first.

    Attributes:
        compiled: what the engine made of the copy, if it runs something else.
        name: the registered name.
        with_graph: the engine for passes with gradients and for traced ones; "" for this one.
        traceable: whether its copy can be traced like the network.
        reader: what copies a network so that passes reach one layer faster, for traces that read
            it alone; None if nothing does. Takes the arguments of `onnx.LayerReader`.
        exact: whether the numbers are the network's own but for rounding.
        tolerance: how far outputs may be off, of 1 and of themselves.
        bakes: whether what the copy was made into holds what the network reads outside of itself,
            globals and closures; its output is then compared once a hold.
    """

    name: ClassVar[str]
    with_graph: ClassVar[str] = ""
    traceable: ClassVar[bool] = True
    reader: ClassVar[Any] = None
    exact: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-4
    bakes: ClassVar[bool] = False

    def __init__(self, call: Call, net: nn.Module, batch: int = 1) -> None:
        super().__init__(call, net)
        self.batch = batch
        self.compiled: Any = None

    @classmethod
    def require_packages(cls) -> None:
        """Raise `OptionError` if a package is missing."""

    @classmethod
    def require_device(cls, device: torch.device) -> None:
        """Raise `OptionError` if the engine is not made for a device."""

    def agrees(self, net: nn.Module, image: Tensor) -> bool:
        """Whether what the copy was made into still gives the network's output for an image."""
        if self.compiled is None or not self.bakes:
            return True
        with torch.no_grad():
            return is_close(self.call(net, image), self.compiled(image))

    @abc.abstractmethod
    def run_copy(self, images: Tensor) -> Any:
        """Run the copy and return its unwrapped output."""

    def __call__(self, net: nn.Module, images: Tensor) -> Any:
        """Run; on the first pass, compare the copy's output with the network's."""
        if self.faithful is None:
            return self._compare(net, images)
        return self.run_copy(images) if self.faithful else self.call(net, images)

    def is_faster(self, net: nn.Module, images: Tensor) -> bool:  # noqa: ARG002
        """Whether the copy, whose output is the network's, is worth keeping."""
        return True

    def _compare(self, net: nn.Module, images: Tensor) -> Any:
        own = self.run_network(net, images)
        if not isinstance(own, Tensor):
            self._give_up(net, f"its output is a {type(own).__name__}, not one tensor")
            return own
        try:
            found = self.run_copy(images)
        except (RuntimeError, TargetError) as error:
            if out_of_memory(error):
                self.compiled, self.batch = None, 1  # its batch was too large
                raise
            # a network that cannot be copied into another layout, or a compiler that is missing
            self._give_up(net, f"it failed: {str(error).strip().partition(chr(10))[0][:200]}")
            return own
        self.faithful = is_close(own, found, self.tolerance)
        if not self.faithful:
            self._give_up(net, "its output on the first images is not the network's own")
        elif not self.is_faster(net, images):
            self.faithful = False
            self.drop()
        return own

    def _give_up(self, net: nn.Module, why: str) -> None:
        self.faithful = False
        self.drop()
        warn_unused(self.name, net, why)


@dataclass(frozen=True)
class EngineEntry(Entry):
    """A registered engine."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Engines have no options."""
        return {}


ENGINES: Registry[EngineEntry] = Registry("engine", "torchsaliency.engines", base=Engine)
E = TypeVar("E", bound=type[Engine])


def register_engine(name: str) -> Callable[[E], E]:
    """Add an engine to the registry under `name`, for `accelerate=name`.

    Raises:
        OptionError: the name is taken.
    """

    def add(factory: E) -> E:
        factory.name = name
        ENGINES.register(EngineEntry(name, factory))
        return factory

    return add


_VOLUMES = 5
"""Dimensions of the weights of a convolution of volumes."""


def lay_out(net: nn.Module) -> nn.Module:
    """Return a frozen copy whose convolutions read pixel by pixel, and whose attention folds."""
    copied = copy_network(net).eval().requires_grad_(False)
    for module in copied.modules():
        if type(module) is nn.MultiheadAttention and module.batch_first:
            module.__class__ = _FoldedAttention
    if all(weight.ndim < _VOLUMES for weight in copied.parameters()):
        return copied.to(memory_format=torch.channels_last)
    for weight in copied.parameters():  # torch has one format for each number of dimensions
        weight.data = weight.data.contiguous(memory_format=format_of(weight))
    return copied


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


def warn_unused(engine: str, net: nn.Module, why: str) -> None:
    """Warn that an engine makes no use of its copy."""
    warnings.warn(
        f"accelerate={engine!r} makes no use of its copy of {type(net).__name__}, as {why}. "
        "The network itself runs, with the same numbers.",
        stacklevel=2,
    )


def is_close(own: Any, found: Any, tolerance: float = Engine.tolerance) -> bool:
    """Whether two outputs are tensors of one shape and nearly the same numbers."""
    if not isinstance(own, Tensor) or not isinstance(found, Tensor) or own.shape != found.shape:
        return False
    return torch.allclose(own.float(), found.float(), atol=tolerance, rtol=tolerance)

"""Backward passes with a rule of their own at every ReLU.

The rule is put in by a function mode of torch, which sees every call of ReLU while the network
runs: of a module, in place or not, of one used several times, and of the plain function. Nothing
in the network is replaced, hooked or copied.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchsaliency.core.errors import LayerError
from torchsaliency.core.registry import register
from torchsaliency.core.tracing import View
from torchsaliency.methods.attribution.reduction import (
    BACKWARD,
    Attribution,
    Channels,
    image_gradients,
)

Rule = Callable[[Tensor], Tensor]
"""From the gradient after a function to the gradient before it; linear or not."""

RELU: frozenset[Callable[..., Any]] = frozenset(
    {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
)

CLIPPED: frozenset[Callable[..., Any]] = frozenset({F.relu6, F.hardtanh})
"""ReLU6, and the function that its module calls."""


@register("guided-backprop", family="attribution", cite="springenberg2015", needs=BACKWARD)
@final
@dataclass(frozen=True)
class GuidedBackprop(Attribution):
    """Guided backpropagation: only positive gradients pass a ReLU, and only where it was active.

    Backward through a ReLU: g · 1[input > 0] · 1[g > 0]; through a ReLU6 also · 1[input < 6].
    Networks without either (GELU, SiLU) are refused: theirs would be the plain gradient.

    Source: Springenberg et al., ICLR Workshop 2015. Differs from captum, which sees only modules,
    and fails on those used twice or in place; it joins no colours, TorchRay takes max-abs.

    Attributes:
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs".
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
    """

    channels: Channels = "max-abs"

    def attributions(self, view: View) -> Tensor:
        """Return the guided gradient, (N, C, H, W)."""
        return _steered_gradients(view, self.name, _guided)


@register("deconvnet", family="attribution", cite="zeiler2014", needs=BACKWARD)
@final
@dataclass(frozen=True)
class DeconvNet(Attribution):
    """DeconvNet: only positive gradients pass a ReLU, wherever it was active.

    Backward through a ReLU or ReLU6: g · 1[g > 0]. Networks without either (GELU, SiLU) are
    refused: theirs would be the plain gradient.

    Source: Zeiler and Fergus, ECCV 2014. Differs from captum, which sees only modules, and fails
    on those used twice or in place; it joins no colours, TorchRay takes max-abs.

    Attributes:
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs".
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
    """

    channels: Channels = "max-abs"

    def attributions(self, view: View) -> Tensor:
        """Return the deconvolved gradient, (N, C, H, W)."""
        return _steered_gradients(view, self.name, _deconvolved)


@final
@dataclass(frozen=True, eq=False)
class Call:
    """One call of a function on one tensor, repeatable without touching its input.

    Attributes:
        function: what was called.
        x: its input, detached.
        rest: further arguments by place.
        options: and by name.
    """

    function: Callable[..., Tensor]
    x: Tensor
    rest: Sequence[Any]
    options: Mapping[str, Any]

    def __call__(self, x: Tensor | None = None) -> Tensor:
        """Return the function of its own input, or of another one."""
        return self.function((self.x if x is None else x).clone(), *self.rest, **self.options)


class Watching(TorchFunctionMode, abc.ABC):
    """Hands every call of some functions to `seen`; everything else is done as always."""

    functions: frozenset[Callable[..., Any]] = RELU

    @abc.abstractmethod
    def seen(self, call: Call, x: Tensor) -> Tensor:
        """Return what the call gives; `x` is its input, in the graph."""

    @final
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what torch asks of a function mode."""
        del types
        options = dict(kwargs or {})
        if func not in self.functions or not (args or "input" in options):
            return func(*args, **options)
        x = args[0] if args else options.pop("input")
        result = self.seen(Call(func, x.detach(), args[1:], options), x)
        return x.copy_(result) if _in_place(func, options) else result


@final
class Steering(Watching):
    """Gives ReLU and ReLU6 the backward rule that `rule` makes from where they were active.

    Attributes:
        calls: how many of them ran.
    """

    functions = RELU | CLIPPED

    def __init__(self, rule: Callable[[Tensor], Rule]) -> None:
        super().__init__()
        self._rule = rule
        self.calls = 0

    def seen(self, call: Call, x: Tensor) -> Tensor:
        """Return ReLU(x), whose gradient follows the rule."""
        found = call()
        if call.function is F.hardtanh and bool((found < 0).any()):
            return call.function(x, *call.rest, **call.options)  # no rectifier
        self.calls += 1
        return steered(x, lambda: found, self._rule((call.x > 0) & (found == call.x)))


def _steered_gradients(view: View, name: str, rule: Callable[[Tensor], Rule]) -> Tensor:
    """Return the images' gradients under a rule.

    Raises:
        LayerError: the network has no ReLU.
    """
    modes: list[Steering] = []

    def steering() -> Steering:
        modes.append(Steering(rule))
        return modes[-1]

    found = image_gradients(view, steering)
    if not any(mode.calls for mode in modes):
        raise LayerError(
            f"{name} changes the gradient at ReLU, and this network has none; use saliency, "
            "smoothgrad or integrated-gradients, or a class activation map such as gradcam."
        )
    return found


def steered(x: Tensor, forward: Callable[[], Tensor], rule: Rule) -> Tensor:
    """Return forward(), whose gradient with respect to `x` is made by the rule."""
    result: Tensor = _Steered.apply(x, forward, rule)
    return result


class _Steered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Callable[[], Tensor], rule: Rule) -> Tensor:
        del x
        ctx.rule = rule
        return forward()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.rule(gradients[0]), None, None


def _guided(active: Tensor) -> Rule:
    return lambda g: g.relu() * active


def _deconvolved(active: Tensor) -> Rule:
    del active
    return torch.relu


def _in_place(function: Any, options: Mapping[str, Any]) -> bool:
    name: str = getattr(function, "__name__", "")
    return bool(options.get("inplace")) or (name.endswith("_") and not name.endswith("__"))

"""Backward passes with a rule of their own at every ReLU, however it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from torchsaliency.core.method import register
from torchsaliency.core.rules import Gradients, Operation, Recording
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.reduction import (
    BACKWARD,
    Attribution,
    Channels,
    ruled_gradients,
)


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
        return _rectified_gradients(view, self.name, _guided)


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
        return _rectified_gradients(view, self.name, _deconvolved)


def _guided(given: Tensor, plain: Tensor) -> Tensor:
    return plain * (given > 0)  # the ordinary gradient is 0 where the rectifier was not active


def _deconvolved(given: Tensor, plain: Tensor) -> Tensor:
    del plain
    return given.relu()


def _rectified_gradients(view: View, name: str, rule: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the images' gradients under a rule for rectifiers.

    Raises:
        LayerError: the network has none, or has gates that may be rectifiers written out.
    """
    seen: list[Operation] = []

    def at_rectifiers(operation: Operation, given: Gradients, plain: Gradients) -> Gradients:
        if given[0] is None or plain[0] is None or not _is_rectifier(operation):
            return plain
        seen.append(operation)
        return [rule(given[0], plain[0])]

    def no_gates(recording: Recording) -> None:
        gates = (one.name for one in recording.operations if _is_gate(one))
        if gate := next(gates, None):
            raise LayerError(
                f"{name} changes the gradient at ReLU, and this network also decides by "
                f"{gate} of its features what passes, which may be a ReLU written out; write it "
                "as torch.relu, or use integrated-gradients or a class activation map."
            )

    rules = dict.fromkeys(_RECTIFIERS, at_rectifiers)
    found = ruled_gradients(view, rules, values=False, check=no_gates)
    if not seen:
        raise LayerError(
            f"{name} changes the gradient at ReLU, and this network has none; use saliency, "
            "smoothgrad or integrated-gradients, or a class activation map such as gradcam."
        )
    return found


_COMPARISONS = frozenset({"gt", "ge", "lt", "le", "sign", "heaviside"})
_LARGER = frozenset({"maximum", "minimum"})


def _is_gate(operation: Operation) -> bool:
    """Whether an operation compares features with something: `where(x > 0, x, 0)`, `x * (x > 0)`.

    Of maximum and minimum, those of one feature map and a constant.
    """
    if operation.name in _LARGER:
        return sum(operation.active) == 1
    return operation.name in _COMPARISONS and any(operation.active)


_RECTIFIERS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "threshold")


def _is_rectifier(operation: Operation) -> bool:
    """Whether an operation is 0 below 0: from its bounds, never from the numbers of a batch."""
    if operation.name in {"relu", "relu6"}:
        return True
    if operation.name == "threshold":
        return operation.given("threshold") == 0 and operation.given("value") == 0
    lowest = operation.given("min_val" if operation.name == "hardtanh" else "min")
    return lowest is not None and not isinstance(lowest, Tensor) and lowest == 0

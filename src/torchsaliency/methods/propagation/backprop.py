"""Guided backpropagation, DeconvNet and Guided Grad-CAM: backward passes with a rule at ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from torchsaliency.core.maps import upsample
from torchsaliency.core.method import GRADIENTS, register
from torchsaliency.core.rules import Gradients, Operation, Recording, Rule, Step
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.reduction import Attribution, Channels
from torchsaliency.methods.cam.gradient import GradCAM
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    propagate,
)


@register(
    "guided-backprop",
    family="attribution",
    cite="springenberg2015",
    needs=IMAGE_PASSES,
    signed=True,
)
@final
@dataclass(frozen=True)
class GuidedBackprop(Attribution):
    """Guided backpropagation: only positive gradients pass a ReLU, and only where it was active.

    Backward through a ReLU: g · 1[input > 0] · 1[g > 0]; through a ReLU6 also · 1[input < 6].
    Networks without either (GELU, SiLU) are refused: theirs would be the plain gradient.

    Source: Springenberg et al., ICLR Workshop 2015. Differs from captum, which sees only modules,
    and fails on those used twice or in place; it joins no colours, TorchRay takes max-abs.
    """

    channels: Channels = "max-abs"

    def attributions(self, view: View) -> Tensor:
        """Return the guided gradient, (N, C, *size)."""
        return _propagate_rectified(view, self.name, _guide)


@register("deconvnet", family="attribution", cite="zeiler2014", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class DeconvNet(Attribution):
    """DeconvNet: only positive gradients pass a ReLU, wherever it was active.

    Backward through a ReLU or ReLU6: g · 1[g > 0]. Networks without either (GELU, SiLU) are
    refused: theirs would be the plain gradient.

    Source: Zeiler and Fergus, ECCV 2014. Differs from captum, which sees only modules, and fails
    on those used twice or in place; it joins no colours, TorchRay takes max-abs.
    """

    channels: Channels = "max-abs"

    def attributions(self, view: View) -> Tensor:
        """Return the deconvolved gradient, (N, C, *size)."""
        return _propagate_rectified(view, self.name, _deconvolve)


@register(
    "guided-gradcam",
    family="attribution",
    cite="selvaraju2017",
    needs=GRADIENTS | IMAGE_PASSES,
    signed=True,
)
@final
@dataclass(frozen=True)
class GuidedGradCAM(Attribution):
    """Guided Grad-CAM: guided backpropagation times Grad-CAM, R = G ⊙ up(ReLU(Σ_k w_k A_k)).

    G is the gradient of guided backpropagation at the image, the second factor the map of Grad-CAM,
    resized linearly. Several layers: the mean of their maps.

    Source: Selvaraju et al., ICCV 2017. Differs from captum, which resizes by the nearest cell
    unless told otherwise, and, like the product itself, refuses networks without ReLU.
    """

    joint: ClassVar[bool] = False

    channels: Channels = "max-abs"

    def attributions(self, view: View) -> Tensor:
        """Return the product, (N, C, *size)."""
        cam = upsample(GradCAM().saliency(view).raw, view.size)
        return _propagate_rectified(view, self.name, _guide) * cam[:, None]


def _guide(step: Step) -> Gradients:
    plain = step.gradients[0]  # 0 where the rectifier was not active
    return [None if plain is None else plain * (step.relevance > 0)]


def _deconvolve(step: Step) -> Gradients:
    return [step.relevance.relu()]


def _propagate_rectified(view: View, name: str, rule: Rule) -> Tensor:
    """Return the images' gradients under a rule for rectifiers.

    Raises:
        LayerError: the network has none, or has gates that may be rectifiers written out.
    """
    seen: list[Operation] = []

    def at_rectifiers(step: Step) -> Gradients:
        if step.gradients[0] is None or not _is_rectifier(step.operation):
            return step.gradients
        seen.append(step.operation)
        return rule(step)

    def check(recording: Recording) -> None:
        gate = next(filter(_is_gate, recording.operations), None)
        if gate is not None:
            raise LayerError(
                f"{name} changes the gradient at ReLU, and this network also decides by "
                f"{gate.name} of its features what passes, which may be a ReLU written out; write "
                "it as torch.relu, or use integrated-gradients or a class activation map."
            )

    found = propagate(view, dict.fromkeys(_RECTIFIERS, at_rectifiers), values=False, check=check)
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
        return operation.argument("threshold") == 0 and operation.argument("value") == 0
    lowest = operation.argument("min_val" if operation.name == "hardtanh" else "min")
    return lowest is not None and not isinstance(lowest, Tensor) and lowest == 0

"""DeepLIFT's Rescale rule: at every activation, slopes between the baseline and the image.

A first pass on the baselines records what every activation was given, in the order of the calls;
the pass on the images compares call with call. So a module may run several times or in place, and
plain functions are seen too (see `backprop`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.errors import LayerError
from torchsaliency.core.registry import register
from torchsaliency.core.tracing import View
from torchsaliency.methods.attribution.backprop import RELU, Call, Rule, Watching, steered
from torchsaliency.methods.attribution.reduction import (
    BACKWARD,
    HALF,
    Attribution,
    baseline,
    gradient,
    rows,
    scorer,
    wide_images,
)

Rescaled = Literal["captum", "all"]

_POOLS: frozenset[Callable[..., Any]] = frozenset({torch.max_pool2d, F.max_pool2d})
_MORE: list[Callable[..., Any]] = [F.elu, F.elu_, F.leaky_relu, F.leaky_relu_, F.softplus]
_MORE += [torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid]
_MORE += [torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.tanh]
_REST: list[Callable[..., Any]] = [F.gelu, F.silu, F.mish, F.selu, F.celu, F.relu6, F.hardtanh]
_REST += [F.hardtanh_, F.hardswish, F.hardsigmoid, F.logsigmoid, F.softsign]
_CAPTUM = RELU | _POOLS | frozenset(_MORE)
_ALL = _CAPTUM | frozenset(_REST)
_FUNCTIONS = {"captum": _CAPTUM, "all": _ALL}

_NEAR = 1e-10
"""Inputs closer than this have no slope between them; the ordinary gradient is taken."""


@register("deeplift", family="attribution", cite="shrikumar2017", needs=BACKWARD)
@final
@dataclass(frozen=True)
class DeepLIFT(Attribution):
    """DeepLIFT, Rescale rule: the difference to a baseline b, handed back from layer to layer.

    R = (x - b) ⊙ m, where m is the gradient with every activation's derivative replaced by its
    slope Δout/Δin between baseline and image. Max-pooling has a rule of its own. The shares add up
    to y_c(x) - y_c(b) if all that is not linear has such a rule. b is the baseline of the masking
    in use, by default the mean colour.

    Source: Shrikumar et al., ICML 2017. Equal to captum where that is right: captum refuses modules
    used twice, loses one rule where two follow each other (max-pooling after a ReLU), drops shares
    where pooling windows overlap, and has a rule for softmax that mixes the images of a batch,
    which is left out here.

    Attributes:
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs".
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
        rescaled: activations that have slopes: "captum" (ReLU, ELU, LeakyReLU, sigmoid, tanh,
            softplus; GELU keeps its gradient) or "all" that act number by number.
    """

    rescaled: Rescaled = "captum"

    def attributions(self, view: View) -> Tensor:
        """Return (x - b) ⊙ m, (N, C, H, W)."""
        images, base = wide_images(view), baseline(view)
        parts = [
            differences(view, images[index], base[index], index, self.rescaled)
            for index in rows(len(images), view)
        ]
        return torch.cat(parts)


def differences(
    view: View, images: Tensor, base: Tensor, index: Tensor, rescaled: Rescaled
) -> Tensor:
    """Return DeepLIFT's shares (M, C, H, W) of variants of the images at `index`."""
    recorded = _Recording(rescaled)
    with torch.no_grad():
        scorer(view, lambda: recorded)(base, index)
    compared = _Comparing(rescaled, recorded.calls)
    slopes = gradient(view, images, index, lambda: compared)
    if compared.place != len(recorded.calls):
        raise _unlike()
    return (images - base) * slopes


@final
class _Recording(Watching):
    def __init__(self, rescaled: Rescaled) -> None:
        super().__init__()
        self.functions = _FUNCTIONS[rescaled]
        self.calls: list[Call] = []

    def seen(self, call: Call, x: Tensor) -> Tensor:
        del x
        # The input's own copy: an operation that follows may work on it in place.
        self.calls.append(Call(call.function, call.x.clone(), call.rest, call.options))
        return call()


@final
class _Comparing(Watching):
    def __init__(self, rescaled: Rescaled, calls: list[Call]) -> None:
        super().__init__()
        self.functions = _FUNCTIONS[rescaled]
        self._calls, self.place = calls, 0

    def seen(self, call: Call, x: Tensor) -> Tensor:
        if self.place >= len(self._calls):
            raise _unlike()
        other = self._calls[self.place]
        self.place += 1
        if other.function is not call.function or other.x.shape != call.x.shape:
            raise _unlike()
        rule = _pooling(call, other.x) if call.function in _POOLS else _slopes(call, other.x)
        return steered(x, call, rule)


def _slopes(call: Call, before: Tensor) -> Rule:
    """Return the rule g ↦ g · Δout/Δin, with the derivative where Δin is next to nothing."""
    change = _wide(call.x) - _wide(before)
    near = change.abs() < _NEAR
    slopes = (_wide(call()) - _wide(call(before))) / torch.where(near, 1, change)
    if bool(near.any()):
        with torch.enable_grad():
            x = call.x.clone().requires_grad_()
            (derivative,) = torch.autograd.grad(call(x).sum(), x)
        slopes = torch.where(near, _wide(derivative), slopes)
    return lambda g: (g * slopes).to(g.dtype)


def _pooling(call: Call, before: Tensor) -> Rule:
    """Return max-pooling's rule: Δout goes to both maxima, the image's and the baseline's.

    With o and r the outputs for image and baseline, the image's maximum is given max(o, r) - r and
    the baseline's o - max(o, r), each divided by the change of the input there.
    """
    now, here = _pooled(call, call.x)
    then, there = _pooled(call, before)
    change = (_wide(call.x) - _wide(before)).flatten(-2)
    near = change.abs() < _NEAR
    most = torch.maximum(now, then)

    def rule(g: Tensor) -> Tensor:
        wide = _wide(g).flatten(-2)
        nothing = torch.zeros_like(change)
        shares = nothing.scatter_add(-1, here, wide * (most - then))
        shares = shares.scatter_add(-1, there, wide * (now - most))
        ordinary = nothing.scatter_add(-1, here, wide)
        made = torch.where(near, ordinary, shares / torch.where(near, 1, change))
        return made.view_as(call.x).to(g.dtype)

    return rule


def _pooled(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest numbers of all windows and their places, both flat."""
    options = {key: value for key, value in call.options.items() if key != "return_indices"}
    values, places = F.max_pool2d(x, *call.rest, **options, return_indices=True)
    return _wide(values).flatten(-2), places.flatten(-2)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor


def _unlike() -> LayerError:
    return LayerError(
        "The network takes another way for the baseline than for the image, so DeepLIFT cannot "
        "compare their activations; choose integrated-gradients."
    )

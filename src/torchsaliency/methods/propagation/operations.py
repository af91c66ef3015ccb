"""ATen's operations by what they do, for all methods that have rules for them (`core.rules`).

Composed functions need no entry: ATen takes them apart (SELU is `elu`, SiLU written by hand is
`mul` and `sigmoid`, a linear layer is `addmm`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.attention import SOFTMAXES
from torchsaliency.core.maps import upcast
from torchsaliency.core.rules import Gradients, Operation, Step

ACTIVATIONS = frozenset(
    {"relu", "gelu", "silu", "mish", "elu", "leaky_relu", "prelu", "_prelu_kernel", "hardtanh"}
    | {"hardswish", "tanh", "softplus", "log_sigmoid_forward", "threshold", "hardshrink"}
    | {"softshrink", "rrelu", "rrelu_with_noise", "relu6", "selu", "celu"}
)
"""Functions of one number that a network has between its layers, but for gates."""

GATES = frozenset({"sigmoid", "hardsigmoid"})
"""Functions of one number whose result opens or closes another path."""

FUNCTIONS = frozenset(
    {"pow", "square", "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p"}
    | {"abs", "neg", "reciprocal", "clamp", "clamp_min", "clamp_max", "erf", "erfc", "sin", "cos"}
    | {"tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "sign", "sgn"}
    | {"floor", "ceil", "round", "trunc", "frac", "logit", "erfinv", "xlogy", "sinc"}
)
"""Other functions of one number."""

EXTREMES = frozenset({"maximum", "minimum", "fmax", "fmin"})
"""The larger or smaller of two numbers: with a constant, a function of one."""

ELEMENTWISE = ACTIVATIONS | GATES | FUNCTIONS | EXTREMES
"""Functions that act number by number."""

MEANS = frozenset(
    {"mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d"}
    | {"_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
    | {f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")}
    | {f"upsample_nearest{d}d" for d in (1, 2, 3)}
    | {f"_upsample_nearest_exact{d}d" for d in (1, 2, 3)}
    | {"_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "cumsum", "grid_sampler_2d"}
)
"""Sums of numbers with constant weights that are, as a rule, not below zero."""

CONVOLUTIONS = frozenset({"convolution", "_convolution"})

MATRICES: Mapping[str, int] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot"), 0),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv", "addr"), 1),
}
"""Products of matrices and vectors, with the place of the first factor; what comes before it is
added."""

BATCH_NORMS = frozenset(
    {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "batch_norm"}
    | {"_native_batch_norm_legit", "_native_batch_norm_legit_no_training"}
    | {"_batch_norm_with_update", "_batch_norm_no_update"}
)

NORMS = BATCH_NORMS | {"native_layer_norm", "_fused_rms_norm", "native_group_norm"}


def plain(x: Tensor) -> Tensor:
    """Return the numbers alone, in float32 or better."""
    return upcast(x.detach()).view_as(x)


# --- layers with constant weights ----------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class WeightedLayer:
    """A linear layer with constant weights: apply(x, weight) + bias.

    Attributes:
        x: the input.
        place: its place among the operation's inputs.
        weight: in the operation's own layout.
        bias: broadcastable to the output; None for none.
        apply: the layer without bias.
        rows: to how many vectors it is applied.
        dims: spatial dimensions of a convolution, 0 for a product of matrices.
        foldable: whether a batch normalisation after it can be folded into its weights.
    """

    x: Tensor
    place: int
    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor], Tensor]
    rows: float | int
    dims: int
    foldable: bool

    def fold(self, scale: Tensor, shift: Tensor) -> WeightedLayer:
        """Return the layer followed by scale · x + shift, one number an output channel."""
        by_channel = [-1, *[1] * self.dims]
        by_output = [*by_channel, 1] if self.dims else by_channel
        weight = plain(self.weight) * scale.view(by_output)
        scale, shift = scale.view(by_channel), shift.view(by_channel)
        bias = shift if self.bias is None else shift + plain(self.bias) * scale
        return replace(self, weight=weight, bias=bias)


def weights_of(operation: Operation) -> WeightedLayer | None:
    """Return what an operation is as a layer with constant weights, None if it is none."""
    if operation.name in CONVOLUTIONS:
        return _convolution(operation)
    return _matrix(operation) if operation.name in MATRICES else None


def layer_of(step: Step) -> WeightedLayer | None:
    """Return a step's layer with constant weights, None if it has none.

    A batch normalisation that alone reads the layer is folded into it; LRP's rule for such a
    normalisation hands relevance on unchanged.
    """
    layer = weights_of(step.operation)
    readers = step.consumers_of()
    norm = readers[0] if len(readers) == 1 else None
    if layer is None or not layer.foldable or norm is None or norm.name not in BATCH_NORMS:
        return layer
    known = batch_scale_shift(norm) if step.parents_of(norm)[0] is step.operation else None
    return layer if known is None else layer.fold(*known)


def _convolution(operation: Operation) -> WeightedLayer | None:
    x, weight, bias, *rest = operation.args
    if not operation.is_active(0) or operation.is_active(1):
        return None
    dims = weight.ndim - 2
    return WeightedLayer(
        x=x,
        place=0,
        weight=weight,
        bias=None if bias is None else bias.view(-1, *[1] * dims),
        apply=lambda x, weight: operation.call(x, weight, None, *rest, **operation.options),
        rows=math.inf,  # a convolution has positions, even if there is only one
        dims=dims,
        foldable=not operation.argument("transposed"),
    )


def _matrix(operation: Operation) -> WeightedLayer | None:
    start = MATRICES[operation.name]
    places = [place for place in (start, start + 1) if operation.is_active(place)]
    if len(places) != 1 or (start and operation.is_active(0)):
        return None
    (place,) = places
    left = place == start
    x, weight = operation.args[place], operation.args[2 * start + 1 - place]
    length = x.shape[-1] if left or x.ndim == 1 else x.shape[-2]
    return WeightedLayer(
        x=x,
        place=place,
        weight=weight,
        bias=operation.argument("beta", 1) * operation.args[0].detach() if start else None,
        apply=lambda x, weight: multiply(operation, *((x, weight) if left else (weight, x))),
        rows=x.numel() // max(1, length),
        dims=0,
        foldable=left and weight.ndim == x.ndim == 2,  # noqa: PLR2004 (rows and channels)
    )


def multiply(operation: Operation, a: Tensor, b: Tensor) -> Tensor:
    """Multiply two factors as an operation does, without what it adds."""
    if operation.name in CONVOLUTIONS:
        found: Tensor = operation.call(a, b, None, *operation.args[3:], **operation.options)
        return found
    made = torch.outer(a, b) if operation.name == "addr" else a @ b
    made = made.sum(0) if operation.name == "addbmm" else made
    return made * operation.argument("alpha", 1) if MATRICES[operation.name] else made


def batch_statistics(operation: Operation) -> tuple[Tensor, Tensor] | None:
    """Return the running mean and variance that a batch normalisation uses, None if its own."""
    mean, var = operation.argument("running_mean"), operation.argument("running_var")
    training = operation.argument("training", False) and "no_training" not in operation.name
    return None if training or mean is None or var is None else (mean, var)


def batch_scale_shift(operation: Operation) -> tuple[Tensor, Tensor] | None:
    """Return a and b of a batch normalisation that is a·x + b, in float32 or better."""
    known = batch_statistics(operation)
    if known is None:
        return None
    mean, var = (
        numbers if numbers.dtype == torch.float64 else numbers.float() for numbers in known
    )
    weight, bias = operation.argument("weight"), operation.argument("bias")
    scale = (var + eps_of(operation)).rsqrt() * (1 if weight is None else weight.to(var))
    return scale, (0 if bias is None else bias.to(var)) - mean * scale


def eps_of(operation: Operation) -> float:
    """Return ε of a batch normalisation."""
    found = operation.argument("eps")
    return float(operation.argument("epsilon") if found is None else found)


# --- rules that several methods have -------------------------------------------------------------

_GATE_DEPTH = 6
"""So many steps (views, a change of precision) may lie between a gate and its use."""


def pass_gradient(step: Step) -> Gradients:
    """Hand relevance on as a gradient does."""
    return step.gradients


def pass_unchanged(step: Step) -> Gradients:
    """Hand relevance through to the first input."""
    x = step.operation.args[0]
    fits = isinstance(x, Tensor) and x.shape == step.relevance.shape
    return [step.relevance] if fits else step.gradients


def pass_to_signal(step: Step) -> Gradients:
    """Hand the relevance of a product number by number to its signal; see `to_signal`."""
    return to_signal(step, step.relevance)[: len(step.gradients)]


def to_signal(step: Step, relevance: Tensor, first: int = 0) -> list[Tensor | None]:
    """Hand the relevance of a product number by number to its signal, or to both factors.

    Constants and gates (sigmoid, softmax, or else the smaller factor) take nothing.

    Args:
        step: whose arguments at `first` and after it are the factors.
        relevance: of the product.
        first: the first factor's place.
    """
    factors = step.operation.args[first : first + 2]
    gates = [not step.operation.is_active(place) for place in (first, first + 1)]
    if not any(gates):
        gates = [is_gate(step, place) for place in (first, first + 1)]
        if gates[0] == gates[1]:
            a, b = (factor.numel() for factor in factors)
            gates = [a < b, b < a]
    if gates[0] == gates[1]:
        return [(relevance / 2).sum_to_size(factor.shape) for factor in factors]
    return [
        None if gate else relevance.sum_to_size(factor.shape)
        for gate, factor in zip(gates, factors, strict=True)
    ]


def is_gate(step: Step, place: int) -> bool:
    """Whether an input is the output of a gate, but for operations without a rule in between."""
    parents = step.parents_of()
    before = parents[place] if place < len(parents) else None
    for _ in range(_GATE_DEPTH):
        if before is None:
            return False
        if before.name in GATES | SOFTMAXES:
            return True
        parents = step.parents_of(before)
        if step.has_rule(before) or len(parents) != 1:
            return False
        before = parents[0]
    return False


def pass_to_numerator(step: Step) -> Gradients:
    """Hand the relevance of a quotient to the numerator, or through a denominator alone."""
    place = 0 if step.operation.is_active(0) else 1
    shape = step.operation.args[place].shape
    return place_at(place, step.relevance.sum_to_size(shape), len(step.gradients))


def place_at(place: int, relevance: Tensor, count: int) -> list[Tensor | None]:
    """Return the relevance of `count` inputs, of which one receives any."""
    found: list[Tensor | None] = [None] * count
    found[place] = relevance
    return found

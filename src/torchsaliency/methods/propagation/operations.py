"""ATen's operations by what they do, for all methods that have rules for them (`core.rules`).

Composed functions need no entry: ATen takes them apart (SELU is `elu`, SiLU written by hand is
`mul` and `sigmoid`, a linear layer is `addmm`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.core.attention import FUSED
from torchsaliency.core.rules import Gradients, Operation

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

SOFTMAXES = frozenset({"_softmax", "_safe_softmax"})

POOLS: Mapping[str, int] = {
    "max_pool2d_with_indices": 2,
    "max_pool3d_with_indices": 3,
    "adaptive_max_pool2d": 2,
    "adaptive_max_pool3d": 3,
    "fractional_max_pool2d": 2,
    "fractional_max_pool3d": 3,
}
"""Max-pooling, with how many of the last dimensions its indices count over."""

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
    "mm": 0,
    "bmm": 0,
    "mv": 0,
    "dot": 0,
    "vdot": 0,
    "addmm": 1,
    "baddbmm": 1,
    "addbmm": 1,
    "addmv": 1,
    "addr": 1,
}
"""Products of matrices and vectors, with the place of the first factor; what comes before it is
added."""

ATTENTIONS = FUSED


@final
@dataclass(frozen=True, eq=False)
class NormForm:
    """A normalisation y = w · (x - mean x) · (mean (x - mean x)² + ε)^-½ + b.

    Attributes:
        shape: in which x is normalised.
        dims: over which the means are taken.
        weight: w, broadcastable to the shape; None for 1.
        eps: ε.
        centred: whether the mean is subtracted.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]
    weight: Tensor | None
    eps: float
    centred: bool = True


def _layer_norm(operation: Operation) -> NormForm:
    x = operation.args[0]
    dims = tuple(range(x.ndim - len(operation.given("normalized_shape")), x.ndim))
    weight, eps = operation.given("weight"), operation.given("eps")
    centred = "rms" not in operation.name
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return NormForm(tuple(x.shape), dims, weight, eps, centred)


def _group_norm(operation: Operation) -> NormForm:
    x, weight = operation.args[0], operation.given("weight")
    groups = operation.given("group")
    per = x.shape[1] // groups
    shape = (x.shape[0], groups, per, math.prod(x.shape[2:]))
    weight = None if weight is None else weight.view(1, groups, per, 1)
    return NormForm(shape, (2, 3), weight, operation.given("eps"))


def _batch_norm(operation: Operation) -> NormForm | None:
    """Return the form of a batch normalisation by the batch's own statistics; others are linear."""
    if batch_statistics(operation) is not None:
        return None
    x, weight = operation.args[0], operation.given("weight")
    shape = (1, -1, *[1] * (x.ndim - 2))
    dims = (0, *range(2, x.ndim))
    weight = None if weight is None else weight.view(shape)
    return NormForm(tuple(x.shape), dims, weight, _eps(operation))


def batch_statistics(operation: Operation) -> tuple[Tensor, Tensor] | None:
    """Return the running mean and variance that a batch normalisation uses, None if its own."""
    mean, var = operation.given("running_mean"), operation.given("running_var")
    training = operation.given("training", False) and "no_training" not in operation.name
    return None if training or mean is None or var is None else (mean, var)


def batch_scale_shift(operation: Operation) -> tuple[Tensor, Tensor] | None:
    """Return a and b of a batch normalisation that is a·x + b, in float32 or better."""
    known = batch_statistics(operation)
    if known is None:
        return None
    mean, var = (one if one.dtype == torch.float64 else one.float() for one in known)
    weight, bias = operation.given("weight"), operation.given("bias")
    scale = (var + _eps(operation)).rsqrt() * (1 if weight is None else weight.to(var))
    return scale, (0 if bias is None else bias.to(var)) - mean * scale


def _eps(operation: Operation) -> float:
    found = operation.given("eps")
    return float(operation.given("epsilon") if found is None else found)


_BATCH_NORMS = (
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "batch_norm",
)

NORMS: Mapping[str, Callable[[Operation], NormForm | None]] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
}
"""Normalisations, each with what tells its form; None where it is linear."""

BATCH_NORMS = frozenset(_BATCH_NORMS)


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
        by_output: gives one number an output channel the shape that multiplies weights; None where
            a batch normalisation cannot be folded into them.
        by_channel: gives it the shape that is added to the output.
    """

    x: Tensor
    place: int
    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor], Tensor]
    rows: float | int
    by_output: Callable[[Tensor], Tensor] | None
    by_channel: Callable[[Tensor], Tensor]


def weights_of(operation: Operation) -> WeightedLayer | None:
    """Return what an operation is as a layer with constant weights, None if it is none."""
    if operation.name in CONVOLUTIONS:
        return _convolution(operation)
    return _matrix(operation) if operation.name in MATRICES else None


def _convolution(operation: Operation) -> WeightedLayer | None:
    x, weight, bias, *rest = operation.args
    if actives(operation, 2) != [True, False]:
        return None

    def by_channel(values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (weight.ndim - 2))

    def by_output(values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (weight.ndim - 1))

    return WeightedLayer(
        x=x,
        place=0,
        weight=weight,
        bias=None if bias is None else by_channel(bias),
        apply=lambda own, weights: operation.call(own, weights, None, *rest, **operation.options),
        rows=math.inf,  # a convolution has positions, even if there is one alone
        by_output=None if operation.given("transposed") else by_output,
        by_channel=by_channel,
    )


def _matrix(operation: Operation) -> WeightedLayer | None:
    start = MATRICES[operation.name]
    places = [one for one in (start, start + 1) if is_active(operation, one)]
    if len(places) != 1 or (start and is_active(operation, 0)):
        return None
    (place,) = places
    left = place == start
    x, weight = operation.args[place], operation.args[2 * start + 1 - place]
    length = x.shape[-1] if left or x.ndim == 1 else x.shape[-2]
    folds = left and weight.ndim == x.ndim == 2  # noqa: PLR2004 (rows and channels)
    return WeightedLayer(
        x=x,
        place=place,
        weight=weight,
        bias=operation.given("beta", 1) * operation.args[0].detach() if start else None,
        apply=lambda own, weights: product_of(
            operation, *((own, weights) if left else (weights, own))
        ),
        rows=x.numel() // max(1, length),
        by_output=(lambda values: values) if folds else None,
        by_channel=lambda values: values,
    )


def product_of(operation: Operation, a: Tensor, b: Tensor) -> Tensor:
    """Multiply two factors as an operation does, without what it adds."""
    if operation.name in CONVOLUTIONS:
        found: Tensor = operation.call(a, b, None, *operation.args[3:], **operation.options)
        return found
    made = torch.outer(a, b) if operation.name == "addr" else a @ b
    made = made.sum(0) if operation.name == "addbmm" else made
    return made * operation.given("alpha", 1) if MATRICES[operation.name] else made


def is_active(operation: Operation, place: int) -> bool:
    """Whether an argument's gradient is wanted."""
    args = operation.args
    if place >= len(args) or not isinstance(args[place], Tensor):
        return False
    return operation.active[sum(isinstance(one, Tensor) for one in args[:place])]


def actives(operation: Operation, count: int) -> list[bool]:
    """Whether the gradients of the first arguments are wanted."""
    return [is_active(operation, place) for place in range(count)]


# --- rules that several methods have -------------------------------------------------------------

_GATE_DEPTH = 6
"""So many steps (views, a change of precision) may lie between a gate and its use."""


def is_gate(operation: Operation, place: int, rules: Mapping[str, Any]) -> bool:
    """Whether an input is the output of a gate, give or take operations without a rule."""
    parents = operation.parents
    before = parents[place] if place < len(parents) else None
    for _ in range(_GATE_DEPTH):
        if before is None:
            return False
        if before.name in GATES | SOFTMAXES:
            return True
        if before.name in rules or len(before.parents) != 1:
            return False
        before = before.parents[0]
    return False


def unchanged(operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
    """Hand relevance through to the first input."""
    x = operation.args[0]
    fits = isinstance(x, Tensor) and given[0] is not None and x.shape == given[0].shape
    return [given[0]] if fits else ordinary


def scaled_relevance(
    operation: Operation, relevance: Tensor, rules: Mapping[str, Any], *, first: int = 0
) -> list[Tensor | None]:
    """Hand relevance to the signal of a product number by number, or to both factors.

    Constants and gates (sigmoid, softmax, or else the smaller factor) take nothing.

    Args:
        operation: whose arguments at `first` and after it are the factors.
        relevance: of the product.
        rules: of the method; gates are looked for among what has none.
        first: the first factor's place.
    """
    factors = operation.args[first : first + 2]
    active = [is_active(operation, place) for place in (first, first + 1)]
    if not all(active):
        return [
            relevance.sum_to_size(one.shape) if wanted else None
            for one, wanted in zip(factors, active, strict=True)
        ]
    gates = [is_gate(operation, place, rules) for place in (first, first + 1)]
    if gates[0] == gates[1]:
        a, b = (one.numel() for one in factors)
        gates = [a < b, b < a]
    if gates[0] != gates[1]:
        return [
            None if gate else relevance.sum_to_size(one.shape)
            for one, gate in zip(factors, gates, strict=True)
        ]
    return [(relevance / 2).sum_to_size(one.shape) for one in factors]


def divided_relevance(operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
    """Hand relevance to the numerator, or through a denominator alone."""
    assert given[0] is not None
    place = 0 if is_active(operation, 0) else 1
    found: list[Tensor | None] = [None] * len(ordinary)
    found[place] = given[0].sum_to_size(operation.args[place].shape)
    return found

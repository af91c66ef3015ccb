"""Layer-wise relevance propagation through an unmodified network, by a mode.

While the mode is active, every function that the rules speak of runs as itself, but its backward
pass hands on relevance instead of a gradient (see `backprop`): of modules, in place or used several
times, and of plain functions. One backward pass from the score gives the relevance of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchsaliency.core.errors import LayerError
from torchsaliency.core.registry import register
from torchsaliency.core.tracing import View
from torchsaliency.methods.attribution.backprop import Rule, steered
from torchsaliency.methods.attribution.reduction import (
    BACKWARD,
    HALF,
    Attribution,
    Channels,
    image_gradients,
)

Propagation = Literal["composite", "epsilon", "alpha-beta"]
Biases = Literal["absorbs", "excluded"]


@register("lrp", family="attribution", cite="bach2015", needs=BACKWARD)
@final
@dataclass(frozen=True)
class LRP(Attribution):
    """Layer-wise relevance propagation: the score is shared out from layer to layer.

    The output's relevance is its score. With contributions z_ij = x_i w_ij a layer hands on, by
    ε: R_i = Σ_j z_ij / (z_j + ε sign z_j) R_j; by αβ, with α = 1 and β = 0: the same of all z_ij⁺;
    by z^B, for a first layer whose inputs lie in [l, h], the extremes of the image: the same of
    (x_i - l) w_ij⁺ + (x_i - h) w_ij⁻. Batch normalisation belongs to the layer before it.
    Max-pooling: all to the largest. Sums and means: by ε, or else to the terms of the sum's own
    sign. ReLU and its like, softmax, other norms: unchanged. Products: to the signal, for gates
    (sigmoid, softmax, or the smaller factor) count as constant; so attention hands relevance to
    its values alone.

    Source: Bach et al., PLOS ONE 2015; z^B: Montavon et al., Pattern Recognition 2017. Differs from
    captum, which sees only modules, refuses those used twice, and has no rule for sums.

    Attributes:
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs".
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
        rule: "composite" (z^B for the first convolution, αβ for all others and wherever there are
            positions, ε for linear layers after them), "epsilon" or "alpha-beta" everywhere.
        epsilon: ε, absolute; it only keeps away from zero.
        bias: "absorbs": a bias keeps its share in the ε rule (captum), and in αβ all of a unit
            without positive contributions; or "excluded": inputs share it all, so that relevance
            is conserved but where they are all zero; in deep networks ε everywhere overflows then.
    """

    above_zero = ("epsilon",)

    channels: Channels = "sum-positive"
    rule: Propagation = "composite"
    epsilon: float | int = 1e-9
    bias: Biases = "absorbs"

    def attributions(self, view: View) -> Tensor:
        """Return the relevance of every number, (N, C, H, W).

        Raises:
            LayerError: it grew beyond all bounds, where contributions cancel.
        """
        shares = image_gradients(view, lambda: Relevance(self.rule, float(self.epsilon), self.bias))
        if not bool(shares.isfinite().all()):
            raise LayerError(
                "The relevance overflowed, for contributions cancel in this network; choose "
                "lrp.rule=composite, lrp.bias=absorbs or a larger lrp.epsilon."
            )
        return shares * view.score.to(shares)[:, None, None, None]


Linear = Callable[[Tensor], Tensor]
Weighted = Callable[[Tensor, Tensor], Tensor]

# torch's own, for inside multi-head attention F's are replaced
_WHOLE, _ATTEND, _LINEAR = F.multi_head_attention_forward, F.scaled_dot_product_attention, F.linear

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_GATES = {"sigmoid", "hardsigmoid", "softmax"}
_UNCHANGED = {"relu", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "relu6"}
_UNCHANGED |= {"hardtanh", "hardswish", "tanh", "softplus", "softsign", "logsigmoid", "threshold"}
_UNCHANGED |= {"tanhshrink", "hardshrink", "softshrink", "rrelu", "glu", "erf"}
_UNCHANGED |= {"layer_norm", "group_norm", "instance_norm", "rms_norm"}
_UNCHANGED |= {"local_response_norm", "normalize", "native_layer_norm"}
_UNCHANGED |= {"pow", "__pow__", "square", "sqrt", "rsqrt", "exp", "log", "log1p", "abs", "neg"}
_UNCHANGED |= {
    "__neg__",
    "reciprocal",
    "__rtruediv__",
    "__rdiv__",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clip",
}
_MEANS = {"mean", "sum", "interpolate", "upsample"}
_MEANS |= {f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)}
_PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__", "__imul__"}
_QUOTIENTS = {"div", "divide", "true_divide", "__truediv__", "__div__", "__itruediv__"}
_SUMS = {"add", "__add__", "__radd__", "__iadd__"}
_DIFFERENCES = {"sub", "subtract", "__sub__", "__isub__"}
_REVERSED = {"rsub", "__rsub__"}
_MATRICES = {"matmul", "__matmul__", "bmm", "mm"}

_FLAT = 2
"""Tensors of more dimensions have positions."""

_GATE_DEPTH = 6
"""So many steps (views, dropout, a change of precision) may lie between a gate and its use."""


@final
@dataclass(frozen=True, eq=False)
class _Layer:
    """The linear layer that ran last, in case a batch normalisation follows it."""

    x: Tensor
    values: Tensor
    weight: Tensor
    bias: Tensor | None
    apply: Weighted
    result: Tensor
    version: int
    first: bool


@final
class Relevance(TorchFunctionMode):
    """Makes backward passes carry relevance by the rules of `LRP`.

    What no rule speaks of runs backward as a gradient, which only moves values about: reshaping,
    joining, indexing, max-pooling.
    """

    def __init__(self, rule: Propagation, epsilon: float, bias: Biases) -> None:
        super().__init__()
        self._rule, self._epsilon, self._excluded = rule, epsilon, bias == "excluded"
        self._first, self._at_positions = True, False
        self._last: _Layer | None = None

    def __torch_function__(  # noqa: PLR0911 (a table of rules)
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a torch function with the backward pass of its rule."""
        del types
        given = dict(kwargs or {})
        if "input" in given and not args:
            args = (given.pop("input"),)
        if not torch.is_grad_enabled() or "out" in given or not any(map(_active, args)):
            return func(*args, **given)
        name: str = getattr(func, "__name__", "")
        if not name.endswith("__"):
            name = name.removesuffix("_")
        if func is _WHOLE:
            return self._multi_head(*args, **given)
        if func is _ATTEND:
            return self._attend(*args, **given)
        if func is _LINEAR:
            return self._linear(*args, **given)
        if name in _CONVOLUTIONS | _TRANSPOSED and _active(args[0]):
            return self._convolve(func, name in _CONVOLUTIONS, *args, **given)
        if func is F.batch_norm and _active(args[0]):
            return self._normalise(*args, **given)
        if name in _MATRICES and len(args) > 1:
            return self._multiply(func, args[0], args[1])
        return self._elementwise(func, name, args, given)

    def _elementwise(  # noqa: PLR0911 (a table of rules)
        self, func: Callable[..., Any], name: str, args: Sequence[Any], given: dict[str, Any]
    ) -> Any:
        x = args[0]
        binary = _SUMS | _DIFFERENCES | _REVERSED | _PRODUCTS | _QUOTIENTS
        if name in binary and (len(args) > 1 or "other" in given):
            rest = {key: value for key, value in given.items() if key != "other"}
            other = args[1] if len(args) > 1 else given["other"]
            return self._combine(func, name, x, other, rest)
        if name == "addcmul" and len(args) > _FLAT:  # x + value · a · b
            with self:
                return x + args[1] * args[2] * given.get("value", 1)
        if not _active(x):
            return func(*args, **given)
        if name in _GATES | _UNCHANGED:
            found, work = _worked(func, x, args[1:], given)
            if not isinstance(found, Tensor) or found.shape != x.shape:
                return func(*args, **given)
            if name in _GATES:
                gate: Tensor = _Gate.apply(x, found)
                return _back(gate, x, work)
            return _back(steered(x, lambda: found, lambda g: g), x, work)
        if name in _MEANS and "dtype" not in given:
            return self._share(x, lambda values: func(values, *args[1:], **given))
        if name == "log_softmax":  # gradient times input
            values = x.detach().clone()
            apply: Linear = lambda own: func(own, *args[1:], **given)  # noqa: E731
            return steered(x, lambda: apply(values), self._proportional(values, apply))
        if name == "cosine_similarity" and len(args) > 1 and not _active(args[1]):
            values, other = x.detach().clone(), args[1]
            dim = given.get("dim", args[2] if len(args) > _FLAT else 1)
            rule = self._proportional(values, lambda own: (own * other.to(own)).sum(dim))
            return steered(x, lambda: func(values, *args[1:], **given), rule)
        return func(*args, **given)

    # --- layers with weights ---------------------------------------------------------------------

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not _active(x):
            return _LINEAR(x, weight, bias)
        return self._weighted(x, weight, bias, _LINEAR, lambda: _LINEAR(x.detach(), weight, bias))

    def _convolve(
        self,
        func: Callable[..., Tensor],
        plain: bool,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **given: Any,
    ) -> Tensor:
        def apply(values: Tensor, weights: Tensor) -> Tensor:
            return func(values, weights, None, *args, **given)

        first, self._first = self._first, False
        return self._weighted(
            x,
            weight,
            bias,
            apply,
            lambda: func(x.detach(), weight, bias, *args, **given),
            first=first and plain,
            fusible=plain,
        )

    def _weighted(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        apply: Weighted,
        forward: Callable[[], Tensor],
        *,
        first: bool = False,
        fusible: bool = True,
    ) -> Tensor:
        values = x.detach().clone()
        weight = weight.detach()
        bias = None if bias is None else bias.detach()
        rule = self._layer_rule(values, weight, bias, apply, first=first)
        result = steered(x, forward, rule)
        # Batch normalisation over channels: the second dimension, which must be the weight's first.
        if fusible and (apply is not _LINEAR or x.ndim == _FLAT):
            version = result._version
            self._last = _Layer(x, values, weight, bias, apply, result, version, first)
        return result

    def _layer_rule(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        apply: Weighted,
        *,
        first: bool,
    ) -> Rule:
        if first and self._rule == "composite":
            return _bounded(x, weight, apply)
        if not self._by_epsilon(x):
            return _positive(x, weight, apply, spare=self._excluded)
        shift: Tensor | float = 0
        if bias is not None and not self._excluded:
            shift = _wide(bias).view(-1, *[1] * (weight.ndim - 2))
        return self._proportional(x, lambda own: apply(own, weight.to(own)), shift)

    def _normalise(  # noqa: PLR0913, PLR0917 (torch's signature)
        self,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        def forward() -> Tensor:
            return F.batch_norm(x.detach(), mean, var, weight, bias, training, momentum, eps)

        last, self._last = self._last, None
        if training or mean is None or var is None:
            return steered(x, forward, lambda g: g)
        scale = (_wide(var) + eps).rsqrt() * (1 if weight is None else _wide(weight.detach()))
        shift = (0 if bias is None else _wide(bias.detach())) - _wide(mean) * scale
        if last is not None and last.result is x and x._version == last.version:
            folded = _wide(last.weight) * scale.view(-1, *[1] * (last.weight.ndim - 1))
            whole = shift if last.bias is None else shift + _wide(last.bias) * scale
            rule = self._layer_rule(last.values, folded, whole, last.apply, first=last.first)
            return steered(last.x, forward, rule)
        if self._excluded or not self._by_epsilon(x):
            return steered(x, forward, lambda g: g)
        shape = (-1, *[1] * (x.ndim - 2))
        rule = self._proportional(
            x.detach().clone(), lambda own: own * scale.to(own).view(shape), shift.view(shape)
        )
        return steered(x, forward, rule)

    # --- products, sums and means ----------------------------------------------------------------

    def _combine(
        self, func: Callable[..., Any], name: str, x: Any, other: Any, rest: dict[str, Any]
    ) -> Any:
        """Run an operation of two terms or factors, one of which may be constant."""
        active = _active(x), _active(other)
        main = x if active[0] else other
        found, work = _worked(func, x, (_detached(other),), rest)
        if name in _QUOTIENTS:
            if not active[0]:
                return func(x, other, **rest)
            result = _passed(x, found)
        elif name in _PRODUCTS:
            result = self._product(x, other, found) if all(active) else _passed(main, found)
        elif all(active):
            result = self._sum(name, x, other, found, rest.get("alpha", 1))
        elif self._excluded or not self._by_epsilon(main):
            result = _passed(main, found)
        else:  # the constant is a bias
            sign = -1 if name in (_REVERSED if active[0] else _DIFFERENCES) else 1
            values, shape = main.detach().clone(), found.shape
            constant = _wide(found) - sign * _wide(values)
            rule = self._proportional(values, lambda own: sign * own.expand(shape), constant)
            result = steered(main, lambda: found, rule)
        return _back(result, x, work)

    def _product(self, x: Tensor, other: Tensor, found: Tensor) -> Tensor:
        gates = _is_gate(x), _is_gate(other)
        if gates[0] == gates[1]:
            gates = x.numel() < other.numel(), other.numel() < x.numel()
        if gates[0] != gates[1]:
            return _passed(other if gates[0] else x, found)
        return _passed(x, found / 2, 0.5) + _passed(other, found / 2, 0.5)

    def _sum(
        self, name: str, x: Tensor, other: Tensor, found: Tensor, alpha: float | int
    ) -> Tensor:
        signs = (-1.0, alpha) if name in _REVERSED else (1.0, alpha)
        if name in _DIFFERENCES:
            signs = (1.0, -alpha)
        a, b = (_wide(s * one.detach()) for s, one in zip(signs, (x, other), strict=True))
        whole = a + b
        if self._by_epsilon(found):
            parts = [one / self._away(whole) for one in (a, b)]
        else:
            up, down = a.clamp_min(0) + b.clamp_min(0), a.clamp_max(0) + b.clamp_max(0)
            parts = [
                torch.where(whole > 0, _divided(one.clamp_min(0), up), 0)
                + torch.where(whole < 0, _divided(one.clamp_max(0), down), 0)
                for one in (a, b)
            ]

        def rule(part: Tensor, one: Tensor) -> Rule:
            return lambda g: (_wide(g) * part).sum_to_size(one.shape).to(g.dtype)

        first = steered(x, lambda: found, rule(parts[0], x))
        return first + steered(other, lambda: torch.zeros_like(found), rule(parts[1], other))

    def _share(self, x: Tensor, apply: Linear) -> Tensor:
        """Run a function that sums numbers with weights not below zero."""
        values = x.detach().clone()
        if self._by_epsilon(x):
            rule = self._proportional(values, apply)
        else:
            rule = _own_sign(values, apply)
        return steered(x, lambda: apply(values), rule)

    def _multiply(self, func: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
        """Run a matrix product; of two activations, the gate is constant."""
        if not (_active(a) and _active(b)):
            if _active(a) and b.ndim == _FLAT:
                return self._linear(a, b.mT)
            left, kept = _active(a), _detached(b if _active(a) else a)
            values = (a if left else b).detach().clone()
            apply: Linear = lambda own: own @ kept.to(own) if left else kept.to(own) @ own  # noqa: E731
            return steered(
                a if left else b, lambda: func(a, b).detach(), self._proportional(values, apply)
            )
        if _is_gate(a) != _is_gate(b):
            kept = (a if _is_gate(a) else b).detach().clone()
            if _is_gate(a):
                return self._share(b, lambda own: kept.to(own) @ own)
            return self._share(a, lambda own: own @ kept.to(own))
        first, second = a.detach().clone(), b.detach().clone()
        by_a = self._proportional(first, lambda own: own @ second.to(own))
        by_b = self._proportional(second, lambda own: first.to(own) @ own)
        half = func(first, second) / 2
        return steered(a, lambda: half, lambda g: by_a(g) / 2) + steered(
            b, lambda: half, lambda g: by_b(g) / 2
        )

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **given: Any
    ) -> Tensor:
        q, k = query.detach().clone(), key.detach().clone()
        if not _active(value):
            return _ATTEND(q, k, value, *args, **given)
        return self._share(
            value,
            lambda own: _ATTEND(
                q.to(own),
                k.to(own),
                own,
                *(_alike(one, own) for one in args),
                **{name: _alike(one, own) for name, one in given.items()},
            ),
        )

    def _multi_head(self, *args: Any, **given: Any) -> tuple[Tensor, None]:
        given["need_weights"] = False
        self._at_positions = True  # torch lays them along the batch
        with (
            mock.patch.object(F, "scaled_dot_product_attention", self._attend),
            mock.patch.object(F, "linear", self._linear),
        ):
            output, _ = _WHOLE(*args, **given)
        self._at_positions = False
        return output, None

    # --- which rule, and how it divides ----------------------------------------------------------

    def _by_epsilon(self, x: Tensor) -> bool:
        """Whether the ε rule holds here; scores of one number an image always have it."""
        most = _FLAT if self._rule == "composite" and not self._at_positions else 1
        return self._rule == "epsilon" or x.ndim <= most

    def _away(self, below: Tensor) -> Tensor:
        return below + torch.where(below < 0, -self._epsilon, self._epsilon)

    def _proportional(self, x: Tensor, apply: Linear, bias: Tensor | float | int = 0) -> Rule:
        """Return the ε rule of apply(x) + bias."""

        def rule(g: Tensor) -> Tensor:
            with _in_full(x):
                own = _wide(x).requires_grad_()
                made = apply(own)
                share = _wide(g) / self._away(made.detach() + bias)
                return (own.detach() * _pulled(made, own, share)).to(g.dtype)

        return rule


def _positive(x: Tensor, weight: Tensor, apply: Weighted, *, spare: bool) -> Rule:
    """Return the αβ rule with α = 1, β = 0: only positive contributions.

    To spare relevance, a unit that has none but negative ones shares it among these.
    """

    def rule(g: Tensor) -> Tensor:
        with _in_full(x):
            wide, relevance = _wide(x), _wide(g)
            signs = (1,) if bool((wide >= 0).all()) else (1, -1)
            found, below = _parted(wide, weight, apply, relevance, [(s, s) for s in signs])
            lost = torch.where(below == 0, relevance, 0)
            if spare and bool(lost.any()):
                found += _parted(wide, weight, apply, lost, [(s, -s) for s in signs])[0]
            return found.to(g.dtype)

    return rule


def _parted(
    x: Tensor,
    weight: Tensor,
    apply: Weighted,
    relevance: Tensor,
    signs: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Share relevance among contributions of inputs and weights of some signs; also their sums."""
    parts = [_one_sided(x, sign).requires_grad_() for sign, _ in signs]
    made = [
        apply(part, _one_sided(weight, sign).to(part))
        for part, (_, sign) in zip(parts, signs, strict=True)
    ]
    below = torch.stack([one.detach() for one in made]).sum(0)
    share = _divided(relevance, below)
    found = torch.zeros_like(x)
    for part, one in zip(parts, made, strict=True):
        found += part.detach() * _pulled(one, part, share)
    return found, below


def _one_sided(x: Tensor, sign: int) -> Tensor:
    return (x.clamp_min(0) if sign > 0 else x.clamp_max(0)).detach()


def _bounded(x: Tensor, weight: Tensor, apply: Weighted) -> Rule:
    """Return the z^B rule; the bounds are each image's own extremes."""

    def rule(g: Tensor) -> Tensor:
        with _in_full(x):
            wide, dims = _wide(x), tuple(range(1, x.ndim))
            # Differences first, so that a blank image gives exact zeros.
            up = (wide - wide.amin(dims, keepdim=True)).requires_grad_()
            down = (wide - wide.amax(dims, keepdim=True)).requires_grad_()
            above = apply(up, weight.clamp_min(0).to(up))
            below = apply(down, weight.clamp_max(0).to(down))
            share = _divided(_wide(g), (above + below).detach())
            found = up.detach() * _pulled(above, up, share)
            return (found + down.detach() * _pulled(below, down, share)).to(g.dtype)

    return rule


def _own_sign(x: Tensor, apply: Linear) -> Rule:
    """Return the rule of a sum that gives all to the terms of its own sign."""

    def rule(g: Tensor) -> Tensor:
        with _in_full(x):
            wide, relevance = _wide(x), _wide(g)
            up, down = wide.clamp_min(0).requires_grad_(), wide.clamp_max(0).requires_grad_()
            above, below = apply(up), apply(down)
            sums = (above + below).detach()
            rising = torch.where(sums > 0, _divided(relevance, above.detach()), 0)
            falling = torch.where(sums < 0, _divided(relevance, below.detach()), 0)
            found = up.detach() * _pulled(above, up, rising)
            return (found + down.detach() * _pulled(below, down, falling)).to(g.dtype)

    return rule


class _Gate(Function):
    """A function whose relevance goes through unchanged, found again by its name in the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        del ctx, x
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None]:
        """Return the relevance as it came."""
        del ctx
        return relevance[0], None


def _is_gate(x: Tensor) -> bool:
    """Whether a tensor is the output of a gate, give or take a view."""
    node = x.grad_fn
    for _ in range(_GATE_DEPTH):
        if node is None or node.name().startswith("_Steered"):
            return False
        if node.name().startswith("_Gate"):
            return True
        before = [one for one, _ in node.next_functions if one is not None]
        if len(before) != 1 and not node.name().startswith("CopyBackwards"):
            return False
        node = before[-1] if before else None
    return False


def _active(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def _alike(x: Any, other: Tensor) -> Any:
    return x.to(other) if isinstance(x, Tensor) and x.is_floating_point() else x


def _wide(x: Tensor) -> Tensor:
    x = x.detach()
    return x.float() if x.dtype in HALF else x.view_as(x)


def _worked(
    func: Callable[..., Any], x: Any, rest: Sequence[Any], given: dict[str, Any]
) -> tuple[Any, bool]:
    """Return what a function gives, and whether it works in place; its input is spared."""
    work = x.detach().clone() if isinstance(x, Tensor) else x
    version = work._version if isinstance(work, Tensor) else 0
    with torch.no_grad():
        found = func(work, *rest, **given)
    return found, isinstance(work, Tensor) and work._version != version


def _back(result: Tensor, x: Any, in_place: bool) -> Tensor:
    copied: Tensor = x.copy_(result) if in_place else result
    return copied


def _passed(x: Tensor, value: Tensor, part: float = 1.0) -> Tensor:
    """Return a value whose relevance, or a part of it, goes to `x` unchanged."""
    shape = x.shape
    return steered(x, lambda: value, lambda g: (g * part).sum_to_size(shape))


def _pulled(made: Tensor, own: Tensor, share: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(made, own, share.to(made))
    return found


def _divided(above: Tensor, below: Tensor) -> Tensor:
    """Divide; zero where the denominator is zero, as good as."""
    none = below.abs() < torch.finfo(below.dtype).tiny
    return torch.where(none, 0, above / torch.where(none, 1, below))


@contextmanager
def _in_full(x: Tensor) -> Iterator[None]:
    """Keep a graph, in full precision."""
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        yield

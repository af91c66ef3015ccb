"""Layer-wise relevance propagation through an unmodified network, by a mode.

While the mode is active, every function that the rules speak of runs as itself, but its backward
pass hands on relevance instead of a gradient (see `backprop`): of modules, in place or used several
times, and of plain functions. One backward pass from the score gives the relevance of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchsaliency.core.attention import multi_head
from torchsaliency.methods.attribution.backprop import Rule, steered
from torchsaliency.methods.attribution.lrp.graph import (
    Gate,
    alike,
    detached,
    is_active,
    is_gate,
    passed,
    worked,
    written_back,
)
from torchsaliency.methods.attribution.lrp.rules import (
    Linear,
    Weighted,
    away,
    bounded,
    divided,
    own_sign,
    plain,
    positive_only,
    proportional,
)

Propagation = Literal["composite", "epsilon", "alpha-beta"]
Biases = Literal["absorbs", "excluded"]

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
        if not torch.is_grad_enabled() or "out" in given or not any(map(is_active, args)):
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
        if name in _CONVOLUTIONS | _TRANSPOSED and is_active(args[0]):
            return self._convolve(func, name in _CONVOLUTIONS, *args, **given)
        if func is F.batch_norm and is_active(args[0]):
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
        if not is_active(x):
            return func(*args, **given)
        if name in _GATES | _UNCHANGED:
            found, work = worked(func, x, args[1:], given)
            if not isinstance(found, Tensor) or found.shape != x.shape:
                return func(*args, **given)
            if name in _GATES:
                gate: Tensor = Gate.apply(x, found)
                return written_back(gate, x, work)
            return written_back(steered(x, lambda: found, lambda g: g), x, work)
        if name in _MEANS and "dtype" not in given:
            return self._share(x, lambda values: func(values, *args[1:], **given))
        if name == "log_softmax":  # gradient times input
            values = x.detach().clone()
            apply: Linear = lambda own: func(own, *args[1:], **given)  # noqa: E731
            return steered(x, lambda: apply(values), self._proportional(values, apply))
        if name == "cosine_similarity" and len(args) > 1 and not is_active(args[1]):
            values, other = x.detach().clone(), args[1]
            dim = given.get("dim", args[2] if len(args) > _FLAT else 1)
            rule = self._proportional(values, lambda own: (own * other.to(own)).sum(dim))
            return steered(x, lambda: func(values, *args[1:], **given), rule)
        return func(*args, **given)

    # --- layers with weights ---------------------------------------------------------------------

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not is_active(x):
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
            return bounded(x, weight, apply)
        if not self._by_epsilon(x):
            return positive_only(x, weight, apply, spare=self._excluded)
        shift: Tensor | float = 0
        if bias is not None and not self._excluded:
            shift = plain(bias).view(-1, *[1] * (weight.ndim - 2))
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
        scale = (plain(var) + eps).rsqrt() * (1 if weight is None else plain(weight.detach()))
        shift = (0 if bias is None else plain(bias.detach())) - plain(mean) * scale
        if last is not None and last.result is x and x._version == last.version:
            folded = plain(last.weight) * scale.view(-1, *[1] * (last.weight.ndim - 1))
            whole = shift if last.bias is None else shift + plain(last.bias) * scale
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
        active = is_active(x), is_active(other)
        main = x if active[0] else other
        found, work = worked(func, x, (detached(other),), rest)
        if name in _QUOTIENTS:
            if not active[0]:
                return func(x, other, **rest)
            result = passed(x, found)
        elif name in _PRODUCTS:
            result = self._product(x, other, found) if all(active) else passed(main, found)
        elif all(active):
            result = self._sum(name, x, other, found, rest.get("alpha", 1))
        elif self._excluded or not self._by_epsilon(main):
            result = passed(main, found)
        else:  # the constant is a bias
            sign = -1 if name in (_REVERSED if active[0] else _DIFFERENCES) else 1
            values, shape = main.detach().clone(), found.shape
            constant = plain(found) - sign * plain(values)
            rule = self._proportional(values, lambda own: sign * own.expand(shape), constant)
            result = steered(main, lambda: found, rule)
        return written_back(result, x, work)

    def _product(self, x: Tensor, other: Tensor, found: Tensor) -> Tensor:
        gates = is_gate(x), is_gate(other)
        if gates[0] == gates[1]:
            gates = x.numel() < other.numel(), other.numel() < x.numel()
        if gates[0] != gates[1]:
            return passed(other if gates[0] else x, found)
        return passed(x, found / 2, 0.5) + passed(other, found / 2, 0.5)

    def _sum(
        self, name: str, x: Tensor, other: Tensor, found: Tensor, alpha: float | int
    ) -> Tensor:
        signs = (-1.0, alpha) if name in _REVERSED else (1.0, alpha)
        if name in _DIFFERENCES:
            signs = (1.0, -alpha)
        a, b = (plain(s * one.detach()) for s, one in zip(signs, (x, other), strict=True))
        whole = a + b
        if self._by_epsilon(found):
            parts = [one / away(whole, self._epsilon) for one in (a, b)]
        else:
            up, down = a.clamp_min(0) + b.clamp_min(0), a.clamp_max(0) + b.clamp_max(0)
            parts = [
                torch.where(whole > 0, divided(one.clamp_min(0), up), 0)
                + torch.where(whole < 0, divided(one.clamp_max(0), down), 0)
                for one in (a, b)
            ]

        def rule(part: Tensor, one: Tensor) -> Rule:
            return lambda g: (plain(g) * part).sum_to_size(one.shape).to(g.dtype)

        first = steered(x, lambda: found, rule(parts[0], x))
        return first + steered(other, lambda: torch.zeros_like(found), rule(parts[1], other))

    def _share(self, x: Tensor, apply: Linear) -> Tensor:
        """Run a function that sums numbers with weights not below zero."""
        values = x.detach().clone()
        by_epsilon = self._by_epsilon(x)
        rule = self._proportional(values, apply) if by_epsilon else own_sign(values, apply)
        return steered(x, lambda: apply(values), rule)

    def _multiply(self, func: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
        """Run a matrix product; of two activations, the gate is constant."""
        if not (is_active(a) and is_active(b)):
            if is_active(a) and b.ndim == _FLAT:
                return self._linear(a, b.mT)
            left, kept = is_active(a), detached(b if is_active(a) else a)
            values = (a if left else b).detach().clone()
            apply: Linear = lambda own: own @ kept.to(own) if left else kept.to(own) @ own  # noqa: E731
            return steered(
                a if left else b, lambda: func(a, b).detach(), self._proportional(values, apply)
            )
        if is_gate(a) != is_gate(b):
            kept = (a if is_gate(a) else b).detach().clone()
            if is_gate(a):
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
        if not is_active(value):
            return _ATTEND(q, k, value, *args, **given)
        return self._share(
            value,
            lambda own: _ATTEND(
                q.to(own),
                k.to(own),
                own,
                *(alike(one, own) for one in args),
                **{name: alike(one, own) for name, one in given.items()},
            ),
        )

    def _multi_head(self, *args: Any, **given: Any) -> tuple[Tensor, None]:
        self._at_positions = True  # torch lays them along the batch
        output = multi_head(args, given, self._attend, self._linear)
        self._at_positions = False
        return output, None

    # --- which rule, and how it divides ----------------------------------------------------------

    def _by_epsilon(self, x: Tensor) -> bool:
        """Whether the ε rule holds here; scores of one number an image always have it."""
        most = _FLAT if self._rule == "composite" and not self._at_positions else 1
        return self._rule == "epsilon" or x.ndim <= most

    def _proportional(self, x: Tensor, apply: Linear, bias: Tensor | float | int = 0) -> Rule:
        return proportional(x, apply, self._epsilon, bias)

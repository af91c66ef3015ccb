"""Layer-wise relevance propagation through an unmodified transformer, by a mode.

While the mode is active, every function that the rules speak of runs as itself, but its backward
pass hands on relevance instead of a gradient. One backward pass from the score then gives the
relevance of every attention matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchsaliency.core.attention import hidden_scores, multi_head

_TINY = 1e-9

# torch's own, for inside multi-head attention F's are replaced
_WHOLE, _LINEAR = F.multi_head_attention_forward, F.linear

_ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__"}
_UNCHANGED = (F.layer_norm, F.gelu, F.relu, F.softmax, torch.softmax, Tensor.softmax, F.silu)
_MATMULS = {"matmul", "__matmul__", "bmm"}


@final
class RelevanceMode(TorchFunctionMode):
    """Makes backward passes carry relevance, by the rules of Chefer et al. (CVPR 2021).

    Linear layers: α = 1, β = 0, only positive contributions, without bias. Products of two
    activations: half to each factor, in proportion. Sums: to each term in proportion to its
    absolute sum. Norms, activations and softmax: unchanged. All else as a gradient, which only
    moves values about.

    Attributes:
        attentions: (N, heads, T, T), the probabilities of every block; their gradients after the
            backward pass are their relevance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[Tensor] = []

    def __torch_function__(  # noqa: PLR0911 (a table of rules)
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a torch function with the backward pass of its rule."""
        del types
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **given)
        if func is _WHOLE:
            return self._multi_head(*args, **given)
        if func is _LINEAR:
            return self._linear(*args, **given)
        if func in _UNCHANGED:
            return self._unchanged(func, *args, **given)
        if name in _MATMULS and all(isinstance(one, Tensor) for one in args):
            return _Product.apply(*args[:2])
        if name in _ADDS and _both(args):
            return _Sum.apply(*args[:2])
        if name in _PRODUCTS and isinstance(args[0], Tensor):
            return _Through.apply(args[0], func(*args, **given))
        return func(*args, **given)

    def _unchanged(self, func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            value = func(x, *args, **kwargs)
        found: Tensor = _Through.apply(x, value)
        square = found.ndim == 4 and found.shape[-1] == found.shape[-2]  # noqa: PLR2004
        if "softmax" in getattr(func, "__name__", "") and square:
            self.attentions.append(found)
        return found

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        found: Tensor = _Linear.apply(x, weight, bias)
        return found

    def _attend(  # noqa: PLR0913, PLR0917 (torch's signature)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,  # noqa: ARG002 (an explained network is in evaluation mode)
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: ARG002 (vision transformers share no keys)
    ) -> Tensor:
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = _Product.apply(query, key.mT)
        with torch.no_grad():
            probabilities = hidden_scores(scores * factor, attn_mask, causal=is_causal).softmax(-1)
        attention = _Through.apply(scores, probabilities)
        self.attentions.append(attention)
        found: Tensor = _Product.apply(attention, value)
        return found

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return multi_head(args, kwargs, self._attend, self._linear), None


def _both(args: tuple[Any, ...]) -> bool:
    """Whether two activations of one shape are added: a residual, not a bias or a position."""
    tensors = all(isinstance(one, Tensor) and one.requires_grad for one in args[:2])
    return tensors and len(args) > 1 and args[0].shape == args[1].shape


def _divided(above: Tensor, below: Tensor) -> Tensor:
    """Divide, keeping away from zero; zero where the denominator is exactly zero."""
    safe = torch.where(below >= 0, below.clamp_min(_TINY), below.clamp_max(-_TINY))
    return torch.where(below == 0, 0, above / safe)


class _Linear(Function):
    """The α = 1, β = 0 rule: R_i = Σ_j (x_i⁺ w_ij⁺ + x_i⁻ w_ij⁻) / Σ_i' (…) R_j."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x Wᵀ + b."""
        ctx.save_for_backward(x, weight)
        return _LINEAR(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        """Return the relevance of x."""
        x, weight = ctx.saved_tensors
        up, down = weight.clamp_min(0), weight.clamp_max(0)
        above, below = x.clamp_min(0), x.clamp_max(0)
        share = _divided(relevance, _LINEAR(above, up) + _LINEAR(below, down))
        return above * (share @ up) + below * (share @ down), None, None


class _Product(Function):
    """Half the relevance to each factor of a matrix product, in proportion to what each adds."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Return a @ b."""
        product = a @ b
        ctx.save_for_backward(a, b, product)
        return product

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of both factors."""
        a, b, product = ctx.saved_tensors
        share = _divided(relevance, product)
        return a * (share @ b.mT) / 2, b * (a.mT @ share) / 2


class _Sum(Function):
    """To each term in proportion, then scaled to its share of the absolute sums, image by image."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Return a + b."""
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of both terms."""
        a, b = ctx.saved_tensors
        share = _divided(relevance, a + b)
        parts = a * share, b * share
        dims = tuple(range(1, a.ndim))
        total = relevance.sum(dims, keepdim=True)
        sums = [part.sum(dims, keepdim=True) for part in parts]
        whole = sums[0].abs() + sums[1].abs()
        first, second = (
            part * _divided(_divided(own.abs(), whole) * total, own)
            for part, own in zip(parts, sums, strict=True)
        )
        return first, second


class _Through(Function):
    """A function whose relevance goes through it unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        ctx.shape = x.shape
        return value.clone()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        """Return the relevance as it came."""
        return relevance.sum_to_size(ctx.shape), None

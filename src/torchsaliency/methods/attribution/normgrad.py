"""NormGrad: how much the weights of a layer would change at each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.method import GRADIENTS, Method, register
from torchsaliency.core.space import AVERAGE, MAXIMUM
from torchsaliency.core.trace import View

Virtual = Literal["conv1x1", "conv3x3", "scaling", "bias"]
Aggregation = Literal["norm", "positive-norm", "sum", "max"]


@register("normgrad", family="attribution", cite="rebuffi2020", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class NormGrad(Method):
    """NormGrad: the norm of every position's share in the gradient of a layer's weights.

    With features a = A(u) and g = ∂y_c/∂A(u), an identity layer put in after A has at u the
    gradient a gᵀ as a 1×1 convolution; p gᵀ as a 3×3 convolution (3×3×3 in a volume), p the patch
    of A around u; a ⊙ g as a scaling; g as a bias. Its numbers are aggregated to one, by
    default to their norm: ‖a gᵀ‖ = ‖a‖·‖g‖. Several layers are joined by the product of
    their stretched maps.

    Source: Rebuffi et al., CVPR 2020.

    Attributes:
        virtual: the layer put in: "conv1x1", "conv3x3", "scaling" or "bias". Before global average
            pooling and one linear layer the gradient is the same at all positions: there "bias" is
            constant, and norms of a convolution do not depend on the class.
        aggregation: of the numbers of a position: "norm", "positive-norm" (of those above zero),
            "sum" or "max". The sum of a scaling is HiResCAM without its ReLU.
    """

    differentiable: ClassVar[bool] = True

    joint: ClassVar[bool] = True

    virtual: Virtual = "conv1x1"
    aggregation: Aggregation = "norm"

    def saliency(self, view: View) -> Tensor:
        """Return the aggregated gradients (N, *grid), or a product of layers' maps (N, *size)."""
        if len(view.layers) == 1:
            return self._map(view)
        maps = [self._map(view.trace[layer]) for layer in view.layers]
        return torch.stack([minmax(upsample(plane, view.size)) for plane in maps]).prod(0)

    def _map(self, view: View) -> Tensor:
        a, g = view.activations, view.gradients
        if self.virtual == "scaling":
            return _aggregate(a * g, self.aggregation)
        if self.virtual == "bias":
            return _aggregate(g, self.aggregation)
        return _outer(a, g, 3 if self.virtual == "conv3x3" else 1, self.aggregation)


def _aggregate(numbers: Tensor, by: Aggregation) -> Tensor:
    """Aggregate (N, K, *grid) over K."""
    if by == "sum":
        return numbers.sum(1)
    if by == "max":
        return numbers.amax(1)
    return (numbers if by == "norm" else numbers.relu()).norm(dim=1)


def _outer(a: Tensor, g: Tensor, side: int, by: Aggregation) -> Tensor:
    """Aggregate p gᵀ, p the patches of `a`, without ever making that matrix at every position."""
    if by == "sum":
        return _sum(a.sum(1), side) * g.sum(1)
    if by == "max":  # at the extremes of both, of equal sign or not
        patches = _highest(a.amax(1), side), -_highest(-a.amin(1), side)
        return torch.stack([p * q for p in patches for q in (g.amax(1), g.amin(1))]).amax(0)
    if by == "norm":
        return _norm(a, side) * g.norm(dim=1)
    # A product is above zero where both factors are, or neither.
    above, below = (_norm((s * a).relu(), side) * (s * g).relu().norm(dim=1) for s in (1, -1))
    return torch.hypot(above, below)


def _norm(a: Tensor, side: int) -> Tensor:
    return a.norm(dim=1) if side == 1 else _sum(a.square().sum(1), side).sqrt()


def _sum(plane: Tensor, side: int) -> Tensor:
    """Sum (N, *grid) over the patch of each position; zeros outside, as in a convolution."""
    sides = plane.ndim - 1
    return AVERAGE[sides](plane[:, None], side, 1, side // 2)[:, 0] * side**sides


def _highest(plane: Tensor, side: int) -> Tensor:
    """Return the largest number of each patch; zeros outside, as in a convolution."""
    sides = plane.ndim - 1
    padded = F.pad(plane, (side // 2,) * (2 * sides))
    return MAXIMUM[sides](padded[:, None], side, 1)[:, 0]

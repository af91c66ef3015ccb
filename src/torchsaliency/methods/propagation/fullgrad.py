"""FullGrad: the gradient at the image and at every bias, which together make up the score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from torchsaliency.core.attention import FUSED, SOFTMAXES, is_attention
from torchsaliency.core.layer import infer_reshape
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.method import Method, Saliency, register
from torchsaliency.core.rules import Gradients, Operation, Recording, Step
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    completeness_gap,
    images_of,
    loss_scale,
    propagate,
)
from torchsaliency.methods.propagation import operations as ops

Rescaled = Literal["layer", "channel"]


@register("fullgrad", family="attribution", cite="srinivas2019", needs=IMAGE_PASSES)
@final
@dataclass(frozen=True)
class FullGrad(Method):
    """FullGrad: the shares of the image and of all biases in the score, as one map.

    y_c = x · ∂y_c/∂x + Σ_l b_l · ∂y_c/∂b_l for a network of ReLUs, with β - γμ/σ as the bias of a
    batch normalisation; another function f of one number has the bias f(z) - f'(z) z, a product of
    two features its negative. S = Σ_c ψ(x ⊙ ∂y_c/∂x)_c + Σ_l Σ_c ψ(b_l ⊙ ∂y_c/∂b_l)_c, where ψ
    takes absolute values, stretches them to [0, 1] and resizes them linearly to the image. Biases
    without a grid (of linear layers) have no place on the map. All shares add up to the score;
    where they are off by more than 1 % (`details["gap"]`), the status says "incomplete".
    Networks with attention are refused: their biases belong to no place.

    Source: Srinivas and Fleuret, NeurIPS 2019. Differs from the authors' code, which finds biases
    of modules alone and aligns the corners in resizing.

    Attributes:
        rescaled: ψ stretches the numbers of a "layer" together, as in the authors' code, or of
            each "channel", as in pytorch-grad-cam, where weak channels count as much as strong ones
            (erratum L20).
    """

    joint: ClassVar[bool] = True

    rescaled: Rescaled = "layer"

    def saliency(self, view: View) -> Saliency:
        """Return the sum of stretched shares, (N, *size), and how far they are from the score."""
        chunks: list[_Biases] = []

        def begin(recording: Recording) -> None:
            if any(map(_attends, recording.operations)):
                raise LayerError(
                    "fullgrad is defined on convolutional networks, and this network has "
                    "attention, whose biases belong to no place of the image; use legrad, "
                    "input-x-gradient, or a class activation map such as gradcam."
                )
            chunks.append(_Biases(view, self.rescaled, recording.count))

        def collect(step: Step) -> Gradients:
            chunks[-1].add(step)
            return step.gradients

        slopes = propagate(view, dict.fromkeys(_BIASED, collect), check=begin)
        shares = images_of(view) * slopes
        of_image = stretch(shares, self.rescaled).sum(1)
        maps = of_image + torch.cat([chunk.maps for chunk in chunks])
        totals = shares.flatten(1).sum(1) + torch.cat([chunk.totals for chunk in chunks])
        gap = completeness_gap(add_sides(totals, shares), view.score, view.score)
        return Saliency(maps, {"gap": gap})


def stretch(shares: Tensor, rescaled: Rescaled) -> Tensor:
    """Return absolute shares (N, K, *grid), stretched to [0, 1] by image or by channel."""
    size = shares.abs()
    return minmax(size) if rescaled == "layer" else minmax(size.flatten(0, 1)).view_as(size)


@final
@dataclass(eq=False)
class _Biases:
    """What the biases add, for the images of one pass.

    Attributes:
        maps: (M, *size) the stretched shares of those with a grid.
        totals: (M,) the shares of all.
    """

    view: View
    rescaled: Rescaled
    count: int
    maps: Tensor = field(init=False)
    totals: Tensor = field(init=False)

    def __post_init__(self) -> None:
        images = images_of(self.view)
        self.maps = images.new_zeros(self.count, *self.view.size)
        self.totals = images.new_zeros(self.count)

    def add(self, step: Step) -> None:
        """Add the shares of an operation's bias."""
        shares = find_bias_shares(step)
        if shares is None:
            return
        if len(shares) % self.count:  # one number for all images: rare, and the gap tells
            return
        shares = shares.to(self.maps) / loss_scale(self.view)
        self.totals += shares.reshape(self.count, -1).sum(1)
        size = self.view.size
        if shares.ndim != len(size) + 2 or len(shares) != self.count:
            return
        reshape = infer_reshape(tuple(shares.shape), size)
        if reshape is not None:
            summed = stretch(reshape.to_maps(shares), self.rescaled).sum(1)
            self.maps += upsample(summed, size)  # as resizing each channel, which is linear


def _attends(operation: Operation) -> bool:
    if operation.name in FUSED:
        return True
    return operation.name in SOFTMAXES and is_attention(operation.out)


def find_bias_shares(step: Step) -> Tensor | None:
    """Return what the bias of an operation adds to the score, None if it has none.

    That is what its output adds, less what its inputs add: number by number of the output.
    """
    operation, relevance = step.operation, ops.plain(step.relevance)
    name = operation.name
    if name in ops.CONVOLUTIONS or name in ops.MATRICES:
        return _of_product(operation, relevance)
    known = ops.batch_scale_shift(operation) if name in ops.BATCH_NORMS else None
    if known is not None:
        shift = known[1]
        return relevance * shift.view(-1, *[1] * (relevance.ndim - 2))
    by_name = {"mul": _of_factors, "div": _of_quotient, **dict.fromkeys(_SUMS, _of_sum)}
    if name in by_name:
        return by_name[name](operation, relevance)
    return _of_function(step, relevance)


def _of_function(step: Step, relevance: Tensor) -> Tensor | None:
    operation = step.operation
    shares = relevance * ops.plain(_first(operation.out))
    for place, gradient in zip(_active(operation), step.gradients, strict=False):
        value = operation.args[place]
        if gradient is None or not operation.is_active(place):
            continue
        if value.shape != shares.shape:
            return None
        shares = shares - ops.plain(gradient) * ops.plain(value)
    return shares


def _of_product(operation: Operation, relevance: Tensor) -> Tensor | None:
    layer = ops.weights_of(operation)
    if layer is not None:
        return None if layer.bias is None else relevance * ops.plain(layer.bias)
    start = ops.MATRICES.get(operation.name, 0)
    added = operation.argument("beta", 1) * ops.plain(operation.args[0]) if start else 0
    product = ops.plain(operation.out) - added
    both = operation.is_active(start) and operation.is_active(start + 1)
    constant = added if start and not operation.is_active(0) else 0
    return relevance * (constant - product) if both else None


def _of_factors(operation: Operation, relevance: Tensor) -> Tensor | None:
    both = operation.is_active(0) and operation.is_active(1)
    return -relevance * ops.plain(operation.out) if both else None


def _of_quotient(operation: Operation, relevance: Tensor) -> Tensor | None:
    if not operation.is_active(1):
        return None
    return relevance * ops.plain(operation.out) * (1 if operation.is_active(0) else 2)


def _of_sum(operation: Operation, relevance: Tensor) -> Tensor | None:
    alpha = operation.argument("alpha", 1)
    signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[operation.name]
    for place, sign in enumerate(signs):
        if not operation.is_active(place):
            term = operation.args[place]
            return relevance * sign * (ops.plain(term) if isinstance(term, Tensor) else term)
    return None


def _active(operation: Operation) -> list[int]:
    """Return the places of the tensors among an operation's arguments."""
    return [place for place, value in enumerate(operation.args) if isinstance(value, Tensor)]


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


_SUMS = ("add", "sub", "rsub")
_BIASED = (
    *(ops.ELEMENTWISE | ops.NORMS | SOFTMAXES | ops.CONVOLUTIONS | {*ops.MATRICES}),
    *(*_SUMS, "mul", "div", "_log_softmax"),
)
"""Operations that are not proportional to what they read."""

"""DeepLIFT and DeepSHAP: at everything that is not linear, slopes between baseline and image.

One pass on the baselines and one on the images are recorded (`core.rules`); the rules compare
their operations one by one. Functions of one number have the slope Δout/Δin. Products have the
mean of the other factor; softmax and norms are taken apart into these. All are exact, so that the
shares add up: m · Δin = Δout for every operation that has a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from torchsaliency.core.attention import FUSED, SOFTMAXES, attention_of
from torchsaliency.core.maps import upcast
from torchsaliency.core.method import Saliency, register
from torchsaliency.core.rules import Gradients, Operation, Recording, Step, backward
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.gradient import draw_noise
from torchsaliency.methods.attribution.reduction import Attribution
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    baseline,
    completeness_gap,
    images_of,
    loss_scale,
    mean_over_draws,
    record_scores,
    rows,
)
from torchsaliency.methods.propagation import operations as ops

Rescaled = Literal["captum", "all"]

_NEAR = 1e-10
"""Inputs closer than this have no slope between them; the ordinary gradient is taken."""


@register("deeplift", family="attribution", cite="shrikumar2017", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class DeepLIFT(Attribution):
    """DeepLIFT, Rescale rule: the difference to a baseline b, handed back from layer to layer.

    R = (x - b) ⊙ m, where m is the gradient with the derivative of everything that is not linear
    replaced by its slope Δout/Δin between baseline and image; of a product, by the mean of the
    other factor. Max-pooling has a rule of its own. The shares add up to y_c(x) - y_c(b); where
    they are off by more than 1 % (`details["gap"]`), the status says "incomplete". b is the
    baseline of the masking in use, by default the mean colour.

    Source: Shrikumar et al., ICML 2017. Equal to captum where that is right: captum refuses modules
    used twice, loses one rule where two follow each other (max-pooling after a ReLU), drops shares
    where pooling windows overlap, and has a rule for softmax that mixes the images of a batch.

    Attributes:
        rescaled: what has slopes: "all" that is not linear, or as "captum" only ReLU, ELU,
            LeakyReLU, sigmoid, tanh, softplus and max-pooling: GELU, say, keeps its gradient.
    """

    rescaled: Rescaled = "all"

    def attributions(self, view: View) -> Saliency:
        """Return (x - b) ⊙ m, (N, C, *size), and how far the shares are from adding up."""
        images, base = images_of(view), baseline(view)
        parts = [
            differences(view, images[index], base[index], index, self.rescaled)
            for index in rows(len(images), view)
        ]
        shares, rises = (torch.cat(column) for column in zip(*parts, strict=True))
        gap = completeness_gap(shares, rises, view.score)
        return Saliency(shares, {"gap": gap, "rise": rises.to(shares)})


@register("deepshap", family="attribution", cite="lundberg2017", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class DeepSHAP(Attribution):
    """DeepSHAP: the mean of DeepLIFT over a set of baselines.

    The set is the baseline of the masking in use plus noise, b_s = b + N(0, σ²), with
    σ = spread · (max x - min x) of the image: the library has no training images to draw from. The
    shares add up to y_c(x) - mean_s y_c(b_s), as DeepLIFT's do.

    Source: Lundberg and Lee, NeurIPS 2017. Differs from captum's DeepLiftShap, which wants the set
    from its user, as DeepLIFT does.

    Attributes:
        samples: baselines in the set; above 0.
        spread: the noise's σ as a share of the image's range; above 0.
        rescaled: what has slopes: "all" or "captum"; see DeepLIFT.
        seed: of the noise.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("samples", "spread")

    samples: int = 10
    spread: float | int = 0.1
    rescaled: Rescaled = "all"
    seed: int = 0

    def attributions(self, view: View) -> Saliency:
        """Return the mean shares, (N, C, *size), and how far they are from adding up."""
        images, base = images_of(view), baseline(view)
        noise = draw_noise(images, self.samples, self.spread, self.seed)
        rises = view.score.new_zeros(len(images))

        def part(draw: Tensor, index: Tensor) -> Tensor:
            other = base[index] + noise(draw, index)
            shares, rise = differences(view, images[index], other, index, self.rescaled)
            rises.index_add_(0, index, rise.to(rises) / self.samples)
            return shares

        shares = mean_over_draws(view, self.samples, part)
        gap = completeness_gap(shares, rises, view.score)
        return Saliency(shares, {"gap": gap, "rise": rises.to(shares)})


def differences(
    view: View, images: Tensor, base: Tensor, index: Tensor, rescaled: Rescaled
) -> tuple[Tensor, Tensor]:
    """Return DeepLIFT's shares (M, C, H, W) of variants of the images at `index`.

    And (M,) how much the score rises from the baseline to them.

    Raises:
        LayerError: the network takes another way for the baseline than for the image.
    """
    before, after = Recording(len(index)), Recording(len(index))
    base = torch.empty_like(images).copy_(base)  # laid out alike, so that both run alike
    _, start = record_scores(view, base, index, before)
    leaf, scores = record_scores(view, images, index, after)
    compare = partial(_compare, _pair(before, after))
    chosen = _CAPTUM if rescaled == "captum" else _ALL
    rules = {name: partial(compare, rule) for name, rule in chosen.items()}
    scale = loss_scale(view)
    weight = torch.full_like(scores, scale)
    (slopes,) = backward(scores, [leaf], after, rules, weight=weight)
    return (images - base) * (slopes / scale), (scores - start).detach()


def _pair(before: Recording, after: Recording) -> dict[Operation, Operation]:
    """Return the baseline's operation for each of the image's.

    Raises:
        LayerError: they are not the same.
    """
    both = [
        *zip(after.operations, before.operations, strict=False),
        *zip(after.hidden, before.hidden, strict=False),
    ]
    counts = [(len(run.operations), len(run.hidden)) for run in (before, after)]
    if counts[0] != counts[1] or any(_signature(now) != _signature(then) for now, then in both):
        raise LayerError(
            "The network takes another way for the baseline than for the image, so DeepLIFT cannot "
            "compare their activations; choose integrated-gradients."
        )
    return dict(both)


def _signature(operation: Operation) -> tuple[Any, ...]:
    values = tree_leaves((operation.args, operation.options))
    return operation.name, *(value.shape for value in values if isinstance(value, Tensor))


Compared = Callable[[Step, Operation], Gradients]
"""A rule that also sees the baseline's operation."""


def _compare(pairs: Mapping[Operation, Operation], rule: Compared, step: Step) -> Gradients:
    return rule(step, pairs[step.operation.source])


def _by_slope(step: Step, then: Operation) -> Gradients:
    """Return g · Δout/Δin of a function of one number, the derivative where Δin is nothing."""
    now, plain = step.operation, step.gradients
    places = [place for place, gradient in enumerate(plain) if gradient is not None]
    if len(places) != 1:
        return plain
    x, other = (_input(operation, places[0]) for operation in (now, then))
    out, before = (_first(operation.out) for operation in (now, then))
    if out.shape != x.shape:
        return plain
    slopes, near = _slopes(out, before, x, other)
    derivative = plain[places[0]]
    assert derivative is not None
    found = torch.where(near, upcast(derivative), upcast(step.relevance) * slopes)
    return [found if place in places else gradient for place, gradient in enumerate(plain)]


def _slopes(out: Tensor, before: Tensor, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return Δout/Δin, and where Δin is next to nothing."""
    change = upcast(x) - upcast(other)
    near = ~(change.abs() >= _NEAR)
    return (upcast(out) - upcast(before)) / torch.where(near, 1, change), near


def _product(first: int, step: Step, then: Operation) -> Gradients:
    """Return the rule of a product of the arguments at `first` and after it.

    Δ(ab) = Δa · mean(b) + mean(a) · Δb, exactly.
    """
    now, found, places = step.operation, list(step.gradients), (first, first + 1)
    if any(len(found) <= place or found[place] is None for place in places):
        return found  # linear
    means = [(upcast(now.args[place]) + upcast(then.args[place])) / 2 for place in places]
    with torch.enable_grad():
        for place, other in (places, places[::-1]):
            leaf = means[place - first].clone().requires_grad_()
            args = list(now.args)
            args[place], args[other] = leaf, means[other - first]
            args = [upcast(arg) if isinstance(arg, Tensor) else arg for arg in args]
            made = now.call(*args, **now.options)
            (found[place],) = torch.autograd.grad(made, leaf, upcast(step.relevance).to(made))
    return found


def _quotient(step: Step, then: Operation) -> Gradients:
    """Return the rule of a/b = a · r, r = 1/b: as in norms, the smaller r where a changes."""
    plain = step.gradients
    if len(plain) < 2 or plain[1] is None:  # noqa: PLR2004
        return plain  # linear
    (a, b), (a0, b0) = (
        [upcast(_as_tensor(x)) for x in operation.args[:2]] for operation in (step.operation, then)
    )
    g = upcast(step.relevance)
    smaller = b.abs() >= b0.abs()
    of_a = g / torch.where(smaller, b, b0)
    of_b = -g * torch.where(smaller, a0, a) / (b * b0)
    return [
        None if old is None else new.sum_to_size(old.shape)
        for new, old in zip((of_a, of_b), plain, strict=True)
    ]


def _glu(step: Step, then: Operation) -> Gradients:
    """Return the rule of a · sigmoid(b), the halves of one tensor."""
    now, g = step.operation, upcast(step.relevance)
    dim = now.argument("dim", -1)
    (a, b), (a0, b0) = (upcast(operation.args[0]).chunk(2, dim) for operation in (now, then))
    slopes, near = _slopes(b.sigmoid(), b0.sigmoid(), b, b0)
    slopes = torch.where(near, b.sigmoid() * (1 - b.sigmoid()), slopes)
    return [torch.cat([g * (b.sigmoid() + b0.sigmoid()) / 2, g * (a + a0) / 2 * slopes], dim)]


def _softmax(step: Step, then: Operation) -> Gradients:
    now = step.operation
    weights = _log_mean(upcast(_first(now.out)), upcast(_first(then.out)))
    return [_through_softmax(upcast(step.relevance), weights, now.args[1])]


def _through_softmax(g: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Return the rule of y = exp(x - ln Σ exp x).

    Δy_i = w_i (Δx_i - ΔL), w the logarithmic mean of both y. As Σ Δy = 0, ΔL = Σ w Δx / Σ w.
    """
    total = weights.sum(dim, keepdim=True)
    mean = (weights * g).sum(dim, keepdim=True) / torch.where(total == 0, 1, total)
    return weights * (g - mean)


def _log_softmax(step: Step, then: Operation) -> Gradients:
    """Return the rule of x - L, L = ln Σ exp x."""
    now, g = step.operation, upcast(step.relevance)
    weights = _log_mean(*(upcast(_first(operation.out)).exp() for operation in (now, then)))
    dim = now.args[1]
    shares = weights / weights.sum(dim, keepdim=True)
    return [g - shares * g.sum(dim, keepdim=True)]


def _log_mean(y: Tensor, other: Tensor) -> Tensor:
    """Return the logarithmic mean (y - y')/(ln y - ln y'), 0 where one is 0."""
    apart = (y / other).log()
    near = ~(apart.abs() > 1e-6)  # noqa: PLR2004 (where the quotient loses its digits)
    mean = torch.where(near, (y + other) / 2, (y - other) / torch.where(near, 1, apart))
    return torch.where((y > 0) & (other > 0), mean, 0)


def _attend(step: Step, then: Operation) -> Gradients:
    """Return the rule of fused attention: products, softmax, products."""
    now, before = attention_of(step.operation), attention_of(then)
    q, k, v = ((a + b) / 2 for a, b in zip(now.inputs, before.inputs, strict=True))
    g, mean = upcast(step.relevance), (now.weights + before.weights) / 2
    weights = _log_mean(now.weights, before.weights)
    of_scores = _through_softmax(g @ v.mT, weights, -1) * now.scale
    found = (of_scores @ k, of_scores.mT @ q, mean.mT @ g)
    return [None if old is None else new for new, old in zip(found, step.gradients, strict=False)]


@final
@dataclass(frozen=True, eq=False)
class _NormForm:
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


def _form_of(norm: Operation) -> _NormForm | None:
    """Return the form of a normalisation; None for one by running statistics, which is linear."""
    x, weight = norm.args[0], norm.argument("weight")
    if norm.name in ops.BATCH_NORMS:
        if ops.batch_statistics(norm) is not None:
            return None
        weight = None if weight is None else weight.view(1, -1, *[1] * (x.ndim - 2))
        return _NormForm(tuple(x.shape), (0, *range(2, x.ndim)), weight, ops.eps_of(norm))
    eps = norm.argument("eps")
    if norm.name == "native_group_norm":
        groups = norm.argument("group")
        shape = (x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:]))
        weight = None if weight is None else weight.view(1, groups, shape[2], 1)
        return _NormForm(shape, (2, 3), weight, eps)
    dims = tuple(range(x.ndim - len(norm.argument("normalized_shape")), x.ndim))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _NormForm(tuple(x.shape), dims, weight, eps, "rms" not in norm.name)


def _normalise(step: Step, then: Operation) -> Gradients:
    """Return the rule of y = w · c · ρ, c = x - mean, ρ = (mean c² + ε)^-½.

    Δ(cρ) = ρ Δc + c' Δρ, with the smaller ρ of both and the c that belongs to the larger one: where
    the baseline is flat its ρ is 1/√ε, and would drown all else.
    """
    now, plain = step.operation, step.gradients
    form = _form_of(now)
    if form is None or plain[0] is None:
        return plain
    x, other = (upcast(operation.args[0]).reshape(form.shape) for operation in (now, then))
    g = upcast(step.relevance).reshape(form.shape)
    g = g if form.weight is None else g * upcast(form.weight)
    c, before = (
        numbers - numbers.mean(form.dims, keepdim=True) if form.centred else numbers
        for numbers in (x, other)
    )
    v, v0 = (numbers.square().mean(form.dims, keepdim=True) for numbers in (c, before))
    scale, scale0 = (v + form.eps).rsqrt(), (v0 + form.eps).rsqrt()
    slope, near = _slopes(scale, scale0, v, v0)
    slope = torch.where(near, -(scale**3) / 2, slope)
    flatter = torch.where(scale <= scale0, before, c)
    of_scale = (flatter * g).sum(form.dims, keepdim=True)
    count = x.numel() // v.numel()
    found = torch.minimum(scale, scale0) * g + of_scale * slope * (c + before) / count
    if form.centred:
        found = found - found.mean(form.dims, keepdim=True)
    return [found.reshape(plain[0].shape), *plain[1:]]


def _euclidean_norm(step: Step, then: Operation) -> Gradients:
    """Return the rule of the Euclidean norm, n = (Σ x²)^½: Δn = Σ (x + x') Δx / (n + n')."""
    now = step.operation
    if now.argument("ord", 2) != 2:  # noqa: PLR2004
        return step.gradients
    x, other = (upcast(operation.args[0]) for operation in (now, then))
    dims = now.argument("dim")
    dims = tuple(range(x.ndim)) if dims is None else tuple(dims)
    n, n0 = (numbers.square().sum(dims, keepdim=True).sqrt() for numbers in (x, other))
    below = n + n0
    g = upcast(step.relevance).reshape(n.shape)
    return [g * (x + other) / torch.where(below == 0, 1, below)]


_POOLS: Mapping[str, int] = {
    **dict.fromkeys(("max_pool2d_with_indices", "adaptive_max_pool2d", "fractional_max_pool2d"), 2),
    **dict.fromkeys(("max_pool3d_with_indices", "adaptive_max_pool3d", "fractional_max_pool3d"), 3),
}
"""Max-pooling, with how many of the last dimensions its indices count over."""


def _pool(step: Step, then: Operation) -> Gradients:
    """Return max-pooling's rule: Δout goes to both maxima, the image's and the baseline's.

    With o and r the outputs for image and baseline, the image's maximum is given max(o, r) - r and
    the baseline's o - max(o, r), each divided by the change of the input there.
    """
    now, plain = step.operation, step.gradients[0]
    if plain is None:
        return step.gradients
    axes = _POOLS[now.name]
    (o, here), (r, there) = (
        (numbers.flatten(-axes) for numbers in operation.out) for operation in (now, then)
    )
    change = (upcast(now.args[0]) - upcast(then.args[0])).flatten(-axes)
    near = change.abs() < _NEAR
    o, r = upcast(o), upcast(r)
    most, g = torch.maximum(o, r), upcast(step.relevance.flatten(-axes))
    shares = torch.zeros_like(change).scatter_add(-1, here, g * (most - r))
    shares = shares.scatter_add(-1, there, g * (o - most))
    ordinary = upcast(plain.flatten(-axes))
    return [torch.where(near, ordinary, shares / torch.where(near, 1, change)).view(plain.shape)]


def _input(operation: Operation, place: int) -> Tensor:
    """Return the tensor that has the gradient at a place."""
    tensors = [value for value in tree_leaves(operation.args) if isinstance(value, Tensor)]
    return tensors[min(place, len(tensors) - 1)]


def _as_tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu")


def _first(out: Any) -> Tensor:
    found: Tensor = out if isinstance(out, Tensor) else out[0]
    return found


_CAPTUM_NAMES = ("relu", "elu", "leaky_relu", "softplus", "sigmoid", "tanh")
_CAPTUM: Mapping[str, Compared] = {
    **dict.fromkeys(_CAPTUM_NAMES, _by_slope),
    **dict.fromkeys(_POOLS, _pool),
}
_ALL: Mapping[str, Compared] = {
    **dict.fromkeys(ops.ELEMENTWISE, _by_slope),
    **_CAPTUM,
    **dict.fromkeys([*ops.CONVOLUTIONS, "mul"], partial(_product, 0)),
    **{name: partial(_product, first) for name, first in ops.MATRICES.items()},
    "addcmul": partial(_product, 1),
    "div": _quotient,
    "glu": _glu,
    **dict.fromkeys(SOFTMAXES, _softmax),
    "_log_softmax": _log_softmax,
    "linalg_vector_norm": _euclidean_norm,
    **dict.fromkeys(ops.NORMS, _normalise),
    **dict.fromkeys(FUSED, _attend),
}
"""The tables of rules, by the names of ATen's operations."""

"""DeepLIFT's Rescale rule: at everything that is not linear, slopes between baseline and image.

One pass on the baselines and one on the images are recorded (`core.rules`); the rules compare
operation with operation. Functions of one number have the slope Δout/Δin. Products have the mean of
the other factor; softmax and norms are taken apart into these. All are exact, so that the shares
add up: m · Δin = Δout for every operation that has a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from torchsaliency.core.attention import attention_of
from torchsaliency.core.maps import wide
from torchsaliency.core.method import Saliency, register
from torchsaliency.core.rules import Gradients, Operation, Recording, backward
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.reduction import (
    BACKWARD,
    Attribution,
    baseline,
    completeness_gap,
    loss_scale,
    recorded_scores,
    rows,
    wide_images,
)
from torchsaliency.methods.propagation.operations import ATTENTIONS, ELEMENTWISE, NORMS, POOLS

Rescaled = Literal["captum", "all"]

_NEAR = 1e-10
"""Inputs closer than this have no slope between them; the ordinary gradient is taken."""


@register("deeplift", family="attribution", cite="shrikumar2017", needs=BACKWARD)
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
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs".
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
        rescaled: what has slopes: "all" that is not linear, or as "captum" only ReLU, ELU,
            LeakyReLU, sigmoid, tanh, softplus and max-pooling: GELU, say, keeps its gradient.
    """

    rescaled: Rescaled = "all"

    def attributions(self, view: View) -> Saliency:
        """Return (x - b) ⊙ m, (N, C, H, W), and how far the shares are from adding up."""
        images, base = wide_images(view), baseline(view)
        parts = [
            differences(view, images[index], base[index], index, self.rescaled)
            for index in rows(len(images), view)
        ]
        shares, rises = (torch.cat(column) for column in zip(*parts, strict=True))
        return Saliency(shares, {"gap": completeness_gap(shares, rises, view.score)})


def differences(
    view: View, images: Tensor, base: Tensor, index: Tensor, rescaled: Rescaled
) -> tuple[Tensor, Tensor]:
    """Return DeepLIFT's shares (M, C, H, W) of variants of the images at `index`.

    And (M,) how much the score rises from the baseline to them.

    Raises:
        LayerError: the network takes another way for the baseline than for the image.
    """
    before, after = Recording(), Recording()
    base = torch.empty_like(images).copy_(base)  # laid out alike, so that both run alike
    _, start = recorded_scores(view, base, index, before)
    leaf, scores = recorded_scores(view, images, index, after)
    pairs = _paired(before, after)
    chosen = _CAPTUM if rescaled == "captum" else _RULES
    rules = {name: partial(_compared, pairs, rule) for name, rule in chosen.items()}
    scale = loss_scale(view)
    weight = torch.full_like(scores, scale)
    (slopes,) = backward(scores, [leaf], after, rules, weight=weight)
    return (images - base) * (slopes / scale), (scores - start).detach()


def _paired(before: Recording, after: Recording) -> dict[Operation, Operation]:
    """Return the baseline's operation for each of the image's.

    Raises:
        LayerError: they are not the same.
    """
    both = [
        *zip(after.operations, before.operations, strict=False),
        *zip(after.hidden, before.hidden, strict=False),
    ]
    counts = [(len(one.operations), len(one.hidden)) for one in (before, after)]
    if counts[0] != counts[1] or any(_form(one) != _form(other) for one, other in both):
        raise LayerError(
            "The network takes another way for the baseline than for the image, so DeepLIFT cannot "
            "compare their activations; choose integrated-gradients."
        )
    return dict(both)


def _form(operation: Operation) -> tuple[Any, ...]:
    values = tree_leaves((operation.args, operation.options))
    return operation.name, *(one.shape for one in values if isinstance(one, Tensor))


Compared = Callable[[Operation, Operation, Gradients, Gradients], Gradients]
"""A rule that also sees the baseline's operation."""


def _compared(
    pairs: Mapping[Operation, Operation],
    rule: Compared,
    operation: Operation,
    given: Gradients,
    plain: Gradients,
) -> Gradients:
    return rule(operation, pairs[operation.source], given, plain)


def _by_slope(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return g · Δout/Δin of a function of one number, the derivative where Δin is nothing."""
    place = next((i for i, one in enumerate(plain) if one is not None), None)
    several = sum(one is not None for one in plain) > 1
    if place is None or several or given[0] is None:
        return plain
    x, other = (_input(one, place) for one in (now, then))
    out, before = (_first(one.out) for one in (now, then))
    if out.shape != x.shape:
        return plain
    slopes, near = _slopes(out, before, x, other)
    ordinary = plain[place]
    assert ordinary is not None
    found = torch.where(near, wide(ordinary), wide(given[0]) * slopes)
    return [found if i == place else one for i, one in enumerate(plain)]


def _slopes(out: Tensor, before: Tensor, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return Δout/Δin, and where Δin is next to nothing."""
    change = wide(x) - wide(other)
    near = ~(change.abs() >= _NEAR)
    return (wide(out) - wide(before)) / torch.where(near, 1, change), near


def _products(first: int) -> Compared:
    """Return the rule of a product of the arguments at `first` and after it.

    Δ(ab) = Δa · mean(b) + mean(a) · Δb, exactly.
    """

    def rule(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
        places = (first, first + 1)
        if given[0] is None or any(len(plain) <= place or plain[place] is None for place in places):
            return plain  # linear
        means = [(wide(now.args[place]) + wide(then.args[place])) / 2 for place in places]
        found = list(plain)
        with torch.enable_grad():
            for place, other in (places, places[::-1]):
                leaf = means[place - first].clone().requires_grad_()
                args = list(now.args)
                args[place], args[other] = leaf, means[other - first]
                args = [wide(one) if isinstance(one, Tensor) else one for one in args]
                made = now.call(*args, **now.options)
                (found[place],) = torch.autograd.grad(made, leaf, wide(given[0]).to(made))
        return found

    return rule


def _quotient(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return the rule of a/b = a · r, r = 1/b: as in norms, the smaller r where a changes."""
    if len(plain) < 2 or plain[1] is None or given[0] is None:  # noqa: PLR2004
        return plain  # linear
    (a, b), (a0, b0) = ([wide(_tensor(x)) for x in one.args[:2]] for one in (now, then))
    g = wide(given[0])
    smaller = b.abs() >= b0.abs()
    of_a = g / torch.where(smaller, b, b0)
    of_b = -g * torch.where(smaller, a0, a) / (b * b0)
    return [
        None if old is None else new.sum_to_size(old.shape)
        for new, old in zip((of_a, of_b), plain, strict=True)
    ]


def _gated(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return the rule of a · sigmoid(b), the halves of one tensor."""
    if given[0] is None or plain[0] is None:
        return plain
    dim = now.given("dim", -1)
    (a, b), (a0, b0) = (wide(one.args[0]).chunk(2, dim) for one in (now, then))
    slopes, near = _slopes(b.sigmoid(), b0.sigmoid(), b, b0)
    slopes = torch.where(near, b.sigmoid() * (1 - b.sigmoid()), slopes)
    g = wide(given[0])
    return [torch.cat([g * (b.sigmoid() + b0.sigmoid()) / 2, g * (a + a0) / 2 * slopes], dim)]


def _softmax(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    if given[0] is None:
        return plain
    dim = now.args[1]
    weights = _log_mean(wide(_first(now.out)), wide(_first(then.out)))
    return [_through_softmax(wide(given[0]), weights, dim)]


def _through_softmax(g: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Return the rule of y = exp(x - ln Σ exp x).

    Δy_i = w_i (Δx_i - ΔL), w the logarithmic mean of both y. As Σ Δy = 0, ΔL = Σ w Δx / Σ w.
    """
    total = weights.sum(dim, keepdim=True)
    mean = (weights * g).sum(dim, keepdim=True) / torch.where(total == 0, 1, total)
    return weights * (g - mean)


def _log_softmax(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return the rule of x - L, L = ln Σ exp x."""
    if given[0] is None:
        return plain
    g, dim = wide(given[0]), now.args[1]
    weights = _log_mean(*(wide(_first(one.out)).exp() for one in (now, then)))
    shares = weights / weights.sum(dim, keepdim=True)
    return [g - shares * g.sum(dim, keepdim=True)]


def _log_mean(y: Tensor, other: Tensor) -> Tensor:
    """Return the logarithmic mean (y - y')/(ln y - ln y'), 0 where one is 0."""
    apart = (y / other).log()
    near = ~(apart.abs() > 1e-6)  # noqa: PLR2004 (where the quotient loses its digits)
    mean = torch.where(near, (y + other) / 2, (y - other) / torch.where(near, 1, apart))
    return torch.where((y > 0) & (other > 0), mean, 0)


def _attention(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return the rule of fused attention: products, softmax, products."""
    if given[0] is None:
        return plain
    one, other = attention_of(now), attention_of(then)
    q, k, v = ((a + b) / 2 for a, b in zip(one.inputs, other.inputs, strict=True))
    g, mean = wide(given[0]), (one.weights + other.weights) / 2
    weights = _log_mean(one.weights, other.weights)
    of_scores = _through_softmax(g @ v.mT, weights, -1) * one.scale
    found = (of_scores @ k, of_scores.mT @ q, mean.mT @ g)
    return [None if old is None else new for new, old in zip(found, plain, strict=False)]


def _normalised(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return the rule of y = w · c · ρ, c = x - mean, ρ = (mean c² + ε)^-½.

    Δ(cρ) = ρ Δc + c' Δρ, with the smaller ρ of both and the c that belongs to the larger one: where
    the baseline is flat its ρ is 1/√ε, and would drown all else.
    """
    form = NORMS[now.name](now)
    if form is None or given[0] is None or plain[0] is None:
        return plain
    x, other = (wide(one.args[0]).reshape(form.shape) for one in (now, then))
    g = wide(given[0]).reshape(form.shape)
    g = g if form.weight is None else g * wide(form.weight)
    c, before = (
        one - one.mean(form.dims, keepdim=True) if form.centred else one for one in (x, other)
    )
    v, v0 = (one.square().mean(form.dims, keepdim=True) for one in (c, before))
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


def _norm(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return the rule of the Euclidean norm, n = (Σ x²)^½: Δn = Σ (x + x') Δx / (n + n')."""
    if given[0] is None or now.given("ord", 2) != 2:  # noqa: PLR2004
        return plain
    x, other = (wide(one.args[0]) for one in (now, then))
    dims = now.given("dim")
    dims = tuple(range(x.ndim)) if dims is None else tuple(dims)
    n, n0 = (one.square().sum(dims, keepdim=True).sqrt() for one in (x, other))
    below = n + n0
    g = wide(given[0]).reshape(n.shape)
    return [g * (x + other) / torch.where(below == 0, 1, below)]


def _pooling(now: Operation, then: Operation, given: Gradients, plain: Gradients) -> Gradients:
    """Return max-pooling's rule: Δout goes to both maxima, the image's and the baseline's.

    With o and r the outputs for image and baseline, the image's maximum is given max(o, r) - r and
    the baseline's o - max(o, r), each divided by the change of the input there.
    """
    if given[0] is None or plain[0] is None:
        return plain
    axes = POOLS[now.name]
    (o, here), (r, there) = ((_flat(x, axes) for x in one.out) for one in (now, then))
    change = _flat(wide(now.args[0]) - wide(then.args[0]), axes)
    near = change.abs() < _NEAR
    o, r = wide(o), wide(r)
    most, g = torch.maximum(o, r), wide(_flat(given[0], axes))
    nothing = torch.zeros_like(change)
    shares = nothing.scatter_add(-1, here, g * (most - r))
    shares = shares.scatter_add(-1, there, g * (o - most))
    made = torch.where(near, _flat(wide(plain[0]), axes), shares / torch.where(near, 1, change))
    return [made.view(plain[0].shape)]


def _flat(x: Tensor, axes: int) -> Tensor:
    return x.flatten(-axes)


def _input(operation: Operation, place: int) -> Tensor:
    """Return the tensor that has the gradient at a place."""
    tensors = [one for one in tree_leaves(operation.args) if isinstance(one, Tensor)]
    return tensors[min(place, len(tensors) - 1)]


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu")


def _first(out: Any) -> Tensor:
    found: Tensor = out if isinstance(out, Tensor) else out[0]
    return found


_CAPTUM_NAMES = ("relu", "elu", "leaky_relu", "softplus", "sigmoid", "tanh")
_CAPTUM: Mapping[str, Compared] = dict.fromkeys(_CAPTUM_NAMES, _by_slope) | dict.fromkeys(
    POOLS, _pooling
)
_RULES: Mapping[str, Compared] = {
    **dict.fromkeys(ELEMENTWISE, _by_slope),
    **_CAPTUM,
    **dict.fromkeys(("mul", "mm", "bmm", "mv", "dot", "vdot"), _products(0)),
    **dict.fromkeys(("convolution", "_convolution"), _products(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv", "addr", "addcmul"), _products(1)),
    "div": _quotient,
    "glu": _gated,
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    "_log_softmax": _log_softmax,
    "linalg_vector_norm": _norm,
    **dict.fromkeys(NORMS, _normalised),
    **dict.fromkeys(ATTENTIONS, _attention),
}
"""By the names of ATen's operations."""

__all__ = ["DeepLIFT", "Rescaled", "differences"]

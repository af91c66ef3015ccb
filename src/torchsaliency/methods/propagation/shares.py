"""How relevance R of y = f(x) + b, f linear, is shared out among x: the formulas of LRP.

`apply` repeats f on other numbers, or on other inputs and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchsaliency.methods.propagation.operations import plain

Linear = Callable[[Tensor], Tensor]
"""A linear function of its input."""

Weighted = Callable[[Tensor, Tensor], Tensor]
"""A linear function of its input and of its weights."""


def share_by_epsilon(
    relevance: Tensor,
    x: Tensor,
    apply: Linear,
    epsilon: float,
    bias: Tensor | float | int = 0,
) -> Tensor:
    """Return R_i = x_i Σ_j ∂f_j/∂x_i · R_j / (y_j + ε sign y_j): the ε rule."""
    given = plain(relevance)
    found = _pull_back(
        [plain(x)], [apply], lambda made: [given / move_from_zero(made[0] + bias, epsilon)]
    )
    return found.to(relevance.dtype)


def share_positive(
    relevance: Tensor, x: Tensor, weight: Tensor, apply: Weighted, *, conserves: bool
) -> Tensor:
    """Return the αβ rule with α = 1, β = 0: only positive contributions.

    To conserve relevance, a unit that has none but negative ones shares it among these.
    """
    numbers, given = plain(x), plain(relevance)
    signs = (1,) if bool((numbers >= 0).all()) else (1, -1)
    lost = given

    def share(made: Sequence[Tensor]) -> list[Tensor]:
        nonlocal lost
        below = torch.stack([*made]).sum(0)
        share = divide(lost, below)
        lost = torch.where(below == 0, lost, 0)
        return [share] * len(made)

    def contribute(turn: int) -> Tensor:
        parts = [_keep_side(numbers, sign) for sign in signs]
        weights = [_keep_side(weight, turn * sign).to(numbers) for sign in signs]
        layers = [lambda part, w=w: apply(part, w) for w in weights]
        return _pull_back(parts, layers, share)

    found = contribute(1)
    if conserves and bool(lost.any()):
        found = found + contribute(-1)
    return found.to(relevance.dtype)


def _keep_side(x: Tensor, sign: int) -> Tensor:
    return (x.clamp_min(0) if sign > 0 else x.clamp_max(0)).detach()


def share_bounded(relevance: Tensor, x: Tensor, weight: Tensor, apply: Weighted) -> Tensor:
    """Return the z^B rule; the bounds are each image's own extremes."""
    numbers, given, dims = plain(x), plain(relevance), tuple(range(1, x.ndim))
    # Differences first, so that a blank image gives exact zeros.
    up = numbers - numbers.amin(dims, keepdim=True)
    down = numbers - numbers.amax(dims, keepdim=True)
    found = _pull_back(
        [up, down],
        [
            lambda part: apply(part, weight.clamp_min(0).to(part)),
            lambda part: apply(part, weight.clamp_max(0).to(part)),
        ],
        lambda made: [divide(given, made[0] + made[1])] * 2,
    )
    return found.to(relevance.dtype)


def share_by_sign(relevance: Tensor, x: Tensor, apply: Linear) -> Tensor:
    """Return the rule of a sum that gives all to the terms of its own sign."""
    numbers, given = plain(x), plain(relevance)

    def share(made: Sequence[Tensor]) -> list[Tensor]:
        above, below = made
        sums = above + below
        rising = torch.where(sums > 0, divide(given, above), 0)
        return [rising, torch.where(sums < 0, divide(given, below), 0)]

    parts = [numbers.clamp_min(0), numbers.clamp_max(0)]
    return _pull_back(parts, [apply, apply], share).to(relevance.dtype)


def _pull_back(
    parts: Sequence[Tensor],
    layers: Sequence[Linear],
    share: Callable[[Sequence[Tensor]], Sequence[Tensor]],
) -> Tensor:
    """Return Σ_p x_p ⊙ f_pᵀ(s_p), where the shares s are made of the outputs f_p(x_p)."""
    with torch.enable_grad(), torch.autocast(parts[0].device.type, enabled=False):
        leaves = [part.requires_grad_() for part in parts]
        made = [layer(leaf) for layer, leaf in zip(layers, leaves, strict=True)]
        shares = share([out.detach() for out in made])
        found = [
            leaf.detach() * torch.autograd.grad(out, leaf, given.to(out))[0]
            for leaf, out, given in zip(leaves, made, shares, strict=True)
        ]
    return found[0] if len(found) == 1 else found[0] + found[1]


def move_from_zero(below: Tensor, epsilon: float) -> Tensor:
    """Move a denominator away from zero, to the side where it lies."""
    return below + torch.where(below < 0, -epsilon, epsilon)


def divide(above: Tensor, below: Tensor) -> Tensor:
    """Divide; zero where the denominator is zero, as good as."""
    none = below.abs() < torch.finfo(below.dtype).tiny
    return torch.where(none, 0, above / torch.where(none, 1, below))

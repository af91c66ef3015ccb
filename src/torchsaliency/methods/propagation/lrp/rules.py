"""The rules of layer-wise relevance propagation, as backward passes of linear functions.

A rule is made of a function's input, and called with the relevance of its output; `apply` repeats
the function on other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from torchsaliency.core.maps import wide

Backward = Callable[[Tensor], Tensor]
"""From the relevance of a function's output to that of its input."""

Linear = Callable[[Tensor], Tensor]
"""A linear function of its input."""

Weighted = Callable[[Tensor, Tensor], Tensor]
"""A linear function of its input and of its weights."""


def proportional(
    x: Tensor, apply: Linear, epsilon: float, bias: Tensor | float | int = 0
) -> Backward:
    """Return the ε rule of apply(x) + bias."""

    def rule(g: Tensor) -> Tensor:
        with _in_full(x):
            own = plain(x).requires_grad_()
            made = apply(own)
            share = plain(g) / away(made.detach() + bias, epsilon)
            return (own.detach() * _pulled(made, own, share)).to(g.dtype)

    return rule


def positive_only(x: Tensor, weight: Tensor, apply: Weighted, *, spare: bool) -> Backward:
    """Return the αβ rule with α = 1, β = 0: only positive contributions.

    To spare relevance, a unit that has none but negative ones shares it among these.
    """

    def rule(g: Tensor) -> Tensor:
        with _in_full(x):
            wide, relevance = plain(x), plain(g)
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
    share = divided(relevance, below)
    found = torch.zeros_like(x)
    for part, one in zip(parts, made, strict=True):
        found += part.detach() * _pulled(one, part, share)
    return found, below


def _one_sided(x: Tensor, sign: int) -> Tensor:
    return (x.clamp_min(0) if sign > 0 else x.clamp_max(0)).detach()


def bounded(x: Tensor, weight: Tensor, apply: Weighted) -> Backward:
    """Return the z^B rule; the bounds are each image's own extremes."""

    def rule(g: Tensor) -> Tensor:
        with _in_full(x):
            wide, dims = plain(x), tuple(range(1, x.ndim))
            # Differences first, so that a blank image gives exact zeros.
            up = (wide - wide.amin(dims, keepdim=True)).requires_grad_()
            down = (wide - wide.amax(dims, keepdim=True)).requires_grad_()
            above = apply(up, weight.clamp_min(0).to(up))
            below = apply(down, weight.clamp_max(0).to(down))
            share = divided(plain(g), (above + below).detach())
            found = up.detach() * _pulled(above, up, share)
            return (found + down.detach() * _pulled(below, down, share)).to(g.dtype)

    return rule


def own_sign(x: Tensor, apply: Linear) -> Backward:
    """Return the rule of a sum that gives all to the terms of its own sign."""

    def rule(g: Tensor) -> Tensor:
        with _in_full(x):
            wide, relevance = plain(x), plain(g)
            up, down = wide.clamp_min(0).requires_grad_(), wide.clamp_max(0).requires_grad_()
            above, below = apply(up), apply(down)
            sums = (above + below).detach()
            rising = torch.where(sums > 0, divided(relevance, above.detach()), 0)
            falling = torch.where(sums < 0, divided(relevance, below.detach()), 0)
            found = up.detach() * _pulled(above, up, rising)
            return (found + down.detach() * _pulled(below, down, falling)).to(g.dtype)

    return rule


def away(below: Tensor, epsilon: float) -> Tensor:
    """Move a denominator away from zero, to the side where it lies."""
    return below + torch.where(below < 0, -epsilon, epsilon)


def plain(x: Tensor) -> Tensor:
    """Return the numbers alone, in float32 or better."""
    return wide(x.detach()).view_as(x)


def _pulled(made: Tensor, own: Tensor, share: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(made, own, share.to(made))
    return found


def divided(above: Tensor, below: Tensor) -> Tensor:
    """Divide; zero where the denominator is zero, as good as."""
    none = below.abs() < torch.finfo(below.dtype).tiny
    return torch.where(none, 0, above / torch.where(none, 1, below))


@contextmanager
def _in_full(x: Tensor) -> Iterator[None]:
    """Keep a graph, in full precision."""
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        yield

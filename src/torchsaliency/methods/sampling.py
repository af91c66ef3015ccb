"""How methods that draw at random draw, and when they have drawn enough.

A map that is a mean over draws has a standard error, which says when further draws no longer change
it. Draws that belong together (a mask and its complement) are one *unit*: units are independent of
each other, and the standard error is that of the mean over units.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.errors import OptionError

Sampler = Literal["independent", "antithetic"]
"""Draws independent of each other, or each second one the opposite of the one before it."""

Control = Literal["none", "linear"]
"""What is subtracted from the scores because its share of the map is known without a pass."""

_GROWTH = 1.25
"""By how much more samples a map has at each look at its standard error than at the last one."""


def require_sampling(name: str, *, until: float | int | None, **choices: Any) -> None:
    """Check the options of sampling.

    Args:
        name: of the method.
        until: as given.
        choices: `sampler` and `control` as given, those that the method has.

    Raises:
        OptionError: one is unknown, or `until` is not above 0.
    """
    for key, value in choices.items():
        known = get_args(Sampler if key == "sampler" else Control)
        if value not in known:
            raise OptionError(f"{name}.{key} is one of {', '.join(known)}; {value!r} was given.")
    if until is not None and not 0 < until < math.inf:
        raise OptionError(
            f"{name}.until must be above 0, and {until} was given; give a relative standard error "
            "such as 0.1, or leave it out for all samples."
        )


def unit_of(sampler: Sampler) -> int:
    """Return how many draws make a unit."""
    return 2 if sampler == "antithetic" else 1


def plan_looks(samples: int, until: float | int | None, first: int) -> list[int]:
    """Return after how many samples the standard error is looked at, all of them last.

    Numbers are even, so that no look splits a pair. They do not depend on the chunk.
    """
    looks = []
    number = float(first)
    while until is not None and number < samples:
        looks.append(2 * round(number / 2))
        number *= _GROWTH
    return [*looks, samples]


def compare_errors(
    squares: Float[Tensor, " n"], maps: Float[Tensor, "n ..."]
) -> Float[Tensor, " n"]:
    """Return √(Σ_u SE(u)²) / √(Σ_u (S(u) - mean S)²), 0 where the standard error is 0.

    Args:
        squares: Σ_u SE(u)² of each map.
        maps: S.
    """
    flat = maps.flatten(1)
    spread = (flat - flat.mean(1, keepdim=True)).square().sum(1)
    return torch.where(squares > 0, (squares / spread).sqrt(), 0)

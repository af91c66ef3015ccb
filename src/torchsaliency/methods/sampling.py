"""How methods that draw at random draw, and when they have drawn enough.

A map that is a mean over draws has a standard error, which says when further draws no longer change
it. Draws that belong together (a mask and its complement) are one *unit*: units are independent of
each other, and the standard error is that of the mean over units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final, get_args, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.method import Method
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError

Sampler = Literal["independent", "antithetic", "stratified"]
"""Draws independent of each other; each second one the opposite of the one before it; or one in
each of equal parts of what is drawn from. A method has those that help it.
"""

Control = Literal["none", "linear"]
"""What is subtracted from the scores because its share of the map is known without a pass."""

_FIRST_LOOK = 16
"""Draws before the standard error of their mean is looked at."""

_GROWTH = 1.25
"""By how much more samples a map has at each look at its standard error than at the last one."""


def require_sampling(method: Method, until: float | int | None) -> None:
    """Check the options of sampling of a method, those that it has.

    Raises:
        OptionError: `sampler` or `control` is unknown, or `until` is not above 0.
    """
    hints = get_type_hints(type(method))
    for key in {"sampler", "control"} & set(method.options):
        known, value = get_args(hints[key]), method.options[key]
        if value not in known:
            raise OptionError(
                f"{method.name}.{key} is one of {', '.join(known)}, and {value!r} was given."
            )
    if until is not None and not 0 < until < math.inf:
        raise OptionError(
            f"{method.name}.until must be above 0, and {until} was given; give a relative standard "
            "error such as 0.1, or leave it out for all samples."
        )


def unit_of(sampler: Sampler) -> int:
    """Return how many draws make a unit."""
    return {"independent": 1, "antithetic": 2, "stratified": 8}[sampler]


def plan_looks(samples: int, until: float | int | None, first: int, unit: int = 1) -> list[int]:
    """Return after how many samples the standard error is looked at, all of them last.

    Only whole units are looked at. The numbers do not depend on the chunk.
    """
    looks: list[int] = []
    number = float(first)
    while until is not None and (look := unit * round(number / unit)) < samples:
        looks.append(look)
        number = max(number * _GROWTH, look + unit)
    return [*looks, samples]


@final
@dataclass(frozen=True, eq=False)
class SteadyMean:
    """A mean over draws, each image's own number of them.

    Attributes:
        mean: (N, …).
        samples: (N,) how many draws it has.
        error: (N, …) its standard error.
        relative_error: (N,) see `compare_errors`.
    """

    mean: Tensor
    samples: Tensor
    error: Tensor
    relative_error: Tensor

    @property
    def details(self) -> dict[str, Tensor]:
        """What an explanation tells of it."""
        return {
            "samples": self.samples,
            "relative_error": self.relative_error,
            "standard_error": self.error,
        }


def mean_until(
    view: View,
    draws: int,
    part: Callable[[Tensor, Tensor], Tensor],
    *,
    until: float | int,
    unit: int = 1,
    judge: slice = slice(None),
) -> SteadyMean:
    """Return the mean of part(draw, image) over draws, as many as each image needs.

    Args:
        view: the images.
        draws: the most.
        part: gives what is averaged, (m, c, …) for draws and images (m,).
        until: the relative standard error at which an image stops.
        unit: draws in a row that belong together.
        judge: the channels whose standard error counts.
    """
    device, count = view.images.device, len(view.images)
    going, start = torch.arange(count, device=device), 0
    used = torch.zeros(count, dtype=torch.int64, device=device)
    errors = torch.zeros(count, dtype=torch.float32, device=device)
    first = total = power = held = torch.zeros(0, device=device)
    for look in plan_looks(draws, until, _FIRST_LOOK, unit):
        for numbers in torch.arange((look - start) * len(going), device=device).split(view.chunk):
            draw, index = start + numbers // len(going), going[numbers % len(going)]
            found = part(draw, index)
            if not len(total):
                shape = count, *found.shape[1:]
                first, total, power, held = (found.new_zeros(shape) for _ in range(4))
            for number in draw.unique().tolist():  # an image is there once for each
                rows, where = found[draw == number], index[draw == number]
                if number == 0:  # sums of differences keep the digits of a small variance
                    first[where] = rows
                held[where] += rows - first[where]
                if number % unit == unit - 1:
                    total[where] += held[where]
                    power[where] += (held[where] / unit).square()
                    held[where] = 0
        used[going] = look
        error = _find_error(total[going], power[going], look // unit, unit)
        means = first[going] + (total[going] + held[going]) / look
        squares = error[:, judge].square().flatten(1).sum(1)
        errors[going] = compare_errors(squares, means[:, judge]).to(errors)
        going, start = going[~(errors[going] <= until)], look
        if not len(going):
            break
    whole = add_sides(used, total)
    return SteadyMean(
        first + (total + held) / whole, used, _find_error(total, power, whole // unit, unit), errors
    )


def _find_error(total: Tensor, power: Tensor, units: Tensor | int, unit: int) -> Tensor:
    """Return the standard error of the mean over units; infinite for one unit."""
    mean = total / (units * unit)
    variance = (power / units - mean.square()).clamp_min(0) / (units - 1)
    return variance.sqrt().nan_to_num(torch.inf)


def compare_errors(
    squares: Float[Tensor, " n"], maps: Float[Tensor, "n ..."]
) -> Float[Tensor, " n"]:
    """Return √(Σ_u SE(u)²) over the map's spread √(Σ_u (S(u) - mean S)²).

    Chance spreads an estimated map by Σ_u SE(u)² more on average, which is taken off; a map that
    spreads no more than by chance has an infinite error, one without standard error has none.

    Args:
        squares: Σ_u SE(u)² of each map.
        maps: S.
    """
    flat = maps.flatten(1)
    spread = (flat - flat.mean(1, keepdim=True)).square().sum(1)
    return torch.where(squares == 0, 0, (squares / (spread - squares).clamp_min(0)).sqrt())

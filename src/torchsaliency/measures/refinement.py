"""Curves evaluated where they bend, until the sum of their points is known to an error.

Over steps of masking a network's score is close to a random walk: midway between two known points
its standard deviation grows with the square root of their distance. Such a walk of variance s² a
step is, between known points, a Brownian bridge: its mean is the straight line, and the sum of the
h - 1 points between two that lie h steps apart varies about that line by s² · h (h² - 1) / 12.
These variances add up over the intervals, and the bound is `SAFETY` standard deviations of the sum.
s² is estimated for each interval from the known points at and beside it.

A round halves the intervals that a greedy plan, which halves the widest variance first, would halve
until the bound holds. An image's rounds depend on its own scores alone; the points that all images
of a batch want are evaluated together.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchsaliency.core.maps import to_float64
from torchsaliency.core.scores import require_error
from torchsaliency.measures.judge import Reading

SAFETY = 3.7
"""Standard deviations of the bound; found, as the weights below, on 10 photographs beside those of
the table in docs/speed.md: it was 3.4, and was raised once when 44 of the table's were known."""

_COARSE = 8
"""Intervals of the first round, at most; half as many as there are steps if these are few."""

_BENDS, _RISE, _NEIGHBOURS, _ALL = 2, 2, 1, 1
"""Weights of what tells how rough the curve is in an interval: how far it bends at both ends, how
far it rises inside, how far in both neighbours, and the median of how far it bends anywhere."""

_MEDIAN = 0.455
"""Of the square of a normal number of variance 1."""

_FLOOR = 2e-3
"""Standard deviation of a step where all known points lie on a line."""


@final
@dataclass(frozen=True, eq=False)
class Refinement:
    """How far the curves of images were evaluated.

    Attributes:
        errors: (N,) the bound that was reached, in points; 0 where all is known.
        passes: (N,) scores that were evaluated.
        steps: (N,) scores that the exact curves evaluate; all in float64.
    """

    errors: Tensor
    passes: Tensor
    steps: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take: (N, 3) errors, passes and steps, in float64."""
        return {"refinement": torch.stack([self.errors, self.passes, self.steps], 1)}


def read_curves(
    read: Reading,
    build: Callable[[Tensor, Tensor], Tensor],
    places: Float[Tensor, " nodes"],
    error: float | int | None,
    *,
    clean_first: bool = True,
) -> tuple[Float[Tensor, "n nodes"], Refinement | None]:
    """Return curves of scores that begin or end with the clean image's.

    Args:
        read: how the images' variants are read.
        build: gives the variants (m, C, *size) of images (m,) and steps (m,).
        places: of the nodes, the clean image's included, rising from 0 to 1.
        error: what 100 times the area under a curve may be wrong by; None or 0: all is evaluated.
        clean_first: whether the clean image is the first node, or the last.

    Returns:
        The curves, and how far they were evaluated; None if all is.

    Raises:
        OptionError: an error that is below 0 or not finite.
    """
    each, clean = len(places) - 1, read.clean[:, None]
    wanted = require_error(error)
    if not wanted:
        found = read.variants(each, build)
        return torch.cat([clean, found] if clean_first else [found, clean], 1), None
    known = torch.full((len(clean), each + 1), torch.nan, dtype=clean.dtype, device=clean.device)
    known[:, 0 if clean_first else each] = read.clean

    def evaluate(image: Tensor, node: Tensor) -> Tensor:
        # a clean score that is no number is asked for again, and stays what it is
        masked = node != (0 if clean_first else each)
        index = (image * each + node - int(clean_first))[masked]
        found = read.clean[image]
        found[masked] = read.some_variants(each, build, index.to(read.judge.images.device))
        return found

    points = 100 * float(places.diff().max())
    return refine_curves(known, evaluate, places, points=points, error=wanted)


def refine_curves(
    known: Float[Tensor, "n nodes"],
    evaluate: Callable[[Tensor, Tensor], Tensor],
    places: Float[Tensor, " nodes"],
    *,
    points: float | int,
    error: float | int,
) -> tuple[Float[Tensor, "n nodes"], Refinement]:
    """Evaluate curves until the sum of each one's nodes, times `points`, is known to an error.

    Args:
        known: the scores of N images that are known already, NaN elsewhere.
        evaluate: gives the scores (m,) of images (m,) at nodes (m,), sorted by both.
        places: of the nodes, rising; scores are interpolated linearly in them.
        points: what a score of 1 at one node adds to the number.
        error: what the number may be wrong by, in its unit, above 0.

    Returns:
        The curves in float64, straight between the nodes that were evaluated, and how far they
        were.

    Example:
        >>> curve = torch.linspace(0, 1, 225, dtype=torch.float64)[None] ** 3
        >>> places = torch.linspace(0, 1, 225, dtype=torch.float64)
        >>> found, about = refine_curves(
        ...     torch.full_like(curve, torch.nan),
        ...     lambda image, node: curve[image, node],
        ...     places,
        ...     points=100 / 224,
        ...     error=1.0,
        ... )
        >>> int(about.passes), int(about.steps)
        (25, 225)
        >>> abs(100 * float(torch.trapezoid(found - curve, places))) < 1
        True
    """
    scores = to_float64(known).cpu()
    evaluated = ~scores.isnan()
    steps = (~evaluated).sum(1)
    bounds = torch.full((len(scores),), torch.inf, dtype=torch.float64, device="cpu")
    active = list(range(len(scores)))
    while active:
        wanted = {}
        for image in active:
            bounds[image], chosen = _choose(scores[image], evaluated[image], points, error)
            if len(chosen):
                wanted[image] = chosen
        active = list(wanted)
        if active:
            images = torch.cat([torch.full_like(part, one) for one, part in wanted.items()])
            nodes = torch.cat([*wanted.values()])
            found = evaluate(images.to(known.device), nodes.to(known.device))
            scores[images, nodes] = to_float64(found).cpu()
            evaluated[images, nodes] = True
    filled = _interpolate(scores, evaluated, to_float64(places).cpu())
    passes = steps - (~evaluated).sum(1)
    return filled.to(known), Refinement(bounds, passes.double(), steps.double())


def _choose(
    scores: Float[Tensor, " nodes"],
    evaluated: Bool[Tensor, " nodes"],
    points: float | int,
    error: float | int,
) -> tuple[float, Int[Tensor, " m"]]:
    """Return the bound of an image's curve, and the nodes of its next round: none if it holds."""
    last = len(scores) - 1
    coarse = torch.linspace(0, last, _count_coarse(last) + 1, device="cpu").round().long()
    first = coarse[~evaluated[coarse]]
    if len(first):
        return math.inf, first
    places = evaluated.nonzero()[:, 0]
    length, variance = places.diff(), _estimate_variances(places, scores[places])
    # Student's t in place of the normal distribution: few points say little of the variances
    factor = points * SAFETY * (1 + (SAFETY**2 + 1) / (4 * max(1, len(places) - 2)))
    bound = factor * math.sqrt(float((variance * _bridge(length)).sum()))
    if bound <= error:
        return bound, places[:0]
    chosen = _plan(variance.tolist(), length.tolist(), (error / factor) ** 2)
    return bound, (places[:-1] + length // 2)[chosen]


def _count_coarse(steps: int) -> int:
    """Return how many intervals of a curve the first round leaves."""
    return min(_COARSE, max(1, steps // 2))


def _bridge(length: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Return the variance of the sum between two known points, for a step of variance 1."""
    return length * (length**2 - 1) / 12


def _estimate_variances(
    places: Int[Tensor, " m"], scores: Float[Tensor, " m"]
) -> Float[Tensor, " intervals"]:
    """Return the variance of a step in each interval between known places."""
    length = places.diff().double()
    rise = scores.diff() ** 2 / length
    if len(rise) < 2:  # noqa: PLR2004
        return rise + _FLOOR**2
    left, right = length[:-1], length[1:]
    middle = (scores[:-2] * right + scores[2:] * left) / (left + right)
    bend = (scores[1:-1] - middle) ** 2 * (left + right) / (left * right)
    # at the ends of the curve one side stands for both
    bends, rises = (torch.cat([part[:1], part, part[-1:]]) for part in (bend, rise))
    weighted = (
        _BENDS * (bends[:-1] + bends[1:]) / 2
        + _RISE * rise
        + _NEIGHBOURS * (rises[:-2] + rises[2:]) / 2
        + _ALL * bend.median() / _MEDIAN
    )
    return weighted / (_BENDS + _RISE + _NEIGHBOURS + _ALL) + _FLOOR**2


def _plan(variances: list[float], lengths: list[int], wanted: float) -> list[int]:
    """Return the intervals that a greedy plan halves until the sum's variance is as wanted."""
    bridge = _bridge(torch.arange(max(lengths) + 1, device="cpu")).tolist()
    heap = [(-variances[at] * bridge[length], at, length) for at, length in enumerate(lengths)]
    heapq.heapify(heap)
    total, chosen = -sum(item[0] for item in heap), set()
    while total > wanted and heap[0][0] < 0:
        negative, at, length = heapq.heappop(heap)
        chosen.add(at)
        total += negative
        for half in (length // 2, length - length // 2):
            total += variances[at] * bridge[half]
            heapq.heappush(heap, (-variances[at] * bridge[half], at, half))
    return sorted(chosen)


def _interpolate(
    scores: Float[Tensor, "n nodes"],
    evaluated: Bool[Tensor, "n nodes"],
    places: Float[Tensor, " nodes"],
) -> Float[Tensor, "n nodes"]:
    """Return curves that are straight between evaluated nodes, of which both ends are."""
    node = torch.arange(len(places), device="cpu").expand_as(evaluated)
    before = torch.where(evaluated, node, 0).cummax(1).values
    after = torch.where(evaluated, node, len(places) - 1).flip(1).cummin(1).values.flip(1)
    width = torch.where(evaluated, 1, places[after] - places[before])
    share = (places - places[before]) / width  # 0 at evaluated nodes
    return torch.lerp(scores.gather(1, before), scores.gather(1, after), share)

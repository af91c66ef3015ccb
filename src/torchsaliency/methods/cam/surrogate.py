"""Opti-CAM's search on a Gaussian process that learns the objective from values and gradients.

A pass of the network is dear and what it teaches is local: where a mask shows a part of the image
changes what the network sees there and near there. So the objective is modelled as a sum of smooth
functions, one a cell of the map, each of the map around that cell alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.maps import Normalisation
from torchsaliency.methods.cam.solvers import AdamState, MapSearch


@final
class Surrogate(MapSearch):
    """A climb on the mean of a Gaussian process for each pass of the network.

    The process (`LocalProcess`) learns from the objective and its gradient at up to `memory` maps
    of an image; then the lowest gives way. Its mean is climbed from the best weights u met, by
    `inner_steps` Adam steps and no further from the best map than a radius, which grows where the
    objective rose by more than half of what the mean had promised and shrinks where it rose by
    less than a tenth.
    """

    inner_steps = 60
    radius = 0.15
    """The first, times the root of the number of cells: of the distance that all could move."""
    grow, shrink = 1.3, 0.6
    memory = 12

    def __init__(
        self, features: Tensor, start: Tensor, rate: float, normalisation: Normalisation
    ) -> None:
        super().__init__(features, start, normalisation)
        self._rate = rate
        count, cells = len(features), features[0, 0].numel()
        self._radius = features.new_full((count, 1), self.radius * cells**0.5)
        self._unit = features.new_ones((count, 1))
        self._maps = features.new_zeros((count, 0, cells))
        self._values = features.new_zeros((count, 0))
        self._slopes = features.new_zeros((count, 0, cells))
        self._summit = features.new_zeros((count, cells))  # the best map, and its u and objective
        self._logits, self._best = self.logits.clone(), features.new_full((count,), -torch.inf)
        self._promise = features.new_zeros(count)

    def update(self, live: Tensor, slope: Tensor, values: Tensor) -> None:
        """Learn from the slope ∂F/∂S and the values F of a pass, and climb the mean."""
        here = self._anchor[live].flatten(1)
        if not self._values.shape[1]:
            if self._normalisation != "range":
                self._unit = here.abs().amax(1, keepdim=True).clamp_min(1e-12)
        else:
            self._judge(live, values)
        here, slope = here / self._unit[live], slope.flatten(1) * self._unit[live]
        better = values > self._best[live]
        raised = live[better]
        self._best[raised], self._summit[raised] = values[better], here[better]
        self._logits[raised] = self.logits[raised]
        self._remember(live, here, values, slope)
        self._climb(live)

    def _judge(self, live: Tensor, values: Tensor) -> None:
        """Trust the mean further where it kept its promise, less far where it did not."""
        best = self._best[live]
        kept = (values - best) > 0.5 * (self._promise[live] - best)
        broken = (values - best) < 0.1 * (self._promise[live] - best)
        change = torch.where(kept, self.grow, torch.where(broken, self.shrink, 1.0))
        self._radius[live] *= change[:, None]

    def _remember(self, live: Tensor, here: Tensor, values: Tensor, slope: Tensor) -> None:
        """Write a map down, with what the pass said of it."""
        if self._values.shape[1] < self.memory:
            place = torch.full_like(live, self._values.shape[1])
            self._maps, self._values, self._slopes = (
                torch.cat([kept, kept.new_zeros(len(kept), 1, *kept.shape[2:])], 1)
                for kept in (self._maps, self._values, self._slopes)
            )
        else:
            place = self._values[live].argmin(1)
        self._maps[live, place], self._slopes[live, place] = here, slope
        self._values[live, place] = values

    def _climb(self, live: Tensor) -> None:
        grid = self._features.shape[2:]
        process = LocalProcess(self._maps[live], self._values[live], self._slopes[live], grid)
        features, unit = self._features[live].flatten(2), self._unit[live]
        summit, radius = self._summit[live], self._radius[live]
        adam, everything = AdamState(self._logits[live], self._rate), slice(None)
        size: Tensor | None = None  # of the first climb, so that units cancel
        for _ in range(self.inner_steps):
            weights = adam.rows.softmax(1)
            maps = self._mix(weights, features)
            here = maps.shape / unit
            slope = _turn_back(process.mean(here)[1], here - summit, radius)
            climb = self._pull_back(slope, maps, weights, features)
            if size is None:
                size = climb.norm(dim=1, keepdim=True).clamp_min(torch.finfo(climb.dtype).tiny)
            adam.ascend(everything, climb / size)
        self.logits[live] = adam.rows
        here = self._mix(adam.rows.softmax(1), features).shape / unit
        self._promise[live] = process.mean(here)[0]


def _turn_back(slope: Tensor, move: Tensor, radius: Tensor) -> Tensor:
    """Return the slope, turned inward the more the further a move is beyond the radius.

    Gradually, from 0.75 to 1.25 of it: a switch would make much of rounding.
    """
    length = move.norm(dim=1, keepdim=True)
    outward = move / length.clamp_min(1e-12)
    along = (slope * outward).sum(1, keepdim=True).relu()
    beyond = (2 * (length / radius) - 1.5).clamp(0, 1)
    return slope - beyond * (along + slope.norm(dim=1, keepdim=True)) * outward


@final
class LocalProcess:
    """The mean of a Gaussian process over maps, given values and gradients at some of them.

    The kernel of maps S and S' (i and j cells, |i - j| in cells, D of them) is

        k(S, S') = 1/D Σ_j exp(-Σ_i w_ij (S_i - S'_i)² / 2s²),   w_ij = exp(-|i - j|² / 2ρ²)

    The prior mean is the largest value. The coefficients of the n maps come from conjugate
    gradients, whose products with the kernel's matrix are evaluations of the mean at the known
    maps: the matrix itself, of n (D + 1) rows, is never made.

    Args:
        maps: (M, n, D), about in [0, 1].
        values: at them (M, n).
        slopes: the gradients at them (M, n, D).
        grid: the sides of the map, whose product is D.
    """

    scale, reach = 0.8, 0.7
    """s and ρ."""
    value_noise, slope_noise = 1e-3, 0.03
    """Their variances, as shares of the prior's own."""
    rounds = 40

    def __init__(self, maps: Tensor, values: Tensor, slopes: Tensor, grid: Sequence[int]) -> None:
        self._maps, self._grid = maps, tuple(grid)
        self._windows = [_window(side, self.reach, maps) for side in grid]
        self._level = values.amax(1)
        prior = self._blur(maps.new_full((1, maps.shape[2]), 1 / maps.shape[2])) / self.scale**2
        self._unit = prior.sqrt()  # of a gradient
        known = self._relate(maps[:, :, None] - maps[:, None])

        def apply(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            found, slope = self._evaluate(known, pair[0], pair[1] / self._unit)
            return (
                found + self.value_noise * pair[0],
                slope / self._unit + self.slope_noise * pair[1],
            )

        told = values - self._level[:, None], slopes / self._unit
        size = _dot(told, told).sqrt().clamp_min(torch.finfo(maps.dtype).tiny)  # units cancel
        heights, tilts = _solve(apply, _add(told, 1 / size - 1, told), self.rounds)
        self._heights = heights * size[:, None]
        self._tilts = tilts * size[:, None, None] / self._unit

    def mean(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean (M,) and its gradient (M, D) at maps (M, D)."""
        related = self._relate((maps[:, None] - self._maps)[:, None])
        found, slope = self._evaluate(related, self._heights, self._tilts)
        return self._level + found[:, 0], slope[:, 0]

    def _relate(self, moves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return moves (M, a, n, D), the terms of their kernels, and those blurred."""
        terms = (self._blur(moves.square()) / (-2 * self.scale**2)).exp() / moves.shape[-1]
        return moves / self.scale**2, terms, self._blur(terms)

    def _evaluate(
        self, related: tuple[Tensor, Tensor, Tensor], heights: Tensor, tilts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return Σ_b heights_b k + ⟨tilts_b, ∂k/∂S_b⟩ (M, a) and its gradient (M, a, D)."""
        moves, terms, blurred = related
        tilts = tilts[:, None]
        weight = terms * (heights[:, None, :, None] + self._blur(moves * tilts))
        slope = tilts * blurred / self.scale**2 - moves * self._blur(weight)
        return weight.sum((2, 3)), slope.sum(2)

    def _blur(self, cells: Tensor) -> Tensor:
        """Return Σ_i w_ij c_i of cells (…, D)."""
        found = cells.unflatten(-1, self._grid)
        for window in self._windows:
            # the axis that is summed over goes, and its window's comes last: a full turn
            found = torch.tensordot(found, window, ([found.ndim - len(self._grid)], [0]))
        return found.flatten(-len(self._grid))


def _window(side: int, reach: float, like: Tensor) -> Tensor:
    place = torch.arange(side, dtype=like.dtype, device=like.device)
    return ((place[:, None] - place) / reach).square().div(-2).exp()


_Pair = tuple[Tensor, Tensor]


def _solve(apply: Callable[[_Pair], _Pair], wanted: _Pair, rounds: int) -> _Pair:
    """Return x of A x = wanted by conjugate gradients, each image for itself."""
    found = torch.zeros_like(wanted[0]), torch.zeros_like(wanted[1])
    rest = search = wanted
    power = _dot(rest, rest)
    for _ in range(rounds):
        image = apply(search)
        step = power / _dot(search, image).clamp_min(1e-30)
        found = _add(found, step, search)
        rest = _add(rest, -step, image)
        before, power = power, _dot(rest, rest)
        search = _add(rest, power / before.clamp_min(1e-30), search)
    return found


def _dot(one: _Pair, other: _Pair) -> Tensor:
    return (one[0] * other[0]).sum(1) + (one[1] * other[1]).sum((1, 2))


def _add(one: _Pair, share: Tensor, other: _Pair) -> _Pair:
    return one[0] + share[:, None] * other[0], one[1] + share[:, None, None] * other[1]

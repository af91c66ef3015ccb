"""A linear model of the score as a control variate of a mean of random masks.

RISE's map is E[y(M) M(u)] / p₁. With any function g of the mask

    E[y M(u)] = E[(y - g) M(u)] + E[g M(u)],

and for g(M) = a + β·z, z the mask on a coarse grid, less its mean p₁, the second part is
p₁ a + β·Cov(z, M(u)), known in closed form: a mask is a grid of independent cells, stretched on
each side by itself. Only y - g is left to chance. To leave the mean as it is, the g of a sample is
fitted by ridge regression to the samples of other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.maps import is_constant
from torchsaliency.core.space import multiply_sides
from torchsaliency.methods.sampling import Control, compare_errors

_FOLDS = 8

_RIDGES = (1e-9, 0.03, 0.3, 3.0, 30.0)
"""Tried, relative to the mean variance of z; the one with the least error in the left-out fold is
used: the first fits a linear network exactly, the last fits next to nothing.
"""


@final
class CoarseMasks:
    """Random masks on a grid of one cell more than they are drawn on, in float64 on the processor.

    Attributes:
        masks: z (S, *grid), the mean of each mask in each cell, less p₁.
        spread: Cov(z, z) as a matrix for each side, whose outer product times p₁(1 - p₁) it is.
        reach: Cov(z, M) as a matrix (side, grid) for each side, likewise.
        keep: p₁.
    """

    def __init__(
        self,
        grids: Tensor,
        shifts: Int[Tensor, "s sides"],
        stretch: Sequence[Tensor],
        size: Sequence[int],
        keep: float,
    ) -> None:
        parts, self.spread, self.reach, self.keep = [], [], [], keep
        for matrix, side, shift in zip(stretch, size, shifts.cpu().unbind(1), strict=True):
            cells = matrix.shape[1]
            pixels = len(matrix) // (cells + 1)
            cut = matrix.cpu().double().unfold(0, side, 1)[:pixels].mT  # by shift, (side, cells)
            pool = _pool(min(cells + 1, side), side)
            coarse = pool @ cut
            parts.append(coarse[shift])
            self.reach.append((cut @ coarse.mT).mean(0))
            self.spread.append(pool @ self.reach[-1])
        self.masks = multiply_sides(grids.cpu().double(), parts) - keep

    def spread_of(self, weights: Float[Tensor, " n *grid"]) -> Float[Tensor, " n *grid"]:
        """Return Cov(β·z, z) for weights β."""
        return self.keep * (1 - self.keep) * multiply_sides(weights, self.spread)

    def reach_of(self, weights: Float[Tensor, " n *grid"]) -> Float[Tensor, " n *size"]:
        """Return Cov(β·z, M(u)) for weights β."""
        return self.keep * (1 - self.keep) * multiply_sides(weights, self.reach)


@final
@dataclass(frozen=True, eq=False)
class Fit:
    """What a control variate leaves of scores.

    Attributes:
        residuals: y - g (N, S).
        level: a (N,), the mean over the samples.
        weights: β (N, *grid), likewise.
        errors: (N,) the map's relative standard error, at the coarse grid.
    """

    residuals: Tensor
    level: Tensor
    weights: Tensor
    errors: Tensor


def fit_control(
    coarse: CoarseMasks, scores: Float[Tensor, "n s"], unit: int, control: Control
) -> Fit:
    """Fit the control variate to the first S masks, and find how steady the map is.

    Args:
        coarse: the masks.
        scores: y in float64, on the processor.
        unit: samples in a row that belong together, in one fold.
        control: "none" leaves g = 0.
    """
    count = scores.shape[1]
    grid = coarse.masks.shape[1:]
    z = coarse.masks[:count].flatten(1)
    if control == "none":
        residuals, level = scores, scores.new_zeros(len(scores))
        weights = scores.new_zeros(len(scores), z.shape[1])
    else:
        residuals, level, weights = _fit_folds(z, scores, unit)
    shaped = weights.unflatten(1, grid)
    linear = coarse.spread_of(shaped).flatten(1)
    maps = residuals @ (z + coarse.keep) / count + linear
    # of each unit's part only what differs between positions counts: a constant is no error
    z = z + coarse.keep
    squares = _sum_squares(residuals, z - z.mean(1, keepdim=True), unit)
    errors = compare_errors(squares.where(~is_constant(scores.float()), 0), maps)
    return Fit(residuals, level, shaped, errors)


def _fit_folds(z: Tensor, scores: Tensor, unit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return y - g, each g fitted to the other folds, and the means of a and β."""
    count = len(z)
    fold = torch.arange(count, device="cpu") // unit % _FOLDS
    x = torch.cat([z.new_ones(count, 1), z], 1)
    ridge = torch.eye(x.shape[1], dtype=x.dtype, device="cpu")
    ridge[0, 0] = 0
    square, right = x.T @ x, x.T @ scores.T
    scale = float(z.square().mean())
    found = []
    for strength in _RIDGES:
        residuals, total = scores.clone(), torch.zeros_like(right)
        for number in range(_FOLDS):
            out = fold == number
            own, others = x[out], count - int(out.sum())
            if not len(own) or not others:
                continue  # too few samples for so many folds
            left = square - own.T @ own + strength * scale * max(1, others) * ridge
            fitted = torch.linalg.solve(left, right - own.T @ scores[:, out].T)
            residuals[:, out] -= (own @ fitted).T
            total += len(own) / count * fitted
        found.append((residuals, total))
    best = torch.stack([residuals.square().sum(1) for residuals, _ in found]).argmin(0)
    rows = torch.arange(len(scores), device="cpu")
    residuals = torch.stack([each for each, _ in found])[best, rows]
    fitted = torch.stack([each.T for _, each in found])[best, rows]
    return residuals, fitted[:, 0], fitted[:, 1:]


def _sum_squares(residuals: Tensor, masks: Tensor, unit: int) -> Tensor:
    """Return Σ_u SE(u)² of mean_i r_i M_i(u) over units, (N,)."""
    units = residuals.shape[1] // unit
    if units < 2:  # noqa: PLR2004 (one unit has no spread)
        return residuals.new_full((len(residuals),), torch.inf)
    r = residuals[:, : units * unit].unflatten(1, (units, unit)) / unit
    z = masks[: units * unit].unflatten(0, (units, unit))
    inner = torch.einsum("juc,jvc->juv", z, z)
    power = torch.einsum("nju,njv,juv->n", r, r, inner)
    mean = torch.einsum("nju,juc->nc", r, z) / units
    return (power - units * mean.square().sum(1)).clamp_min(0) / (units * (units - 1))


def _pool(cells: int, side: int) -> Tensor:
    """Return the mean of `side` pixels in each of so many cells of equal width as a matrix."""
    edges = torch.linspace(0, side, cells + 1, dtype=torch.float64, device="cpu")
    pixels = torch.arange(side, dtype=torch.float64, device="cpu")
    ends = torch.minimum(edges[1:, None], pixels + 1)
    covered = (ends - torch.maximum(edges[:-1, None], pixels)).clamp_min(0)
    return covered / covered.sum(1, keepdim=True)

"""Which superpixels are shown at random, and the regressions that give each of them a number."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.runtime import draw_uniform

_ENUMERABLE = 16
"""Up to so many superpixels all coalitions may be tried."""


def lime_samples(samples: int, count: int, seed: int) -> Tensor:
    """Return which of `count` superpixels each sample shows (samples, count); the first, all."""
    generator = torch.Generator().manual_seed(seed)
    shown = draw_uniform(generator, samples, count) < 0.5  # noqa: PLR2004 (a fair coin)
    shown[0] = True
    return shown


def coalitions(count: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return coalitions (S, count) without the empty and the full one, and their weights (S,)."""
    if count == 1:
        return draw_uniform(torch.Generator(), 0, 1), torch.zeros(
            0, dtype=torch.float64, device="cpu"
        )
    sizes = torch.arange(1, count, dtype=torch.float64, device="cpu")
    if count <= _ENUMERABLE and 2**count - 2 <= samples:
        numbers = torch.arange(1, 2**count - 1, device="cpu")
        shown = (numbers[:, None] >> torch.arange(count, device="cpu")) % 2
        size = shown.sum(1).double()
        ways = torch.exp(
            torch.lgamma(torch.tensor(count + 1.0, dtype=torch.float64, device="cpu"))
            - torch.lgamma(size + 1)
            - torch.lgamma(count - size + 1)
        )
        return shown.float(), (count - 1) / (ways * size * (count - size))
    generator = torch.Generator().manual_seed(seed)
    pairs = -(-samples // 2)
    drawn = torch.multinomial(
        (count - 1) / (sizes * (count - sizes)), pairs, replacement=True, generator=generator
    )
    order = draw_uniform(generator, pairs, count).argsort(1).argsort(1)
    shown = (order <= drawn[:, None]).float()
    both = torch.stack([shown, 1 - shown], 1).flatten(0, 1)[:samples]
    return both, torch.ones(len(both), dtype=torch.float64, device="cpu")


def ridge(
    z: Float[Tensor, "s m"], y: Float[Tensor, " s"], weights: Float[Tensor, " s"], alpha: float
) -> Float[Tensor, " m"]:
    """Return the coefficients of a weighted ridge regression with an intercept of its own."""
    share = weights / weights.sum()
    centred, values = z - share @ z, y - share @ y
    # Scores that are all equal leave nothing, not even rounding.
    values = values if bool(y.any()) else torch.zeros_like(y)
    left = (centred.T * weights) @ centred + alpha * torch.eye(
        z.shape[1], dtype=z.dtype, device=z.device
    )
    return torch.linalg.solve(left, centred.T @ (weights * values))


def ridge_error(
    z: Float[Tensor, "s m"],
    y: Float[Tensor, " s"],
    weights: Float[Tensor, " s"],
    alpha: float,
    found: Float[Tensor, " m"],
) -> Float[Tensor, " m"]:
    """Return the standard error of `ridge`'s coefficients over draws of the samples.

    The sandwich estimate: of each sample, what it adds to the coefficients.
    """
    share = weights / weights.sum()
    centred = z - share @ z
    left = (centred.T * weights) @ centred + alpha * torch.eye(
        z.shape[1], dtype=z.dtype, device=z.device
    )
    parts = (weights * (y - share @ y - centred @ found))[:, None] * centred
    return _sandwich(torch.linalg.inv(left), parts)


def shapley(
    z: Float[Tensor, "s m"], gains: Float[Tensor, " s"], total: Tensor, weights: Tensor
) -> Float[Tensor, " m"]:
    """Return the weighted least-squares solution of z R = gains under Σ R = total.

    R is the even share plus a part that adds up to nothing; the centred rows add up to nothing, so
    the least-norm solution for that part does too, however few coalitions there are.
    """
    count = z.shape[1]
    even = (total / count).expand(count)
    if not len(z):
        return even
    if not gains.isfinite().all():  # LAPACK ends with an error of its own
        return torch.full_like(even, torch.nan)
    root = weights.sqrt()[:, None]
    left = root * (z - z.mean(1, keepdim=True))
    right = root * (gains - z.mean(1) * total)[:, None]
    return even + torch.linalg.lstsq(left, right, driver="gelsd").solution[:, 0]


def shapley_error(
    z: Float[Tensor, "s m"], gains: Float[Tensor, " s"], found: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """Return the standard error of `shapley`'s values over draws of pairs, each of weight 1."""
    if not gains.isfinite().all():
        return torch.full_like(found, torch.nan)
    centred = z - z.mean(1, keepdim=True)
    parts = (gains - z @ found)[:, None] * centred
    whole = len(z) // 2 * 2
    pairs = parts[:whole].unflatten(0, (-1, 2)).sum(1)
    return _sandwich(torch.linalg.pinv(centred.T @ centred, hermitian=True), pairs)


def _sandwich(inverse: Tensor, parts: Tensor) -> Tensor:
    """Return √diag(A⁻¹ Σ_j g_j g_jᵀ A⁻¹), scaled for the degrees of freedom that the fit takes."""
    units, numbers = parts.shape
    if units <= numbers:
        return parts.new_full((numbers,), torch.inf)
    return ((parts @ inverse).square().sum(0) * units / (units - numbers)).sqrt()

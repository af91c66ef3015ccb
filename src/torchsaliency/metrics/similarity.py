"""How alike two maps are: correlations, HOG and SSIM."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor


def pearson(a: Float[Tensor, "n ..."], b: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Return Pearson's correlation of every pair in float64; NaN where one is constant.

    Args:
        a: (N, …).
        b: (N, …), of the same shape.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 3.0]])
        >>> pearson(a, 2 * a).round(), pearson(a, -a).round()
        (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    first, second = (maps.double().flatten(1) for maps in (a, b))
    first, second = (maps - maps.mean(1, keepdim=True) for maps in (first, second))
    # a constant map's deviations are rounding, and must not be correlated
    sizes = [
        torch.where(dev.abs().amax(1) > _rounding(maps), dev.norm(dim=1), 0)
        for dev, maps in ((first, a), (second, b))
    ]
    norms = sizes[0] * sizes[1]
    found = (first * second).sum(1) / torch.where(norms > 0, norms, 1)
    return torch.where(norms > 0, found.clamp(-1, 1), torch.nan)


def spearman(a: Float[Tensor, "n ..."], b: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Return Spearman's rank correlation of every pair, average ranks for ties; NaN if constant.

    Args:
        a: (N, …).
        b: (N, …), of the same shape.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 3.0]])
        >>> spearman(a, a**3).round(), spearman(a, -a).round()
        (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    found = pearson(average_ranks(a), average_ranks(b)).to(a.device)
    return torch.where(pearson(a, b).isnan(), torch.nan, found)


def hog_features(maps: Float[Tensor, " n *size"], cell: int = 16) -> Float[Tensor, "n d"]:
    """Return the histogram of oriented gradients of every map: 9 orientations, blocks of 3×3."""
    if len(maps) == 0:
        return torch.zeros(0, 1, dtype=torch.float64, device="cpu")
    found = [hog(image, pixels_per_cell=(cell, cell)) for image in maps.double().cpu().numpy()]
    return torch.from_numpy(np.stack(found))


def ssim(
    a: Float[Tensor, " n *size"], b: Float[Tensor, " n *size"], *, window: int | None = None
) -> Float[Tensor, " n"]:
    """Return the structural similarity of every pair of maps in [0, 1].

    Args:
        a: maps (N, *size).
        b: maps (N, *size).
        window: side of a uniform window; None for Gaussian weights of σ = 1.5.

    Example:
        >>> maps = torch.rand(1, 16, 16)
        >>> ssim(maps, maps).round()
        tensor([1.], dtype=torch.float64)
    """
    how = {"gaussian_weights": True} if window is None else {"win_size": window}
    pairs = zip(a.double().cpu().numpy(), b.double().cpu().numpy(), strict=True)
    found = [structural_similarity(*pair, data_range=1.0, **how) for pair in pairs]
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def average_ranks(maps: Tensor) -> Tensor:
    """Return each number's rank in its row from 1 on, (N, numbers); equal numbers share theirs."""
    flat = maps.detach().flatten(1).double().cpu().numpy()
    return torch.from_numpy(stats.rankdata(flat, axis=1)) if len(flat) else torch.from_numpy(flat)


def _rounding(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    eps = torch.finfo(flat.dtype).eps if flat.is_floating_point() else 0.0
    return 16 * eps * flat.abs().amax(1).double()

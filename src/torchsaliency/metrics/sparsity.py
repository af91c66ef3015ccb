"""How concentrated is the map? Gini index, entropy, effective area."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.metrics.base import SaliencyMetric, metric


def sparseness(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Return the Gini index of every map, in [0, 1 - 1/(HW)]; NaN for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].

    Raises:
        InputError: maps outside [0, 1].
    """
    values = require_maps(maps).double().flatten(1).sort(1).values
    count = values.shape[1]
    weights = 2 * torch.arange(1, count + 1, device=values.device).double() - count - 1
    total = values.sum(1)
    found = (values * weights).sum(1) / (count * torch.where(total > 0, total, 1))
    return torch.where(total > 0, found, torch.nan)


def entropy(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Return -Σ s ln s of every map, s = S / ΣS, in nats; NaN for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].

    Raises:
        InputError: maps outside [0, 1].
    """
    values = require_maps(maps).double().flatten(1)
    total = values.sum(1)
    shares = values / torch.where(total > 0, total, 1)[:, None]
    found = -torch.special.xlogy(shares, shares).sum(1)
    return torch.where(total > 0, found, torch.nan)


def effective_area(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Return 100 · (ΣS)² / (HW ΣS²) of every map, in (0, 100]; NaN for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].

    Raises:
        InputError: maps outside [0, 1].
    """
    values = require_maps(maps).double().flatten(1)
    power = values.square().sum(1)
    found = values.sum(1).square() / (values.shape[1] * torch.where(power > 0, power, 1))
    return torch.where(power > 0, 100 * found, torch.nan)


@final
@metric(
    "sparseness",
    group="complexity",
    cite="chalasani2020",
    direction="higher",
    unit="Gini index",
    best=1.0,
    worst=0.0,
)
class Sparseness(SaliencyMetric):
    """Sparseness: the Gini index of the map's values.

    Formula: 1/N · Σ_i Σ_k (2k - n - 1) s_k / (n Σ_k s_k), s the n values of map i, rising.

    Rewards: maps whose weight lies on few pixels.

    Misleads: it says nothing of whether they are the right pixels; upsampled maps of coarse
    layers cannot be as sparse as pixel attributions.

    Undefined: for a map of zeros.

    Source: Chalasani et al., ICML 2020.
    """

    def update(self, maps: Tensor) -> None:
        """Add maps (N, H, W) in [0, 1]."""
        self._record(sparseness(maps))


@final
@metric("entropy", group="complexity", cite="bhatt2020", direction="lower", unit="nats", best=0.0)
class Entropy(SaliencyMetric):
    """Entropy: over how many pixels the map's weight is spread, as a logarithm.

    Formula: 1/N · Σ_i -Σ_u s_i(u) ln s_i(u), s = S / ΣS.

    Rewards: maps whose weight lies on few pixels.

    Misleads: it depends on the size of the map (at most ln HW), and says nothing of whether they
    are the right pixels.

    Undefined: for a map of zeros.

    Source: Bhatt et al., IJCAI 2020 (Quantus' Complexity).
    """

    def update(self, maps: Tensor) -> None:
        """Add maps (N, H, W) in [0, 1]."""
        self._record(entropy(maps))


@final
@metric("effective-area", group="complexity", cite="hill1973", direction="lower")
class EffectiveArea(SaliencyMetric):
    """Effective area: the share of the image that a flat map of the same concentration would cover.

    Formula: 100/N · Σ_i (Σ_u S_i(u))² / (HW Σ_u S_i(u)²), the inverse participation ratio.

    Rewards: maps whose weight lies on few pixels.

    Misleads: it says nothing of whether they are the right pixels. Low is not good in itself: an
    object fills a share of the image, too.

    Undefined: for a map of zeros.

    Source: Hill, Ecology 54, 1973 (the effective number of order 2).
    """

    def update(self, maps: Tensor) -> None:
        """Add maps (N, H, W) in [0, 1]."""
        self._record(effective_area(maps))

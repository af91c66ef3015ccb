"""How concentrated is the map? Gini index, entropy, effective area, pixels above a threshold."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric


def sparseness(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Return the Gini index of every map, in [0, 1 - 1/(HW)]; NaN for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].

    Raises:
        InputError: maps outside [0, 1].

    Example:
        >>> sparseness(torch.ones(1, 2, 2))
        tensor([0.], dtype=torch.float64)
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

    Example:
        >>> entropy(torch.ones(1, 2, 2))
        tensor([1.3863], dtype=torch.float64)
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

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> effective_area(maps)
        tensor([56.0078], dtype=torch.float64)
    """
    values = require_maps(maps).double().flatten(1)
    power = values.square().sum(1)
    found = values.sum(1).square() / (values.shape[1] * torch.where(power > 0, power, 1))
    return torch.where(power > 0, 100 * found, torch.nan)


def effective_complexity(
    maps: Float[Tensor, " n *size"], threshold: float | int = 1e-5
) -> Float[Tensor, " n"]:
    """Return how many pixels of every map are above the threshold.

    Args:
        maps: S (N, H, W) in [0, 1].
        threshold: at least 0 and below 1.

    Raises:
        InputError: maps outside [0, 1].
        OptionError: a threshold outside [0, 1).

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> effective_complexity(maps)
        tensor([3.], dtype=torch.float64)
    """
    _check_threshold(threshold)
    return (require_maps(maps).double() > threshold).flatten(1).sum(1).double()


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


@final
@metric(
    "effective-complexity",
    group="complexity",
    cite="nguyen2020",
    direction="lower",
    unit="pixels",
    best=0.0,
)
class EffectiveComplexity(SaliencyMetric):
    """Effective complexity: how many pixels of the map are not negligible.

    Formula: 1/N · Σ_i |{u : S_i(u) > 1e-5}|.

    Rewards: maps that are exactly 0 on most pixels.

    Misleads: a pixel of 0.0001 counts like one of 1, so that only exact zeros help, and a map of
    zeros is perfect. It grows with the size of the map.

    Undefined: never.

    Differs: the paper counts the features that are needed to keep the expected loss below a
    threshold, which asks the network; this is Quantus' count, of the map alone.

    Source: Nguyen and Martínez, 2020, as in Quantus.

    Args:
        threshold: from which a value of the map counts; in [0, 1).
    """

    def __init__(self, threshold: float | int = 1e-5, **options: Any) -> None:
        _check_threshold(threshold)
        self.threshold = threshold
        super().__init__(**options)

    def update(self, maps: Tensor) -> None:
        """Add maps (N, H, W) in [0, 1]."""
        self._record(effective_complexity(maps, self.threshold))


def _check_threshold(threshold: float | int) -> None:
    if not 0 <= threshold < 1:
        raise OptionError(f"A threshold of {threshold} was given; give one in [0, 1).")

"""Does what the map keeps still say the class? Average drop, increase, gain, and ADCC."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_pair, check_probabilities, check_values
from torchsaliency.metrics.perturbation import road
from torchsaliency.metrics.similarity import pearson

PerImage = Float[Tensor, " n"]
"""One number an image."""

_ROUNDING = 1e-4
"""By this share of themselves the odds must grow to count as grown."""


def average_drop(clean: PerImage, masked: PerImage) -> PerImage:
    """Return 100 · max(0, p - o) / p of every image, in [0, 100].

    Where p is exactly 0, nothing can drop, and the drop is 0.

    Args:
        clean: p (N,), the class probability of the image.
        masked: o (N,), of the masked image.

    Raises:
        InputError: different lengths, or values that are no probabilities.

    Example:
        >>> average_drop(torch.tensor([0.5]), torch.tensor([0.25]))
        tensor([50.], dtype=torch.float64)
    """
    p, o = _pair(clean, masked)
    return 100 * _safe_ratio((p - o).clamp_min(0), p)


def average_increase(
    clean: PerImage,
    masked: PerImage,
    clean_rest: PerImage | None = None,
    masked_rest: PerImage | None = None,
) -> PerImage:
    """Return 100 · 1[o > p] of every image: 100 where masking raised the probability, else 0.

    A rise counts if the odds, o / (1 - o) against p / (1 - p), grow by more than 1e-4 of
    themselves: rounding in float32 moves them by up to 1e-5, by the images of the same pass.

    Args:
        clean: p (N,), the class probability of the image.
        masked: o (N,), of the masked image.
        clean_rest: 1 - p, summed from the other classes; decides where p and o are near 1.
        masked_rest: 1 - o, likewise.

    Raises:
        InputError: different lengths, one rest without the other, or values that are no
            probabilities.

    Example:
        >>> average_increase(torch.tensor([0.6, 0.8]), torch.tensor([0.8, 0.6]))
        tensor([100.,   0.], dtype=torch.float64)
    """
    p, o = _pair(clean, masked)
    p_rest, o_rest = _rests(clean_rest, masked_rest, p, o)
    return 100 * (o * p_rest > (1 + _ROUNDING) * p * o_rest).double()


def average_gain(
    clean: PerImage,
    masked: PerImage,
    clean_rest: PerImage | None = None,
    masked_rest: PerImage | None = None,
) -> PerImage:
    """Return 100 · max(0, o - p) / (1 - p) of every image, in [0, 100].

    Where p is exactly 1, nothing can be gained, and the gain is 0.

    Args:
        clean: p (N,), the class probability of the image.
        masked: o (N,), of the masked image.
        clean_rest: 1 - p, summed from the other classes (as `masked_scores` gives it): float32
            rounds p to 1 once the logit leads by 17, and then 1 - p is lost.
        masked_rest: 1 - o, likewise.

    Raises:
        InputError: different lengths, one rest without the other, or values that are no
            probabilities.

    Example:
        >>> average_gain(torch.tensor([0.5]), torch.tensor([0.75]))
        tensor([50.], dtype=torch.float64)
    """
    p, o = _pair(clean, masked)
    p_rest, o_rest = _rests(clean_rest, masked_rest, p, o)
    # probabilities of half precision may fall where their rounded rests fall, too
    gain = torch.where(o < p, 0, (p_rest - o_rest).clamp_min(0))
    return 100 * _safe_ratio(gain, p_rest)


def coherency(
    maps: Float[Tensor, " n *size"], masked_maps: Float[Tensor, " n *size"]
) -> Float[Tensor, " n"]:
    """Return 100 · (Pearson(S, S') + 1) / 2 of every image: is the map of what it keeps itself?

    A constant map has no correlation, and its coherency is 0, as in the official ADCC code.

    Args:
        maps: S (N, H, W) in [0, 1].
        masked_maps: S', of the same method and class on the image masked by S.

    Raises:
        InputError: maps outside [0, 1], or of different sizes.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> coherency(maps, maps).round(), coherency(maps, 1 - maps).round()
        (tensor([100.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    first, second = check_pair(maps, masked_maps)
    return 100 * ((pearson(first, second) + 1) / 2).nan_to_num(0.0)


def complexity(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n"]:
    """Return 100 · Σ|S| / (HW) of every map, in [0, 100]: the share of the image it keeps.

    Args:
        maps: S (N, H, W) in [0, 1].

    Raises:
        InputError: maps outside [0, 1].

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> complexity(maps)
        tensor([42.5000], dtype=torch.float64)
    """
    return 100 * require_maps(maps).double().flatten(1).mean(1)


def adcc(coherencies: PerImage, complexities: PerImage, drops: PerImage) -> Float[Tensor, " n"]:
    """Return 100 times the harmonic mean of coherency, 1 - complexity and 1 - drop.

    Zero as soon as one of the three is zero (the limit of the harmonic mean).

    Args:
        coherencies: in percent (N,).
        complexities: in percent (N,).
        drops: average drop, in percent (N,).

    Example:
        >>> one = torch.tensor([100.0])
        >>> adcc(one, 0 * one, 0 * one), adcc(one, 0 * one, 50 + 0 * one)
        (tensor([100.], dtype=torch.float64), tensor([75.], dtype=torch.float64))
    """
    parts = {"coherencies": coherencies, "complexities": complexities, "drops": drops}
    count = len(coherencies) if coherencies.ndim else None
    rows = [check_values(name, part, count) for name, part in parts.items()]
    return _adcc(torch.stack(rows, -1))


def arcc(coherencies: PerImage, complexities: PerImage, roads: PerImage) -> Float[Tensor, " n"]:
    """Return 100 times the harmonic mean of coherency, 1 - complexity and ½ + ROAD.

    Zero as soon as one of the three is zero (the limit of the harmonic mean).

    Args:
        coherencies: in percent (N,).
        complexities: in percent (N,).
        roads: ROAD in [-50, 50] (N,).

    Example:
        >>> arcc(torch.tensor([100.0]), torch.tensor([0.0]), torch.tensor([50.0]))
        tensor([100.], dtype=torch.float64)
    """
    return adcc(coherencies, complexities, 50 - check_values("roads", roads))


@final
@metric(
    "ad",
    group="classification",
    cite="chattopadhay2018",
    requires="masked_scores",
    direction="lower",
)
class AverageDrop(SaliencyMetric):
    """Average drop: how much of the class probability is lost when only the map's part is shown.

    Formula: AD = 100/N · Σ_i max(0, p_i - o_i) / p_i, p and o the class probability of the image
    and of the image masked by the map; a mean of ratios, never a ratio of means.

    Rewards: maps that keep all evidence of the class.

    Misleads: a map that hides nothing is perfect (Fake-CAM: 1 everywhere but one pixel). Read it
    with average gain, and never compare numbers made with different maskings.

    Undefined: never. Where p is exactly 0, the drop is 0.

    Source: Chattopadhay et al., WACV 2018; Opti-CAM, Eq. 13.
    """

    def update(self, clean: Tensor, masked: Tensor) -> None:
        """Add images: class probabilities p (N,) and o (N,)."""
        self._record(average_drop(clean, masked))


@final
@metric(
    "ai",
    group="classification",
    cite="chattopadhay2018",
    requires="masked_scores",
    direction="higher",
)
class AverageIncrease(SaliencyMetric):
    """Average increase: how often masking raises the class probability.

    Formula: AI = 100/N · Σ_i 1[o_i > p_i], p and o the class probability of the image and of the
    image masked by the map. A rise of the odds o / (1 - o) by 1e-4 of themselves or less is
    rounding, and counts as none.

    Rewards: maps that hide what speaks against the class.

    Misleads: it counts, and does not weigh. Any change tips the scales on about half of the
    images (Fake-CAM: 42 to 50 %), so 50 % is no merit.

    Undefined: never.

    Source: Chattopadhay et al., WACV 2018; Opti-CAM, Eq. 14.
    """

    def update(
        self,
        clean: Tensor,
        masked: Tensor,
        clean_rest: Tensor | None = None,
        masked_rest: Tensor | None = None,
    ) -> None:
        """Add images: p, o and, to lose no precision, 1 - p and 1 - o, (N,) each."""
        self._record(average_increase(clean, masked, clean_rest, masked_rest))


@final
@metric(
    "ag", group="classification", cite="zhang2024", requires="masked_scores", direction="higher"
)
class AverageGain(SaliencyMetric):
    """Average gain: how much of the missing class probability masking brings.

    Formula: AG = 100/N · Σ_i max(0, o_i - p_i) / (1 - p_i), p and o the class probability of the
    image and of the image masked by the map; 1 - p is summed from the other classes.

    Rewards: maps that hide what speaks against the class, in proportion. The counterpart of
    average drop: of one image at most one of the two is above zero.

    Misleads: a method that optimises the masked score, as Opti-CAM does, is rewarded for what it
    optimises; that says nothing of where the object is.

    Undefined: never. Where p is exactly 1, the gain is 0.

    Source: Zhang et al. (Opti-CAM), CVIU 2024, Eq. 15.
    """

    def update(
        self,
        clean: Tensor,
        masked: Tensor,
        clean_rest: Tensor | None = None,
        masked_rest: Tensor | None = None,
    ) -> None:
        """Add images: p, o and, to lose no precision, 1 - p and 1 - o, (N,) each."""
        self._record(average_gain(clean, masked, clean_rest, masked_rest))


@final
@metric(
    "coherency",
    group="classification",
    cite="poppi2021",
    requires="masked_maps",
    direction="higher",
)
class Coherency(SaliencyMetric):
    """Coherency: is the map of the masked image the map itself?

    Formula: 100/N · Σ_i (Pearson(S_i, S'_i) + 1) / 2, S' the map of the image masked by S, by the
    same method for the same class.

    Rewards: methods that find again what they kept.

    Misleads: any map that does not depend on the image is perfectly coherent; unrelated maps get
    50, not 0.

    Undefined: never. A constant map counts 0.

    Source: Poppi et al., CVPRW 2021 (ADCC).
    """

    def update(self, maps: Tensor, masked_maps: Tensor) -> None:
        """Add images: S and S', (N, H, W) each in [0, 1]."""
        self._record(coherency(maps, masked_maps))


@final
@metric("complexity", group="classification", cite="poppi2021", requires="maps", direction="lower")
class Complexity(SaliencyMetric):
    """Complexity: the share of the image that the map keeps.

    Formula: 100/N · Σ_i |S_i|₁ / (HW).

    Rewards: small maps.

    Misleads: an empty map is perfect; it has meaning only beside a metric of what is lost.

    Undefined: never.

    Source: Poppi et al., CVPRW 2021 (ADCC).
    """

    def update(self, maps: Tensor) -> None:
        """Add maps (N, H, W) in [0, 1]."""
        self._record(complexity(maps))


@final
@metric(
    "adcc",
    group="classification",
    cite="poppi2021",
    requires=("masked_scores", "masked_maps"),
    direction="higher",
)
class ADCC(SaliencyMetric):
    """ADCC: the harmonic mean of coherency, 1 - complexity and 1 - average drop.

    Formula: 100/N · Σ_i 3 / (1/Coh_i + 1/(1 - Com_i) + 1/(1 - AD_i)), each part in [0, 1].

    Rewards: maps that are small, keep the evidence and find themselves again, all three at once.

    Misleads: one number hides which of the three failed (the property `parts` tells them apart);
    small maps of the wrong place can outdo large maps of the right one.

    Undefined: never. Any part at its worst makes it 0.

    Differs: p and o belong to the same class; the official code mixes classes when one is given
    (erratum L6). mean="parts" is the other reading of the paper, the harmonic mean of the averages.

    Source: Poppi et al., CVPRW 2021. Higher is better; the arrow of Opti-CAM's Table 4 is wrong
    (erratum O1).

    Args:
        mean: over "images", or the harmonic mean of the averaged "parts".
    """

    width = 3

    def __init__(self, mean: Literal["images", "parts"] = "images", **options: Any) -> None:
        self.mean = mean
        super().__init__(**options)

    def update(self, maps: Tensor, masked_maps: Tensor, clean: Tensor, masked: Tensor) -> None:
        """Add images: S and S' (N, H, W) in [0, 1]; class probabilities p and o (N,)."""
        clean = check_probabilities("clean", clean, len(maps))
        parts = coherency(maps, masked_maps), complexity(maps), average_drop(clean, masked)
        self._record(torch.stack([part.to(parts[2].device) for part in parts], 1))

    def terms(self, rows: Tensor) -> Tensor:
        """Return the three parts, or every image's harmonic mean."""
        return rows if self.mean == "parts" else super().terms(rows)

    def of_mean(self, mean: Tensor) -> Tensor:
        """Return the mean of the images' harmonic means, or the harmonic mean of the means."""
        return _adcc(mean) if self.mean == "parts" else mean[..., 0]

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's harmonic mean."""
        return _adcc(rows)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Coherency, complexity and drop of every image, in percent."""
        return dict(zip(("coherency", "complexity", "drop"), self.rows.unbind(1), strict=True))


@final
@metric(
    "arcc",
    group="classification",
    cite="domeniconi2026",
    requires=("removal_curves", "masked_maps"),
    direction="higher",
)
class ARCC(SaliencyMetric):
    """ARCC: ADCC with ROAD in the place of average drop.

    Formula: 100/N · Σ_i 3 / (1/Coh_i + 1/(1 - Com_i) + 1/(½ + ROAD_i)), each part in [0, 1].

    Rewards: maps that are small, order pixels by what they contribute, and find themselves again.

    Misleads: one number hides which of the three failed (the property `parts` tells them apart). A
    map in random order has ½ for ROAD's part, so a small coherent map of nothing reaches 75.

    Undefined: never. Any part at its worst makes it 0.

    Differs: the parts are those of the published code, which does not join them: that they are
    joined as in ADCC, ROAD's [-½, ½] moved to [0, 1], is our reading. The code's percentages are
    20, 40, 60 and 80; those of `road`, whose passes it shares, are the default.

    Source: Domeniconi et al., arXiv 2605.14641, 2026.

    Args:
        percentages: of the pixels that are removed, each in (0, 100).
        noise: σ of what is added to imputed pixels; 0 or more.
    """

    width = 3

    def __init__(
        self,
        percentages: tuple[float | int, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
        noise: float | int = 0.01,
        **options: Any,
    ) -> None:
        self.percentages, self.noise = tuple(percentages), noise
        super().__init__(**options)

    def update(self, maps: Tensor, masked_maps: Tensor, most: Tensor, least: Tensor) -> None:
        """Add images: S and S' (N, H, W) in [0, 1]; class probabilities (N, Q) of ROAD."""
        parts = coherency(maps, masked_maps), complexity(maps), road(most, least)
        self._record(torch.stack([part.to(parts[2].device) for part in parts], 1))

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's harmonic mean."""
        coherencies, complexities, roads = rows.unbind(-1)
        return _adcc(torch.stack([coherencies, complexities, 50 - roads], -1))

    @property
    def parts(self) -> dict[str, Tensor]:
        """Coherency, complexity (percent) and ROAD (-50 to 50) of every image."""
        return dict(zip(("coherency", "complexity", "road"), self.rows.unbind(1), strict=True))


def _pair(clean: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    p = check_probabilities("clean", clean)
    return p, check_probabilities("masked", masked, len(p))


def _rests(
    clean: Tensor | None, masked: Tensor | None, p: Tensor, o: Tensor
) -> tuple[Tensor, Tensor]:
    """Return 1 - p and 1 - o, as given or else from p and o."""
    if (clean is None) != (masked is None):
        raise InputError("Give clean_rest and masked_rest together, or neither.")
    if clean is None or masked is None:
        return 1 - p, 1 - o
    return (
        check_probabilities("clean_rest", clean, len(p)),
        check_probabilities("masked_rest", masked, len(p)),
    )


def _safe_ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, and 0 where below is 0 (there, above is 0 too)."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), 0)


def _adcc(rows: Tensor) -> Tensor:
    """Return ADCC (...) of rows (..., 3): coherency, complexity and drop in percent."""
    coherencies, complexities, drops = rows.unbind(-1)
    parts = torch.stack([coherencies, 100 - complexities, 100 - drops]) / 100
    harmonic = len(parts) / torch.where(parts > 0, parts, 1).reciprocal().sum(0)
    return 100 * torch.where((parts > 0).all(0), harmonic, 0)

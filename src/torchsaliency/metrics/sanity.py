"""Does the map change with the network's weights? Similarity of trained and random maps."""

from __future__ import annotations

import abc
import functools
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_pair, require_picture_maps
from torchsaliency.metrics.similarity import hog_features, pearson, spearman, ssim

_STAGES = 5


def rank_similarity(
    maps: Float[Tensor, " n *size"], others: Float[Tensor, " n *size"], *, absolute: bool = False
) -> Float[Tensor, " n"]:
    """Return Spearman's rank correlation of two maps of every image; NaN if one is constant.

    Args:
        maps: (N, H, W) in [0, 1].
        others: (N, H, W) in [0, 1].
        absolute: of |0.5 - m|, the published "with absolute values"; maps in [0, 1] have no sign,
            so that |m| would be m.

    Raises:
        InputError: maps outside [0, 1] or of different sizes.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> rank_similarity(maps, maps**2).round()
        tensor([1.], dtype=torch.float64)
    """
    first, second = check_pair(maps, others)
    if absolute:
        first, second = (first - 0.5).abs(), (second - 0.5).abs()
    return spearman(first, second)


def hog_similarity(
    maps: Float[Tensor, " n *size"],
    others: Float[Tensor, " n *size"],
    correlation: Literal["spearman", "pearson"] = "spearman",
) -> Float[Tensor, " n"]:
    """Return the correlation of two maps' histograms of oriented gradients; NaN if undefined.

    Args:
        maps: (N, H, W) in [0, 1], at least 48 pixels high and wide.
        others: (N, H, W) in [0, 1].
        correlation: "spearman" (Adebayo et al.) or "pearson" (the code behind Opti-CAM's figure).

    Raises:
        InputError: maps outside [0, 1], of different sizes, or smaller than a block of 48 pixels.

    Example:
        >>> maps = torch.rand(1, 64, 64)
        >>> hog_similarity(maps, maps).round()
        tensor([1.], dtype=torch.float64)
    """
    first, second = check_pair(maps, others)
    require_picture_maps("HOG", first.ndim - 1)
    if min(first.shape[1:]) < 48:  # noqa: PLR2004
        raise InputError(
            f"HOG needs maps of at least 48x48 pixels, and {tuple(first.shape[1:])} was given."
        )
    correlate = spearman if correlation == "spearman" else pearson
    # NaN without any gradient, where the histogram is all zeros
    return correlate(hog_features(first), hog_features(second)).to(maps.device)


def ssim_similarity(
    maps: Float[Tensor, " n *size"], others: Float[Tensor, " n *size"], window: int | None = None
) -> Float[Tensor, " n"]:
    """Return the structural similarity of two maps of every image, data range 1.

    Args:
        maps: (N, H, W) in [0, 1].
        others: (N, H, W) in [0, 1].
        window: side of a uniform window (5 in the code behind Opti-CAM's figure); None for Gaussian
            weights (Adebayo et al.).

    Raises:
        InputError: maps outside [0, 1], of different sizes, or smaller than the window.
        OptionError: a window that is even, or smaller than 3.

    Example:
        >>> maps = torch.rand(1, 16, 16)
        >>> ssim_similarity(maps, maps).round()
        tensor([1.], dtype=torch.float64)
    """
    first, second = check_pair(maps, others)
    _check_window(window)
    side = 11 if window is None else window
    if min(first.shape[1:]) < side:
        raise InputError(
            f"SSIM needs maps of at least {side}x{side} pixels, and {tuple(first.shape[1:])} "
            "was given."
        )
    return ssim(first, second, window=window).to(maps.device)


def mean_rank_similarity(
    maps: Float[Tensor, " n *size"], random_maps: Float[Tensor, "n l *size"]
) -> Float[Tensor, " n"]:
    """Return the mean over the stages of `rank_similarity`; NaN where one of them is.

    Args:
        maps: (N, H, W) in [0, 1].
        random_maps: (N, L, H, W) in [0, 1], one a stage.

    Raises:
        InputError: maps outside [0, 1] or of different sizes.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> mean_rank_similarity(maps, torch.stack([maps, 1 - maps], 1)).abs().round()
        tensor([0.], dtype=torch.float64)
    """
    return torch.stack([rank_similarity(maps, others) for others in random_maps.unbind(1)], 1).mean(
        1
    )


def complexity_rise(
    maps: Float[Tensor, " n *size"],
    random_network_maps: Float[Tensor, " n *size"],
    bins: int = 100,
) -> Float[Tensor, " n"]:
    """Return (ξ(S') - ξ(S)) / ξ(S) of two maps of every image, ξ the entropy of its histogram.

    NaN where ξ(S) = 0, for a constant map.

    Args:
        maps: S (N, H, W) in [0, 1].
        random_network_maps: S' (N, H, W) in [0, 1].
        bins: of the histogram, from each map's smallest value to its largest.

    Raises:
        InputError: maps outside [0, 1] or of different sizes.
        OptionError: fewer than two bins.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
        >>> complexity_rise(maps, torch.rand(1, 2, 2)) > 0
        tensor([True])
    """
    _check_bins(bins)
    first, second = (_histogram_entropy(one, bins) for one in check_pair(maps, random_network_maps))
    return torch.where(first > 0, (second - first) / torch.where(first > 0, first, 1), torch.nan)


def _histogram_entropy(maps: Tensor, bins: int) -> Tensor:
    """Return -Σ p ln p of the histogram of every map's values, in nats."""
    values = maps.double().flatten(1)
    low = values.amin(1, keepdim=True)
    span = values.amax(1, keepdim=True) - low
    places = ((values - low) / torch.where(span > 0, span, 1) * bins).long().clamp_max(bins - 1)
    counts = torch.zeros(len(values), bins, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, places, torch.ones_like(values))
    shares = counts / values.shape[1]
    found: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return found


_sanity = functools.partial(
    metric,
    group="sanity",
    cite="adebayo2018",
    requires="randomised_maps",
    direction="lower",
    best=-1.0,
    worst=1.0,
)


class SanityMetric(SaliencyMetric):
    """The similarity of a trained network's map to those of ever more random ones.

    Args:
        mode: "cascading" randomises the stages one after another, "independent" one at a time;
            "labels" takes the network `permuted`, which was trained on permuted labels.
        stages: into how many the network is split, from the output down; at least 1. "labels" has
            one.
        seed: of the random weights.
    """

    def __init__(
        self,
        mode: Literal["cascading", "independent", "labels"] = "cascading",
        stages: int = _STAGES,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if stages < 1:
            raise OptionError(f"At least one stage must be random, and {stages} were given.")
        self.mode, self.seed = mode, seed
        self.width = self.stages = 1 if mode == "labels" else stages
        super().__init__(**options)

    def update(self, maps: Tensor, random_maps: Tensor) -> None:
        """Add images: maps (N, H, W) and those of randomised networks (N, L, H, W)."""
        if random_maps.ndim != maps.ndim + 1 or random_maps.shape[1] != self.stages:
            raise InputError(
                f"{self.name} needs maps (N, {self.stages}, *size) of randomised networks, and "
                f"{tuple(random_maps.shape)} was given; set stages=… to their number."
            )
        rows = [self._similarity(maps, others) for others in random_maps.unbind(1)]
        self._record(torch.stack(rows, 1))

    @abc.abstractmethod
    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        """Return the similarity of two maps of every image (N,)."""

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's similarity once all stages are random."""
        return rows[:, -1]

    @property
    def curve(self) -> Float[Tensor, " l"]:
        """Mean similarity after each stage, over the images that define all of them."""
        return self.defined_rows.mean(0)


@final
@_sanity("spearman", unit="correlation")
class SpearmanSimilarity(SanityMetric):
    """Sanity check, Spearman: is the order of the map's pixels left when the weights are random?

    Formula: 1/N · Σ_i Spearman(S_i, S_i'), S' the map of the network whose stages from the output
    down to the last are random, `curve` holds all stages; with mode="labels", of the network
    `permuted`, trained on permuted labels.

    Rewards: methods that depend on what was learned.

    Misleads: 0, not -1, is what an honest method gives. A low similarity does not show that the
    map is right; centred objects and smooth maps correlate by position alone.

    Undefined: where a map is constant.

    Source: Adebayo et al., NeurIPS 2018.
    """

    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        return rank_similarity(maps, others)


@final
@_sanity("spearman-abs", unit="correlation")
class AbsoluteSpearmanSimilarity(SanityMetric):
    """Sanity check, Spearman with absolute values: of |0.5 - S|, as the published figures take it.

    Formula: 1/N · Σ_i Spearman(|0.5 - S_i|, |0.5 - S_i'|), S' as for `spearman`.

    Rewards: methods that depend on what was learned.

    Misleads: |0.5 - S| folds strong and weak pixels together; it is here to repeat the figures.

    Undefined: where |0.5 - S| is constant.

    Source: Adebayo et al., NeurIPS 2018; Opti-CAM, Figures A6 and A7.
    """

    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        return rank_similarity(maps, others, absolute=True)


@final
@_sanity("hog", unit="correlation")
class HOGSimilarity(SanityMetric):
    """Sanity check, HOG: are the map's edges left when the weights are random?

    Formula: 1/N · Σ_i Spearman(HOG(S_i), HOG(S_i')), HOG with 9 orientations, cells of 16 pixels
    and blocks of 3×3 cells; S' as for `spearman`.

    Rewards: methods that depend on what was learned.

    Misleads: smooth maps have few edges, and the histograms of two smooth maps are alike.

    Undefined: where a map is constant.

    Differs: correlation="pearson" is the code behind Opti-CAM's figures.

    Source: Adebayo et al., NeurIPS 2018.

    Args:
        correlation: "spearman", or "pearson" as in the code behind Opti-CAM's figures.
    """

    def __init__(
        self,
        mode: Literal["cascading", "independent", "labels"] = "cascading",
        stages: int = _STAGES,
        seed: int = 0,
        correlation: Literal["spearman", "pearson"] = "spearman",
        **options: Any,
    ) -> None:
        self.correlation = correlation
        super().__init__(mode, stages, seed, **options)

    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        return hog_similarity(maps, others, self.correlation)


@final
@_sanity("ssim", unit="similarity")
class SSIMSimilarity(SanityMetric):
    """Sanity check, SSIM: is the map's structure left when the weights are random?

    Formula: 1/N · Σ_i SSIM(S_i, S_i') with data range 1; S' as for `spearman`.

    Rewards: methods that depend on what was learned.

    Misleads: large empty areas are alike whatever the rest, so sparse maps fail the check.

    Undefined: never.

    Differs: data range 1; the code behind the published figures leaves it to old scikit-image,
    which takes 2. window=5 is that code's uniform window.

    Source: Adebayo et al., NeurIPS 2018.

    Args:
        window: side of a uniform window in pixels, odd and at least 3; None: Gaussian weights.
    """

    def __init__(
        self,
        mode: Literal["cascading", "independent", "labels"] = "cascading",
        stages: int = _STAGES,
        seed: int = 0,
        window: int | None = None,
        **options: Any,
    ) -> None:
        _check_window(window)
        self.window = window
        super().__init__(mode, stages, seed, **options)

    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        return ssim_similarity(maps, others, self.window)


@final
@_sanity("mprt", unit="correlation")
class MPRT(SanityMetric):
    """Model parameter randomisation test: Spearman's correlation, averaged over the stages.

    Formula: 1/N · Σ_i mean_l Spearman(S_i, S_i^l), S^l the map of the network whose l stages from
    the output on are random; `curve` holds all stages.

    Rewards: methods that depend on what was learned, in each of the stages.

    Misleads: as `spearman`, which is the last stage of the same passes. The mean depends on how
    many stages there are, and a method that reads the last layers alone changes at once.

    Undefined: where a map is constant.

    Differs: Quantus' average correlation, over stages of the network in place of all its layers.

    Source: Adebayo et al., NeurIPS 2018.
    """

    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        return rank_similarity(maps, others)

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's mean over the stages."""
        return rows.mean(1)


@final
@_sanity("smprt", unit="correlation", cite="hedstroem2024", requires="smooth_randomised_maps")
class SmoothMPRT(SanityMetric):
    """Smooth MPRT: the randomisation test of maps that are averaged over noisy copies first.

    Formula: 1/N · Σ_i mean_l Spearman(S̄_i, S̄_i^l), S̄ the mean map of ten copies of the image, all
    but one with Gaussian noise of a tenth of its range of values; S^l as for `mprt`.

    Rewards: methods that depend on what was learned, once the noise of gradients is averaged out.

    Misleads: averaging makes maps smooth, and smooth maps correlate by position alone; it raises
    the number of noisy methods and costs ten times as much.

    Undefined: where a mean map is constant.

    Differs: ten copies, where the paper takes 50; stages in place of layers.

    Source: Hedström et al., Sanity checks revisited, 2024.

    Args:
        mode: "cascading" randomises the stages one after another, "independent" one at a time.
        stages: into how many the network is split, from the output down; at least 1.
        seed: of the random weights.
        samples: copies of each image; at least 1.
        noise: σ as a share of the image's range of values; 0 or more.
    """

    def __init__(
        self,
        mode: Literal["cascading", "independent"] = "cascading",
        stages: int = _STAGES,
        seed: int = 0,
        samples: int = 10,
        noise: float | int = 0.1,
        **options: Any,
    ) -> None:
        self.samples, self.noise = samples, noise
        super().__init__(mode, stages, seed, **options)

    def update(self, smooth_maps: Tensor, smooth_random_maps: Tensor) -> None:
        """Add images: mean maps (N, H, W), and those of randomised networks (N, L, H, W)."""
        super().update(smooth_maps, smooth_random_maps)

    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        return rank_similarity(maps, others)

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's mean over the stages."""
        return rows.mean(1)


@final
@metric(
    "emprt",
    group="sanity",
    cite="hedstroem2024",
    requires="random_network_maps",
    direction="higher",
    unit="ratio",
    worst=-1.0,
)
class EfficientMPRT(SaliencyMetric):
    """Efficient MPRT: by what share the map becomes more complex if all weights are random.

    Formula: 1/N · Σ_i (ξ(S_i') - ξ(S_i)) / ξ(S_i), ξ the entropy of a histogram of the map's values
    with 100 bins, S' the map of the network all of whose stages are random.

    Rewards: methods whose maps lose their structure with the weights.

    Misleads: the entropy is of values, not of places: a random network may give a plain map, too,
    and the number then is below 0 though the method depends on the weights.

    Undefined: for a constant map.

    Source: Hedström et al., Sanity checks revisited, 2024.

    Args:
        seed: of the random weights.
        bins: of the histogram; at least 2.
    """

    def __init__(self, seed: int = 0, bins: int = 100, **options: Any) -> None:
        _check_bins(bins)
        self.seed, self.bins = seed, bins
        super().__init__(**options)

    def update(self, maps: Tensor, random_network_maps: Tensor) -> None:
        """Add images: maps (N, H, W), and those of a random network (N, H, W)."""
        self._record(complexity_rise(maps, random_network_maps, self.bins))


@final
@metric(
    "random-logit",
    group="sanity",
    cite="sixt2020",
    requires="other_class_maps",
    direction="lower",
    unit="similarity",
    best=-1.0,
    worst=1.0,
)
class RandomLogit(SaliencyMetric):
    """Random logit test: how alike are the maps of the class and of another one?

    Formula: 1/N · Σ_i SSIM(S_i, S_i') with data range 1, S' the map for another class, drawn at
    random; similarity="spearman" takes the rank correlation.

    Rewards: methods whose maps depend on the class that is explained.

    Misleads: two classes may rightly look at the same object, and a method that is random from call
    to call passes. Methods without a class score 1.

    Undefined: with "spearman", where a map is constant; with "ssim", never.

    Differs: SSIM of the maps; Quantus takes that of the pixels in one row (erratum Q6).

    Source: Sixt, Granz and Landgraf, ICML 2020.

    Args:
        seed: of the other class.
        similarity: of the maps: "ssim" or "spearman".
    """

    def __init__(
        self,
        seed: int = 0,
        similarity: Literal["ssim", "spearman"] = "ssim",
        **options: Any,
    ) -> None:
        self.seed, self.similarity = seed, similarity
        super().__init__(**options)

    def update(self, maps: Tensor, other_class_maps: Tensor) -> None:
        """Add images: maps (N, H, W), and those of another class (N, H, W)."""
        compare = ssim_similarity if self.similarity == "ssim" else rank_similarity
        self._record(compare(maps, other_class_maps))


def _check_bins(bins: int) -> None:
    if bins < 2:  # noqa: PLR2004
        raise OptionError(f"{bins} bins were given; a histogram needs at least 2.")


def _check_window(window: int | None) -> None:
    if window is not None and (window < 3 or window % 2 == 0):  # noqa: PLR2004
        raise OptionError(f"SSIM's window must be odd and at least 3, and {window} was given.")

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
    """The similarity of a trained network's map to those of ever more random ones."""

    def __init__(
        self,
        mode: Literal["cascading", "independent"] = "cascading",
        stages: int = _STAGES,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """Set how weights become random, in how many stages from the output."""
        if stages < 1:
            raise OptionError(f"At least one stage must be random, and {stages} were given.")
        self.mode, self.stages, self.seed = mode, stages, seed
        self.width = stages
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
    down to the last are random; `curve` holds all stages.

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
    """

    def __init__(
        self,
        mode: Literal["cascading", "independent"] = "cascading",
        stages: int = _STAGES,
        seed: int = 0,
        correlation: Literal["spearman", "pearson"] = "spearman",
        **options: Any,
    ) -> None:
        """Set how weights become random; correlate by "spearman" or "pearson"."""
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
    """

    def __init__(
        self,
        mode: Literal["cascading", "independent"] = "cascading",
        stages: int = _STAGES,
        seed: int = 0,
        window: int | None = None,
        **options: Any,
    ) -> None:
        """Set how weights become random; None is a Gaussian window."""
        _check_window(window)
        self.window = window
        super().__init__(mode, stages, seed, **options)

    def _similarity(self, maps: Tensor, others: Tensor) -> Tensor:
        return ssim_similarity(maps, others, self.window)


def _check_window(window: int | None) -> None:
    if window is not None and (window < 3 or window % 2 == 0):  # noqa: PLR2004
        raise OptionError(f"SSIM's window must be odd and at least 3, and {window} was given.")

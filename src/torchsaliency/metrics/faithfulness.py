"""Do the map's numbers say what the score loses? Correlations of sums and drops, and SaCo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.scores import By
from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.similarity import pearson, spearman


def faithfulness_estimate(
    group_sums: Float[Tensor, "n g"], group_drops: Float[Tensor, "n g"]
) -> Float[Tensor, " n"]:
    """Return Pearson's correlation of what groups weigh and what they cost, in [-1, 1].

    NaN (undefined) where the sums or the drops are all the same.

    Args:
        group_sums: (N, G) the map's sum over each group of pixels.
        group_drops: (N, G) score of the image minus that without the group.

    Raises:
        InputError: different shapes, fewer than two groups, or numbers that are not finite.

    Example:
        >>> sums = torch.tensor([[3.0, 2.0, 1.0]])
        >>> faithfulness_estimate(sums, sums / 10).round()
        tensor([1.], dtype=torch.float64)
    """
    return pearson(*_check_series(group_sums, group_drops))


def saco(
    group_sums: Float[Tensor, "n g"], group_drops: Float[Tensor, "n g"]
) -> Float[Tensor, " n"]:
    """Return Σ ±(s_i - s_j) / Σ |s_i - s_j| over pairs of groups with s_i ≥ s_j, in [-1, 1].

    A pair counts + where the heavier group costs at least as much, else -. NaN (undefined) where
    all sums are the same.

    Args:
        group_sums: s (N, G), the map's sum over each group of pixels.
        group_drops: (N, G) score of the image minus that without the group.

    Raises:
        InputError: different shapes, fewer than two groups, or numbers that are not finite.

    Example:
        >>> sums = torch.tensor([[3.0, 2.0, 1.0]])
        >>> saco(sums, sums / 10)
        tensor([1.], dtype=torch.float64)
    """
    sums, drops = _check_series(group_sums, group_drops)
    # by descending sum, so that no weight is below 0
    sums, order = sums.sort(dim=1, descending=True, stable=True)
    drops = drops.gather(1, order)
    first, second = torch.triu_indices(sums.shape[1], sums.shape[1], 1, device=sums.device)
    weights = sums[:, first] - sums[:, second]
    signs = torch.where(drops[:, first] >= drops[:, second], 1.0, -1.0).double()
    total = weights.sum(1)
    return torch.where(total > 0, (signs * weights).sum(1) / total, torch.nan)


def monotonicity_correlation(
    group_sums: Float[Tensor, "n g"], group_changes: Float[Tensor, "n g"]
) -> Float[Tensor, " n"]:
    """Return Spearman's correlation of what groups weigh and how far they move the score.

    In [-1, 1]; NaN (undefined) where the sums or the changes are all the same.

    Args:
        group_sums: (N, G) the map's sum over each group of pixels.
        group_changes: (N, G) mean squared change of the score as the group's pixels are random.

    Raises:
        InputError: different shapes, fewer than two groups, or numbers that are not finite.

    Example:
        >>> sums = torch.tensor([[3.0, 2.0, 1.0]])
        >>> monotonicity_correlation(sums, sums**2).round()
        tensor([1.], dtype=torch.float64)
    """
    return spearman(*_check_series(group_sums, group_changes))


def faithfulness_correlation(
    subset_sums: Float[Tensor, "n s"], subset_drops: Float[Tensor, "n s"]
) -> Float[Tensor, " n"]:
    """Return Pearson's correlation of what random subsets weigh and what they cost, in [-1, 1].

    NaN (undefined) where the sums or the drops are all the same.

    Args:
        subset_sums: (N, S) the map's sum over each subset of pixels.
        subset_drops: (N, S) score of the image minus that without the subset.

    Raises:
        InputError: different shapes, fewer than two subsets, or numbers that are not finite.

    Example:
        >>> sums = torch.tensor([[1.0, 2.0, 3.0]])
        >>> faithfulness_correlation(sums, 2 * sums).round()
        tensor([1.], dtype=torch.float64)
    """
    return pearson(*_check_series(subset_sums, subset_drops))


def sensitivity_n(
    subset_sums: Float[Tensor, "n q s"], subset_drops: Float[Tensor, "n q s"]
) -> Float[Tensor, " n"]:
    """Return the mean over sizes of the correlation of what subsets weigh and cost, in [-1, 1].

    NaN (undefined) where it is undefined for one size.

    Args:
        subset_sums: (N, Q, S) the map's sum over S subsets of Q sizes.
        subset_drops: (N, Q, S) score of the image minus that without the subset.

    Raises:
        InputError: different shapes, fewer than two subsets, or numbers that are not finite.

    Example:
        >>> sums = torch.tensor([[[1.0, 2.0, 3.0], [2.0, 4.0, 5.0]]])
        >>> sensitivity_n(sums, 2 * sums).round()
        tensor([1.], dtype=torch.float64)
    """
    if subset_sums.ndim != 3 or subset_sums.shape != subset_drops.shape:  # noqa: PLR2004
        raise InputError(
            f"Sums of {tuple(subset_sums.shape)} and drops of {tuple(subset_drops.shape)} were "
            "given; give (N, Q, S) both: Q sizes of S subsets."
        )
    flat = faithfulness_correlation(subset_sums.flatten(0, 1), subset_drops.flatten(0, 1))
    return flat.view(subset_sums.shape[:2]).mean(1)


def _check_series(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two series (N, G) of every image in float64, on one device."""
    if first.ndim != 2 or first.shape != second.shape or first.shape[1] < 2:  # noqa: PLR2004
        raise InputError(
            f"Series of {tuple(first.shape)} and {tuple(second.shape)} were given; give (N, G) "
            "both, with at least two numbers an image."
        )
    values = first.detach().double(), second.detach().double().to(first.device)
    if not all(bool(one.isfinite().all()) for one in values):
        raise InputError("NaN or infinite values were given; look at the network's output.")
    return values


class GroupMetric(SaliencyMetric):
    """What equal groups of pixels weigh in the map, against what the score does without them.

    Args:
        groups: g, of equal size; at least 2.
        by: the score that drops: "probability", "logit" or "target", the explained score itself.
    """

    def __init__(self, groups: int = 10, by: By = "probability", **options: Any) -> None:
        self.groups, self.by = groups, by
        super().__init__(**options)


def _correlates(name: str, cite: str, requires: str) -> Any:
    return metric(
        name,
        group="faithfulness",
        cite=cite,
        requires=requires,
        direction="higher",
        unit="correlation",
        best=1.0,
        worst=-1.0,
    )


@final
@_correlates("faithfulness-estimate", "alvarez2018", "group_removals")
class FaithfulnessEstimate(GroupMetric):
    """Faithfulness estimate: do groups of pixels cost what they weigh in the map?

    Formula: 1/N · Σ_i Pearson_g(Σ_{u in g} S_i(u), f(x_i) - f(x_i without g)), g = 10 equal groups
    of pixels by descending saliency, each replaced alone; f the class probability.

    Rewards: maps that are proportional to what removal costs.

    Misleads: ten groups are ten points: one group with all the evidence decides the number. Groups
    that are removed alone leave the others to stand in for them, so redundant evidence counts as
    none.

    Undefined: for a constant map, and where no group changes the score.

    Differs: groups of whole pixels; Quantus replaces single channel values, one a step by default.

    Source: Alvarez-Melis and Jaakkola, NeurIPS 2018.
    """

    def update(self, group_sums: Tensor, group_drops: Tensor) -> None:
        """Add images: the map's sums (N, G) over groups, and the score's drops (N, G)."""
        self._record(faithfulness_estimate(group_sums, group_drops))


@final
@_correlates("saco", "wu2024", "group_removals")
class SaCo(GroupMetric):
    """SaCo: does the heavier of two groups of pixels cost more, weighted by how much heavier it is?

    Formula: 1/N · Σ_i Σ_{j<k} ±(s_j - s_k) / Σ_{j<k} |s_j - s_k|, s the map's sum over K = 10 equal
    groups of pixels by descending saliency, + where replacing group j alone drops the score at
    least as much as replacing group k.

    Rewards: maps whose differences are in the order of what removal costs.

    Misleads: it asks for the order of the drops alone: a map may be right by a hair or by far. The
    many pairs of equal groups of a sparse map weigh nothing, so the first group decides.

    Undefined: for a constant map.

    Differs: pixels become the mean colour, or what the masking says; the paper's are the image's
    own mean.

    Source: Wu et al., CVPR 2024.
    """

    def update(self, group_sums: Tensor, group_drops: Tensor) -> None:
        """Add images: the map's sums (N, G) over groups, and the score's drops (N, G)."""
        self._record(saco(group_sums, group_drops))


@final
@_correlates("monotonicity-correlation", "nguyen2020", "group_resamplings")
class MonotonicityCorrelation(GroupMetric):
    """Monotonicity correlation: does the score move further where heavier pixels are random?

    Formula: 1/N · Σ_i Spearman_g(Σ_{u in g} S_i(u), mean_s (f(x_i) - f(x_i with g of colour s))²),
    g = 10 equal groups of pixels by descending saliency, s = 10 random colours.

    Rewards: maps whose order is that of the score's uncertainty about the pixels.

    Misleads: the square forgets the sign, so evidence against the class counts like evidence for
    it, which a map of [0, 1] does not show. Colours are not what the network was trained on.

    Undefined: for a constant map, and where no group changes the score.

    Differs: colours are uniform between the image's smallest and largest number of each channel,
    the same draws for all groups; Quantus draws from [0, 1] whatever the normalisation (erratum
    Q13). The published division by f(x)² is a factor an image, which ranks do not see.

    Source: Nguyen and Martínez, arXiv 2007.07584, 2020.

    Args:
        groups: g, of equal size; at least 2.
        samples: random colours for each group; at least 1.
        by: the score that drops: "probability", "logit" or "target", the explained score itself.
    """

    def __init__(
        self, groups: int = 10, samples: int = 10, by: By = "probability", **options: Any
    ) -> None:
        self.samples = samples
        super().__init__(groups, by, **options)

    def update(self, group_sums: Tensor, group_changes: Tensor) -> None:
        """Add images: the map's sums (N, G) over groups, and the score's changes (N, G)."""
        self._record(monotonicity_correlation(group_sums, group_changes))


@final
@_correlates("faithfulness-correlation", "bhatt2020", "subset_removals")
class FaithfulnessCorrelation(SaliencyMetric):
    """Faithfulness correlation: do random subsets of pixels cost what they weigh in the map?

    Formula: 1/N · Σ_i Pearson_s(Σ_{u in s} S_i(u), f(x_i) - f(x_i without s)), s = 50 random
    subsets of 10 % of the pixels; f the class probability.

    Rewards: maps that are additive: the sum over any pixels says what they cost together.

    Misleads: scattered pixels hardly hide an object, so drops are small and noisy and the
    correlation of any map is near 0; a subset's size decides what is seen.

    Undefined: for a constant map, and where no subset changes the score.

    Differs: subsets of whole pixels, the same for all images; Quantus draws 224 single channel
    values for each.

    Source: Bhatt et al., IJCAI 2020.

    Args:
        share: of the pixels in a subset, in (0, 1).
        samples: random subsets; at least 2.
        by: the score that drops: "probability", "logit" or "target", the explained score itself.
    """

    def __init__(
        self, share: float = 0.1, samples: int = 50, by: By = "probability", **options: Any
    ) -> None:
        self.share, self.samples, self.by = share, samples, by
        super().__init__(**options)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The one share, the samples and the score of `subset_removals`."""
        return {"shares": (self.share,), **super().settings}

    def update(self, subset_sums: Tensor, subset_drops: Tensor) -> None:
        """Add images: the map's sums (N, Q, S) over subsets of Q sizes, and the score's drops."""
        self._record(sensitivity_n(subset_sums, subset_drops))


@final
@_correlates("sensitivity-n", "ancona2018", "subset_removals")
class SensitivityN(SaliencyMetric):
    """Sensitivity-n: do random subsets cost what they weigh in the map, whatever their size?

    Formula: 1/N · Σ_i mean_n Pearson_s(Σ_{u in s} S_i(u), f(x_i) - f(x_i without s)), s = 50 random
    subsets of n = 1, 3, 10, 30 and 80 % of the pixels; f the class probability.

    Rewards: maps that are additive at every scale. For a linear score, the contributions of the
    pixels score 1.

    Misleads: small subsets change the score little, large ones always; the mean hides at which size
    a map fails (`faithfulness-correlation` has one size). Non-linear networks have no map that
    scores 1 (Ancona et al., Proposition 1).

    Undefined: for a constant map, and where no subset of one size changes the score.

    Differs: random subsets within an image, as published. Quantus correlates cumulative drops with
    the last group's sum, across the images of a batch (erratum Q11).

    Source: Ancona et al., ICLR 2018.

    Args:
        shares: of the pixels in subsets, each in (0, 1).
        samples: random subsets of each share; at least 2.
        by: the score that drops: "probability", "logit" or "target", the explained score itself.
    """

    def __init__(
        self,
        shares: tuple[float | int, ...] = (0.01, 0.03, 0.1, 0.3, 0.8),
        samples: int = 50,
        by: By = "probability",
        **options: Any,
    ) -> None:
        self.shares, self.samples, self.by = tuple(shares), samples, by
        super().__init__(**options)

    def update(self, subset_sums: Tensor, subset_drops: Tensor) -> None:
        """Add images: the map's sums (N, Q, S) over subsets of Q sizes, and the score's drops."""
        self._record(sensitivity_n(subset_sums, subset_drops))

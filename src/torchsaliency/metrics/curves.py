"""What the score does as regions or segments disappear: monotonicity, selectivity, ABPC, IROF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.scores import By
from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_curves
from torchsaliency.metrics.perturbation import aopc, area_under_curve
from torchsaliency.metrics.refined import RefinedMetric


def monotonicity(deletion: Float[Tensor, "n s"]) -> Float[Tensor, " n"]:
    """Return 100 where no deletion raises the score, else 0.

    Read backwards, a deletion curve shows the image as its pixels return to the baseline, the
    least salient first. The step from the bare baseline is not judged.

    Args:
        deletion: (N, S) scores, the first of the clean image, the last of the bare baseline.

    Raises:
        InputError: fewer than three points, or numbers that are not finite.

    Example:
        >>> monotonicity(torch.tensor([[0.9, 0.5, 0.2, 0.0], [0.9, 0.5, 0.7, 0.0]]))
        tensor([100.,   0.], dtype=torch.float64)
    """
    if deletion.ndim != 2 or deletion.shape[1] < 3:  # noqa: PLR2004
        raise InputError(
            f"Curves of {tuple(deletion.shape)} were given; monotonicity needs (N, S) with at "
            "least two steps, and the baseline's at the end."
        )
    curves = deletion.detach().double()
    if not bool(curves.isfinite().all()):
        raise InputError("A curve holds NaN or infinite values; look at the network's output.")
    return 100 * (curves[:, :-1].diff(dim=1) <= 0).all(1).double()


def selectivity(regions: Float[Tensor, "n l"]) -> Float[Tensor, " n"]:
    """Return 100 times the area under the curve of replaced regions, in [0, 100].

    Args:
        regions: (N, L + 1) class probabilities, the first of the clean image, each further one
            after one more region was replaced; the step between two is 1/L.

    Raises:
        InputError: no regions, or values outside [0, 1].

    Example:
        >>> selectivity(torch.tensor([[0.75, 0.5, 0.25]]))
        tensor([50.], dtype=torch.float64)
    """
    steps = torch.linspace(0, 1, regions.shape[-1], dtype=torch.float64, device=regions.device)
    return area_under_curve(regions, steps)


def abpc(regions: Float[Tensor, "n l"], least_regions: Float[Tensor, "n l"]) -> Float[Tensor, " n"]:
    """Return AOPC with the most relevant regions first minus AOPC with the least, in [-100, 100].

    Args:
        regions: (N, L + 1) class probabilities as in `aopc`.
        least_regions: (N, L + 1), the least relevant regions replaced first.

    Raises:
        InputError: different shapes, no regions, or values outside [0, 1].

    Example:
        >>> most, least = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.75, 0.5]])
        >>> abpc(most, least)
        tensor([12.5000], dtype=torch.float64)
    """
    if regions.shape != least_regions.shape:
        raise InputError(
            f"Curves of {tuple(regions.shape)} and {tuple(least_regions.shape)} were given; the "
            "area between them needs both orders of the same regions."
        )
    return aopc(regions) - aopc(least_regions)


def irof(segments: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Return 100 times the area over the curve of replaced segments, at most 100.

    Each image's curve is divided by its first point and runs over 0 … 1, however many segments it
    has. NaN (undefined) where the first point is not above 0.

    Args:
        segments: (N, M + 1) scores, the first of the clean image, each further one after one more
            segment was replaced; NaN after an image's last segment.

    Raises:
        InputError: no segment, or infinite numbers.

    Example:
        >>> irof(torch.tensor([[0.75, 0.375, 0.0]]))
        tensor([50.], dtype=torch.float64)
    """
    if segments.ndim != 2 or segments.shape[1] < 2:  # noqa: PLR2004
        raise InputError(
            f"Curves of {tuple(segments.shape)} were given; IROF needs (N, M + 1) with at least "
            "one segment."
        )
    curves = segments.detach().double()
    known = ~curves.isnan()
    ends_once = bool((known[:, 1:] <= known[:, :-1]).all()) and bool(known[:, :2].all())
    if not ends_once or bool(curves.isinf().any()):
        raise InputError(
            "A curve holds infinite values, or NaN before its last segment; look at the network's "
            "output."
        )
    first = curves[:, :1]
    ratio = curves / torch.where(first > 0, first, 1)
    means = ((ratio[:, 1:] + ratio[:, :-1]) / 2).nan_to_num(0.0)
    area = means.sum(1) / known[:, 1:].sum(1)
    return torch.where(first[:, 0] > 0, 100 * (1 - area), torch.nan)


@final
@metric(
    "monotonicity",
    group="faithfulness",
    cite="arya2019",
    requires="perturbation_curve",
    direction="higher",
)
class Monotonicity(SaliencyMetric):
    """Monotonicity: does the score rise with every row of pixels, from the least salient on?

    Formula: 100/N · Σ_i 1[p_i(x^(1)) ≤ p_i(x^(2)) ≤ … ≤ p_i(x)], x^(k) the baseline with as many
    of the image's least salient pixels as k rows hold.

    Rewards: maps that order all pixels by what they add.

    Misleads: one step back in 224 makes an image 0, so that real networks score near 0 with any
    map; a small budget makes it easier. Compare with the correlation.

    Undefined: never.

    Differs: the curve is that of deletion, read backwards, and shares its passes; pixels start from
    the mean colour, or what the masking says. Quantus adds nothing, so that every map is monotone
    (erratum Q16).

    Source: Arya et al., arXiv 1909.03012, 2019.

    Args:
        step: pixels that change at once; None: a row of the image.
        budget: most passes for an image; None sets no limit.
    """

    def __init__(self, step: int | None = None, budget: int | None = None, **options: Any) -> None:
        self.step, self.budget = step, budget
        super().__init__(**options)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Order, step and budget of `perturbation_curve`: those of deletion."""
        return {"order": "deletion", **super().settings}

    def update(self, deletion: Tensor) -> None:
        """Add images: scores (N, S) as pixels are deleted, the most salient first."""
        self._record(monotonicity(deletion))


@final
@metric(
    "selectivity",
    group="perturbation",
    cite="montavon2018",
    requires="block_curve",
    direction="lower",
)
class Selectivity(RefinedMetric):
    """Selectivity: how soon the class disappears as blocks of pixels are replaced.

    Formula: 100/N · Σ_i ∫_0^1 p_i(t) dt, p_i(t) the class probability once the share t of the
    blocks of 8 pixels has been replaced, by descending sum of the map; trapezoid rule.

    Rewards: maps whose top blocks are necessary for the class.

    Misleads: a network that is sure of nothing scores well with any map; blocks of the image's
    minimum are patterns of their own.

    Undefined: never.

    Differs: begins with the clean image and is divided by the number of blocks, where Quantus sums
    the curve from its second point with steps of 1 (erratum Q14). Blocks that do not fit stay. With
    an `error`, blocks are evaluated only until the area is known to so many points.

    Source: Montavon, Samek and Müller, Digital Signal Processing 2018.

    Args:
        patch: side of a block in pixels.
        error: by how many points an image's number may be wrong, to save passes; None: it is exact.
    """

    def __init__(self, patch: int = 8, error: float | int | None = None, **options: Any) -> None:
        self.patch = patch
        super().__init__(error, **options)

    def update(self, regions: Tensor, refinement: Tensor | None = None) -> None:
        """Add images: class probabilities (N, L + 1), the first of the clean image.

        With an `error`, `refinement` (N, 3) says how each curve was evaluated.
        """
        self._record_curves(selectivity(regions), refinement)


@final
@metric(
    "abpc",
    group="perturbation",
    cite="samek2017",
    requires=("region_curve", "least_region_curve"),
    direction="higher",
    best=100.0,
    worst=-100.0,
)
class ABPC(SaliencyMetric):
    """ABPC: the area between the curves of replacing the least and the most relevant regions first.

    Formula: 100/N · Σ_i 1/(L+1) · Σ_{k=0..L} (p_i(x^(k), least) - p_i(x^(k), most)), k of L = 10
    blocks of 14 pixels replaced by the image's smallest number.

    Rewards: maps that order regions at both ends.

    Misleads: the blocks that count least are most often background, which every map finds.

    Undefined: never.

    Differs: Samek et al. recommend the difference and publish AOPC; blocks are of a grid, as in
    Quantus' region perturbation since 0.6, whose order "morf" and "lerf" these curves have.

    Source: Samek et al., TNNLS 2017.

    Args:
        patch: side of a block in pixels.
        regions: L, how many blocks are replaced; None: all.
    """

    def __init__(self, patch: int = 14, regions: int | None = 10, **options: Any) -> None:
        self.patch, self.regions = patch, regions
        super().__init__(**options)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Where regions lie, their side and number."""
        return {"placement": "grid", **super().settings}

    def update(self, regions: Tensor, least_regions: Tensor) -> None:
        """Add images: class probabilities (N, L + 1), most and least relevant regions first."""
        self._record(abpc(check_curves(regions), least_regions))


@final
@metric(
    "irof",
    group="faithfulness",
    cite="rieger2020",
    requires="segment_curve",
    direction="higher",
    best=100.0,
)
class IROF(SaliencyMetric):
    """IROF: how much of the score is gone as superpixels are replaced, the most salient first.

    Formula: 100/N · Σ_i (1 - ∫_0^1 f(x_i^(t)) / f(x_i) dt), x^(t) the image with the share t of its
    superpixels (slic, about 50) replaced by descending mean of the map; trapezoid rule.

    Rewards: maps whose top segments are necessary for the class.

    Misleads: a coarse map and a fine one with the same means over segments score the same; it is
    below 0 where hiding segments raises the score.

    Undefined: where the score of the clean image is not above 0.

    Differs: each image's area is divided by its own number of segments and begins with the clean
    image; Quantus' area grows with their number and depends on the batch (erratum Q12).

    Source: Rieger and Hansen, arXiv 2003.08747, 2020.

    Args:
        superpixels: about how many an image has.
        by: the score that drops: "probability", "logit" or "target", the explained score itself.
    """

    def __init__(self, superpixels: int = 50, by: By = "probability", **options: Any) -> None:
        self.superpixels, self.by = superpixels, by
        super().__init__(**options)

    def update(self, segments: Tensor) -> None:
        """Add images: scores (N, M + 1) as segments are replaced, NaN after the last."""
        self._record(irof(segments))

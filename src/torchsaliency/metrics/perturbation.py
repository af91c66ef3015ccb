"""Does the order of the map's pixels matter to the network? Insertion, deletion, AOPC, ROAD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_curves
from torchsaliency.metrics.refined import RefinedMetric

_POINTS = 101
"""Points at which whole curves are kept: every percent of the pixels."""


def area_under_curve(
    probabilities: Float[Tensor, "n s"], fractions: Float[Tensor, " s"]
) -> Float[Tensor, " n"]:
    """Return 100 times the area under each curve, by the trapezoid rule, in [0, 100].

    Args:
        probabilities: (N, S) class probabilities at each fraction.
        fractions: (S,) rising from 0 to 1; evenly spaced unless the last step is shorter.

    Raises:
        InputError: curves of another length, values outside [0, 1], or fractions that do not rise
            from 0 to 1.

    Example:
        >>> area_under_curve(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([0.0, 0.5, 1.0]))
        tensor([50.], dtype=torch.float64)
    """
    curves, places = check_curves(probabilities), fractions.detach().double()
    if places.shape != curves.shape[1:] or len(places) < 2:  # noqa: PLR2004
        raise InputError(
            f"Curves of {tuple(curves.shape)} and fractions of {tuple(places.shape)} were given; "
            "give one fraction a point, at least two."
        )
    rises = bool((places.diff() > 0).all())
    if not rises or float(places[0]) != 0 or float(places[-1]) != 1:
        raise InputError("The fractions must rise from 0 to 1.")
    return 100 * torch.trapezoid(curves, places.to(curves.device), dim=1)


def aopc(
    regions: Float[Tensor, "n l"], average: Literal["L+1", "L"] = "L+1"
) -> Float[Tensor, " n"]:
    """Return 100 · 1/(L+1) · Σ_{k=0..L} (p_0 - p_k) of every image, in [-100, 100].

    Args:
        regions: (N, L + 1) class probabilities, the first of the clean image, each further one
            after one more region was replaced.
        average: divide by L + 1, as Samek et al. do, or by L.

    Raises:
        InputError: no regions, or values outside [0, 1].

    Example:
        >>> aopc(torch.tensor([[0.75, 0.25]]))
        tensor([25.], dtype=torch.float64)
    """
    curves = check_curves(regions)
    if curves.shape[1] < 2:  # noqa: PLR2004
        raise InputError("AOPC needs the clean probability and at least one region's.")
    drops = (curves[:, :1] - curves).sum(1)
    return 100 * drops / (curves.shape[1] - (average == "L"))


def road(most: Float[Tensor, "n q"], least: Float[Tensor, "n q"]) -> Float[Tensor, " n"]:
    """Return 100 · mean over q of (p_LeRF(q) - p_MoRF(q)) / 2 of every image, in [-50, 50].

    Args:
        most: (N, Q) class probabilities with the most relevant pixels removed and imputed.
        least: (N, Q) with the least relevant removed.

    Raises:
        InputError: different shapes, or values outside [0, 1].

    Example:
        >>> road(torch.tensor([[0.25, 0.0]]), torch.tensor([[0.75, 0.5]]))
        tensor([25.], dtype=torch.float64)
    """
    first, second = check_curves(most), check_curves(least)
    if first.shape != second.shape:
        raise InputError(
            f"Curves of {tuple(first.shape)} and {tuple(second.shape)} were given; ROAD needs both "
            "orders at the same percentages."
        )
    return 50 * (second - first).mean(1)


class CurveMetric(RefinedMetric):
    """The area under a curve, with the curve itself at every percent of the pixels.

    Args:
        step: pixels that change at once; None: a row of the image.
        budget: most passes for an image, evenly spread over the curve; None sets no limit.
        error: by how many points an image's number may be wrong, to save passes; None: it is exact.
    """

    width = 1 + _POINTS

    def __init__(
        self,
        step: int | None = None,
        budget: int | None = None,
        error: float | int | None = None,
        **options: Any,
    ) -> None:
        self.step, self.budget = step, budget
        super().__init__(error, **options)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Order, step, budget and error of `perturbation_curve`."""
        return {"order": self.name, **super().settings}

    @property
    def fractions(self) -> Float[Tensor, " p"]:
        """Where `curve` and `curves` are given: every percent, (101,)."""
        return torch.linspace(0, 1, _POINTS, dtype=torch.float64, device="cpu")

    @property
    def curves(self) -> Float[Tensor, "n p"]:
        """The class probability of every image at `fractions`, interpolated linearly."""
        return self.rows[:, 1 : 1 + _POINTS]

    @property
    def curve(self) -> Float[Tensor, " p"]:
        """The mean curve."""
        return self.curves.mean(0)

    def _add(self, probabilities: Tensor, fractions: Tensor, refinement: Tensor | None) -> None:
        areas = area_under_curve(probabilities, fractions)
        curves = check_curves(probabilities)
        places, wanted = (each.to(curves.device).double() for each in (fractions, self.fractions))
        right = torch.searchsorted(places, wanted).clamp(1, len(places) - 1)
        start, end = places[right - 1], places[right]
        share = ((wanted - start) / (end - start)).expand(len(curves), -1)
        resampled = torch.lerp(curves[:, right - 1], curves[:, right], share)
        self._record_curves(torch.cat([areas[:, None], resampled], 1), refinement)


@final
@metric(
    "insertion",
    group="perturbation",
    cite="petsiuk2018",
    requires="perturbation_curve",
    direction="higher",
)
class Insertion(CurveMetric):
    """Insertion: how soon the class appears as salient pixels are put into a blurred image.

    Formula: 100/N · Σ_i ∫_0^1 p_i(t) dt, p_i(t) the class probability once the share t of the
    pixels has been inserted by descending saliency; trapezoid rule, a step a row.

    Rewards: maps whose top pixels suffice for the class.

    Misleads: it sees the order of the pixels, not their values, and a blurred image with sharp
    islands is like nothing the network was trained on: compact maps are favoured over maps that
    follow the object. Its class is the predicted one by default, not the true one.

    Undefined: never.

    Differs: equal values are taken in reading order (RISE leaves them to numpy's unstable sort);
    the blur is RISE's kernel, in normalised space unless a masking is given. With an `error`, steps
    are evaluated only until the area is known to so many points.

    Source: Petsiuk et al. (RISE), BMVC 2018.
    """

    def update(
        self, insertion: Tensor, fractions: Tensor, refinement: Tensor | None = None
    ) -> None:
        """Add images: class probabilities (N, S) at the fractions (S,) of inserted pixels.

        With an `error`, `refinement` (N, 3) says how each curve was evaluated.
        """
        self._add(insertion, fractions, refinement)


@final
@metric(
    "deletion",
    group="perturbation",
    cite="petsiuk2018",
    requires="perturbation_curve",
    direction="lower",
)
class Deletion(CurveMetric):
    """Deletion: how soon the class disappears as the most salient pixels are replaced.

    Formula: 100/N · Σ_i ∫_0^1 p_i(t) dt, p_i(t) the class probability once the share t of the
    pixels has been replaced by descending saliency; trapezoid rule, a step a row.

    Rewards: maps whose top pixels are necessary for the class.

    Misleads: scattered single pixels destroy an image fastest, so that noise-like gradient maps do
    well (Opti-CAM's Table 3); sharp holes are like nothing the network was trained on.

    Undefined: never.

    Differs: equal values are taken in reading order; pixels become the mean colour unless a
    masking is given. With an `error`, steps are evaluated only until the area is known to so many
    points.

    Source: Petsiuk et al. (RISE), BMVC 2018.
    """

    def update(self, deletion: Tensor, fractions: Tensor, refinement: Tensor | None = None) -> None:
        """Add images: class probabilities (N, S) at the fractions (S,) of deleted pixels.

        With an `error`, `refinement` (N, 3) says how each curve was evaluated.
        """
        self._add(deletion, fractions, refinement)


@final
@metric(
    "aopc",
    group="perturbation",
    cite="samek2017",
    requires="region_curve",
    direction="higher",
    best=100.0,
    worst=-100.0,
)
class AOPC(RefinedMetric):
    """AOPC: how much the class probability drops as the most relevant regions are replaced.

    Formula: 100/N · Σ_i 1/(L+1) · Σ_{k=0..L} (p_i(x) - p_i(x^(k))), k regions replaced, the one
    with the largest sum of the map first; L = 10 regions of 14 pixels by default.

    Rewards: maps whose strongest regions are necessary for the class.

    Misleads: ten regions of 14 pixels are 4 % of an image of 224, so large objects hardly change;
    the value that replaces a region (the image's minimum, as in Quantus) is a pattern of its own.

    Undefined: never.

    Differs: regions may lie anywhere and do not overlap (placement="sliding", Quantus before 0.6,
    which Opti-CAM used); placement="grid" is Quantus' aligned blocks since 0.6. Quantus returns
    the drops and calls lower better; they are drops, so higher is. With an `error`, regions are
    evaluated only until the mean is known to so many points; worth it for many regions.

    Source: Samek et al., TNNLS 2017; settings of Opti-CAM's Table 4.

    Args:
        patch: side of a region in pixels.
        regions: L; at least 1.
        placement: "sliding": regions lie anywhere; "grid": they are aligned blocks.
        average: whether the sum is divided by "L+1" or by "L".
        error: by how many points an image's number may be wrong, to save passes; None: it is exact.
    """

    def __init__(
        self,
        patch: int = 14,
        regions: int = 10,
        placement: Literal["sliding", "grid"] = "sliding",
        average: Literal["L+1", "L"] = "L+1",
        error: float | int | None = None,
        **options: Any,
    ) -> None:
        self.patch, self.regions = patch, regions
        self.placement, self.average = placement, average
        super().__init__(error, **options)

    def update(self, regions: Tensor, refinement: Tensor | None = None) -> None:
        """Add images: class probabilities (N, L + 1), the first of the clean image.

        With an `error`, `refinement` (N, 3) says how each curve was evaluated.
        """
        self._record_curves(aopc(regions, self.average), refinement)


@final
@metric(
    "road",
    group="perturbation",
    cite="rong2022",
    requires="removal_curves",
    direction="higher",
    best=50.0,
    worst=-50.0,
)
class ROAD(SaliencyMetric):
    """ROAD: does removing salient pixels hurt more than removing the others, once holes are filled?

    Formula: 100/N · Σ_i mean_q (p_i(LeRF, q) - p_i(MoRF, q)) / 2, the share q of the least or most
    relevant pixels removed and imputed from their neighbours, q = 10 %, …, 90 %.

    Rewards: maps that order pixels by what they contribute, high and low.

    Misleads: imputation is smooth, so fine texture is always lost; ties (large zero areas) are
    removed in reading order.

    Undefined: never.

    Differs: the mean of class probabilities, where Rong et al. count right predictions, so that one
    image has a value; both orders combined as in pytorch-grad-cam, in probability instead of its
    relative change.

    Source: Rong et al., ICML 2022.

    Args:
        percentages: of the pixels that are removed, each in (0, 100).
        noise: σ of what is added to imputed pixels; 0 or more.
    """

    def __init__(
        self,
        percentages: tuple[float | int, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
        noise: float | int = 0.01,
        **options: Any,
    ) -> None:
        if not percentages:
            raise OptionError("ROAD needs at least one percentage.")
        self.percentages, self.noise = tuple(percentages), noise
        self.width = 2 * len(self.percentages)
        super().__init__(**options)

    def update(self, most: Tensor, least: Tensor) -> None:
        """Add images: class probabilities (N, Q) with most and least relevant pixels removed."""
        road(most, least)  # checks that they fit together
        self._record(torch.cat([check_curves(most), check_curves(least)], 1))

    def image_values(self, rows: Tensor) -> Tensor:
        """Return each image's mean over percentages."""
        return road(*rows.unflatten(1, (2, -1)).unbind(1))

    @property
    def curves(self) -> dict[str, Tensor]:
        """Mean class probabilities (Q,) by order of removal, "most" and "least" relevant first."""
        most, least = self.rows.mean(0).unflatten(0, (2, -1))
        return {"most": most, "least": least}

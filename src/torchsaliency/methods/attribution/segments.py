"""Attribution to superpixels: what the score does when some of them are hidden."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.maps import upcast
from torchsaliency.core.method import Saliency, register
from torchsaliency.core.space import describe_size
from torchsaliency.core.target import Logit, Probability, Target
from torchsaliency.core.trace import View
from torchsaliency.errors import InputError
from torchsaliency.methods.attribution.coalitions import (
    coalitions,
    lime_samples,
    ridge,
    ridge_error,
    shapley,
    shapley_error,
)
from torchsaliency.methods.attribution.reduction import Attribution, Channels
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    baseline,
    images_of,
    rows,
)
from torchsaliency.methods.sampling import compare_errors, plan_looks

Segmentation = Literal["slic", "quickshift"]

_SMALLEST = 8
"""Pixels of a side that a superpixel of slic has at least, on average: a smaller one changes no
score.
"""


@final
@dataclass(frozen=True, eq=False)
class Estimate:
    """Numbers of the superpixels of one image, from as many samples as `until` asks for.

    Attributes:
        values: (M,).
        error: (M,) their standard error.
        samples: how many images with hidden superpixels were scored.
        relative_error: see `methods.sampling.compare_errors`; over superpixels, not pixels.
    """

    values: Tensor
    error: Tensor
    samples: int
    relative_error: float


@dataclass(frozen=True)
class SegmentAttribution(Attribution):
    """One signed number a superpixel, painted over it.

    Attributes:
        channels: how the sign is read: "abs-sum" and "max-abs" take the absolute value,
            "sum-positive" keeps what speaks for the class.
        segmentation: "slic" or "quickshift", both of scikit-image.
        segments: about how many superpixels slic makes, of 64 pixels or more (supervoxels of
            512 voxels in a volume); above 0.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("segments",)
    by_number: ClassVar[bool] = False

    segmentation: Segmentation = "slic"
    segments: int = 50

    @abc.abstractmethod
    def coefficients(
        self, view: View, image: int, labels: Int[Tensor, "*size"]
    ) -> Tensor | Estimate:
        """Return one signed number (M,) for each superpixel of one image."""

    @final
    def attributions(self, view: View) -> Saliency:
        """Return the painted superpixels, (N, 1, *size)."""
        images = images_of(view)
        painted, errors, told = [], [], []
        for image, pixels in enumerate(images):
            labels = superpixels(pixels, self.segmentation, self.segments)
            found = self.coefficients(view, image, labels)
            if isinstance(found, Estimate):
                told.append((found.samples, found.relative_error))
                errors.append(found.error.to(pixels)[labels][None])
                found = found.values
            painted.append(found.to(pixels)[labels][None])
        if not told:
            return Saliency(torch.stack(painted))
        samples, relative = zip(*told, strict=True)
        details = {
            "samples": torch.tensor(samples, dtype=torch.int64, device=images.device),
            "relative_error": torch.tensor(relative, dtype=torch.float32, device=images.device),
            "standard_error": torch.stack(errors),
        }
        return Saliency(torch.stack(painted), details)


@register(
    "feature-ablation", family="attribution", cite="zeiler2014", needs=IMAGE_PASSES, signed=True
)
@final
@dataclass(frozen=True)
class FeatureAblation(SegmentAttribution):
    """Feature ablation: how far the score drops when one superpixel is hidden.

    R_i = y_c(x) - y_c(x without i); hidden pixels show the baseline of the masking in use.

    Source: Zeiler and Fergus, ECCV 2014.
    """

    def coefficients(self, view: View, image: int, labels: Int[Tensor, "*size"]) -> Tensor:
        """Return the drops (M,)."""
        others = ~torch.eye(int(labels.max()) + 1, dtype=torch.bool, device="cpu")
        score = view.score[image]
        return _without_rounding(score - score_shown(view, image, labels, others), score)


@register("lime", family="attribution", cite="ribeiro2016", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class LIME(SegmentAttribution):
    """LIME: a linear model of the score in terms of which superpixels are shown.

    Superpixels are hidden at random, z_i ~ Bernoulli(½); a ridge regression (α = 1, with intercept)
    of the class probability on z, each sample weighted by sqrt(exp(-d²/width²)) with d the cosine
    distance of z to showing all. R_i is the coefficient of superpixel i.

    Source: Ribeiro et al., KDD 2016, and the authors' image explainer. Differs from it in the
    superpixels, which are slic's unless quickshift is asked for, and in what hides them, the
    masking in use, unless their mean colour is asked for. The samples are the same for all images
    with as many superpixels.

    Attributes:
        segmentation: "slic", or "quickshift" as in the authors' code.
        passes: how many images with hidden superpixels are scored, the first one hiding none.
        width: of the kernel; above 0.
        alpha: the ridge; above 0.
        hidden: hidden pixels show the baseline of the masking in use ("masking"), or the mean
            colour of their superpixel ("segment-mean", the authors').
        explains: "probability" of the class, or "target", the score itself. Targets other than a
            class logit are always explained themselves.
        seed: of the samples.
        until: samples end, for each image, once the relative standard error of the coefficients is
            no more than this; `passes` is the most. None takes them all.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("segments", "passes", "width", "alpha")

    channels: Channels = "sum-positive"
    passes: int = 1000
    width: float | int = 0.25
    alpha: float | int = 1.0
    hidden: Literal["masking", "segment-mean"] = "masking"
    explains: Literal["probability", "target"] = "probability"
    seed: int = 0
    until: float | int | None = None

    def coefficients(
        self, view: View, image: int, labels: Int[Tensor, "*size"]
    ) -> Tensor | Estimate:
        """Return the linear model's coefficients (M,)."""
        shown = lime_samples(self.passes, int(labels.max()) + 1, self.seed)
        target = view.trace.target
        if self.explains == "probability" and isinstance(target, Logit):
            target = target.restate(Probability)
        behind = None
        if self.hidden == "segment-mean":
            behind = segment_means(images_of(view)[image], labels)

        def solve(scores: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
            z = shown[: len(scores)].double()
            changes = _without_rounding(scores - scores[0], scores[0]).cpu().double()
            distance = 1 - z.mean(1).sqrt()
            weights = (-(distance**2) / self.width**2).exp().sqrt()
            found = ridge(z, changes, weights, float(self.alpha))
            return found, lambda: ridge_error(z, changes, weights, float(self.alpha), found)

        return score_until(
            shown,
            lambda part: score_shown(view, image, labels, part, target=target, behind=behind),
            solve,
            self.until,
        )


@register("kernelshap", family="attribution", cite="lundberg2017", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class KernelSHAP(SegmentAttribution):
    """KernelSHAP: Shapley values of superpixels, by weighted least squares over coalitions.

    Coalitions z of s out of M superpixels are weighted by (M - 1) / (C(M, s) s (M - s)); R solves
    Σ_i R_i z_i = y_c(z) - y_c(∅) in that sense and adds up to y_c(x) - y_c(∅) exactly. All
    coalitions are tried where there are no more than `passes`, and R is exact; else they are
    drawn by their weight, each with its complement. Hidden pixels show the baseline of the masking
    in use.

    Source: Lundberg and Lee, NeurIPS 2017. Differs from captum, which draws from torch's global
    random state and without complements, and solves for the sum only approximately.

    Attributes:
        passes: how many coalitions are scored; above 0.
        seed: of the draws.
        until: draws end, for each image, once the relative standard error of the Shapley values is
            no more than this; `passes` is the most. None takes them all.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("segments", "passes")

    channels: Channels = "sum-positive"
    passes: int = 500
    seed: int = 0
    until: float | int | None = None

    def coefficients(
        self, view: View, image: int, labels: Int[Tensor, "*size"]
    ) -> Tensor | Estimate:
        """Return the Shapley values (M,)."""
        count = int(labels.max()) + 1
        inner, weights = coalitions(count, self.passes, self.seed)
        shown = torch.cat([inner.new_ones(1, count), inner.new_zeros(1, count), inner]).bool()
        exact = count == 1 or len(inner) == 2**count - 2

        def solve(scores: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
            gains = _without_rounding(scores - scores[1], scores[0]).cpu().double()
            z, rest = inner[: len(scores) - 2].double(), gains[2:]
            found = shapley(z, rest, gains[0], weights[: len(z)])
            if exact:
                return found, lambda: torch.zeros_like(found)
            return found, lambda: shapley_error(z, rest, found)

        return score_until(
            shown,
            lambda part: score_shown(view, image, labels, part),
            solve,
            self.until,
            first=len(shown) if exact else 2,
        )


def superpixels(
    pixels: Float[Tensor, " c *size"], segmentation: Segmentation, segments: int
) -> Int[Tensor, "*size"]:
    """Return the label of every pixel's superpixel, 0 … M-1, each of them used.

    Raises:
        InputError: quickshift is given anything but a picture.
    """
    from skimage import segmentation as skimage  # noqa: PLC0415 (needed by these methods alone)

    # half precision would round the stretched colours again, to other superpixels
    pixels = upcast(pixels)
    shifted = pixels - pixels.amin()
    stretched = shifted / shifted.amax().clamp_min(torch.finfo(shifted.dtype).tiny)
    picture = stretched.movedim(0, -1).cpu().double().numpy()
    colour = picture.shape[-1] == 3  # noqa: PLR2004 (red, green, blue)
    sides = picture.ndim - 1
    if segmentation == "slic":
        most = max(1, min(segments, picture[..., 0].size // _SMALLEST**sides))
        found = skimage.slic(
            picture if sides > 1 else picture[None],
            most,
            compactness=10.0 if colour else 0.1,
            convert2lab=colour,
            start_label=0,
            channel_axis=-1,
        )
    else:
        if sides != 2:  # noqa: PLR2004
            raise InputError(
                "quickshift works on pictures (N, C, H, W) alone; use segmentation=slic for images "
                f"of {describe_size(picture.shape[:-1])}."
            )
        # Three colours are compared in the Lab space, which reaches to 100.
        seen = picture if colour else 100 * picture
        found = skimage.quickshift(
            seen, ratio=0.2, kernel_size=4, max_dist=200, convert2lab=colour, rng=0
        )
    labels = np.unique(found, return_inverse=True)[1].reshape(picture.shape[:-1])
    return torch.from_numpy(labels).to(pixels.device)


def segment_means(
    pixels: Float[Tensor, " c *size"], labels: Int[Tensor, "*size"]
) -> Float[Tensor, " c *size"]:
    """Return the image with every superpixel in its mean colour."""
    flat, where = pixels.flatten(1), labels.flatten()
    sums = flat.new_zeros(len(flat), int(labels.max()) + 1).index_add_(1, where, flat)
    return (sums / where.bincount())[:, labels]


def score_until(
    shown: Tensor,
    score: Callable[[Tensor], Tensor],
    solve: Callable[[Tensor], tuple[Tensor, Callable[[], Tensor]]],
    until: float | int | None,
    first: int = 0,
) -> Tensor | Estimate:
    """Score samples and solve for the superpixels' numbers, looking at their error if asked to.

    Args:
        shown: (S, M) which superpixels each sample shows.
        score: gives the scores of some of them.
        solve: gives the numbers (M,), and what gives their standard error, of the first scores.
        until: the relative standard error at which scoring stops; None for all, and the numbers
            alone.
        first: samples that are always scored, and that are no draws.
    """
    if until is None:
        return solve(score(shown))[0]
    draws = max(0, len(shown) - first)
    scores = score(shown[:first])
    for look in plan_looks(draws, until, max(64, 4 * shown.shape[1]), 2):
        scores = torch.cat([scores, score(shown[len(scores) : first + look])])
        values, find_error = solve(scores)
        error = find_error()
        relative = float(compare_errors(error.square().sum()[None], values[None]))
        if relative <= until:
            break
    return Estimate(values, error, len(scores), relative)


def score_shown(
    view: View,
    image: int,
    labels: Int[Tensor, "*size"],
    shown: Tensor,
    *,
    target: Target | None = None,
    behind: Float[Tensor, " c *size"] | None = None,
) -> Float[Tensor, " s"]:
    """Return the scores of one image with only the superpixels `shown` (S, M).

    Args:
        view: the images.
        image: which of them.
        labels: of its superpixels.
        shown: of each score, whether a superpixel is shown.
        target: of the explained images; the trace's own by default.
        behind: what hidden pixels show; the baseline of the masking in use by default.
    """
    pixels, shown = images_of(view)[image], shown.to(labels.device)
    behind = baseline(view)[image] if behind is None else behind
    found = []
    for step in rows(len(shown), view):
        variants = torch.where(shown[step][:, labels][:, None], pixels, behind)
        found.append(view.trace.scores(variants, torch.full_like(step, image), target))
    return torch.cat(found).detach()


def _without_rounding(changes: Tensor, score: Tensor) -> Tensor:
    """Return the changes, zero where they are no more than the rounding of the score."""
    eps = 16 * torch.finfo(score.dtype).eps
    return torch.where(changes.abs() <= eps * score.abs(), 0, changes)

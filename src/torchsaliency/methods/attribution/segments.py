"""Attribution to superpixels: what the score does when some of them are hidden."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.method import register
from torchsaliency.core.runtime import draw_uniform
from torchsaliency.core.space import describe_size
from torchsaliency.core.target import Logit, Probability, Target
from torchsaliency.core.trace import View
from torchsaliency.errors import InputError
from torchsaliency.methods.attribution.reduction import Attribution, Channels
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    baseline,
    images_of,
    rows,
)

Segmentation = Literal["slic", "quickshift"]

_SMALLEST = 8
"""Pixels of a side that a superpixel of slic has at least, on average: a smaller one changes no
score.
"""

_ENUMERABLE = 16
"""Up to so many superpixels all coalitions may be tried."""


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
    def coefficients(self, view: View, image: int, labels: Int[Tensor, "*size"]) -> Tensor:
        """Return one signed number (M,) for each superpixel of one image."""

    @final
    def attributions(self, view: View) -> Tensor:
        """Return the painted superpixels, (N, 1, *size)."""
        return torch.stack([self._paint(view, i) for i in range(len(view.images))])

    def _paint(self, view: View, image: int) -> Tensor:
        pixels = images_of(view)[image]
        labels = superpixels(pixels, self.segmentation, self.segments)
        return self.coefficients(view, image, labels).to(pixels)[labels][None]


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
    """

    above_zero: ClassVar[tuple[str, ...]] = ("segments", "passes", "width", "alpha")

    channels: Channels = "sum-positive"
    passes: int = 1000
    width: float | int = 0.25
    alpha: float | int = 1.0
    hidden: Literal["masking", "segment-mean"] = "masking"
    explains: Literal["probability", "target"] = "probability"
    seed: int = 0

    def coefficients(self, view: View, image: int, labels: Int[Tensor, "*size"]) -> Tensor:
        """Return the linear model's coefficients (M,)."""
        shown = lime_samples(self.passes, int(labels.max()) + 1, self.seed)
        target = view.trace.target
        if self.explains == "probability" and isinstance(target, Logit):
            target = target.restate(Probability)
        behind = None
        if self.hidden == "segment-mean":
            behind = segment_means(images_of(view)[image], labels)
        scores = score_shown(view, image, labels, shown, target=target, behind=behind)
        changes = _without_rounding(scores - scores[0], scores[0]).cpu().double()
        distance = 1 - shown.double().mean(1).sqrt()
        weights = (-(distance**2) / self.width**2).exp().sqrt()
        return ridge(shown.double(), changes, weights, float(self.alpha))


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
    """

    above_zero: ClassVar[tuple[str, ...]] = ("segments", "passes")

    channels: Channels = "sum-positive"
    passes: int = 500
    seed: int = 0

    def coefficients(self, view: View, image: int, labels: Int[Tensor, "*size"]) -> Tensor:
        """Return the Shapley values (M,)."""
        count = int(labels.max()) + 1
        inner, weights = coalitions(count, self.passes, self.seed)
        shown = torch.cat([inner.new_ones(1, count), inner.new_zeros(1, count), inner]).bool()
        scores = score_shown(view, image, labels, shown)
        gains = _without_rounding(scores - scores[1], scores[0]).cpu().double()
        return shapley(inner.double(), gains[2:], gains[0], weights)


def superpixels(
    pixels: Float[Tensor, " c *size"], segmentation: Segmentation, segments: int
) -> Int[Tensor, "*size"]:
    """Return the label of every pixel's superpixel, 0 … M-1, each of them used.

    Raises:
        InputError: quickshift is given anything but a picture.
    """
    from skimage import segmentation as skimage  # noqa: PLC0415 (needed by these methods alone)

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


def lime_samples(samples: int, count: int, seed: int) -> Tensor:
    """Return which of `count` superpixels each sample shows (samples, count); the first, all."""
    generator = torch.Generator().manual_seed(seed)
    shown = draw_uniform(generator, samples, count) < 0.5  # noqa: PLR2004 (a fair coin)
    shown[0] = True
    return shown


def ridge(
    z: Float[Tensor, "s m"], y: Float[Tensor, " s"], weights: Float[Tensor, " s"], alpha: float
) -> Float[Tensor, " m"]:
    """Return the coefficients of a weighted ridge regression with an intercept of its own."""
    share = weights / weights.sum()
    centred, values = z - share @ z, y - share @ y
    # Scores that are all equal leave nothing, not even rounding.
    values = values if bool(y.any()) else torch.zeros_like(y)
    left = (centred.T * weights) @ centred + alpha * torch.eye(
        z.shape[1], dtype=z.dtype, device=z.device
    )
    return torch.linalg.solve(left, centred.T @ (weights * values))


def coalitions(count: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return coalitions (S, count) without the empty and the full one, and their weights (S,)."""
    if count == 1:
        return draw_uniform(torch.Generator(), 0, 1), torch.zeros(
            0, dtype=torch.float64, device="cpu"
        )
    sizes = torch.arange(1, count, dtype=torch.float64, device="cpu")
    if count <= _ENUMERABLE and 2**count - 2 <= samples:
        numbers = torch.arange(1, 2**count - 1, device="cpu")
        shown = (numbers[:, None] >> torch.arange(count, device="cpu")) % 2
        size = shown.sum(1).double()
        ways = torch.exp(
            torch.lgamma(torch.tensor(count + 1.0, dtype=torch.float64, device="cpu"))
            - torch.lgamma(size + 1)
            - torch.lgamma(count - size + 1)
        )
        return shown.float(), (count - 1) / (ways * size * (count - size))
    generator = torch.Generator().manual_seed(seed)
    pairs = -(-samples // 2)
    drawn = torch.multinomial(
        (count - 1) / (sizes * (count - sizes)), pairs, replacement=True, generator=generator
    )
    order = draw_uniform(generator, pairs, count).argsort(1).argsort(1)
    shown = (order <= drawn[:, None]).float()
    both = torch.stack([shown, 1 - shown], 1).flatten(0, 1)[:samples]
    return both, torch.ones(len(both), dtype=torch.float64, device="cpu")


def shapley(
    z: Float[Tensor, "s m"], gains: Float[Tensor, " s"], total: Tensor, weights: Tensor
) -> Float[Tensor, " m"]:
    """Return the weighted least-squares solution of z R = gains under Σ R = total.

    R is the even share plus a part that adds up to nothing; the centred rows add up to nothing, so
    the least-norm solution for that part does too, however few coalitions there are.
    """
    count = z.shape[1]
    even = (total / count).expand(count)
    if not len(z):
        return even
    if not gains.isfinite().all():  # LAPACK ends with an error of its own
        return torch.full_like(even, torch.nan)
    root = weights.sqrt()[:, None]
    left = root * (z - z.mean(1, keepdim=True))
    right = root * (gains - z.mean(1) * total)[:, None]
    return even + torch.linalg.lstsq(left, right, driver="gelsd").solution[:, 0]


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

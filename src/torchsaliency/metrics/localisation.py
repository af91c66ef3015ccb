"""Is the map where the object is? Metrics on boxes that people drew: Opti-CAM, Appendix B.

Boxes are x0 y0 x1 y1 in the map's pixels, cut to whole pixels (towards zero) as the published code
does, the maximum side exclusive: pixel x belongs to a box if x0 ≤ x < x1. Cropping an image may
leave a box partly or wholly outside of it. No pixel belongs to what is outside; a box that is
outside wholly is no error, it can only be missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from torchsaliency.core.errors import InputError, OptionError
from torchsaliency.metrics.base import SaliencyMetric
from torchsaliency.metrics.checks import checked_boxes, checked_maps, checked_probabilities
from torchsaliency.metrics.components import (
    Integers,
    contour_boxes,
    largest_component_boxes,
    largest_contour_boxes,
)
from torchsaliency.metrics.registry import metric

Contours = Literal["all", "largest"]
Ties = Literal["any", "expected"]

OVERLAP = 0.5
"""Of a predicted box and a true one, above which the object counts as found."""

SMALLEST = 0.05
"""Share of the image below which the saliency metric does not reward smaller boxes."""

_PIXELS = 2**23
"""Pixels of a stack of thresholded maps: about 0.1 GB with its labels."""

_LOW = math.log(SMALLEST)


class PixelScores(NamedTuple):
    """How a map's mass and a box fit, in percent, (N,) each."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def predicted_boxes(maps: Float[Tensor, "n h w"], *, short: bool = False) -> Float[Tensor, "n 4"]:
    """Return the box that a map predicts: of the largest component above the map's mean.

    Components are 4-connected and judged by their number of pixels (the first in reading order if
    several are largest); the box is tight. A constant map predicts an empty box, 0 0 0 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        short: leave out the last row and column of the box, as the code behind Opti-CAM's table
            does (erratum L11).

    Raises:
        InputError: maps outside [0, 1].
    """
    saliency = _array(checked_maps(maps))
    flat = saliency.reshape(len(saliency), math.prod(saliency.shape[1:]))
    mean = np.maximum(flat.mean(1), flat.min(1))  # rounding must not lift a constant map above it
    boxes = largest_component_boxes(saliency > mean[:, None, None])
    if short:
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
    return _tensor(boxes, maps)


def box_iou(predicted: Float[Tensor, "n 4"], boxes: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """Return each predicted box's largest IoU, in [0, 1], with any of the image's boxes.

    What a true box has outside the image counts as missed: it is part of the union.

    Args:
        predicted: (N, 4) inside the image.
        boxes: true boxes (B, 4) of every image.

    Raises:
        InputError: boxes that are none.
    """
    found = [
        float(_overlap(one[None], true).max(initial=0))
        for one, true in zip(_array(predicted), _pixels(boxes, predicted), strict=True)
    ]
    return _tensor(found, predicted)


def localisation_error(
    maps: Float[Tensor, "n h w"],
    boxes: Sequence[Tensor],
    *,
    continuous: bool = False,
    short: bool = False,
) -> Float[Tensor, " n"]:
    """Return 100 · (1 - max_b 1[IoU(B_p, b) > 0.5]) of every image: 0 where the object is found.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        continuous: 100 · (1 - max_b IoU), as Opti-CAM prints it, instead.
        short: as in `predicted_boxes`.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
    """
    return 100 * (1 - _found(maps, boxes, continuous=continuous, short=short))


def official_metric(
    maps: Float[Tensor, "n h w"],
    boxes: Sequence[Tensor],
    correct: Tensor,
    *,
    continuous: bool = False,
    short: bool = False,
) -> Float[Tensor, " n"]:
    """Return the localisation error of every image, and 100 where the network's class is wrong.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        correct: bool (N,), whether the network's top class is the image's.
        continuous: as in `localisation_error`.
        short: as in `predicted_boxes`.

    Raises:
        InputError: maps outside [0, 1], boxes that are none, or `correct` of another length or
            type.
    """
    if correct.shape != maps.shape[:1] or correct.dtype != torch.bool:
        raise InputError(
            f"correct is {correct.dtype} {tuple(correct.shape)}; give bool ({len(maps)},): whether "
            "the network's top class is the image's."
        )
    found = _found(maps, boxes, continuous=continuous, short=short)
    return 100 * (1 - found * correct.to(found.device))


def pixel_scores(
    maps: Float[Tensor, "n h w"], boxes: Sequence[Tensor], *, union: bool = False
) -> PixelScores:
    """Return precision, recall and F1 of the map's mass in the box, in percent.

    P = Σ_box S / ΣS, R = Σ_box S / |box|, F1 = 2PR / (P + R); 0 where a denominator is 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        union: judge the union of the boxes, which counts its pixels in the image; otherwise the
            single box with the best F1, which counts all its area, outside the image too.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
    """
    saliency = _array(checked_maps(maps))
    rows = []
    for one, true in zip(saliency, _pixels(boxes, maps), strict=True):
        inside = np.stack([_inside(box[None], one) for box in true])
        areas = _areas(true)
        if union:
            inside = np.array([inside.any(0)])
            areas = inside.sum((1, 2))
        mass = (one * inside).sum((1, 2))
        precision, recall = _ratio(mass, one.sum()), _ratio(mass, areas)
        f1 = _ratio(2 * precision * recall, precision + recall)
        best = f1.argmax()
        rows.append([precision[best], recall[best], f1[best]])
    return PixelScores(*_tensor(np.reshape(rows, (-1, 3)) * 100, maps).unbind(1))


def box_hits(
    maps: Float[Tensor, "n h w"],
    boxes: Sequence[Tensor],
    *,
    step: float | int = 0.01,
    overlaps: tuple[float | int, ...] = (0.3, 0.5, 0.7),
    contours: Contours = "all",
) -> Float[Tensor, "n t d"]:
    """Return 1 where the map, cut at threshold τ, finds the object with overlap δ, else 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        step: of the thresholds τ = 0, step, … below 1, parts of the map's maximum.
        overlaps: δ, the smallest IoU that counts.
        contours: "all" may find the object (MaxBoxAccV2), or the "largest" alone (MaxBoxAcc).

    Returns:
        (N, thresholds, overlaps).

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
        OptionError: a step or an overlap outside (0, 1].
    """
    _check_accuracy(step, overlaps)
    # in the map's own precision, as the official code has it
    levels = (checked_maps(maps) * 255).to(torch.uint8).cpu().numpy()
    hits = [
        _best_overlap(one, true, _thresholds(step), contours)[:, None] >= np.array(overlaps)
        for one, true in zip(levels, _pixels(boxes, maps), strict=True)
    ]
    shape = -1, len(_thresholds(step)), len(overlaps)
    return _tensor(np.reshape(hits, shape).astype(float), maps)


def max_box_accuracy(
    maps: Float[Tensor, "n h w"],
    boxes: Sequence[Tensor],
    *,
    step: float | int = 0.01,
    overlaps: tuple[float | int, ...] = (0.3, 0.5, 0.7),
    contours: Contours = "all",
) -> Float[Tensor, " n"]:
    """Return 100 · mean_δ 1[found at the best τ] of every image; their mean is MaxBoxAccV2.

    The best threshold τ of each overlap δ is that which finds most of these images.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        step: as in `box_hits`.
        overlaps: as in `box_hits`.
        contours: as in `box_hits`.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
        OptionError: a step or an overlap outside (0, 1].
    """
    return _at_best(box_hits(maps, boxes, step=step, overlaps=overlaps, contours=contours))


def pointing_game(
    maps: Float[Tensor, "n h w"],
    boxes: Sequence[Tensor],
    *,
    ties: Ties = "any",
    tolerance: float | int = 0,
) -> Float[Tensor, " n"]:
    """Return 100 where the map's maximum is in a box, else 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        ties: what holds if several pixels are maximal: "any" of them hits, or the "expected" hit
            of one drawn at random, which is the share of those that hit.
        tolerance: a pixel nearer than this to a pixel of a box hits, too.

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
        OptionError: a tolerance below 0.
    """
    _check_tolerance(tolerance)
    saliency = _array(checked_maps(maps))
    found = []
    for one, true in zip(saliency, _pixels(boxes, maps), strict=True):
        peaks = np.argwhere(one == one.max())[:, ::-1]
        distance = _distance(peaks, _clipped(true, one))
        hits = (distance == 0) | (distance < tolerance)
        found.append(hits.any() if ties == "any" else hits.mean())
    return 100 * _tensor(found, maps)


def energy_pointing_game(
    maps: Float[Tensor, "n h w"], boxes: Sequence[Tensor], *, published: bool = False
) -> Float[Tensor, " n"]:
    """Return 100 · Σ_U S / ΣS of every image, U the union of its boxes; 0 for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].
        boxes: true boxes (B, 4) of every image.
        published: take the pixels that the published code takes: rows x0 to x1 and columns y0 to
            y1, where negative numbers count from the end (erratum O6).

    Raises:
        InputError: maps outside [0, 1], or boxes that are none.
    """
    saliency = _array(checked_maps(maps))
    region = _published_region if published else _inside
    found = [
        float(_ratio((one * region(true, one)).sum(), one.sum()))
        for one, true in zip(saliency, _pixels(boxes, maps), strict=True)
    ]
    return 100 * _tensor(found, maps)


def saliency_metric(
    maps: Float[Tensor, "n h w"], crop: Tensor, *, short: bool = False
) -> Float[Tensor, " n"]:
    """Return log max(0.05, |B_p| / HW) - log p of every image, in nats.

    NaN where p is exactly 0.

    Args:
        maps: S (N, H, W) in [0, 1].
        crop: p (N,), the class probability of the image cut to the predicted box B_p and resized.
        short: as in `predicted_boxes`.

    Raises:
        InputError: maps outside [0, 1], or values that are no probabilities.
    """
    probability = checked_probabilities("crop", crop, len(maps)).to(maps.device)
    edges = predicted_boxes(maps, short=short)
    share = (edges[:, 2:] - edges[:, :2]).prod(1) / (maps.shape[1] * maps.shape[2])
    found = share.clamp_min(SMALLEST).log() - probability.log()
    return torch.where(probability > 0, found, torch.nan)


class _PredictedBoxMetric(SaliencyMetric):
    """A metric of the predicted box's overlap."""

    def __init__(self, continuous: bool = False, short: bool = False, **options: Any) -> None:
        """Choose the overlap itself (`continuous`), and the published box, a pixel `short`."""
        self.continuous, self.short = continuous, short
        super().__init__(**options)


@final
@metric(
    "om",
    group="localisation",
    cite="russakovsky2015",
    requires="predictions",
    annotations="boxes",
    direction="lower",
    best=0.0,
    worst=100.0,
)
class OfficialMetric(_PredictedBoxMetric):
    """Official metric: how often the class is wrong, or the map's box misses the object.

    Formula: OM = 100/N · Σ_i (1 - max_b 1[IoU(B_p, b) > 0.5] · 1[c_p = c]), B_p the tight box of
    the largest 4-connected component of S > mean(S), b the true boxes, c_p the network's top class.

    Rewards: maps whose part above the mean has the extent of the object.

    Misleads: the network's errors are in it, whatever the map; compare methods on one network only.
    One box judges a map of many parts, and explaining is not localising.

    Undefined: never. A constant map predicts no box, and misses.

    Differs: Opti-CAM prints the continuous IoU, but its numbers are thresholded at 0.5 (erratum
    O5); continuous=True is the print. Its box is one pixel short (erratum L11): short=True.

    Source: Russakovsky et al. (ILSVRC), IJCV 2015; Opti-CAM, Eq. B.1.
    """

    def update(self, maps: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> None:
        """Add images: S (N, H, W), boxes (B, 4) of each, bool (N,): is the top class right?"""
        self._record(
            official_metric(maps, boxes, correct, continuous=self.continuous, short=self.short)
        )


@final
@metric(
    "le",
    group="localisation",
    cite="cao2015",
    annotations="boxes",
    direction="lower",
    best=0.0,
    worst=100.0,
)
class LocalisationError(_PredictedBoxMetric):
    """Localisation error: how often the map's box misses the object.

    Formula: LE = 100/N · Σ_i (1 - max_b 1[IoU(B_p, b) > 0.5]), B_p the tight box of the largest
    4-connected component of S > mean(S), b the true boxes.

    Rewards: maps whose part above the mean has the extent of the object.

    Misleads: a map that is 1 everywhere but in one pixel predicts the whole image, and finds the
    object in almost half of ImageNet's images (Fake-CAM: 54.0). A map that shows only the
    telling part of the object misses.

    Undefined: never. A constant map predicts no box, and misses.

    Differs: Opti-CAM prints the continuous IoU, but its numbers are thresholded at 0.5 (erratum
    O5); continuous=True is the print. Its box is one pixel short (erratum L11): short=True.

    Source: Cao et al., ICCV 2015; Opti-CAM, Eq. B.2.
    """

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(localisation_error(maps, boxes, continuous=self.continuous, short=self.short))


class _PixelMetric(SaliencyMetric):
    """One of the pixel scores."""

    score: ClassVar[Literal["precision", "recall", "f1"]]

    def __init__(self, union: bool = False, **options: Any) -> None:
        """Choose whether the `union` of the boxes is judged, or the best single box."""
        self.union = union
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(getattr(pixel_scores(maps, boxes, union=self.union), self.score))


@final
@metric(
    "f1",
    group="localisation",
    cite="zhang2024",
    annotations="boxes",
    direction="higher",
    best=100.0,
    worst=0.0,
)
class PixelF1(_PixelMetric):
    """Pixel-wise F1: are the map's mass and the object's box the same?

    Formula: F1 = 100/N · Σ_i max_b 2PR / (P + R), P = Σ_b S / ΣS, R = Σ_b S / |b|, |b| the area of
    the whole box, outside the image too.

    Rewards: maps that are 1 in the box and 0 elsewhere.

    Misleads: boxes hold background. A map of ones scores high wherever objects are large (Fake-CAM:
    57.7), and the scale of the map counts: S² is another score.

    Undefined: never. A map of zeros, or a box outside the image, scores 0.

    Differs: Opti-CAM prints the union of the boxes, but its numbers are of the best single box
    (erratum O5); union=True is the print. Denominators carry no 1e-6.

    Source: Opti-CAM, CVIU 2024, Eq. B.3 and B.4.
    """

    score = "f1"


@final
@metric(
    "precision",
    group="localisation",
    cite="zhang2024",
    annotations="boxes",
    direction="higher",
    best=100.0,
    worst=0.0,
)
class PixelPrecision(_PixelMetric):
    """Pixel-wise precision: how much of the map's mass is in the object's box.

    Formula: 100/N · Σ_i Σ_b S / ΣS, b the box with the best F1.

    Rewards: maps without mass outside the box.

    Misleads: a single pixel in the box is perfect; read it with recall.

    Undefined: never. A map of zeros, or a box outside the image, scores 0.

    Differs: Opti-CAM prints the union of the boxes; union=True is the print, and is then what the
    energy pointing game should be.

    Source: Opti-CAM, CVIU 2024, Eq. B.3.
    """

    score = "precision"


@final
@metric(
    "recall",
    group="localisation",
    cite="zhang2024",
    annotations="boxes",
    direction="higher",
    best=100.0,
    worst=0.0,
)
class PixelRecall(_PixelMetric):
    """Pixel-wise recall: how much of the object's box the map covers.

    Formula: 100/N · Σ_i Σ_b S / |b|, b the box with the best F1, |b| the area of the whole box.

    Rewards: maps that are 1 in all of the box.

    Misleads: a map of ones is perfect; read it with precision. Of a box that reaches outside the
    image, that part can never be covered.

    Undefined: never. A map of zeros, or a box outside the image, scores 0.

    Differs: Opti-CAM prints the union of the boxes; union=True is the print, within the image.

    Source: Opti-CAM, CVIU 2024, Eq. B.4.
    """

    score = "recall"


@final
@metric(
    "ba",
    group="localisation",
    cite="choe2020",
    annotations="boxes",
    direction="higher",
    best=100.0,
    worst=0.0,
)
class MaxBoxAccuracy(SaliencyMetric):
    """MaxBoxAccV2: how often the map, cut at the best threshold, gives the object's box.

    Formula: BA = 100 · mean_δ max_τ 1/N · Σ_i 1[max_{B, b} IoU(B, b) ≥ δ], B the boxes of the
    contours of ⌊255 S⌋ > ⌊τ max⌊255 S⌋⌋, holes included, δ = 0.3, 0.5, 0.7, τ = 0, step, … < 1.

    Rewards: maps with a level set that has the extent of the object, whatever the level.

    Misleads: the threshold is chosen on the images it is judged on, one for all. Noise has so many
    contours that one may fit. An image's own number depends on the threshold of all images.

    Undefined: never. Where nothing is above the threshold, the box is the first pixel.

    Differs: contours="largest" is what Opti-CAM's table used; with overlaps=(0.5,) too, it is the
    first version, MaxBoxAcc. Boxes count both their ends, as in the official code, so that a
    predicted box is a pixel too large, but for the image's border (erratum L11). True boxes are
    clipped below at 0 (erratum O8), and missed if wholly outside. Of contours of equal area, the
    one that begins last in reading order is the largest.

    Source: Choe et al., CVPR 2020; Opti-CAM, Eq. B.5.
    """

    def __init__(
        self,
        step: float | int = 0.01,
        overlaps: tuple[float | int, ...] = (0.3, 0.5, 0.7),
        contours: Contours = "all",
        **options: Any,
    ) -> None:
        """Choose the step of τ, the overlaps δ, and whether "all" contours or the "largest"."""
        _check_accuracy(step, overlaps)
        self.step, self.overlaps, self.contours = step, tuple(overlaps), contours
        self.width = len(_thresholds(step)) * len(overlaps)
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(box_hits(maps, boxes, **self.settings).flatten(1))

    def terms(self, rows: Tensor) -> Tensor:
        """Return whether each threshold and overlap is reached."""
        return rows

    def of_mean(self, mean: Tensor) -> Tensor:
        """Return the accuracy at the best threshold of each overlap, averaged over overlaps."""
        best = mean.reshape(*mean.shape[:-1], -1, len(self.overlaps)).amax(-2)
        return 100 * best.mean(-1)

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's share of overlaps reached, at the best thresholds of all images."""
        return _at_best(
            rows.reshape(len(rows), self.width // len(self.overlaps), len(self.overlaps))
        )


@final
@metric(
    "sp",
    group="localisation",
    cite="zhang2018",
    annotations="boxes",
    direction="higher",
    best=100.0,
    worst=0.0,
)
class PointingGame(SaliencyMetric):
    """Standard pointing game: is the map's maximum on the object?

    Formula: SP = 100/N · Σ_i 1[argmax S in any box].

    Rewards: maps with their peak on the object; all else is free.

    Misleads: one pixel decides. With ties="any", a map with many maxima wins wherever the object
    is (Fake-CAM: 99.8; erratum O9); ties="expected" is fair to all.

    Undefined: never. A box outside the image is missed.

    Differs: a mean over images, not over classes. TorchRay and Zhang et al. allow 15 pixels:
    tolerance=15.

    Source: Zhang et al., IJCV 2018; Opti-CAM, Eq. B.6.
    """

    def __init__(self, ties: Ties = "any", tolerance: float | int = 0, **options: Any) -> None:
        """Choose what holds for several maxima, and a tolerance in pixels."""
        _check_tolerance(tolerance)
        self.ties, self.tolerance = ties, tolerance
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(pointing_game(maps, boxes, ties=self.ties, tolerance=self.tolerance))


@final
@metric(
    "ep",
    group="localisation",
    cite="wang2020",
    annotations="boxes",
    direction="higher",
    best=100.0,
    worst=0.0,
)
class EnergyPointingGame(SaliencyMetric):
    """Energy pointing game: how much of the map's mass is on the object.

    Formula: EP = 100/N · Σ_i Σ_U S / ΣS, U the union of the true boxes within the image.

    Rewards: maps without mass outside the boxes.

    Misleads: a single pixel in the box is perfect, and a map of ones scores the share of the image
    that the boxes take.

    Undefined: never. A map of zeros scores 0.

    Differs: the code behind Opti-CAM's table swaps the axes and lets negative coordinates wrap
    around, so that its whole column is wrong (Fake-CAM: 28.5 printed, 53.6 by the definition;
    erratum O6); published=True computes that, to compare. Score-CAM's protocol also takes only
    images with one box below half of the image.

    Source: Wang et al. (Score-CAM), CVPRW 2020; Opti-CAM, Appendix B.
    """

    def __init__(self, published: bool = False, **options: Any) -> None:
        """Choose the pixels that the `published` code takes, or the right ones."""
        self.published = published
        super().__init__(**options)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: S (N, H, W) in [0, 1], boxes (B, 4) of each."""
        self._record(energy_pointing_game(maps, boxes, published=self.published))


@final
@metric(
    "sm",
    group="localisation",
    cite="dabkowski2017",
    requires="crop_scores",
    direction="lower",
    unit="nats",
    best=_LOW,
)
class SaliencyCropMetric(SaliencyMetric):
    """Saliency metric: is the map's box small, and does its crop still say the class?

    Formula: SM = 1/N · Σ_i log max(0.05, |B_p| / HW) - log p_i, B_p the tight box of the largest
    4-connected component of S > mean(S), p the class probability of the crop of B_p, resized to
    the image's size.

    Rewards: small boxes of which the network is sure; log 0.05 = -3.0 is perfect.

    Misleads: only the box counts. A crop enlarges what is in it, which can raise or lower p for
    reasons that have nothing to do with the map, and one p near 0 outweighs many images.

    Undefined: where p is exactly 0.

    Source: Dabkowski and Gal, NeurIPS 2017; Opti-CAM, Eq. B.7.
    """

    def __init__(self, short: bool = False, **options: Any) -> None:
        """Choose the published box, a pixel `short` (erratum L11)."""
        self.short = short
        super().__init__(**options)

    def update(self, maps: Tensor, crop: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1], and the class probability p (N,) of the crops."""
        self._record(saliency_metric(maps, crop, short=self.short))


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.ascontiguousarray(values.detach().cpu().double().numpy())


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(like.device)


def _pixels(boxes: Sequence[Tensor], maps: Tensor) -> list[Integers]:
    return [one.trunc().numpy().astype(np.int64) for one in checked_boxes(boxes, maps)]


def _clipped(boxes: Integers, image: NDArray[Any]) -> Integers:
    """Return boxes (B, 4) without what is outside the image (H, W)."""
    height, width = image.shape
    return np.clip(boxes, 0, np.array([width, height, width, height]))


def _areas(boxes: NDArray[Any]) -> NDArray[Any]:
    width, height = (np.maximum(boxes[..., 2 + i] - boxes[..., i], 0) for i in (0, 1))
    return np.asarray(width * height)


def _inside(boxes: Integers, image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels (H, W) are in any of the boxes."""
    mask = np.zeros(image.shape, dtype=bool)
    for x0, y0, x1, y1 in _clipped(boxes, image):
        mask[y0:y1, x0:x1] = True
    return mask


def _published_region(boxes: Integers, image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels of erratum O6: axes swapped, negative numbers counted from the end."""
    mask = np.zeros(image.shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[x0:x1, y0:y1] = True
    return mask


def _ratio(above: ArrayLike, below: ArrayLike) -> NDArray[np.float64]:
    """Return above / below, and 0 where below is 0 (there, above is 0 too)."""
    low = np.asarray(below, dtype=np.float64)
    return np.asarray(np.where(low > 0, above / np.where(low > 0, low, 1), 0.0))


def _overlap(
    predicted: NDArray[Any], boxes: Integers, *, inclusive: bool = False
) -> NDArray[np.float64]:
    """Return the IoU (P, B) of boxes (P, 4) and boxes (B, 4), which may count both their ends."""
    ends = np.array([0, 0, 1, 1]) * inclusive
    one, other = (predicted + ends)[:, None], (boxes + ends)[None]
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    common = _areas(np.concatenate([low, high], -1))
    return _ratio(common, _areas(one) + _areas(other) - common)


def _found(
    maps: Tensor, boxes: Sequence[Tensor], *, continuous: bool, short: bool
) -> Float[Tensor, " n"]:
    overlap = box_iou(predicted_boxes(maps, short=short), boxes)
    return overlap if continuous else (overlap > OVERLAP).double()


def _distance(points: Integers, boxes: Integers) -> NDArray[np.float64]:
    """Return how far points (K, 2) are from the nearest pixel of the boxes, infinity if none."""
    boxes = boxes[_areas(boxes) > 0]
    before = boxes[:, :2] - points[:, None]
    after = points[:, None] - (boxes[:, 2:] - 1)
    gaps = np.maximum(np.maximum(before, after), 0)
    return np.asarray(np.hypot(gaps[..., 0], gaps[..., 1]).min(1, initial=np.inf))


def _thresholds(step: float | int) -> NDArray[np.float64]:
    return np.arange(0.0, 1.0, step)


def _best_overlap(
    levels: NDArray[np.uint8], boxes: Integers, thresholds: NDArray[np.float64], contours: Contours
) -> NDArray[np.float64]:
    """Return the best IoU (T,) of any contour of the map above each threshold with any box.

    Thresholds between the same two of the map's levels select the same pixels, and only one of
    them is computed.
    """
    height, width = levels.shape
    known = np.unique(levels)
    cuts = (thresholds * levels.max()).astype(np.int64)
    ranks, place = np.unique(np.searchsorted(known, cuts, side="right"), return_inverse=True)
    bounds = np.append(known.astype(np.int64), 256)[ranks]  # foreground: the level is at least this
    seen = boxes[(boxes[:, 2:] > 0).all(1)]
    truth = np.maximum(seen, 0)
    last = np.array([width, height, width, height]) - 1
    best = []
    for part in np.array_split(bounds, -(-len(bounds) * levels.size // _PIXELS)):
        frame, found = _contours(levels >= part[:, None, None], contours)
        overlap = _overlap(np.minimum(found, last), truth, inclusive=True).max(1, initial=0)
        best.append(np.zeros(len(part)))
        np.maximum.at(best[-1], frame, overlap)
    return np.concatenate(best)[place]


def _contours(masks: NDArray[np.bool_], contours: Contours) -> tuple[Integers, Integers]:
    """Return the masks (K,) and boxes (K, 4); a mask without contour has the box 0 0 0 0."""
    if contours == "largest":
        return np.arange(len(masks)), largest_contour_boxes(masks)
    frame, found = contour_boxes(masks)
    bare = np.setdiff1d(np.arange(len(masks)), frame)
    none = np.zeros((len(bare), 4), dtype=np.int64)
    return np.concatenate([frame, bare]), np.concatenate([found, none])


def _at_best(hits: Float[Tensor, "n t d"]) -> Float[Tensor, " n"]:
    """Return 100 · the mean over d of the hits at each d's best t of all n."""
    if len(hits) == 0:
        return hits.new_zeros(0)
    best = hits.mean(0).argmax(0)
    return 100 * hits[:, best, torch.arange(len(best), device=best.device)].mean(1)


def _check_accuracy(step: float | int, overlaps: tuple[float | int, ...]) -> None:
    if not 0 < step <= 1 or not overlaps or not all(0 < one <= 1 for one in overlaps):
        raise OptionError(
            f"A step of {step} and overlaps {overlaps} were given; accepted are a step and at "
            "least one overlap above 0 and at most 1."
        )


def _check_tolerance(tolerance: float | int) -> None:
    if tolerance < 0:
        raise OptionError(f"A tolerance of {tolerance} was given; give 0 or more pixels.")

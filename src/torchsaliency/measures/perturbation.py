"""How the class probability changes as pixels come and go in the order of the map.

All steps of all images are built by comparing ranks, chunk by chunk: no loop over pixels or steps,
and no more memory than a chunk of images takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.errors import OptionError
from torchsaliency.core.maps import checked_maps, wide
from torchsaliency.core.masking import ImageMinimum, Masking, MeanColour, RISEBlur
from torchsaliency.measures.imputation import imputed
from torchsaliency.measures.judge import Labels, class_labels, class_scores, judging

Order = Literal["insertion", "deletion"]
Placement = Literal["sliding", "grid"]


@final
@dataclass(frozen=True, eq=False)
class PerturbationCurve:
    """A curve of class probabilities an image.

    Attributes:
        order: "insertion" or "deletion".
        fractions: (S + 1,) shares of the pixels inserted or deleted, from 0 to 1.
        probabilities: (N, S + 1) class probabilities, in float64.
        labels: the class of each image.
        passes: images that went through the judge.
    """

    order: Order
    fractions: Tensor
    probabilities: Tensor
    labels: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {self.order: self.probabilities, "fractions": self.fractions}


def perturbation_curve(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    maps: Float[Tensor, "n H W"],
    target: Labels = None,
    *,
    order: Order = "insertion",
    step: int | None = None,
    masking: Masking | None = None,
    clean: Float[Tensor, "n k"] | None = None,
    budget: int | None = None,
    chunk: int = 32,
) -> PerturbationCurve:
    """Insert or delete pixels by descending saliency and record the class probability.

    Insertion goes from the baseline to the image, deletion from the image to the baseline. Equal
    values are taken row by row, from the top left (a stable order: RISE's own depends on numpy).

    Args:
        model: the judge.
        x: images (N, C, H, W), preprocessed for the judge.
        maps: (N, H, W) in [0, 1].
        target: classes; None for those predicted on the clean images, as in RISE.
        order: "insertion" or "deletion".
        step: pixels a step; None for W, that is H steps (224 of 224 pixels, as in RISE).
        masking: the baseline; by default RISE's blur for insertion and the mean colour for
            deletion. For pixel space give `RISEBlur(BlackPixel(…))` and `BlackPixel(…)`.
        clean: logits of the clean images if they are known; they then cost no pass.
        budget: most passes an image; the steps are then spread evenly over the curve.
        chunk: images in one pass.

    Raises:
        InputError: images or maps do not fit.
        OptionError: a step or budget out of range.
        TargetError: the target or the network's output does not fit.
    """
    if order not in get_args(Order):
        raise OptionError(f"The order {order!r} was given; choose insertion or deletion.")
    insert = order == "insertion"
    fill = masking or (RISEBlur() if insert else MeanColour())
    with judging(model, x, chunk=chunk) as judge:
        ranks = _ranks(checked_maps(judge.maps(maps)))
        size = judge.size[1] if step is None else step
        counts = _counts(ranks.shape[1], size, budget).to(ranks.device)
        before = judge.clean_logits(clean)
        labels = class_labels(target, before)
        # the clean image is one end of either curve, and is known
        open_steps = counts[:-1] if insert else counts[1:]

        def build(image: Tensor, place: Tensor) -> Tensor:
            taken = ranks[image] < open_steps[place, None]
            shown = (taken if insert else ~taken).view(-1, *judge.size)
            return fill(judge.images[image], shown.to(judge.images.dtype))

        found = class_scores(judge.variants(len(open_steps), build), labels).probability
        known = class_scores(before, labels).probability[:, None]
        return PerturbationCurve(
            order=order,
            fractions=counts.double() / ranks.shape[1],
            probabilities=torch.cat([found, known] if insert else [known, found], 1),
            labels=labels,
            passes=judge.passes,
        )


@final
@dataclass(frozen=True, eq=False)
class RegionCurve:
    """Class probabilities as regions are replaced, the most relevant first.

    Attributes:
        probabilities: (N, L + 1), the first of the clean image, in float64.
        corners: (N, L, 2), top and left of each region in pixels, perhaps outside the image.
        labels: the class of each image.
        passes: images that went through the judge.
    """

    probabilities: Tensor
    corners: Tensor
    labels: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"regions": self.probabilities}


def region_curve(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    maps: Float[Tensor, "n H W"],
    target: Labels = None,
    *,
    patch: int = 14,
    regions: int = 10,
    placement: Placement = "sliding",
    masking: Masking | None = None,
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int = 32,
) -> RegionCurve:
    """Replace the most relevant square regions one after another (AOPC's perturbation).

    Args:
        model: the judge.
        x: images (N, C, H, W), preprocessed for the judge.
        maps: (N, H, W) in [0, 1].
        target: classes; None for those predicted on the clean images.
        patch: side of a region in pixels.
        regions: how many are replaced.
        placement: "sliding": every position, also partly outside, the best first and none that
            overlaps an earlier one (Quantus before 0.6); "grid": aligned blocks (Quantus since).
        masking: the baseline; the image's smallest number by default, as in Quantus.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass.

    Raises:
        InputError: images or maps do not fit.
        OptionError: the regions do not fit into the image.
        TargetError: the target or the network's output does not fit.
    """
    if placement not in get_args(Placement):
        raise OptionError(f"The placement {placement!r} was given; choose sliding or grid.")
    fill = masking or ImageMinimum()
    with judging(model, x, chunk=chunk) as judge:
        saliency = checked_maps(judge.maps(maps))
        corners = _corners(saliency, patch, regions, placement)
        before = judge.clean_logits(clean)
        labels = class_labels(target, before)
        order = _region_ranks(corners, patch, judge.size)

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = order[image] > place[:, None, None]
            return fill(judge.images[image], shown.to(judge.images.dtype))

        found = class_scores(judge.variants(regions, build), labels).probability
        known = class_scores(before, labels).probability[:, None]
        curve = torch.cat([known, found], 1)
        return RegionCurve(curve, corners, labels, judge.passes)


@final
@dataclass(frozen=True, eq=False)
class RemovalCurves:
    """Class probabilities as shares of the pixels are removed and imputed (ROAD).

    Attributes:
        fractions: (Q,) shares removed, in (0, 1).
        most: (N, Q) with the most relevant pixels removed, in float64.
        least: (N, Q) with the least relevant removed.
        labels: the class of each image.
        passes: images that went through the judge.
    """

    fractions: Tensor
    most: Tensor
    least: Tensor
    labels: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"most": self.most, "least": self.least}


def removal_curves(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    maps: Float[Tensor, "n H W"],
    target: Labels = None,
    *,
    percentages: tuple[float | int, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
    noise: float | int = 0.01,
    seed: int = 0,
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int = 32,
) -> RemovalCurves:
    """Remove the most, and the least, relevant pixels and fill in by noisy linear imputation.

    Each removed pixel becomes the weighted mean of its eight neighbours (1/6 beside, 1/12 across),
    solved for all removed pixels together, plus Gaussian noise: so that the mask itself tells the
    network nothing.

    Args:
        model: the judge.
        x: images (N, C, H, W), preprocessed for the judge.
        maps: (N, H, W) in [0, 1].
        target: classes; None for those predicted on the clean images.
        percentages: of the pixels that are removed, each in (0, 100).
        noise: standard deviation of the noise, in the images' units.
        seed: of the noise, the same for every image.
        clean: logits of the clean images if they are known; used for the classes alone.
        chunk: images in one pass.

    Raises:
        InputError: images or maps do not fit.
        OptionError: a percentage out of range.
        TargetError: the target or the network's output does not fit.
    """
    if not percentages or not all(0 < one < 100 for one in percentages):  # noqa: PLR2004
        raise OptionError(f"Percentages must lie between 0 and 100, and {percentages} were given.")
    with judging(model, x, chunk=chunk) as judge:
        ranks = _ranks(checked_maps(judge.maps(maps)))
        pixels = ranks.shape[1]
        fractions = torch.tensor(percentages, dtype=torch.float64) / 100
        counts = (fractions * pixels).round().long().to(ranks.device)
        labels = class_labels(target, judge.clean_logits(clean))
        each = 2 * len(counts)
        draw = torch.Generator().manual_seed(seed)
        shape = (each, *judge.images.shape[1:])
        speckle = float(noise) * torch.randn(shape, generator=draw)

        def build(image: Tensor, place: Tensor) -> Tensor:
            most, count = place < len(counts), counts[place % len(counts)]
            rank = torch.where(most[:, None], ranks[image], pixels - 1 - ranks[image])
            removed = (rank < count[:, None]).view(-1, *judge.size)
            filled = imputed(wide(judge.images[image]), removed)
            grain = speckle[place.cpu()].to(filled.device) * removed[:, None]
            return filled + grain

        found = class_scores(judge.variants(each, build), labels).probability
        most, least = found.unflatten(1, (2, -1)).unbind(1)
        return RemovalCurves(fractions, most, least, labels, judge.passes)


@final
@dataclass(frozen=True, eq=False)
class SquareRemovals:
    """How much the score drops when squares of the image are replaced (infidelity).

    Attributes:
        squares: (S, 4), x0 y0 x1 y1 in pixels, the same for every image.
        drops: (N, S) score of the image minus that without the square, in float64.
        labels: the class of each image.
        passes: images that went through the judge.
    """

    squares: Tensor
    drops: Tensor
    labels: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"squares": self.squares, "drops": self.drops}


def square_removals(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    target: Labels = None,
    *,
    samples: int = 100,
    side: float | int = 0.15,
    masking: Masking | None = None,
    seed: int = 0,
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int = 32,
) -> SquareRemovals:
    """Replace random squares one at a time and record how much the class logit drops.

    Args:
        model: the judge.
        x: images (N, C, H, W), preprocessed for the judge.
        target: classes; None for those predicted on the clean images.
        samples: how many squares.
        side: of a square, as a share of the image's shorter side, in (0, 1].
        masking: the baseline; mean colour by default.
        seed: of the positions, the same for every image.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass.

    Raises:
        InputError: the images do not fit.
        OptionError: no samples, or a side out of range.
        TargetError: the target or the network's output does not fit.
    """
    if samples < 1 or not 0 < side <= 1:
        raise OptionError(
            f"{samples} squares with a side of {side} were given; accepted are at least one, and a "
            "side in (0, 1]."
        )
    fill = masking or MeanColour()
    with judging(model, x, chunk=chunk) as judge:
        height, width = judge.size
        edge = max(1, round(side * min(height, width)))
        draw = torch.Generator().manual_seed(seed)
        left = torch.randint(width - edge + 1, (samples,), generator=draw)
        top = torch.randint(height - edge + 1, (samples,), generator=draw)
        squares = torch.stack([left, top, left + edge, top + edge], 1)
        before = judge.clean_logits(clean)
        labels = class_labels(target, before)
        inside = _inside(squares.to(judge.images.device), judge.size)

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = ~inside(place)
            return fill(judge.images[image], shown.to(judge.images.dtype))

        after = class_scores(judge.variants(samples, build), labels).logit
        known = class_scores(before, labels).logit[:, None]
        return SquareRemovals(squares, known - after, labels, judge.passes)


def _ranks(maps: Tensor) -> Int[Tensor, "n p"]:
    """Return the place of every pixel in descending order of the map, ties in reading order."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _counts(pixels: int, step: int, budget: int | None) -> Int[Tensor, " s"]:
    """Return how many pixels are taken at each point of the curve, from 0 to all."""
    if step < 1:
        raise OptionError(f"A step must be at least one pixel, and {step} was given.")
    steps = math.ceil(pixels / step)
    counts = torch.arange(steps + 1).mul(step).clamp_max(pixels)
    if budget is None or budget >= steps:
        return counts
    if budget < 1:
        raise OptionError(f"The budget must be at least one pass, and {budget} was given.")
    places = torch.linspace(0, steps, budget + 1, dtype=torch.float64).round().long()
    return counts[places]


def _corners(
    saliency: Tensor, patch: int, regions: int, placement: Placement
) -> Int[Tensor, "n l 2"]:
    """Return top and left of the regions by descending sum of the map, none over another."""
    height, width = saliency.shape[1:]
    if patch < 1 or regions < 1 or patch > min(height, width):
        raise OptionError(
            f"{regions} regions of {patch} pixels were given for maps of {height}x{width}."
        )
    pad, stride = (patch - 1, 1) if placement == "sliding" else (0, patch)
    # sums in float64: float32 would order equal regions by their rounding
    room = F.pad(saliency[:, None].double(), (pad, pad, pad, pad))
    scores = F.avg_pool2d(room, patch, stride)[:, 0].clone()
    rows, columns = scores.shape[1:]
    reach = patch - 1 if placement == "sliding" else 0
    found = []
    for _ in range(regions):
        best, place = scores.flatten(1).max(1)
        if bool(best.isneginf().any()):
            raise OptionError(
                f"{regions} regions of {patch} pixels do not fit into {height}x{width} without "
                "overlap; give fewer or smaller ones."
            )
        row, column = place // columns, place % columns
        found.append(torch.stack([row * stride - pad, column * stride - pad], 1))
        near_row = (torch.arange(rows, device=row.device) - row[:, None]).abs() <= reach
        near_column = (torch.arange(columns, device=row.device) - column[:, None]).abs() <= reach
        scores.masked_fill_(near_row[:, :, None] & near_column[:, None, :], -torch.inf)
    return torch.stack(found, 1)


def _region_ranks(corners: Tensor, patch: int, size: tuple[int, int]) -> Int[Tensor, "n h w"]:
    """Return for every pixel the number of its region, and as many as there are outside all."""
    ys = torch.arange(size[0], device=corners.device)
    xs = torch.arange(size[1], device=corners.device)
    count = corners.shape[1]
    ranks = torch.full((len(corners), *size), count, device=corners.device)
    for number in range(count):
        top, left = corners[:, number, :1], corners[:, number, 1:]
        in_rows = (ys >= top) & (ys < top + patch)
        in_columns = (xs >= left) & (xs < left + patch)
        ranks.masked_fill_(in_rows[:, :, None] & in_columns[:, None, :], number)
    return ranks


def _inside(squares: Tensor, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return a function from indices (m,) of squares to their masks (m, H, W)."""
    ys = torch.arange(size[0], device=squares.device)
    xs = torch.arange(size[1], device=squares.device)

    def masks(index: Tensor) -> Tensor:
        left, top, right, bottom = squares[index, :, None].unbind(1)
        rows, columns = (ys >= top) & (ys < bottom), (xs >= left) & (xs < right)
        both: Tensor = rows[:, :, None] & columns[:, None, :]
        return both

    return masks

"""How the class probability changes as pixels come and go in the order of the map.

All steps of all images are built by comparing ranks, chunk by chunk: no loop over pixels or steps,
and no more memory than a chunk of images takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import require_maps, to_float64, upcast
from torchsaliency.core.masking import Masking, MeanColour, RISEBlur
from torchsaliency.core.runtime import draw_normal
from torchsaliency.core.scores import By
from torchsaliency.core.space import Size
from torchsaliency.errors import OptionError
from torchsaliency.measures.imputation import impute_neighbours
from torchsaliency.measures.judge import Labels, judging
from torchsaliency.measures.refinement import Refinement, read_curves

Order = Literal["insertion", "deletion"]


@final
@dataclass(frozen=True, eq=False)
class PerturbationCurve:
    """A curve of class probabilities an image.

    Attributes:
        order: "insertion" or "deletion".
        fractions: (S + 1,) shares of the pixels inserted or deleted, from 0 to 1.
        probabilities: (N, S + 1) class probabilities, or what else is read, in float64.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
        clean: (N, K) logits of the clean images, for the `clean` of the next measure; None for a
            target that is no class.
        refinement: how far each curve was evaluated; None if all of it was.
    """

    order: Order
    fractions: Tensor
    probabilities: Tensor
    labels: Tensor | None
    passes: int
    clean: Tensor | None
    refinement: Refinement | None = None

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        known = {self.order: self.probabilities, "fractions": self.fractions}
        return known if self.refinement is None else {**known, **self.refinement.inputs()}


def perturbation_curve(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    target: Labels = None,
    *,
    order: Order = "insertion",
    step: int | None = None,
    masking: Masking | None = None,
    by: By = "probability",
    clean: Float[Tensor, "n k"] | None = None,
    budget: int | None = None,
    error: float | int | None = None,
    chunk: int | None = None,
) -> PerturbationCurve:
    """Insert or delete pixels by descending saliency and record the class probability.

    Insertion goes from the baseline to the image, deletion from the image to the baseline. Equal
    values are taken row by row, from the top left (a stable order: RISE's own depends on numpy).

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        target: classes; None for those predicted on the clean images, as in RISE. Another target
            (a `Box` of a detector, an explanation's `target`, a callable) gives its own score in
            place of the class probability; that of one box is in [0, 1].
        order: "insertion" or "deletion".
        step: pixels a step; None for W, that is H steps (224 of 224 pixels, as in RISE); for D·W in
            a volume or a video, that is H steps, too; for one in a signal.
        masking: the baseline; by default RISE's blur for insertion and the mean colour for
            deletion. For pixel space give `RISEBlur(BlackPixel(…))` and `BlackPixel(…)`.
        by: what is read of a class: "probability", "logit", or what the "target" itself says.
        clean: logits of the clean images if they are known; they then cost no pass.
        budget: most passes an image; the steps are then spread evenly over the curve.
        error: what 100 times the area under each curve may be wrong by, see `refine_curves`; the
            curve is straight between the steps that this takes. None or 0: all steps.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images or maps do not fit.
        OptionError: a step, budget or error out of range.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> perturbation_curve(net, x, maps, step=1024).probabilities.shape
        torch.Size([2, 5])
    """
    if order not in get_args(Order):
        raise OptionError(f"The order {order!r} was given; choose insertion or deletion.")
    insert = order == "insertion"
    fill = masking or (RISEBlur() if insert else MeanColour())
    with judging(model, x, chunk=chunk) as judge:
        ranks = saliency_ranks(require_maps(judge.maps(maps)))
        size = _row(judge.size) if step is None else step
        counts = _counts(ranks.shape[1], size, budget).to(ranks.device)
        # the clean image is one end of either curve, and is known
        open_steps = counts[:-1] if insert else counts[1:]
        masked = fill.over(judge.images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            taken = ranks[image] < open_steps[place, None]
            shown = (taken if insert else ~taken).view(-1, *judge.size)
            return masked(shown.to(judge.images.dtype), image)

        read = judge.read_clean(target, clean, by)
        fractions = to_float64(counts) / ranks.shape[1]
        curves, refinement = read_curves(read, build, fractions, error, clean_first=not insert)
        return PerturbationCurve(
            order=order,
            fractions=fractions,
            probabilities=curves,
            labels=read.labels,
            passes=judge.passes,
            clean=read.logits,
            refinement=refinement,
        )


@final
@dataclass(frozen=True, eq=False)
class RemovalCurves:
    """Class probabilities as shares of the pixels are removed and imputed (ROAD).

    Attributes:
        fractions: (Q,) shares removed, in (0, 1).
        most: (N, Q) with the most relevant pixels removed, in float64.
        least: (N, Q) with the least relevant removed.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
    """

    fractions: Tensor
    most: Tensor
    least: Tensor
    labels: Tensor | None
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"most": self.most, "least": self.least}


def removal_curves(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    target: Labels = None,
    *,
    percentages: tuple[float | int, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
    noise: float | int = 0.01,
    seed: int = 0,
    by: By = "probability",
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> RemovalCurves:
    """Remove the most, and the least, relevant pixels and fill in by noisy linear imputation.

    Each removed pixel becomes the weighted mean of its eight neighbours (1/6 beside, 1/12 across;
    of 26 in a volume), solved for all removed pixels together, plus Gaussian noise: so that the
    mask itself tells the network nothing.

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        percentages: of the pixels that are removed, each in (0, 100).
        noise: standard deviation of the noise, in the images' units.
        seed: of the noise, the same for every image.
        by: what is read of a class: "probability", "logit", or what the "target" itself says.
        clean: logits of the clean images if they are known; used for the classes alone.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images or maps do not fit.
        OptionError: a percentage out of range.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> removal_curves(net, x, maps, percentages=(20, 50)).most.shape
        torch.Size([2, 2])
    """
    if not percentages or not all(0 < one < 100 for one in percentages):  # noqa: PLR2004
        raise OptionError(f"Percentages must lie between 0 and 100, and {percentages} were given.")
    with judging(model, x, chunk=chunk) as judge:
        ranks = saliency_ranks(require_maps(judge.maps(maps)))
        pixels = ranks.shape[1]
        fractions = torch.tensor(percentages, dtype=torch.float64, device="cpu") / 100
        counts = (fractions * pixels).round().long().to(ranks.device)
        read = judge.read_clean(target, clean, by)
        each = 2 * len(counts)
        draw = torch.Generator().manual_seed(seed)
        shape = (each, *judge.images.shape[1:])
        speckle = float(noise) * draw_normal(draw, *shape)

        def build(image: Tensor, place: Tensor) -> Tensor:
            most, count = place < len(counts), counts[place % len(counts)]
            rank = torch.where(most[:, None], ranks[image], pixels - 1 - ranks[image])
            removed = (rank < count[:, None]).view(-1, *judge.size)
            filled = impute_neighbours(upcast(judge.images[image]), removed)
            grain = speckle[place.cpu()].to(filled.device) * removed[:, None]
            return filled + grain

        most, least = read.variants(each, build).unflatten(1, (2, -1)).unbind(1)
        return RemovalCurves(fractions, most, least, read.labels, judge.passes)


def saliency_ranks(maps: Tensor) -> Int[Tensor, "n p"]:
    """Return the place of every pixel in descending order of the map, ties in reading order."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _row(size: Size) -> int:
    """Return how many pixels a step takes, so that a curve has as many steps as there are rows."""
    return math.prod(size) // size[-2] if len(size) > 1 else 1


def _counts(pixels: int, step: int, budget: int | None) -> Int[Tensor, " s"]:
    """Return how many pixels are taken at each point of the curve, from 0 to all."""
    if step < 1:
        raise OptionError(f"A step must be at least one pixel, and {step} was given.")
    steps = math.ceil(pixels / step)
    counts = torch.arange(steps + 1, device="cpu").mul(step).clamp_max(pixels)
    if budget is None or budget >= steps:
        return counts
    if budget < 1:
        raise OptionError(f"The budget must be at least one pass, and {budget} was given.")
    places = torch.linspace(0, steps, budget + 1, dtype=torch.float64, device="cpu").round().long()
    return counts[places]

"""How the score changes as square regions are replaced: by the map's order, or at random.

All steps of all images are built by comparing ranks, chunk by chunk: no more memory than a chunk of
images takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import require_maps, to_float64
from torchsaliency.core.masking import ImageMinimum, Masking, MeanColour
from torchsaliency.core.scores import By
from torchsaliency.core.space import AVERAGE, Size, add_sides, describe_size, window_of
from torchsaliency.errors import OptionError
from torchsaliency.measures.judge import Labels, judging
from torchsaliency.measures.refinement import Refinement, read_curves

Placement = Literal["sliding", "grid"]
Relevance = Literal["most", "least"]


@final
@dataclass(frozen=True, eq=False)
class RegionCurve:
    """Class probabilities as regions are replaced, the most relevant first.

    Attributes:
        probabilities: (N, L + 1), the first of the clean image, in float64.
        corners: (N, L, 2), top and left of each region in pixels, perhaps outside the image; (N, L,
            3) in a volume, front, top and left.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
        refinement: how far each curve was evaluated; None if all of it was.
    """

    probabilities: Tensor
    corners: Tensor
    labels: Tensor | None
    passes: int
    refinement: Refinement | None = None

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        known = {"regions": self.probabilities}
        return known if self.refinement is None else {**known, **self.refinement.inputs()}


def region_curve(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    target: Labels = None,
    *,
    patch: int = 14,
    regions: int | None = 10,
    placement: Placement = "sliding",
    order: Relevance = "most",
    masking: Masking | None = None,
    by: By = "probability",
    clean: Float[Tensor, "n k"] | None = None,
    error: float | int | None = None,
    chunk: int | None = None,
) -> RegionCurve:
    """Replace square regions one after another, the most relevant first (AOPC's perturbation).

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        patch: side of a region in pixels; a cube in a volume or a video.
        regions: how many are replaced; None for all blocks of the grid.
        placement: "sliding": every position, also partly outside, the best first and none that
            overlaps an earlier one (Quantus before 0.6); "grid": aligned blocks (Quantus since).
        order: whether the "most" or the "least" relevant regions are replaced first.
        masking: the baseline; the image's smallest number by default, as in Quantus.
        by: what is read of a class: "probability", "logit", or what the "target" itself says.
        clean: logits of the clean images if they are known; they then cost no pass.
        error: what 100 times the mean of each curve may be wrong by, see `refine_curves`; the curve
            is straight between the regions that this takes. None or 0: all regions.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images or maps do not fit.
        OptionError: the regions do not fit into the image, or an error out of range.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> region_curve(net, x, maps, patch=8, regions=4).probabilities.shape
        torch.Size([2, 5])
    """
    if placement not in get_args(Placement):
        raise OptionError(f"The placement {placement!r} was given; choose sliding or grid.")
    if order not in get_args(Relevance):
        raise OptionError(f"The order {order!r} was given; choose most or least.")
    if placement == "sliding" and (regions is None or order == "least"):
        # the least relevant positions would be those that hardly touch the image
        raise OptionError(
            f"regions={regions} and order={order!r} were given for sliding regions; all regions, "
            'or the least relevant first, need placement="grid".'
        )
    fill = masking or ImageMinimum()
    with judging(model, x, chunk=chunk) as judge:
        saliency = require_maps(judge.maps(maps))
        if regions is None:
            regions = math.prod(side // patch for side in judge.size)
        signed = saliency if order == "most" else -saliency
        corners = _corners(signed, patch, regions, placement)
        read = judge.read_clean(target, clean, by)
        ranks = _region_ranks(corners, patch, judge.size)
        masked = fill.over(judge.images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = ranks[image] > add_sides(place, ranks)
            return masked(shown.to(judge.images.dtype), image)

        shares = torch.linspace(0, 1, regions + 1, dtype=torch.float64, device="cpu")
        curve, refinement = read_curves(read, build, shares, error)
        return RegionCurve(curve, corners, read.labels, judge.passes, refinement)


@final
@dataclass(frozen=True, eq=False)
class SquareRemovals:
    """How much the score drops when squares of the image are replaced (infidelity).

    Attributes:
        squares: (S, 4), x0 y0 x1 y1 in pixels, the same for every image; in a volume or a video
            (S, 6), x0 y0 z0 x1 y1 z1.
        drops: (N, S) score of the image minus that without the square, in float64.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
    """

    squares: Tensor
    drops: Tensor
    labels: Tensor | None
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"squares": self.squares, "drops": self.drops}


def square_removals(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    target: Labels = None,
    *,
    samples: int = 100,
    side: float | int = 0.15,
    masking: Masking | None = None,
    seed: int = 0,
    by: By = "logit",
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> SquareRemovals:
    """Replace random squares one at a time and record how much the score drops.

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        samples: how many squares.
        side: of a square, as a share of the image's shorter side, in (0, 1]; in a volume, a video
            or a signal, of a box, as a share of each side.
        masking: the baseline; mean colour by default.
        seed: of the positions, the same for every image.
        by: what is read of a class: "logit", "probability", or what the "target" itself says.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: the images do not fit.
        OptionError: no samples, or a side out of range.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> square_removals(net, x, samples=5).drops.shape
        torch.Size([2, 5])
    """
    if samples < 1 or not 0 < side <= 1:
        raise OptionError(
            f"{samples} squares with a side of {side} were given; accepted are at least one, and a "
            "side in (0, 1]."
        )
    fill = masking or MeanColour()
    with judging(model, x, chunk=chunk) as judge:
        draw = torch.Generator().manual_seed(seed)
        edges = window_of(side, judge.size)
        pairs = [*zip(judge.size, edges, strict=True)][::-1]
        starts = torch.stack(
            [
                torch.randint(length - edge + 1, (samples,), generator=draw, device="cpu")
                for length, edge in pairs
            ],
            1,
        )
        squares = torch.cat([starts, starts + torch.tensor(edges[::-1], device="cpu")], 1)
        read = judge.read_clean(target, clean, by)
        inside = _inside(squares.to(judge.images.device), judge.size)
        masked = fill.over(judge.images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = ~inside(place)
            return masked(shown.to(judge.images.dtype), image)

        drops = read.clean[:, None] - read.variants(samples, build)
        return SquareRemovals(squares, drops, read.labels, judge.passes)


def _corners(
    saliency: Tensor, patch: int, regions: int, placement: Placement
) -> Int[Tensor, "n l sides"]:
    """Return top and left of the regions by descending sum of the map, none over another."""
    size = tuple(saliency.shape[1:])
    if patch < 1 or regions < 1 or patch > min(size):
        raise OptionError(
            f"{regions} regions of {patch} pixels were given for maps of {describe_size(size)}."
        )
    pad, stride = (patch - 1, 1) if placement == "sliding" else (0, patch)
    # sums in float64: float32 would order equal regions by their rounding
    room = F.pad(to_float64(saliency[:, None]), (pad, pad) * len(size))
    scores = AVERAGE[len(size)](room, patch, stride)[:, 0].clone()
    reach = patch - 1 if placement == "sliding" else 0
    if placement == "grid" and regions <= scores[0].numel():  # blocks never overlap
        places = scores.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :regions]
        blocks = torch.stack(torch.unravel_index(places, scores.shape[1:]), 2)
        return (blocks * stride).to(saliency.device)
    found = []
    for _ in range(regions):
        best, place = scores.flatten(1).max(1)
        if bool(best.isneginf().any()):
            raise OptionError(
                f"{regions} regions of {patch} pixels do not fit into {describe_size(size)} "
                "without overlap; give fewer or smaller ones."
            )
        corner = torch.stack(torch.unravel_index(place, scores.shape[1:]), 1)
        found.append(corner * stride - pad)
        scores.masked_fill_(
            _between(corner - reach, corner + reach + 1, tuple(scores.shape[1:])), -torch.inf
        )
    return torch.stack(found, 1).to(saliency.device)


def _region_ranks(corners: Tensor, patch: int, size: Size) -> Int[Tensor, " n *size"]:
    """Return for every pixel the number of its region, and as many as there are outside all."""
    count = corners.shape[1]
    ranks = torch.full((len(corners), *size), count, device=corners.device)
    for number in range(count):
        start = corners[:, number]
        ranks.masked_fill_(_between(start, start + patch, size), number)
    return ranks


def _inside(squares: Tensor, size: Size) -> Callable[[Tensor], Tensor]:
    """Return a function from indices (m,) of squares to their masks (m, *size)."""
    low, high = (ends.flip(1) for ends in squares.chunk(2, 1))
    return lambda index: _between(low[index], high[index], size)


def _between(low: Tensor, high: Tensor, size: Size) -> Bool[Tensor, " m *size"]:
    """Return which pixels lie in boxes from `low` to `high`, (m, sides), the ends exclusive."""
    found = torch.ones((len(low), *[1] * len(size)), dtype=torch.bool, device=low.device)
    for place, side in enumerate(size):
        line = torch.arange(side, device=low.device)
        inside = (line >= low[:, place, None]) & (line < high[:, place, None])
        found = found & inside.view(-1, *[side if at == place else 1 for at in range(len(size))])
    return found

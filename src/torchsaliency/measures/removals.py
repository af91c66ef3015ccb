"""How the score changes as groups of pixels are replaced alone: by the map's order, or at random.

Groups are built by comparing ranks, chunk by chunk: no loop over pixels or groups, and no more
memory than a chunk of images takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import require_maps, to_float64
from torchsaliency.core.masking import Masking, MeanColour
from torchsaliency.core.runtime import draw_uniform
from torchsaliency.core.scores import By
from torchsaliency.core.space import add_sides, sides_of
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures.judge import Labels, judging
from torchsaliency.measures.perturbation import saliency_ranks


@final
@dataclass(frozen=True, eq=False)
class GroupRemovals:
    """What groups of pixels weigh in the map, and how much the score drops without each alone.

    Attributes:
        sums: (N, G) the map's sum over each group, the most salient group first, in float64.
        drops: (N, G) score of the image minus that without the group, in float64.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
    """

    sums: Tensor
    drops: Tensor
    labels: Tensor | None
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"group_sums": self.sums, "group_drops": self.drops}


def group_removals(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    target: Labels = None,
    *,
    groups: int = 10,
    masking: Masking | None = None,
    by: By = "probability",
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> GroupRemovals:
    """Replace each of some equal groups of pixels alone, grouped by descending saliency.

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        groups: how many; their sizes differ by one pixel at most.
        masking: the baseline; mean colour by default.
        by: what is read of a class: "probability", "logit", or what the "target" itself says.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images or maps do not fit.
        OptionError: more groups than pixels, or fewer than two.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> group_removals(net, x, maps, groups=4).drops.shape
        torch.Size([2, 4])
    """
    with judging(model, x, chunk=chunk) as judge:
        saliency = require_maps(judge.maps(maps))
        group = _groups(saliency, groups)
        read = judge.read_clean(target, clean, by)
        masked = (masking or MeanColour()).over(judge.images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = group[image] != add_sides(place, group)
            return masked(shown.to(judge.images.dtype), image)

        drops = read.clean[:, None] - read.variants(groups, build)
        return GroupRemovals(_group_sums(saliency, group, groups), drops, read.labels, judge.passes)


@final
@dataclass(frozen=True, eq=False)
class GroupResamplings:
    """What groups of pixels weigh in the map, and how far the score moves as each is random.

    Attributes:
        sums: (N, G) the map's sum over each group, the most salient group first, in float64.
        changes: (N, G) mean squared change of the score, in float64.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
    """

    sums: Tensor
    changes: Tensor
    labels: Tensor | None
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"group_sums": self.sums, "group_changes": self.changes}


def group_resamplings(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    target: Labels = None,
    *,
    groups: int = 10,
    samples: int = 10,
    seed: int = 0,
    by: By = "probability",
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> GroupResamplings:
    """Give each of some equal groups of pixels random colours, one group at a time.

    A sample gives all pixels of the group one colour, uniform between the image's smallest and
    largest number of each channel; the draws are the same for every image and group, so that groups
    are compared under the same noise.

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        groups: how many; their sizes differ by one pixel at most.
        samples: colours a group is given.
        seed: of the colours.
        by: what is read of a class: "probability", "logit", or what the "target" itself says.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images or maps do not fit.
        OptionError: no samples, more groups than pixels, or fewer than two.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> group_resamplings(net, x, maps, groups=4, samples=2).changes.shape
        torch.Size([2, 4])
    """
    if samples < 1:
        raise OptionError(f"{samples} samples were given; give at least one colour a group.")
    with judging(model, x, chunk=chunk) as judge:
        saliency, images = require_maps(judge.maps(maps)), judge.images
        group = _groups(saliency, groups)
        read = judge.read_clean(target, clean, by)
        sides = sides_of(images)
        low, high = images.amin(sides, keepdim=True), images.amax(sides, keepdim=True)
        drawn = draw_uniform(torch.Generator().manual_seed(seed), samples, images.shape[1])
        colours = add_sides(drawn.to(images), images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            hidden = group[image] == add_sides(place // samples, group)
            colour = torch.lerp(low[image], high[image], colours[place % samples])
            return torch.where(hidden[:, None], colour, images[image])

        found = read.variants(groups * samples, build).unflatten(1, (groups, samples))
        changes = (found - read.clean[:, None, None]).square().mean(2)
        sums = _group_sums(saliency, group, groups)
        return GroupResamplings(sums, changes, read.labels, judge.passes)


@final
@dataclass(frozen=True, eq=False)
class SubsetRemovals:
    """What random subsets of the pixels weigh in the map, and how much the score drops without.

    Attributes:
        shares: (Q,) of the pixels in a subset.
        sums: (N, Q, S) the map's sum over each subset, in float64.
        drops: (N, Q, S) score of the image minus that without the subset, in float64.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
    """

    shares: Tensor
    sums: Tensor
    drops: Tensor
    labels: Tensor | None
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"subset_sums": self.sums, "subset_drops": self.drops}


def subset_removals(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    target: Labels = None,
    *,
    shares: tuple[float | int, ...] = (0.01, 0.03, 0.1, 0.3, 0.8),
    samples: int = 50,
    masking: Masking | None = None,
    seed: int = 0,
    by: By = "probability",
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> SubsetRemovals:
    """Replace random subsets of the pixels, each alone; the same subsets in every image.

    A sample is one random order of the pixels, and its subsets are the beginnings of that order: a
    subset does not depend on which other shares are asked for.

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        shares: of the pixels in a subset, each in (0, 1); at least one pixel is taken.
        samples: subsets of each share.
        masking: the baseline; mean colour by default.
        seed: of the subsets.
        by: what is read of a class: "probability", "logit", or what the "target" itself says.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images or maps do not fit.
        OptionError: fewer than two samples, or a share out of range.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> subset_removals(net, x, maps, shares=(0.1,), samples=4).drops.shape
        torch.Size([2, 1, 4])
    """
    if samples < 2 or not shares or not all(0 < share < 1 for share in shares):  # noqa: PLR2004
        raise OptionError(
            f"{samples} samples of the shares {shares} were given; accepted are at least two "
            "samples, and shares between 0 and 1."
        )
    with judging(model, x, chunk=chunk) as judge:
        saliency = to_float64(require_maps(judge.maps(maps))).flatten(1)
        pixels = saliency.shape[1]
        counts = [max(1, round(share * pixels)) for share in shares]
        draw = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(pixels, generator=draw, device="cpu") for _ in range(samples)]
        places = torch.arange(pixels, device="cpu")
        ranks = torch.stack([torch.empty_like(one).scatter_(0, one, places) for one in orders])
        ranks = ranks.to(saliency.device)
        read = judge.read_clean(target, clean, by)
        masked = (masking or MeanColour()).over(judge.images)
        least = torch.tensor(counts, device=ranks.device)

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = ranks[place % samples] >= least[place // samples, None]
            return masked(shown.view(-1, *judge.size).to(judge.images.dtype), image)

        after = read.variants(len(counts) * samples, build).unflatten(1, (len(counts), samples))
        sums = torch.stack([saliency @ (ranks < count).to(saliency).mT for count in counts], 1)
        return SubsetRemovals(
            shares=torch.tensor(shares, dtype=torch.float64, device="cpu"),
            sums=sums.to(after.device),
            drops=read.clean[:, None, None] - after,
            labels=read.labels,
            passes=judge.passes,
        )


@final
@dataclass(frozen=True, eq=False)
class SegmentCurve:
    """Scores as segments are replaced one after another, the most salient first (IROF).

    Attributes:
        scores: (N, M + 1), the first of the clean image, in float64; NaN after an image's last
            segment, if others have more.
        labels: the class of each image; None for a target that is no class.
        passes: images that went through the judge.
    """

    scores: Tensor
    labels: Tensor | None
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"segments": self.scores}


def segment_curve(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    x: InputsLike,
    maps: Float[Tensor, " n *size"],
    segments: Int[Tensor, " n *size"],
    target: Labels = None,
    *,
    masking: Masking | None = None,
    by: By = "probability",
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> SegmentCurve:
    """Replace segments one after another, the one with the largest mean of the map first.

    Args:
        model: the judge.
        x: images (N, C, *size), preprocessed for the judge.
        maps: (N, *size) in [0, 1].
        segments: (N, *size) the segment of every pixel, 0 … M_i - 1, each of them used:
            superpixels, or any other parts.
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        masking: the baseline; mean colour by default.
        by: what is read of a class: "probability", "logit", or what the "target" itself says.
        clean: logits of the clean images if they are known; they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: images, maps or segments do not fit.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> halves = (torch.arange(64) >= 32).long().expand(2, 64, 64)
        >>> segment_curve(net, x, maps, halves).scores.shape
        torch.Size([2, 3])
    """
    with judging(model, x, chunk=chunk) as judge:
        saliency = require_maps(judge.maps(maps))
        parts = judge.maps(segments).flatten(1).long()
        most = int(parts.max()) + 1
        sizes = _sum_by(torch.ones_like(parts), parts.clamp_min(0), most)
        if int(parts.min()) < 0 or bool((sizes.diff(dim=1).gt(0) & sizes[:, :-1].eq(0)).any()):
            raise InputError(
                "Segments must be numbered 0, 1, 2, … in every image, each number used; number "
                "them with torch.unique(…, return_inverse=True)."
            )
        sums = _sum_by(to_float64(saliency).flatten(1), parts, most)
        means = torch.where(sizes > 0, sums / sizes.clamp_min(1), -torch.inf)
        ranks = saliency_ranks(means).gather(1, parts).view_as(saliency)
        read = judge.read_clean(target, clean, by)
        masked = (masking or MeanColour()).over(judge.images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            shown = ranks[image] > add_sides(place, ranks)
            return masked(shown.to(judge.images.dtype), image)

        curve = torch.cat([read.clean[:, None], read.variants(most, build)], 1)
        places = torch.arange(most + 1, device=curve.device)
        beyond = places > (sizes > 0).sum(1, keepdim=True).to(curve.device)
        return SegmentCurve(curve.masked_fill(beyond, torch.nan), read.labels, judge.passes)


def _groups(saliency: Tensor, groups: int) -> Int[Tensor, " n *size"]:
    """Return the group of every pixel, 0 the most salient."""
    pixels = math.prod(saliency.shape[1:])
    if not 2 <= groups <= pixels:  # noqa: PLR2004
        raise OptionError(
            f"{groups} groups were given for maps of {pixels} pixels; give at least two, and no "
            "more than there are pixels."
        )
    return (saliency_ranks(saliency) * groups // pixels).view_as(saliency)


def _group_sums(saliency: Tensor, group: Tensor, groups: int) -> Float[Tensor, "n g"]:
    return _sum_by(to_float64(saliency).flatten(1), group.flatten(1), groups)


def _sum_by(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Return the sums (N, count) of values (N, P) that share an index."""
    return values.new_zeros(len(values), count).scatter_add_(1, index, values)

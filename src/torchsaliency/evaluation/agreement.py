"""Where methods agree, pixel by pixel, and where they contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.errors import InputError


@final
@dataclass(frozen=True, eq=False)
class Consensus:
    """What several maps of the same images say together.

    Attributes:
        map: (N, H, W) in [0, 1], the mean over methods of each pixel's rank.
        doubt: (N, H, W) in [0, 1], twice the standard deviation of these ranks: 1 where half of the
            methods rank a pixel first and the others last.
        agreement: (M, M) mean over images of Spearman's correlation of two methods.
        methods: names, in the order of `agreement`.
    """

    map: Float[Tensor, "n h w"]
    doubt: Float[Tensor, "n h w"]
    agreement: Float[Tensor, "m m"]
    methods: tuple[str, ...]


def consensus(maps: Mapping[str, Float[Tensor, "n h w"]]) -> Consensus:
    """Return where methods agree, pixel by pixel, and where they contradict each other.

    r_m(u) ∈ [0, 1] is the rank of pixel u in the map of method m, ties by their mean;
    map = mean_m r_m, doubt = 2 · std_m r_m (of the population). Ranks, because methods scale their
    maps in their own ways.

    Args:
        maps: by method, at least two, all of the same shape.

    Raises:
        InputError: fewer than two maps, or different shapes.

    Example:
        >>> found = consensus({"a": torch.rand(1, 4, 4), "b": torch.rand(1, 4, 4)})
        >>> found.map.shape, found.agreement.shape
        (torch.Size([1, 4, 4]), torch.Size([2, 2]))
    """
    shapes = {tuple(one.shape) for one in maps.values()}
    if len(maps) < 2 or len(shapes) != 1:  # noqa: PLR2004
        raise InputError(
            f"{len(maps)} maps of the shapes {sorted(shapes)} were given; a consensus needs at "
            "least two of one shape."
        )
    ranks = torch.stack([_rank(one) for one in maps.values()])
    flat = ranks.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    unit = nn.functional.normalize(centred, dim=2)
    agreement = torch.einsum("anp,bnp->abn", unit, unit).mean(2)
    doubt = 2 * ranks.std(0, unbiased=False)
    return Consensus(ranks.mean(0).float(), doubt.float(), agreement.float(), tuple(maps))


def _rank(maps: Tensor) -> Tensor:
    """Return each pixel's rank among those of its image, from 0 to 1, ties by their mean."""
    flat = maps.double().flatten(1).contiguous()
    ordered = flat.sort(1).values.contiguous()
    below = torch.searchsorted(ordered, flat)
    upto = torch.searchsorted(ordered, flat, right=True)
    return ((below + upto - 1) / (2 * max(1, flat.shape[1] - 1))).reshape(maps.shape)

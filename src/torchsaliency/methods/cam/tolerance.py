"""Channels that are asked until the rest cannot move the map by more than a tolerance.

A score of a channel costs a pass, and most channels weigh next to nothing. Those that are left out
get an estimate with a standard deviation: of Score-CAM by a Gaussian process over the masks, of
Ablation-CAM by gradient times activation; both deviations grow with what was seen to be off. The
next channels are those with the largest possible effect on the map, w' |A_k - M|, and an image is
done when the sum of what is left stays below the tolerance. This is an estimate of the error, no
bound: nothing bounds how fast a network's score changes. docs/speed.md has how often it held.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.maps import minmax, to_float64
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.passes import rows

_FIRST, _GROWTH = 32, 4
"""Channels of the first round; a later one adds the fourth part of those that were asked."""

_ROUND = 16
"""The fewest channels of a later round."""

_DEVIATIONS = 2.0
"""How far off an estimate may be, in its own standard deviations."""

_LENGTHS = (1 / 12, 1 / 6, 1 / 3, 2 / 3)
"""Lengths of the process by which it is tried, in differences of a cell."""

_NOISE = 0.05
"""Variance of what masks do not explain, relative to what they do."""

_SAME = 1 / 512
"""Masks that differ by less in every cell change no pixel by half a level of 8 bits."""


def require_tolerance(name: str, tolerance: float | int) -> None:
    """Raise `OptionError` unless a tolerance is at least 0 and below 1."""
    if not 0 <= tolerance < 1:
        raise OptionError(
            f"{name}.tolerance must be at least 0 (exact) and below 1, and {tolerance} was given."
        )


def score_channels(
    view: View, tolerance: float | int, *, align_corners: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return f(x ⊙ n(up(A_k)))_c of every channel (N, K), measured or estimated.

    Args:
        view: the images.
        tolerance: of the map in [0, 1]; above 0.
        align_corners: how masks are upsampled.

    Returns:
        The scores, and (N,) each: `asked`, the masks that took a pass, and `error`, the estimate of
        the largest error of the map.
    """
    every = [_Masks(maps, tolerance) for maps in view.activations]
    while True:
        chosen = [channels.next_channels for channels in every]
        sizes = [len(part) for part in chosen]
        if not sum(sizes):
            break
        device = view.activations.device
        row = torch.cat(chosen).to(device)
        image = torch.arange(len(every), device=device).repeat_interleave(
            torch.tensor(sizes, device=device)
        )
        scores = torch.cat(
            [
                view.score_maps(
                    view.activations[image[i], row[i]], image[i], align_corners=align_corners
                )
                for i in rows(len(row), view)
            ]
        )
        for channels, part in zip(every, scores.split(sizes), strict=True):
            channels.fill(part)
    scores = torch.stack([channels.values for channels in every]).to(view.score)
    return scores, describe_channels(every, view)


def ablate_channels(
    view: View, image: int, live: Tensor, value: Tensor, tolerance: float | int
) -> Ablations:
    """Return an image's channels for Ablation-CAM, none of them asked yet.

    Args:
        view: the images, traced with gradients.
        image: its number.
        live: (K',) the channels that do not hold the replacement.
        value: the replacement.
        tolerance: of the map in [0, 1]; above 0.
    """
    features, gradients = view.activations[image, live], view.gradients[image, live]
    return Ablations(features, gradients * (features - value), tolerance)


def describe_channels(every: Sequence[_Channels], view: View) -> dict[str, Tensor]:
    """Return (N,) each: `asked`, the channels that took a pass, and `error`, as estimated."""
    device = view.score.device
    return {
        "asked": torch.tensor([channels.asked for channels in every], device=device),
        "error": torch.tensor(
            [channels.error for channels in every], dtype=view.score.dtype, device=device
        ),
    }


class _Channels(abc.ABC):
    """The channels of one image, some of which were asked.

    Args:
        maps: (K, *grid) of distinct channels.
        tolerance: of the map.

    Attributes:
        chosen: the numbers of the channels to ask next, none if the map is known.
        error: the estimate of the largest error of the map.
    """

    def __init__(self, maps: Tensor, tolerance: float) -> None:
        self._maps, self._tolerance = to_float64(maps.flatten(1)).cpu(), tolerance
        self._known = self._maps.new_zeros(len(maps))
        self._asked = torch.zeros(len(maps), dtype=torch.bool, device="cpu")
        order = self._order().argsort(descending=True, stable=True)
        few = min(_FIRST, len(order))
        # half are the first; the others are spread evenly, so that no estimate is extrapolated
        half = few // 2
        spread = torch.arange(few - half, device="cpu") * (len(order) - half) // max(1, few - half)
        self.chosen = torch.cat([order[:half], order[half + spread]])
        self.error = torch.inf

    @property
    def asked(self) -> int:
        """How many channels took a pass."""
        return int(self._asked.sum())

    def fill(self, values: Tensor) -> None:
        """Take what the chosen channels gave, and choose the next."""
        self._told = self.chosen
        self._known[self._told] = to_float64(values).cpu()
        self._asked[self._told] = True
        left = (~self._asked).nonzero()[:, 0]
        self.chosen = left
        if not self._known[self._asked].isfinite().all():
            return  # nothing to estimate by
        effects, extent = self._effects()
        effects[self._asked] = 0
        self.error = float(effects.sum(0).amax() / extent) if len(left) else 0.0
        if self.error <= self._tolerance:
            self.chosen = left[:0]
        elif len(left):
            largest = effects.amax(1)[left].argsort(descending=True, stable=True)
            self.chosen = left[largest[: max(_ROUND, self.asked // _GROWTH)]]

    @abc.abstractmethod
    def _order(self) -> Tensor:
        """Return (K,) by what the first channels are chosen, the largest first."""

    @abc.abstractmethod
    def _effects(self) -> tuple[Tensor, Tensor]:
        """Return how far each channel may move the map (K, cells), and the map's extent."""


@final
class _Masks(_Channels):
    """Score-CAM's channels: near-duplicates of a mask are asked once."""

    def __init__(self, maps: Tensor, tolerance: float) -> None:
        self._masks = to_float64(minmax(maps)).cpu().flatten(1)
        self._kept, self._place = _cover(self._masks)
        self._masks = self._masks[self._kept]
        self._share = self._masks.mean(1)
        self._estimate = self._deviation = torch.empty(0)
        # channels of one mask differ in scale, and in a constant that stretching takes away
        everyone = to_float64(maps.flatten(1)).cpu()
        summed = everyone.new_zeros(len(self._kept), everyone.shape[1])
        summed.index_add_(0, self._place, everyone)
        self._count = self._place.bincount(minlength=len(self._kept)).to(everyone)
        super().__init__(summed / self._count[:, None], tolerance)

    @property
    def values(self) -> Tensor:
        """The scores of all channels (K,)."""
        if self._asked.all():
            return self._known[self._place]
        return torch.where(self._asked, self._known, self._estimate)[self._place]

    @property
    def next_channels(self) -> Tensor:
        """The channels whose masks are asked next."""
        return self._kept[self.chosen]

    def _order(self) -> Tensor:
        return self._share  # a mask that shows more scores higher

    def _effects(self) -> tuple[Tensor, Tensor]:
        asked, factor = self._asked.nonzero()[:, 0], 1.0
        if len(self._estimate):  # how far off the last round was, in its own deviations
            off = (self._known - self._estimate)[self._told] / self._deviation[self._told]
            factor = max(1.0, float(off.square().mean().sqrt()))
        self._estimate, deviation = _regress(self._masks, self._share, self._known[asked], asked)
        self._deviation = factor * deviation
        mean = torch.where(self._asked, self._known, self._estimate)
        off = torch.where(self._asked, 0, _DEVIATIONS * self._deviation)
        top = (mean + off).amax()
        low, weights, high = (
            self._count * (mean + sign * off - top).exp() for sign in (-1.0, 0.0, 1.0)
        )
        summed = (weights[:, None] * self._maps).sum(0) / weights.sum()
        moved = torch.maximum(high - weights, weights - low) / weights.sum()
        return moved[:, None] * (self._maps - summed).abs(), _extent(summed)


@final
class Ablations(_Channels):
    """Ablation-CAM's channels: the drop of one is its gradient times what is taken away.

    Args:
        maps: (K, *grid).
        products: (K, *grid) gradient times what is taken away.
        tolerance: of the map.
    """

    def __init__(self, maps: Tensor, products: Tensor, tolerance: float) -> None:
        linear = to_float64(products.flatten(1)).cpu()
        self._linear, size = linear.sum(1), linear.abs().sum(1)
        self._size = size + size.mean()  # a gradient of 0 does not mean that nothing drops
        self._slope = 1.0
        super().__init__(maps, tolerance)

    @property
    def values(self) -> Tensor:
        """The drops of all channels (K,)."""
        return torch.where(self._asked, self._known, self._slope * self._linear)

    def _order(self) -> Tensor:
        return self._size * self._maps.abs().amax(1)

    def _effects(self) -> tuple[Tensor, Tensor]:
        size = self._size[self._asked].clamp_min(torch.finfo(torch.float64).tiny)
        linear, drops = self._linear[self._asked] / size, self._known[self._asked] / size
        self._slope = float((linear * drops).sum() / linear.square().sum().clamp_min(1e-300))
        spread = (drops - self._slope * linear).square().mean().sqrt()
        summed = (self.values[:, None] * self._maps).sum(0)
        moved = _DEVIATIONS * spread * self._size
        return moved[:, None] * self._maps.abs(), _extent(summed)


def _extent(summed: Tensor) -> Tensor:
    """Return the extent of the map that the tolerance is relative to."""
    positive = summed.relu()
    return (positive.amax() - positive.amin()).clamp_min(torch.finfo(torch.float64).tiny)


def _cover(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of masks that stand for all, and which of them stands for each (K,)."""
    kept: list[int] = []
    place = torch.full((len(masks),), -1, device="cpu")
    for number in range(len(masks)):
        if place[number] < 0:
            near = (masks - masks[number]).abs().amax(1) < _SAME
            place[near & (place < 0)] = len(kept)
            kept.append(number)
    return torch.tensor(kept, device="cpu"), place


def _regress(masks: Tensor, share: Tensor, scores: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of the score of every mask.

    A Gaussian process over masks with the kernel exp(-|m - m'|²/2L²), around a line in how much a
    mask shows; of a few L the one under which the scores are likeliest.
    """
    line = torch.stack([torch.ones_like(share), share], 1)
    trend = line @ torch.linalg.lstsq(line[asked], scores[:, None]).solution
    rest = scores[:, None] - trend[asked]
    least = 1e-9 * scores.abs().amax() + 1e-12
    squares = torch.cdist(masks, masks[asked]).square() / masks.shape[1]
    likeliest = None
    for length in _LENGTHS:
        kernel = (squares / (-2 * length**2)).exp()
        own = kernel[asked] + _NOISE * torch.eye(len(asked), dtype=kernel.dtype, device="cpu")
        factor = torch.linalg.cholesky(own)
        solved = torch.cholesky_solve(rest, factor)
        scale = (rest * solved).mean().sqrt().clamp_min(least)
        likely = -len(asked) * scale.log() - factor.diagonal().log().sum()
        if likeliest is None or likely > likeliest[0]:
            likeliest = likely, scale, kernel, factor, solved
    assert likeliest is not None
    _, scale, kernel, factor, solved = likeliest
    explained = torch.linalg.solve_triangular(factor, kernel.mT, upper=False).square().sum(0)
    mean = trend[:, 0] + (kernel @ solved)[:, 0]
    return mean, scale * (1 + _NOISE - explained).clamp_min(1e-12).sqrt()

"""Occlusion: how far the score falls when a window of the image is hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from torchsaliency.core.maps import is_constant
from torchsaliency.core.method import Method, Saliency, register
from torchsaliency.core.space import multiply_sides, window_of
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.passes import IMAGE_PASSES, score_under_masks, sum_dtype


@register("occlusion", family="masking", cite="zeiler2014", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class Occlusion(Method):
    """Occlusion: a window slides over the image; a pixel gets the mean drop of its windows.

    S(u) = mean over windows W ∋ u of y_c(x) - y_c(x with W replaced by the masking's baseline).
    The default window is 56 pixels wide and moves by 14 on an image of 224: 169 passes. In a volume
    or a video it is a box, a quarter of each side: 2197 passes.

    Windows start at every stride from the top left until the border is reached; the last may hang
    over it and is cut. This is captum's `Occlusion`, whose attributions are the same for all
    colours of a pixel, with `baselines` the masking's.

    Source: Zeiler and Fergus, ECCV 2014. Differs from the paper, which shows the score itself at
    the window's centre.

    Attributes:
        window: side of the square window, as a share of the image's shorter side; of each side in
            a volume, a video or a signal.
        stride: step from one window to the next, as a share of the window; at most 1, so that
            every pixel is hidden at least once.
    """

    joint: ClassVar[bool] = True

    window: float = 0.25
    stride: float = 0.25

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            if not 0 < getattr(self, name) <= 1:
                raise OptionError(
                    f"occlusion.{name} is a share above 0 and at most 1, not {getattr(self, name)}."
                )

    def saliency(self, view: View) -> Saliency:
        """Return the mean drops at the image's own size, (N, *size)."""
        device, dtype = view.images.device, sum_dtype(view.images.device)
        lines = [
            slide_window(length, side, max(1, round(self.stride * side))).to(device)
            for length, side in zip(view.size, window_of(self.window, view.size), strict=True)
        ]
        places = [len(line) for line in lines]

        def masks(index: Tensor) -> Tensor:
            parts = zip(lines, torch.unravel_index(index, places), strict=True)
            return 1 - multiply_outer([line[place] for line, place in parts])

        count = math.prod(places)
        scores = view.score.new_zeros((len(view.images), count))
        for group, steps, _, found in score_under_masks(view, count, masks):
            scores[group[:, None], steps] = found.to(scores)
        alike = is_constant(torch.cat([view.score[:, None], scores], 1)[:, None])[:, None]
        drops = torch.where(alike, 0, view.score[:, None] - scores).to(dtype)
        covered = [line.to(dtype) for line in lines]
        total = multiply_sides(drops.unflatten(1, places), [line.mT for line in covered])
        windows = multiply_outer([line.sum(0)[None] for line in covered])
        raw = (total / windows).to(view.score.dtype)
        return Saliency(raw, signed=raw)


def multiply_outer(lines: Sequence[Tensor]) -> Tensor:
    """Return the products (m, *size) of lines (m, side), one a side."""
    found = lines[0]
    for line in lines[1:]:
        found = found[..., None] * line.view(len(line), *[1] * (found.ndim - 1), -1)
    return found


def slide_window(length: int, side: int, step: int) -> Tensor:
    """Return which pixels of one side each window covers, (windows, length), 0 or 1."""
    starts = step * torch.arange(math.ceil((length - side) / step) + 1, device="cpu")[:, None]
    pixels = torch.arange(length, device="cpu")
    return ((pixels >= starts) & (pixels < starts + side)).float()

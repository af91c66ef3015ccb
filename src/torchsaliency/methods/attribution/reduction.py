"""What attribution methods share: one signed number a pixel and colour, reduced to one map.

How three signed colours become one map decides how it looks and what a metric says of it, and
papers often leave it out: here it is an option of every method.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import exact
from torchsaliency.core.masking import Blur
from torchsaliency.core.method import Method, Needs, Saliency, positive
from torchsaliency.core.rules import Recording, Rule, backward, gradients
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError, TargetError

Channels = Literal["abs-sum", "sum-positive", "max-abs"]

BACKWARD = Needs.TARGET | Needs.PASSES
"""Further passes, forward and backward, through the whole network; no layer is read."""

HALF = (torch.float16, torch.bfloat16)

_HALF_SCALE = 1024.0
"""Loss scale for float16 networks, whose smallest gradients would round to zero."""


@dataclass(frozen=True)
class Attribution(Method):
    """A method that gives every number of the image a signed share of the score.

    It reads no layer: several layers are explained by one map.

    Attributes:
        channels: how colours are joined: "abs-sum" Σ_c |R_c|, "sum-positive" ReLU(Σ_c R_c), or
            "max-abs" max_c |R_c|.
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
    """

    above_zero: ClassVar[tuple[str, ...]] = ()
    joint: ClassVar[bool] = True

    channels: Channels = "abs-sum"
    smooth: float | int = 0
    clip: float | int = 100

    @final
    def __post_init__(self) -> None:
        positive(self.name, **{key: getattr(self, key) for key in self.above_zero})
        if self.channels not in get_args(Channels):
            raise OptionError(
                f"{self.name}.channels is one of {', '.join(get_args(Channels))}, and "
                f"{self.channels!r} was given."
            )
        if not 0 <= self.smooth < torch.inf:
            raise OptionError(
                f"{self.name}.smooth must be at least 0, and {self.smooth} was given."
            )
        if not 0 < self.clip <= 100:  # noqa: PLR2004 (a percentile)
            raise OptionError(f"{self.name}.clip is above 0, at most 100; {self.clip} was given.")

    @abc.abstractmethod
    def attributions(self, view: View) -> Tensor | Saliency:
        """Return R: what each number of the image adds to the score, float32 or better.

        (N, C, H, W), alone or with what else the method found out.
        """

    @final
    def saliency(self, view: View) -> Saliency:
        """Return the reduced attributions at the image's own size, (N, H, W)."""
        found = self.attributions(view)
        shares = found if isinstance(found, Saliency) else Saliency(found)
        maps = reduced(shares.raw.detach(), self.channels)
        if self.smooth:
            maps = Blur(float(self.smooth)).baseline(maps[:, None])[:, 0]
        if self.clip < 100:  # noqa: PLR2004 (a percentile)
            maps = clipped(maps, float(self.clip))
        return Saliency(maps, shares.details)


def reduced(attributions: Float[Tensor, "n c H W"], channels: Channels) -> Float[Tensor, "n H W"]:
    """Join the colours of signed attributions."""
    if channels == "abs-sum":
        return attributions.abs().sum(1)
    if channels == "max-abs":
        return attributions.abs().amax(1)
    return attributions.sum(1).relu()


def clipped(maps: Float[Tensor, "n H W"], percentile: float) -> Float[Tensor, "n H W"]:
    """Cut every map's values above its own percentile."""
    limits = torch.stack([one.flatten().quantile(percentile / 100) for one in maps])
    return torch.minimum(maps, limits[:, None, None])


def wide_images(view: View) -> Tensor:
    """Return the images in float32 or better; the network rounds them itself."""
    return view.images.float() if view.images.dtype in HALF else view.images


def baseline(view: View) -> Tensor:
    """Return what "absent" means, (N, C, H, W): the baseline of the masking in use."""
    images = wide_images(view)
    return view.trace.masking.baseline(images).expand_as(images)


def rows(count: int, view: View) -> tuple[Tensor, ...]:
    """Return the numbers 0 … count-1 in chunks."""
    return torch.arange(count, device=view.images.device).split(view.trace.chunk)


def gradient(
    view: View, images: Float[Tensor, "m c H W"], index: Tensor
) -> Float[Tensor, "m c H W"]:
    """Return ∂y/∂x of variants of the images at `index`, of any number that fits in one chunk.

    Raises:
        TargetError: the score does not depend differentiably on the image.
    """
    leaf, scores = recorded_scores(view, images, index, nullcontext())
    begin = torch.full_like(scores, loss_scale(view))
    (found,) = gradients(scores, [leaf], begin)
    if found is None:
        raise _no_gradient()
    return found / loss_scale(view)


def recorded_scores(
    view: View, images: Tensor, index: Tensor, recording: AbstractContextManager[object]
) -> tuple[Tensor, Tensor]:
    """Return a leaf with the variants' numbers, and their scores, made while recording.

    Raises:
        TargetError: the score does not depend differentiably on the image.
    """
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), recording:
        # A copy, for a network that works in place on its input.
        scores = view.trace.scores(leaf.clone(), index)
    if not scores.requires_grad:
        raise _no_gradient()
    return leaf, scores


def _no_gradient() -> TargetError:
    return TargetError(
        "The score does not depend differentiably on the image; choose another target, or a method "
        "that needs no gradient, such as lime."
    )


def completeness_gap(
    shares: Float[Tensor, "n c H W"], rises: Float[Tensor, " n"], scores: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return how far shares are from adding up to the rise of the score, relative to it.

    (Σ R - Δy) / max(|Δy|, 1 % of |y| + |y - Δy|).
    """
    rises, scores, sums = exact(rises), exact(scores), exact(shares.flatten(1)).sum(1)
    least = 0.01 * (scores.abs() + (scores - rises).abs())
    below = torch.maximum(rises.abs(), least).clamp_min(torch.finfo(torch.float32).tiny)
    return ((sums - rises) / below).to(shares)


def loss_scale(view: View) -> float:
    """Return what keeps the gradients of a float16 network from vanishing; results are divided."""
    return _HALF_SCALE if view.trace.holds(torch.float16) else 1.0


def image_gradients(view: View) -> Float[Tensor, "n c H W"]:
    """Return ∂y/∂x of every image, chunk by chunk."""
    images = wide_images(view)
    return torch.cat([gradient(view, images[i], i) for i in rows(len(images), view)])


def ruled_gradients(
    view: View,
    rules: Mapping[str, Rule],
    *,
    values: bool = True,
    check: Callable[[Recording], None] | None = None,
) -> Float[Tensor, "n c H W"]:
    """Return ∂y/∂x of every image, with rules in the place of some operations' gradients.

    Args:
        view: the images.
        rules: by operation, see `core.rules`.
        values: whether a rule reads an operation's numbers.
        check: looks at each recording, and refuses what the rules do not hold for.
    """
    images, scale = wide_images(view), loss_scale(view)
    found = []
    for index in rows(len(images), view):
        recording = Recording(values=values)
        leaf, scores = recorded_scores(view, images[index], index, recording)
        if check is not None:
            check(recording)
        begin = torch.full_like(scores, scale)
        found += backward(scores, [leaf], recording, rules, weight=begin)
    return torch.cat(found) / scale


def mean_over_draws(
    view: View, draws: int, part: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "n c H W"]:
    """Return the mean over draws of part(draw, image), both (m,) int64, for every image.

    Draws and images are paired freely in a chunk, so that one image fills it too.
    """
    images = wide_images(view)
    total = torch.zeros_like(images)
    for pairs in rows(draws * len(images), view):
        index = pairs % len(images)
        total.index_add_(0, index, part(pairs // len(images), index))
    return total / draws

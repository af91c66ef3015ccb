"""What attribution methods share: one signed number a pixel and colour, reduced to one map.

How three signed colours become one map decides how it looks and what a metric says of it, and
papers often leave it out: here it is an option of every method.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.errors import OptionError, TargetError
from torchsaliency.core.masking import Blur
from torchsaliency.core.method import Method, positive
from torchsaliency.core.registry import Needs
from torchsaliency.core.tracing import View

Channels = Literal["abs-sum", "sum-positive", "max-abs"]

BACKWARD = Needs.TARGET | Needs.PASSES
"""Further passes, forward and backward, through the whole network; no layer is read."""

HALF = (torch.float16, torch.bfloat16)

_HALF_SCALE = 1024.0
"""Loss scale for float16 networks, whose smallest gradients would round to zero."""

Around = Callable[[], AbstractContextManager[object]]
"""Makes a context in which the network runs."""


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
    def attributions(self, view: View) -> Float[Tensor, "n c H W"]:
        """Return R: what each number of the image adds to the score, float32 or better."""

    @final
    def saliency(self, view: View) -> Tensor:
        """Return the reduced attributions at the image's own size, (N, H, W)."""
        maps = reduced(self.attributions(view).detach(), self.channels)
        if self.smooth:
            maps = Blur(float(self.smooth)).baseline(maps[:, None])[:, 0]
        return maps if self.clip == 100 else clipped(maps, float(self.clip))  # noqa: PLR2004


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


def scorer(view: View, around: Around = nullcontext) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of variants and the images they derive from, as captum calls it."""

    def forward(images: Tensor, index: Tensor) -> Tensor:
        with around():
            # A copy, for a network that works in place on its input.
            scores = view.trace.scores(images.clone(), index)
        if images.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
            raise TargetError(
                "The score does not depend differentiably on the image; choose another target, or "
                "a method that needs no gradient, such as lime."
            )
        return scores

    return forward


def scaled(view: View, around: Around = nullcontext) -> tuple[Callable[..., Tensor], float]:
    """Return `scorer` times a factor that keeps float16 gradients from vanishing, and the factor.

    Attributions that captum makes of it are to be divided by the factor.
    """
    factor = _HALF_SCALE if view.trace.holds(torch.float16) else 1.0
    forward = scorer(view, around)
    return (lambda images, index: forward(images, index) * factor), factor


def gradient(
    view: View, images: Float[Tensor, "m c H W"], index: Tensor, around: Around = nullcontext
) -> Float[Tensor, "m c H W"]:
    """Return ∂y/∂x of variants of the images at `index`, of any number that fits in one chunk."""
    from captum.attr import Saliency  # noqa: PLC0415 (needed by these methods alone)

    forward, factor = scaled(view, around)
    leaf = images.detach().clone().requires_grad_()
    made = Saliency(forward).attribute(leaf, abs=False, additional_forward_args=(index,))
    return made.detach() / factor


def image_gradients(view: View, around: Around = nullcontext) -> Float[Tensor, "n c H W"]:
    """Return ∂y/∂x of every image, chunk by chunk."""
    images = wide_images(view)
    return torch.cat([gradient(view, images[i], i, around) for i in rows(len(images), view)])


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

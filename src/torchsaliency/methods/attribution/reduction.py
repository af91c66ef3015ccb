"""What attribution methods share: one signed number a pixel and colour, reduced to one map.

How three signed colours become one map decides how it looks and what a metric finds, and papers
often leave it out: here it is an option of every method.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.masking import Blur
from torchsaliency.core.method import Method, Saliency, require_positive
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.sampling import require_sampling

Channels = Literal["abs-sum", "sum-positive", "max-abs"]


@dataclass(frozen=True)
class Attribution(Method):
    """A method that gives every number of the image a signed share of the score.

    It reads no layer: several layers are explained by one map. The shares of all colours are kept
    beside the map, and their sum at each pixel, before `channels`, `smooth` and `clip`, are its
    signed values.

    Attributes:
        channels: how colours are joined: "abs-sum" Σ_c |R_c|, "sum-positive" ReLU(Σ_c R_c), or
            "max-abs" max_c |R_c|.
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
    """

    above_zero: ClassVar[tuple[str, ...]] = ()
    by_number: ClassVar[bool] = True
    """Whether every number of the image has a share, and not a whole part of the image."""
    joint: ClassVar[bool] = True

    channels: Channels = "abs-sum"
    smooth: float | int = 0
    clip: float | int = 100

    @final
    def __post_init__(self) -> None:
        require_positive(self.name, **{key: getattr(self, key) for key in self.above_zero})
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
        if "until" in self.options:
            require_sampling(self, self.options["until"])

    @abc.abstractmethod
    def attributions(self, view: View) -> Tensor | Saliency:
        """Return R: what each number of the image adds to the score, float32 or better.

        (N, C, *size), alone or with what else the method found out.
        """

    @final
    def saliency(self, view: View) -> Saliency:
        """Return the reduced attributions at the image's own size, (N, *size), and themselves."""
        found = self.attributions(view)
        shares = found if isinstance(found, Saliency) else Saliency(found)
        attributions = shares.raw
        return Saliency(
            self.reduce(attributions),
            shares.details,
            signed=attributions.sum(1) if self.entry.signed else None,
            attributions=attributions if self.by_number else None,
        )

    @final
    def reduce(self, attributions: Float[Tensor, "n c *size"]) -> Float[Tensor, " n *size"]:
        """Return one map of attributions: `channels`, then `smooth`, then `clip`."""
        maps = join_colours(attributions, self.channels)
        if self.smooth:
            maps = Blur(float(self.smooth)).baseline(maps[:, None])[:, 0]
        if self.clip < 100:  # noqa: PLR2004 (a percentile)
            maps = clip_maps(maps, float(self.clip))
        return maps


def join_colours(
    attributions: Float[Tensor, "n c *size"], channels: Channels
) -> Float[Tensor, " n *size"]:
    """Join the colours of signed attributions."""
    if channels == "abs-sum":
        return attributions.abs().sum(1)
    if channels == "max-abs":
        return attributions.abs().amax(1)
    return attributions.sum(1).relu()


def clip_maps(maps: Float[Tensor, " n *size"], percentile: float) -> Float[Tensor, " n *size"]:
    """Cut every map's values above its own percentile."""
    limits = torch.stack([plane.flatten().quantile(percentile / 100) for plane in maps])
    return torch.minimum(maps, add_sides(limits, maps))

"""How a map hides the image: x ⊙ m + b ⊙ (1 - m), with one baseline b for methods and metrics.

Grey or black is a different question to the network, and scores change by tens of points (DESIGN
4.6), so the masking is part of every result.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.space import add_sides, convolve_sides, sides_of
from torchsaliency.errors import OptionError

_RISE_KERNEL = (0.08795815, 0.08889612, 0.09047420, 0.09219112, 0.09348939, 0.09398206)
"""Half of RISE's blur kernel, from its end to its centre."""


class Masking(abc.ABC):
    """A baseline image that shows through where the map is 0.

    Example:
        >>> x, mask = torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8)
        >>> Blur(sigma=2.0)(x, mask).shape, float(MeanColour()(x, mask).abs().max())
        (torch.Size([1, 3, 8, 8]), 0.0)
    """

    @abc.abstractmethod
    def baseline(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Return what replaces masked pixels, broadcastable to the images."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a manifest must say to repeat this masking."""

    def take(self, where: Int[Tensor, " m"], sides: int) -> Masking:  # noqa: ARG002
        """Return the masking of the images at `where`, which have so many sides.

        It is the same for all, but where each image has a baseline of its own.
        """
        return self

    @final
    def __call__(
        self, images: Float[Tensor, "n c *size"], masks: Float[Tensor, " n *size"]
    ) -> Float[Tensor, "n c *size"]:
        """Return x ⊙ m + b ⊙ (1 - m), in the images' own precision."""
        return _blend(images, self.baseline(images), masks)

    @final
    def over(self, images: Float[Tensor, "n c *size"]) -> Masked:
        """Return these images ready to be masked many times: their baseline is made once."""
        return Masked(images, self.baseline(images))


@final
class Masked:
    """Images and what replaces their masked pixels.

    Args:
        images: x (N, C, *size).
        baseline: b, broadcastable to the images.
    """

    def __init__(self, images: Tensor, baseline: Tensor) -> None:
        self._images, self._baseline = images, baseline
        # one of each image, and not one for all of them
        self._own = baseline.ndim == images.ndim and len(baseline) == len(images)

    def __call__(self, masks: Float[Tensor, " m *size"], index: Int[Tensor, " m"]) -> Tensor:
        """Return x_i ⊙ m + b_i ⊙ (1 - m) (M, C, *size) under masks m of the images i."""
        baseline = self._baseline[index] if self._own else self._baseline
        return _blend(self._images[index], baseline, masks)


def _blend(images: Tensor, baseline: Tensor, masks: Tensor) -> Tensor:
    keep = masks[:, None].to(images.dtype)
    return torch.lerp(baseline.expand_as(images), images, keep.expand_as(images))


@final
@dataclass(frozen=True)
class MeanColour(Masking):
    """Grey: zero in normalised space, the data set's mean colour. The library's default."""

    def baseline(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Return zero."""
        return images.new_zeros(())

    def describe(self) -> dict[str, Any]:
        """Return the name."""
        return {"baseline": "mean"}


@final
@dataclass(frozen=True)
class BlackPixel(Masking):
    """Black: 0 before normalisation, -mean/std after it, as in Opti-CAM's official code.

    Attributes:
        mean: the preprocessing's mean colour, each in [0, 1].
        std: its standard deviation.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def baseline(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Return -mean/std of each colour."""
        if len(self.mean) != images.shape[1]:
            raise OptionError(
                f"The black pixel has {len(self.mean)} colours and the images have "
                f"{images.shape[1]}; give BlackPixel(mean, std) of the network's preprocessing."
            )
        colours = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return add_sides(images.new_tensor(colours), images[0])

    def describe(self) -> dict[str, Any]:
        """Return the name and the colours."""
        return {"baseline": "black", "mean": list(self.mean), "std": list(self.std)}


@final
@dataclass(frozen=True)
class Blur(Masking):
    """A Gaussian blur of the image itself.

    Attributes:
        sigma: of the Gaussian, in pixels.
    """

    sigma: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise OptionError(f"The blur's sigma must be above 0, and {self.sigma} was given.")

    def baseline(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Return the blurred images; pixels outside repeat the border."""
        radius = math.ceil(3 * self.sigma)
        offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / self.sigma).square())
        kernel = (kernel / kernel.sum()).to(images.dtype)
        return convolve_sides(images, kernel, repeat=True)

    def describe(self) -> dict[str, Any]:
        """Return the name and sigma."""
        return {"baseline": "blur", "sigma": self.sigma}


@final
@dataclass(frozen=True)
class RISEBlur(Masking):
    """The blur from which RISE's insertion starts: 11 pixels wide, nearly flat.

    Its kernel is outer(r, r), r the response of a Gaussian of σ = 5 reflected at the ends of eleven
    pixels (outer(r, r, r) in a volume): 0.00883 in the centre and 0.00774 in the corner, where a
    truncated Gaussian would have 0.01196 and 0.00440. Pixels outside the image have the given
    colour, as in RISE's code, whose zero padding is grey for a normalised image and black for one
    in [0, 1].

    Attributes:
        colour: a masking of one colour: `MeanColour()` or `BlackPixel(…)`.
    """

    colour: Masking = MeanColour()

    def baseline(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Return the blurred images."""
        colour = self.colour.baseline(images)
        half = torch.tensor(_RISE_KERNEL, dtype=torch.float64, device="cpu")
        line = torch.cat([half, half[:-1].flip(0)])
        line = (line / line.sum()).to(images)
        return convolve_sides(images - colour, line, repeat=False) + colour

    def describe(self) -> dict[str, Any]:
        """Return the name and the colour outside the image."""
        return {"baseline": "rise-blur", "outside": self.colour.describe()}


@final
@dataclass(frozen=True)
class ImageMinimum(Masking):
    """The smallest number in the image's tensor, one for all colours: what Quantus calls black."""

    def baseline(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Return the minimum of every image."""
        return images.amin((1, *sides_of(images)), keepdim=True)

    def describe(self) -> dict[str, Any]:
        """Return the name."""
        return {"baseline": "image minimum"}


@final
@dataclass(frozen=True, eq=False)
class GivenImage(Masking):
    """Any image, normalised as the network's input: one for all, or one for each.

    Attributes:
        image: (C, *size), or (C, 1, …) for one colour; (N, C, *size) for one of each explained
            image; or a function from images (N, C, *size) to either.

    Example:
        >>> GivenImage(torch.ones(3, 8, 8))(torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8)).mean()
        tensor(1.)
    """

    image: Tensor | Callable[[Tensor], Tensor]

    def baseline(self, images: Float[Tensor, "n c *size"]) -> Tensor:
        """Return the given image, or those of these images.

        Raises:
            OptionError: it has another size, or there are not as many as images.
        """
        given = self.image if isinstance(self.image, Tensor) else self.image(images)
        shape = images.shape[images.ndim - given.ndim :] if given.ndim <= images.ndim else ()
        fits = len(shape) >= images.ndim - 1 and all(
            side in (1, size) for side, size in zip(given.shape, shape, strict=True)
        )
        if not fits:
            raise OptionError(
                f"The baseline image is {tuple(given.shape)} and the images are "
                f"{tuple(images.shape)}; give one of the same size, or one for each of these."
            )
        return given.to(images)

    def describe(self) -> dict[str, Any]:
        """Return the name, and the images' mean or the function's name."""
        if isinstance(self.image, Tensor):
            return {"baseline": "image", "mean": float(self.image.float().mean())}
        return {"baseline": "function", "name": getattr(self.image, "__name__", str(self.image))}

    def take(self, where: Int[Tensor, " m"], sides: int) -> Masking:
        """Return the masking of the images at `where`: their own, if each has its own."""
        image = self.image
        if not isinstance(image, Tensor) or image.ndim != sides + 2 or len(image) == 1:
            return self
        return GivenImage(image[where.to(image.device)])

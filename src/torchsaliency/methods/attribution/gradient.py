"""Attribution by the gradient at the image, or at points around or below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from torchsaliency.core.method import register
from torchsaliency.core.runtime import draw_normal, draw_uniform
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.methods.attribution.reduction import Attribution, Channels
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    baseline,
    gradient,
    image_gradients,
    images_of,
    mean_over_draws,
)


@register("saliency", family="attribution", cite="simonyan2014", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class VanillaGradient(Attribution):
    """Saliency: the gradient of the score at the image, R = ∂y_c/∂x.

    Source: Simonyan et al., ICLR Workshop 2014. Differs from captum in the
    colours, which are joined by the largest absolute value as in the paper and TorchRay.

    Attributes:
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs", as in the paper.
    """

    channels: Channels = "max-abs"

    def attributions(self, view: View) -> Tensor:
        """Return ∂y_c/∂x, (N, C, *size)."""
        return image_gradients(view)


@register(
    "input-x-gradient", family="attribution", cite="shrikumar2016", needs=IMAGE_PASSES, signed=True
)
@final
@dataclass(frozen=True)
class InputXGradient(Attribution):
    """Input × gradient: the first-order share of every number of the image, R = x ⊙ ∂y_c/∂x.

    x is the image as the network sees it, normalised: a pixel of the mean colour has no share.

    Source: Shrikumar et al., 2016.
    """

    def attributions(self, view: View) -> Tensor:
        """Return x ⊙ ∂y_c/∂x, (N, C, *size)."""
        return images_of(view) * image_gradients(view)


@register(
    "integrated-gradients",
    family="attribution",
    cite="sundararajan2017",
    needs=IMAGE_PASSES,
    signed=True,
)
@final
@dataclass(frozen=True)
class IntegratedGradients(Attribution):
    """Integrated gradients: gradients summed on the way from the baseline b to the image.

    R = (x - b) ⊙ ∫₀¹ ∂y_c/∂x (b + α(x - b)) dα, by Gauss-Legendre quadrature. The shares add up to
    y_c(x) - y_c(b), up to the quadrature's error. b is the baseline of the masking in use, by
    default the mean colour (zero), as in captum.

    Source: Sundararajan et al., ICML 2017.

    Attributes:
        steps: points of the quadrature; above 0.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("steps",)

    steps: int = 50

    def attributions(self, view: View) -> Tensor:
        """Return the integral times x - b, (N, C, *size)."""
        images, base = images_of(view), baseline(view)
        points, weights = (images.new_tensor(numbers) for numbers in leggauss(self.steps))

        def part(step: Tensor, index: Tensor) -> Tensor:
            at = add_sides(1 + points[step], images) / 2
            slope = gradient(view, base[index] + at * (images[index] - base[index]), index)
            return add_sides(weights[step], slope) / 2 * self.steps * slope

        return (images - base) * mean_over_draws(view, self.steps, part)


@register("smoothgrad", family="attribution", cite="smilkov2017", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class SmoothGrad(Attribution):
    """SmoothGrad: the mean gradient over noisy copies of the image.

    R = mean_s ∂y_c/∂x (x + ε_s), ε_s ~ N(0, σ²), σ = spread · (max x - min x) of the image.

    Source: Smilkov et al., 2017. The plain mean of the paper, where the authors' later code takes
    squares by default. Differs from captum's NoiseTunnel, whose σ is absolute (1 by
    default) and whose noise depends on the batch: here all images are given the same noise.

    Attributes:
        channels: how colours are joined: "abs-sum" as in the authors' code, "sum-positive" or
            "max-abs".
        clip: values above this percentile of the map are cut to it; 100 cuts none. The authors'
            figures are made with 99.
        samples: noisy copies; above 0.
        spread: the noise's σ as a share of the image's range; above 0.
        squared: whether the mean is of squared gradients (SmoothGrad²).
        seed: of the noise.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("samples", "spread")
    without_signs: ClassVar[tuple[str, ...]] = ("squared",)

    samples: int = 50
    spread: float | int = 0.15
    squared: bool = False
    seed: int = 0

    def attributions(self, view: View) -> Tensor:
        """Return the mean gradient, or the mean squared gradient, (N, C, *size)."""
        images = images_of(view)
        noise = draw_noise(images, self.samples, self.spread, self.seed)

        def part(draw: Tensor, index: Tensor) -> Tensor:
            found = gradient(view, images[index] + noise(draw, index), index)
            return found.square() if self.squared else found

        return mean_over_draws(view, self.samples, part)


@register(
    "gradientshap", family="attribution", cite="lundberg2017", needs=IMAGE_PASSES, signed=True
)
@final
@dataclass(frozen=True)
class GradientSHAP(Attribution):
    """GradientSHAP: expected gradients, at random points between a baseline and the noisy image.

    R = E[(x' - b) ⊙ ∂y_c/∂x (b + α(x' - b))], α ~ U(0, 1), x' = x + N(0, noise²). b is the baseline
    of the masking in use, by default the mean colour.

    Source: Lundberg and Lee, NeurIPS 2017. Differs from captum, whose draws depend on the batch:
    here all images are given the same. captum's tutorial draws b from the baseline and the image
    itself; the image adds next to nothing, so the map is half as large and noisier.

    Attributes:
        samples: draws; above 0.
        noise: σ of the noise, in the network's normalised colours.
        baselines: "masking", or "masking-and-image" as in captum's tutorial.
        seed: of the draws.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("samples",)

    channels: Channels = "sum-positive"
    samples: int = 50
    noise: float | int = 1e-4
    baselines: Literal["masking", "masking-and-image"] = "masking"
    seed: int = 0

    def attributions(self, view: View) -> Tensor:
        """Return the expected gradients times x' - b, (N, C, *size)."""
        images, base = images_of(view), baseline(view)
        noise = normal_draws(images, self.samples, self.seed) * self.noise
        generator = torch.Generator().manual_seed(self.seed)
        alpha = draw_uniform(generator, self.samples).to(images)
        itself = draw_uniform(generator, self.samples).to(images.device) < 0.5  # noqa: PLR2004
        if self.baselines == "masking":
            itself = torch.zeros_like(itself)

        def part(draw: Tensor, index: Tensor) -> Tensor:
            start = torch.where(add_sides(itself[draw], images), images[index], base[index])
            way = images[index] + noise[draw] - start
            return way * gradient(view, start + add_sides(alpha[draw], way) * way, index)

        return mean_over_draws(view, self.samples, part)


def normal_draws(images: Tensor, count: int, seed: int) -> Tensor:
    """Return standard normal noise (count, C, *size), the same on any device, for any batch."""
    generator = torch.Generator().manual_seed(seed)
    return draw_normal(generator, count, *images.shape[1:]).to(images)


def draw_noise(
    images: Tensor, count: int, spread: float, seed: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return noise(draw, image), its σ the `spread` of each image's range."""
    noise = normal_draws(images, count, seed)
    sigma = spread * (images.flatten(1).amax(1) - images.flatten(1).amin(1))
    return lambda draw, index: add_sides(sigma[index], noise) * noise[draw]

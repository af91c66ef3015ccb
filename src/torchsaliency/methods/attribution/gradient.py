"""Attribution by the gradient at the image, or at points around or below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from torchsaliency.core.method import Saliency, register
from torchsaliency.core.runtime import draw_normal, draw_uniform
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.methods.attribution.reduction import Attribution, Channels
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    baseline,
    blur,
    gradient,
    image_gradients,
    images_of,
    mean_over_draws,
    rise_from,
)
from torchsaliency.methods.sampling import mean_until, unit_of


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

    differentiable: ClassVar[bool] = True

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

    differentiable: ClassVar[bool] = True

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

    def attributions(self, view: View) -> Saliency:
        """Return the integral times x - b, (N, C, *size), and y_c(x) - y_c(b)."""
        base = baseline(view)
        return Saliency(integrate(view, base, self.steps), {"rise": rise_from(view, base)})


def integrate(view: View, base: Tensor, steps: int) -> Tensor:
    """Return (x - b) ⊙ ∫₀¹ ∂y_c/∂x (b + α(x - b)) dα by a quadrature of so many points."""
    images = images_of(view)
    points, weights = (images.new_tensor(numbers) for numbers in leggauss(steps))

    def part(step: Tensor, index: Tensor) -> Tensor:
        at = add_sides(1 + points[step], images) / 2
        slope = gradient(view, base[index] + at * (images[index] - base[index]), index)
        return add_sides(weights[step], slope) / 2 * steps * slope

    return (images - base) * mean_over_draws(view, steps, part)


@register("blur-ig", family="attribution", cite="xu2020", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class BlurIG(Attribution):
    """Blur integrated gradients: gradients summed while a blur of the image is taken away.

    With x_σ the image blurred by a Gaussian of σ pixels, R = -∫ ∂y_c/∂x (x_σ) ⊙ ∂x_σ/∂σ dσ over
    [0, max_sigma]: Σ_k (x_σ(k) - x_σ(k+1)) ⊙ ∂y_c/∂x at the blur in the middle of the step, which
    is exact for a linear network. σ(k) = max_sigma · (k/steps)², for most changes where the blur is
    small. The shares add up to y_c(x) - y_c(x_σ), σ = max_sigma, up to the steps' error. Pixels
    outside the image are zero, the mean colour, as in the authors' code; a side of one pixel is not
    blurred. No baseline is read.

    Source: Xu et al., CVPR 2020. Differs from the authors' code in the steps: see erratum L19.

    Attributes:
        steps: of the sum; above 0.
        max_sigma: σ of the strongest blur in pixels; above 0.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("steps", "max_sigma")

    steps: int = 50
    max_sigma: float | int = 50

    def attributions(self, view: View) -> Saliency:
        """Return the sum over the steps, (N, C, *size), and how far the score rises by them."""
        images = images_of(view)

        def blur_image(index: Tensor, place: Tensor) -> Tensor:
            sigmas = (self.max_sigma * (place / self.steps).square()).tolist()
            pairs = zip(index, sigmas, strict=True)
            return torch.cat([_blur_images(images[i : i + 1], sigma) for i, sigma in pairs])

        def part(step: Tensor, index: Tensor) -> Tensor:
            place = step.float()  # and not of torch's default type
            slope = gradient(view, blur_image(index, place + 0.5), index)
            return (blur_image(index, place) - blur_image(index, place + 1)) * slope

        base = _blur_images(images, float(self.max_sigma))
        shares = self.steps * mean_over_draws(view, self.steps, part)
        return Saliency(shares, {"rise": rise_from(view, base)})


def _blur_images(images: Tensor, sigma: float) -> Tensor:
    """Blur all sides of images but those of one pixel: a volume of one slice is a picture."""
    wide = [side for side in images.shape[2:] if side > 1]
    if not wide:
        return images
    planes = images.reshape(*images.shape[:2], *wide)
    return blur(planes, sigma, sides=len(wide)).reshape_as(images)


@dataclass(frozen=True)
class NoisyGradient(Attribution):
    """Gradients ∂y_c/∂x (x + ε_s) at noisy copies of the image, ε_s ~ N(0, σ²).

    σ = spread · (max x - min x) of the image. All images are given the same noise.

    Attributes:
        samples: noisy copies; above 0.
        spread: the noise's σ as a share of the image's range; above 0.
        seed: of the noise.
        until: copies end, for each image, once the relative standard error of the attributions is
            no more than this; `samples` is the most. None takes them all.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("samples", "spread")

    samples: int = 50
    spread: float | int = 0.15
    seed: int = 0
    until: float | int | None = None

    @final
    def mean(
        self, view: View, of: Callable[[Tensor, Tensor], Tensor], judge: slice = slice(None)
    ) -> Saliency:
        """Return the mean over the copies of of(gradients, index of their images).

        Args:
            view: the images.
            of: gives what is averaged, (m, c, *size).
            judge: the channels of it whose standard error ends the copies, if `until` is given.
        """
        images = images_of(view)
        noise = draw_noise(images, self.samples, self.spread, self.seed)

        def part(draw: Tensor, index: Tensor) -> Tensor:
            return of(gradient(view, images[index] + noise(draw, index), index), index)

        if self.until is None:
            return Saliency(mean_over_draws(view, self.samples, part))
        found = mean_until(view, self.samples, part, until=self.until, judge=judge)
        return Saliency(found.mean, found.details)


@register("smoothgrad", family="attribution", cite="smilkov2017", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class SmoothGrad(NoisyGradient):
    """SmoothGrad: the mean gradient over noisy copies of the image.

    R = mean_s ∂y_c/∂x (x + ε_s), ε_s ~ N(0, σ²), σ = spread · (max x - min x) of the image.

    Source: Smilkov et al., 2017. The plain mean of the paper, where the authors' later code takes
    squares by default (`smoothgrad-squared`). Differs from captum's NoiseTunnel, whose σ is
    absolute (1 by default) and whose noise depends on the batch: here all images are given the
    same noise. `NoiseTunnel` does the same around any method.

    Attributes:
        channels: how colours are joined: "abs-sum" as in the authors' code, "sum-positive" or
            "max-abs".
        clip: values above this percentile of the map are cut to it; 100 cuts none. The authors'
            figures are made with 99.
    """

    def attributions(self, view: View) -> Saliency:
        """Return the mean gradient, (N, C, *size)."""
        return self.mean(view, lambda found, index: found)  # noqa: ARG005


@register("smoothgrad-squared", family="attribution", cite="hooker2019", needs=IMAGE_PASSES)
@final
@dataclass(frozen=True)
class SmoothGradSquared(NoisyGradient):
    """SmoothGrad²: the mean squared gradient over noisy copies of the image.

    R = mean_s (∂y_c/∂x (x + ε_s))², ε_s ~ N(0, σ²), σ = spread · (max x - min x) of the image.

    Source: Hooker et al., NeurIPS 2019. The noise is that of SmoothGrad, see there.
    """

    def attributions(self, view: View) -> Saliency:
        """Return the mean squared gradient, (N, C, *size)."""
        return self.mean(view, lambda found, index: found.square())  # noqa: ARG005


@register("vargrad", family="attribution", cite="adebayo2018b", needs=IMAGE_PASSES)
@final
@dataclass(frozen=True)
class VarGrad(NoisyGradient):
    """VarGrad: the variance of the gradient over noisy copies of the image.

    R = mean_s (g_s - mean g)², g_s = ∂y_c/∂x (x + ε_s), ε_s ~ N(0, σ²),
    σ = spread · (max x - min x) of the image. It is zero where the network is linear.

    Source: Adebayo et al., ICLR Workshop 2018. The noise is that of SmoothGrad, see there.
    """

    def attributions(self, view: View) -> Saliency:
        """Return the variance of the gradient, (N, C, *size)."""
        clean = image_gradients(view)  # a shift that leaves the variance, and keeps its digits

        def moments(found: Tensor, index: Tensor) -> Tensor:
            off = found - clean[index]
            return torch.cat([off, off.square()], 1)

        channels = clean.shape[1]
        found = self.mean(view, moments, slice(channels, None))
        mean, square = found.raw.chunk(2, 1)
        error = {
            name: each[:, channels:] if name == "standard_error" else each
            for name, each in found.details.items()
        }
        return Saliency((square - mean.square()).clamp_min(0), error)


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
        sampler: "independent", or "stratified": one α in each of `samples` equal parts of [0, 1],
            or of 8 parts again and again with `until`, whose standard error needs repetitions.
        until: draws end, for each image, once the relative standard error of the attributions is
            no more than this; `samples` is the most. None takes them all.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("samples",)

    channels: Channels = "sum-positive"
    samples: int = 50
    noise: float | int = 1e-4
    baselines: Literal["masking", "masking-and-image"] = "masking"
    seed: int = 0
    sampler: Literal["independent", "stratified"] = "independent"
    until: float | int | None = None

    def attributions(self, view: View) -> Saliency:
        """Return the expected gradients times x' - b, (N, C, *size), and y_c(x) - mean y_c(b)."""
        images, base = images_of(view), baseline(view)
        noise = normal_draws(images, self.samples, self.seed) * self.noise
        generator = torch.Generator().manual_seed(self.seed)
        alpha = draw_uniform(generator, self.samples).to(images)
        unit = unit_of(self.sampler)
        if self.sampler == "stratified":
            strata = self.samples if self.until is None else unit
            alpha = (torch.arange(self.samples, device=alpha.device) % strata + alpha) / strata
        itself = draw_uniform(generator, self.samples).to(images.device) < 0.5  # noqa: PLR2004
        if self.baselines == "masking":
            itself = torch.zeros_like(itself)

        def part(draw: Tensor, index: Tensor) -> Tensor:
            start = torch.where(add_sides(itself[draw], images), images[index], base[index])
            way = images[index] + noise[draw] - start
            return way * gradient(view, start + add_sides(alpha[draw], way) * way, index)

        rise = rise_from(view, base)
        if self.until is None:
            shares = mean_over_draws(view, self.samples, part)
            return Saliency(shares, {"rise": rise * (1 - itself.float().mean())})
        found = mean_until(view, self.samples, part, until=self.until, unit=unit)
        away = 1 - itself.float().cumsum(0)[found.samples - 1] / found.samples
        return Saliency(found.mean, {"rise": rise * away, **found.details})


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

"""IBA: how much of a layer's information must pass for the class to be recognised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.maps import is_constant
from torchsaliency.core.method import PASSES, Method, register, require_positive
from torchsaliency.core.runtime import draw_normal
from torchsaliency.core.space import add_sides, sides_of
from torchsaliency.core.target import LogProbability
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.cam.solvers import AdamState
from torchsaliency.methods.passes import blur, slope, sum_dtype

_START = 5.0
_LEAST_SPREAD = 0.01
_CLOSED = 1e-6


@register("iba", family="masking", cite="schulz2020", needs=PASSES)
@final
@dataclass(frozen=True)
class IBA(Method):
    """Information bottleneck: noise drowns what the class can do without.

    Z = λ ⊙ R + (1-λ) ⊙ ε, ε ~ N(μ, s²), λ = smooth(sigmoid(α)); α minimises
    -log p_c(Z) + β · mean KL, KL = -½ (1 + ln(1-λ)² - (λR')² - (1-λ)²), R' = (R-μ)/s; the map is
    Σ_k KL_k / ln 2 · hw/HW, the information that passes at each place, in bits a pixel.

    α is optimised for each image by itself, the noise is the same for all images. A target that is
    not a class has its own score in place of log p_c. The network's tail runs `samples` times a
    step.

    Source: Schulz et al., ICLR 2020, per-sample bottleneck. Differs from the reference in that μ
    and s are those of each channel over the image's own positions: there is no data set to take
    them from at each position. Channels that are constant in the image hold no information on
    places and pass as they are (the reference leaves out those that are zero in 99 % of images).

    Attributes:
        beta: weight β of the information.
        optimization_steps: of Adam; the class matters only after the first few.
        learning_rate: of Adam, on α, which begins at 5.
        samples: noisy copies over which the score is averaged in each step.
        sigma: of the Gaussian that smooths λ, in cells of the layer; 0 for none.
        seed: of the noise.
    """

    beta: float = 10.0
    optimization_steps: int = 10
    learning_rate: float = 1.0
    samples: int = 10
    sigma: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(
            "iba",
            optimization_steps=self.optimization_steps,
            learning_rate=self.learning_rate,
            samples=self.samples,
        )
        if self.beta < 0 or self.sigma < 0:
            raise OptionError(
                f"iba.beta and iba.sigma must not be negative; {self.beta} and {self.sigma} given."
            )

    def saliency(self, view: View) -> Tensor:
        """Return the bits that pass at each place, (N, *grid)."""
        neck = _Bottleneck(view.activations.to(sum_dtype(view.images.device)), self.sigma)
        features = neck.features
        adam = AdamState(torch.full_like(features, _START).flatten(1), self.learning_rate)
        draw = torch.Generator().manual_seed(self.seed)
        probable = view.of_class_score(LogProbability)
        for _ in range(self.optimization_steps):
            noise = draw_normal(draw, self.samples, *features.shape[1:]).to(features)
            alpha = adam.rows.view_as(features)
            climb = [self._climb(probable, neck, alpha, noise, i) for i in range(len(features))]
            adam.ascend(slice(None), torch.stack(climb).flatten(1))
        bits = neck.information(adam.rows.view_as(features), slice(None)).sum(1) / math.log(2)
        share = features[0, 0].numel() / math.prod(view.size)
        return (bits * share).to(view.score.dtype)

    def _climb(
        self, view: View, neck: _Bottleneck, alpha: Tensor, noise: Tensor, image: int
    ) -> Tensor:
        """Return the slope of mean log p_c - β · mean KL in one image's α, (K, *grid)."""
        with torch.enable_grad():
            leaf = alpha[image].clone().requires_grad_()
            nats = neck.information(leaf[None], slice(image, image + 1)).mean()
            (total,) = torch.autograd.grad(-self.beta * nats, leaf)
            for part in noise.split(view.trace.chunk):
                mixed = neck.mix_noise(leaf[None], part, image)
                scores = view.tail(image, mixed.__getitem__, len(part))
                total += slope(view, scores / self.samples, leaf)
        return total


@final
class _Bottleneck:
    """The features R with the mean μ and spread s of each channel over an image's positions.

    Attributes:
        features: R (N, K, *grid).
        mean: μ (N, K, 1, …).
        spread: s (N, K, 1, …), at least 0.01.
        varies: whether a channel varies within the image (N, K, 1, …).
        sigma: of the Gaussian that smooths λ.
    """

    def __init__(self, features: Tensor, sigma: float) -> None:
        self.features, self.sigma = features, sigma
        spread, self.mean = torch.std_mean(features, sides_of(features), correction=0, keepdim=True)
        self.spread = spread.clamp_min(_LEAST_SPREAD)
        varies = ~is_constant(features.float().flatten(0, 1)).view(features.shape[:2])
        self.varies = add_sides(varies, features)

    def _close(self, alpha: Tensor) -> Tensor:
        """Return 1 - λ, which is small and so must not be a difference; never 0."""
        sides = alpha.ndim - 2
        closed = blur((-alpha).sigmoid(), self.sigma, "mirror", round(2 * self.sigma), sides=sides)
        return closed.clamp_min(_CLOSED)

    def mix_noise(self, alpha: Tensor, noise: Tensor, image: int) -> Tensor:
        """Return Z of one image under each standard noise (m, K, *grid)."""
        features = self.features[image]
        noisy = self.mean[image] + self.spread[image] * noise
        mixed = torch.lerp(features.expand_as(noisy), noisy, self._close(alpha).expand_as(noisy))
        return torch.where(self.varies[image], mixed, features)

    def information(self, alpha: Tensor, images: slice) -> Tensor:
        """Return KL (n, K, *grid) in nats."""
        closed = self._close(alpha)
        scaled = (self.features[images] - self.mean[images]) / self.spread[images]
        nats = 0.5 * (((1 - closed) * scaled).square() + closed.square() - 1) - closed.log()
        return torch.where(self.varies[images], nats, 0)

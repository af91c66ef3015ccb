"""DeepSHAP: DeepLIFT against several baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from torchsaliency.core.method import Saliency, register
from torchsaliency.core.trace import View
from torchsaliency.methods.attribution.gradient import normal_draws
from torchsaliency.methods.attribution.reduction import (
    BACKWARD,
    Attribution,
    baseline,
    completeness_gap,
    mean_over_draws,
    wide_images,
)
from torchsaliency.methods.propagation.deeplift import Rescaled, differences


@register("deepshap", family="attribution", cite="lundberg2017", needs=BACKWARD)
@final
@dataclass(frozen=True)
class DeepSHAP(Attribution):
    """DeepSHAP: the mean of DeepLIFT over a set of baselines.

    The set is the baseline of the masking in use plus noise, b_s = b + N(0, σ²), with
    σ = spread · (max x - min x) of the image: the library has no training images to draw from. The
    shares add up to y_c(x) - mean_s y_c(b_s), as DeepLIFT's do.

    Source: Lundberg and Lee, NeurIPS 2017. Differs from captum's DeepLiftShap, which wants the set
    from its user, as DeepLIFT does.

    Attributes:
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs".
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
        samples: baselines in the set; above 0.
        spread: the noise's σ as a share of the image's range; above 0.
        rescaled: what has slopes: "all" or "captum"; see DeepLIFT.
        seed: of the noise.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("samples", "spread")

    samples: int = 10
    spread: float | int = 0.1
    rescaled: Rescaled = "all"
    seed: int = 0

    def attributions(self, view: View) -> Saliency:
        """Return the mean shares, (N, C, H, W), and how far they are from adding up."""
        images, base = wide_images(view), baseline(view)
        noise = normal_draws(images, self.samples, self.seed)
        sigma = self.spread * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
        rises = view.score.new_zeros(len(images))

        def part(draw: Tensor, index: Tensor) -> Tensor:
            other = base[index] + sigma[index][:, None, None, None] * noise[draw]
            shares, rise = differences(view, images[index], other, index, self.rescaled)
            rises.index_add_(0, index, rise.to(rises) / self.samples)
            return shares

        shares = mean_over_draws(view, self.samples, part)
        return Saliency(shares, {"gap": completeness_gap(shares, rises, view.score)})

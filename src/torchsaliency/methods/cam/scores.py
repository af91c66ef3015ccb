"""CAMs weighted by scores of further passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.method import (
    GRADIENTS,
    PASSES,
    ChannelCAM,
    Method,
    extend_needs,
    register,
    require_positive,
)
from torchsaliency.core.space import add_sides, repeat_image, sides_of
from torchsaliency.core.target import Probability
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.attribution.gradient import normal_draws
from torchsaliency.methods.cam.tolerance import (
    Ablations,
    ablate_channels,
    describe_channels,
    require_tolerance,
    score_channels,
)
from torchsaliency.methods.passes import images_of


@register("scorecam", family="cam", cite="wang2020", needs=PASSES)
@final
@dataclass(frozen=True)
class ScoreCAM(ChannelCAM):
    """Score-CAM: channels weighted by the score of the image masked by them, then ReLU.

    w = softmax_k(f(x ⊙ n(up(A_k)))_c). The score of a baseline image, which the paper subtracts,
    is the same for all channels and vanishes in the softmax.

    A constant channel masks everything; all such channels share one pass, so the result is exact
    and dead channels cost nothing. Memory is bounded by the chunk.

    A tolerance above 0 asks near-duplicates of a mask once, and the masks in the order of what they
    may change, until the estimate of what the others can still change in the map stays below it.
    Their scores come from a Gaussian process over the masks, see `methods.cam.tolerance`. Details:
    `asked`, the masks that took a pass, and `error`, the estimate; it is no bound.

    Source: Wang et al., CVPRW 2020; details as pytorch-grad-cam.

    Attributes:
        align_corners: how masks are upsampled; True as in pytorch-grad-cam.
        tolerance: largest error of the map in [0, 1] that is aimed at, below 1; 0 is exact.
    """

    align_corners: bool = True
    tolerance: float | int = 0.0

    def __post_init__(self) -> None:
        require_tolerance("scorecam", self.tolerance)

    def weights(self, view: View) -> Tensor:
        """Return softmax_k of the masked scores, shape (N, K)."""
        return self.weights_and_details(view)[0]

    def weights_and_details(self, view: View) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the weights, and with a tolerance how many masks were asked."""
        if not self.tolerance:
            scores = view.rescore(view.activations, align_corners=self.align_corners)
            return scores.softmax(1), {}
        scores, details = score_channels(view, self.tolerance, align_corners=self.align_corners)
        return scores.softmax(1), details


@register("sscam", family="cam", cite="wang2020ss", needs=PASSES)
@final
@dataclass(frozen=True)
class SSCAM(ChannelCAM):
    """SS-CAM: Score-CAM whose scores are means over noise, on the masks or on the image.

    w = softmax_k(mean_s f(x ⊙ (n(up(A_k)) + ε_s))_c), ε_s ~ N(0, spread²) at every pixel, or with
    `noise="image"` softmax_k(mean_s f((x + ε_s) ⊙ n(up(A_k)))_c); then ReLU. Costs `samples` times
    the passes of Score-CAM.

    Source: Wang et al., 2020. Differs from torchcam, whose noise is another one for each channel:
    here all channels and images get the same, so that channels differ by themselves alone, dead
    ones share one pass, and a map does not depend on its batch.

    Attributes:
        samples: draws of the noise; above 0.
        spread: σ of the noise: of masks in [0, 1], or of the network's normalised colours; above 0.
        noise: "masks" or "image", the paper's first and second variant.
        align_corners: how masks are upsampled.
        seed: of the noise.
    """

    samples: int = 10
    spread: float | int = 2.0
    noise: Literal["masks", "image"] = "masks"
    align_corners: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("sscam", samples=self.samples, spread=self.spread)

    def weights(self, view: View) -> Tensor:
        """Return softmax_k of the mean scores, shape (N, K)."""
        images, masks = images_of(view), view.activations
        of_image = self.noise == "image"
        drawn = normal_draws(images if of_image else images[:, 0], self.samples, self.seed)
        total = masks.new_zeros(masks.shape[:2])
        for noise in drawn * self.spread:
            if of_image:
                with view.trace_variants(images + noise) as other:
                    total += other.rescore(masks, align_corners=self.align_corners)
            else:
                total += view.rescore(
                    masks,
                    align_corners=self.align_corners,
                    edit=lambda grown, noise=noise: grown + noise,  # type: ignore[misc]
                )
        return (total / self.samples).softmax(1)


@register("iscam", family="cam", cite="naidu2020", needs=PASSES)
@final
@dataclass(frozen=True)
class ISCAM(ChannelCAM):
    """IS-CAM: Score-CAM whose scores are means over masks that grow from nothing to themselves.

    w = softmax_k(1/N Σ_{i=1}^N f(x ⊙ (i/N) n(up(A_k)))_c), then ReLU. Costs N times the passes of
    Score-CAM.

    Source: Naidu et al., 2020. Differs from torchcam, whose factors are the running sums
    Σ_{j≤i} j/N: they grow to (N+1)/2, so its masks multiply the image's colours by up to 5.5, and
    the mean is no integral from 0 to 1 (erratum L16).

    Attributes:
        steps: N; above 0.
        align_corners: how masks are upsampled.
    """

    steps: int = 10
    align_corners: bool = False

    def __post_init__(self) -> None:
        require_positive("iscam", steps=self.steps)

    def weights(self, view: View) -> Tensor:
        """Return softmax_k of the mean scores, shape (N, K)."""
        scores = [
            view.rescore(
                view.activations,
                align_corners=self.align_corners,
                edit=lambda grown, step=step: grown * (step / self.steps),  # type: ignore[misc]
            )
            for step in range(1, self.steps + 1)
        ]
        return torch.stack(scores).mean(0).softmax(1)


@register("ablationcam", family="cam", cite="desai2020", needs=PASSES, signed=True)
@final
@dataclass(frozen=True)
class AblationCAM(ChannelCAM):
    """Ablation-CAM: channels weighted by the relative drop without them, then ReLU.

    w_k = (y_c - y_c^(k)) / y_c, where y_c^(k) is the score with channel k replaced; for y_c ≤ 0 the
    plain difference is used, because the ratio would turn its sign.

    The batch grows at the layer, so what lies before it runs once; channels that hold the
    replacement value already are skipped, their weight is 0.

    With a tolerance above 0, gradient times activation estimates the drops, and channels are asked
    in the order of what they may change until the estimate of what the others can still change in
    the map stays below it. Where what follows the layer is linear (pooling and one linear layer),
    that is after 32 channels, and exact; where it is far from it, nearly all are asked. Details:
    `asked`, the channels that took a pass, and `error`, the estimate; it is no bound.

    Source: Desai and Ramaswamy, WACV 2020. Differs from pytorch-grad-cam, whose replacement value
    is 0 only if the features' least value is exactly 0, else minus infinity in effect (erratum L2).

    Attributes:
        replacement: "zero" (the paper) or "min", the image's least activation.
        tolerance: largest error of the map in [0, 1] that is aimed at, below 1; 0 is exact.
    """

    replacement: Literal["zero", "min"] = "zero"
    tolerance: float | int = 0.0

    def __post_init__(self) -> None:
        require_tolerance("ablationcam", self.tolerance)
        if self.tolerance:
            extend_needs(self, GRADIENTS)

    def weights(self, view: View) -> Tensor:
        """Return the relative drops, shape (N, K)."""
        return self.weights_and_details(view)[0]

    def weights_and_details(self, view: View) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the relative drops, and with a tolerance how many channels were asked."""
        found = [self._drops(view, i) for i in range(len(view.images))]
        drops, score = torch.stack([each for each, _ in found]), view.score[:, None]
        every = [channels for _, channels in found if channels is not None]
        return torch.where(
            score > 0, drops / torch.where(score > 0, score, 1), drops
        ), describe_channels(every, view) if self.tolerance else {}

    def _drops(self, view: View, image: int) -> tuple[Tensor, Ablations | None]:
        features = view.activations[image]
        value = features.amin() if self.replacement == "min" else features.new_zeros(())
        live = (features != value).flatten(1).any(1).nonzero()[:, 0]

        def ask(channels: Tensor) -> Tensor:
            def without(step: Tensor) -> Tensor:
                edited = repeat_image(features, len(step)).clone()
                edited[torch.arange(len(step), device=step.device), channels[step]] = value
                return edited

            return view.score[image] - view.tail(image, without, len(channels))

        drops = view.score.new_zeros(len(features))
        if not self.tolerance:
            if len(live):
                drops[live] = ask(live)
            return drops, None
        channels = ablate_channels(view, image, live, value, self.tolerance)
        while len(channels.chosen):
            channels.fill(ask(live[channels.chosen.to(live.device)]))
        drops[live] = channels.values.to(drops)
        return drops, channels


@register("group-cam", family="cam", cite="zhang2021", needs=GRADIENTS | PASSES)
@final
@dataclass(frozen=True)
class GroupCAM(Method):
    """Group-CAM: Grad-CAMs of groups of channels, weighted by what showing each of them gains.

    M_l = ReLU(Σ_{k in group l} w_k A_k) with Grad-CAM's w_k, its values up to the given quantile
    set to 0; S = ReLU(Σ_l (p_c(x ⊙ n(up(M_l))) - p_c(all hidden)) n(up(M_l))). A target that is no
    class gives its own score in place of a probability. Costs one pass a group and one more.

    Source: Zhang et al., 2021; groups of consecutive channels, as in the authors' code. What hides
    the image is the masking in use, in the paper a blur: `masking=Blur(50)`.

    Attributes:
        groups: number of groups; channels, if there are fewer, stand alone.
        quantile: share of each M_l that is set to 0, in [0, 1).
    """

    groups: int = 32
    quantile: float | int = 0.7

    def __post_init__(self) -> None:
        require_positive("group-cam", groups=self.groups)
        if not 0 <= self.quantile < 1:
            raise OptionError(
                f"group-cam.quantile must be at least 0 and below 1, not {self.quantile}."
            )

    def saliency(self, view: View) -> Tensor:
        """Return the weighted sum of masks at the image's own size, (N, *size)."""
        gradients = view.gradients
        parts = add_sides(gradients.mean(sides_of(gradients)), gradients) * view.activations
        groups = [group.sum(1).relu() for group in parts.chunk(self.groups, 1)]
        masks = torch.stack([self._cut(group) for group in groups], 1)
        nothing = torch.zeros_like(masks[:, :1])  # constant: it hides everything
        scores = view.of_class_score(Probability).rescore(torch.cat([masks, nothing], 1))
        gains = scores[:, :-1] - scores[:, -1:]
        summed = view.score.new_zeros((len(masks), *view.size))
        for mask, gain in zip(masks.unbind(1), gains.unbind(1), strict=True):
            summed += add_sides(gain, summed) * minmax(upsample(mask, view.size))
        return summed.relu()

    def _cut(self, group: Tensor) -> Tensor:
        ranked = group.flatten(1).sort(1).values  # torch's quantile needs float64
        place = self.quantile * (ranked.shape[1] - 1)
        low, high = ranked[:, math.floor(place)], ranked[:, math.ceil(place)]
        least = low + (place % 1) * (high - low)
        return torch.where(group > add_sides(least, group), group, 0)

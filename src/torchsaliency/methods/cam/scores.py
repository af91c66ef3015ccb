"""CAMs weighted by scores of further passes, and Fake-CAM, a control for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from torchsaliency.core.method import PASSES, ChannelCAM, Method, Needs, register
from torchsaliency.core.space import repeat_image
from torchsaliency.core.trace import View


@register("scorecam", family="cam", cite="wang2020", needs=PASSES)
@final
@dataclass(frozen=True)
class ScoreCAM(ChannelCAM):
    """Score-CAM: channels weighted by the score of the image masked by them, then ReLU.

    w = softmax_k(f(x ⊙ n(up(A_k)))_c). The score of a baseline image, which the paper subtracts,
    is the same for all channels and vanishes in the softmax.

    A constant channel masks everything; all such channels share one pass, so the result is exact
    and dead channels cost nothing. Memory is bounded by the chunk.

    Source: Wang et al., CVPRW 2020; details as pytorch-grad-cam.

    Attributes:
        align_corners: how masks are upsampled; True as in pytorch-grad-cam.
    """

    align_corners: bool = True

    def weights(self, view: View) -> Tensor:
        """Return softmax_k of the masked scores, shape (N, K)."""
        return view.rescore(view.activations, align_corners=self.align_corners).softmax(1)


@register("ablationcam", family="cam", cite="desai2020", needs=PASSES, signed=True)
@final
@dataclass(frozen=True)
class AblationCAM(ChannelCAM):
    """Ablation-CAM: channels weighted by the relative drop without them, then ReLU.

    w_k = (y_c - y_c^(k)) / y_c, where y_c^(k) is the score with channel k replaced; for y_c ≤ 0 the
    plain difference is used, because the ratio would turn its sign.

    The batch grows at the layer, so what lies before it runs once; channels that hold the
    replacement value already are skipped, their weight is 0.

    Source: Desai and Ramaswamy, WACV 2020. Differs from pytorch-grad-cam, whose replacement value
    is 0 only if the features' least value is exactly 0, else minus infinity in effect (erratum L2).

    Attributes:
        replacement: "zero" (the paper) or "min", the image's least activation.
    """

    replacement: Literal["zero", "min"] = "zero"

    def weights(self, view: View) -> Tensor:
        """Return the relative drops, shape (N, K)."""
        drops = torch.stack([self._drops(view, i) for i in range(len(view.images))])
        score = view.score[:, None]
        return torch.where(score > 0, drops / torch.where(score > 0, score, 1), drops)

    def _drops(self, view: View, image: int) -> Tensor:
        features = view.activations[image]
        value = features.amin() if self.replacement == "min" else features.new_zeros(())
        live = (features != value).flatten(1).any(1).nonzero()[:, 0]

        def without(step: Tensor) -> Tensor:
            edited = repeat_image(features, len(step)).clone()
            edited[torch.arange(len(step), device=step.device), live[step]] = value
            return edited

        drops = view.score.new_zeros(len(features))
        if len(live):
            drops[live] = view.score[image] - view.tail(image, without, len(live))
        return drops


@register("fakecam", family="cam", cite="poppi2021", needs=Needs.NOTHING)
@final
@dataclass(frozen=True)
class FakeCAM(Method):
    """Fake-CAM: 1 everywhere but for the first pixel, top left, which is 0; a control for metrics.

    Source: Poppi et al., CVPRW 2021.
    """

    def saliency(self, view: View) -> Tensor:
        """Return the map at the image's own size, (N, *size)."""
        raw = view.images.new_ones((len(view.images), *view.size)).float()
        raw.flatten(1)[:, 0] = 0
        return raw

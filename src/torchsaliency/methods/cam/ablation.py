"""Ablation-CAM: how far the score drops when a channel is taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from torchsaliency.core.method import PASSES, ChannelCAM, register
from torchsaliency.core.trace import View


@register("ablationcam", family="cam", cite="desai2020", needs=PASSES)
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
            edited = features.expand(len(step), -1, -1, -1).clone()
            edited[torch.arange(len(step), device=step.device), live[step]] = value
            return edited

        drops = view.score.new_zeros(len(features))
        if len(live):
            drops[live] = view.score[image] - view.tail(image, without, len(live))
        return drops

"""Score-CAM: every feature map is tried as a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from torchsaliency.core.method import PASSES, ChannelCAM, register
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

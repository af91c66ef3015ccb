"""Fake-CAM: the map that wins average drop without explaining anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from torchsaliency.core.method import Method, Needs, register
from torchsaliency.core.trace import View


@register("fakecam", family="cam", cite="poppi2021", needs=Needs.NOTHING)
@final
@dataclass(frozen=True)
class FakeCAM(Method):
    """Fake-CAM: 1 everywhere but for the top left pixel, which is 0; a control for metrics.

    Source: Poppi et al., CVPRW 2021.
    """

    def saliency(self, view: View) -> Tensor:
        """Return the map at the image's own size, (N, H, W)."""
        raw = view.images.new_ones((len(view.images), *view.size)).float()
        raw[:, 0, 0] = 0
        return raw

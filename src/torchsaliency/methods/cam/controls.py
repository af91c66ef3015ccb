"""Controls: maps that know nothing of what the network decides, which metrics should not praise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.method import ACTIVATIONS, ChannelCAM, Method, Needs, register
from torchsaliency.core.runtime import draw_uniform
from torchsaliency.core.space import multiply_sides
from torchsaliency.core.trace import View
from torchsaliency.methods.passes import images_of


@register("fakecam", family="cam", cite="poppi2021", needs=Needs.NOTHING, control=True)
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


@register("randomcam", family="cam", cite="gildenblat2021", needs=ACTIVATIONS, control=True)
@final
@dataclass(frozen=True)
class RandomCAM(ChannelCAM):
    """Random-CAM: channels weighted at random, w_k ~ U(-1, 1), then ReLU; a control for CAMs.

    It has the features' places and knows no class: what a CAM is better by, its weights explain.

    Source: Gildenblat et al., pytorch-grad-cam, 2021; there the weights of each image differ, here
    all images share them, so that a map does not depend on its batch.

    Attributes:
        seed: of the weights.
    """

    seed: int = 0

    def weights(self, view: View) -> Tensor:
        """Return the same random numbers for every image, shape (N, K)."""
        maps = view.activations
        drawn = draw_uniform(torch.Generator().manual_seed(self.seed), maps.shape[1])
        return (2 * drawn - 1).to(maps).expand(len(maps), -1)


@register("edges", family="cam", cite="adebayo2018", needs=Needs.NOTHING, control=True)
@final
@dataclass(frozen=True)
class Edges(Method):
    """Edges: the mean absolute Sobel derivative of the grey image along its sides; a control.

    S(u) = mean_d |Σ_v s_d(v) x̄(u + v)|, x̄ the mean colour as the network sees it, s_d = (-1, 0, 1)
    along side d and (1, 2, 1) along all others; pixels outside repeat the border. A map much like
    it may show the image and not the network.

    Source: Adebayo et al., NeurIPS 2018, who compare saliency maps with an edge detector.
    """

    def saliency(self, view: View) -> Tensor:
        """Return the edges at the image's own size, (N, *size)."""
        grey = images_of(view).mean(1)
        along, across = (
            [_convolution(side, kernel).to(grey) for side in view.size]
            for kernel in ((-1, 0, 1), (1, 2, 1))
        )
        with torch.autocast(grey.device.type, enabled=False):
            found = [
                multiply_sides(
                    grey, [along[d] if d == side else across[d] for d in range(len(view.size))]
                ).abs()
                for side in range(len(view.size))
            ]
        return torch.stack(found).mean(0)


def _convolution(length: int, kernel: tuple[int, int, int]) -> Tensor:
    """Return the convolution of one side, its border repeated, as a matrix (length, length)."""
    rows = torch.arange(length, device="cpu")
    matrix = torch.zeros(length, length, dtype=torch.float32, device="cpu")
    for offset, weight in zip((-1, 0, 1), kernel, strict=True):
        columns = (rows + offset).clamp(0, length - 1)
        matrix.index_put_((rows, columns), matrix.new_tensor(weight), accumulate=True)
    return matrix

"""VICRegL's ConvNeXt: the original repository's names, no layer scale, its own pooling."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
}
"""Blocks and channels of the four stages."""


@final
class ConvNeXtEncoder(nn.Module):
    """ConvNeXt that gives the mean of its normalised tokens, as VICRegL pools.

    Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022; Bardes et al., "VICRegL", NeurIPS
    2022. Differs from torchvision's network: no layer scale, and every token is normalised before
    the mean is taken (LN of the mean is another number).

    Args:
        size: "small", "base" or "xlarge"; or give depths and widths.
        depths: blocks of each stage.
        widths: channels of each stage.
    """

    def __init__(
        self,
        size: str = "small",
        *,
        depths: tuple[int, ...] | None = None,
        widths: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        counts, channels = SIZES[size]
        counts, channels = depths or counts, widths or channels
        stem = nn.Sequential(nn.Conv2d(3, channels[0], 4, 4), _ChannelNorm(channels[0]))
        between = [
            nn.Sequential(_ChannelNorm(before), nn.Conv2d(before, after, 2, 2))
            for before, after in pairwise(channels)
        ]
        self.downsample_layers = nn.ModuleList([stem, *between])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(width) for _ in range(count)))
            for count, width in zip(counts, channels, strict=True)
        )
        self.norm = nn.LayerNorm(channels[-1], eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding (N, D) of images (N, 3, H, W)."""
        for smaller, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(smaller(x))
        tokens: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return tokens.mean((1, 2))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out: Tensor = x + self.pwconv2(self.act(self.pwconv1(inner))).permute(0, 3, 1, 2)
        return out


class _ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (N, C, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        moved = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return moved.permute(0, 3, 1, 2)

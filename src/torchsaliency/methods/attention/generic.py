"""Attention weighted by its gradient: class-specific maps of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.method import Method, Needs, Saliency, register
from torchsaliency.core.space import sides_of
from torchsaliency.core.trace import View
from torchsaliency.methods.attention.rollout import from_block
from torchsaliency.methods.attention.tokens import patch_row, whole_attentions

NEEDS = Needs.ATTENTION | Needs.TARGET | Needs.GRADIENTS


@register("attention-gradcam", family="attention", cite="chefer2021a", needs=NEEDS, signed=True)
@final
@dataclass(frozen=True)
class AttentionGradCAM(Method):
    """Attention Grad-CAM: the last block's heads, weighted by their mean gradient, then ReLU.

    S = ReLU(mean_h α_h a_h), a_h the class token's row of head h, α_h the mean of ∂y_c/∂a_h over
    patches.

    Source: as compared with by Chefer et al., CVPR 2021.
    """

    def saliency(self, view: View) -> Saliency:
        """Return the weighted sum of heads, (N, *grid)."""
        last, gradient = whole_attentions(view)[-1], view.attention_gradients[-1]
        rows, slopes = (_by_head(view, block) for block in (last, gradient))
        weights = slopes.mean(sides_of(slopes), keepdim=True)
        summed = (weights * rows).mean(1)
        return Saliency(summed.relu(), signed=summed)


@register("generic-attention", family="attention", cite="chefer2021b", needs=NEEDS)
@final
@dataclass(frozen=True)
class GenericAttention(Method):
    """Generic attention explainability: attention times gradient, accumulated over the blocks.

    R ← R + Ā R from R = I, Ā = mean_h ReLU(∂y_c/∂A_h ⊙ A_h), block by block; the class token's row.

    Attributes:
        start: the first block that counts, from 0.

    Source: Chefer et al., ICCV 2021 (self-attention).
    """

    start: int = 0

    def saliency(self, view: View) -> Tensor:
        """Return the class token's row of R, (N, *grid)."""
        blocks = from_block("generic-attention", self.start, whole_attentions(view))
        gradients = view.attention_gradients[self.start :]
        size = blocks[0].shape[-1]
        relevance = torch.eye(size, device="cpu").to(blocks[0]).expand(len(blocks[0]), -1, -1)
        for block, gradient in zip(blocks, gradients, strict=True):
            positive = (gradient * block).relu().mean(1)
            relevance = relevance + positive @ relevance
        return patch_row(view, relevance)


def _by_head(view: View, block: Tensor) -> Tensor:
    """Return the class token's row of every head on the grid, (N, heads, *grid)."""
    return torch.stack([patch_row(view, head) for head in block.unbind(1)], 1)

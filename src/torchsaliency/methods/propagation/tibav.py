"""Transformer interpretability beyond attention visualisation: relevance times gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.method import Method, Needs, register
from torchsaliency.core.rules import Recording, backward
from torchsaliency.core.trace import View
from torchsaliency.methods.attention.rollout import from_block
from torchsaliency.methods.attention.tokens import patch_row, whole_attentions
from torchsaliency.methods.attribution.reduction import recorded_scores, rows, wide_images
from torchsaliency.methods.propagation.relevance import AttentionRelevance

NEEDS = Needs.ATTENTION | Needs.TARGET | Needs.GRADIENTS | Needs.PASSES


@register("tibav", family="attention", cite="chefer2021a", needs=NEEDS)
@final
@dataclass(frozen=True)
class TIBAV(Method):
    """Transformer attribution: attention's relevance times its gradient, multiplied through.

    E_b = I + mean_h ReLU(∂y_c/∂A_b ⊙ R_b), R_b the relevance of block b's attention by layer-wise
    relevance propagation from the score (one further pass); the class token's row of E_L … E_s.
    Rows are not normalised.

    Differs from the official code in that any ViT, DeiT or DINOv2 of torchvision, timm or Hugging
    Face runs unmodified and in batches.

    Attributes:
        start: the first block that counts, from 0; the official evaluation scripts take 1.

    Source: Chefer et al., CVPR 2021.
    """

    start: int = 0

    def saliency(self, view: View) -> Tensor:
        """Return the class token's row of the product, (N, h, w)."""
        attentions = whole_attentions(view)
        gradients = from_block("tibav", self.start, view.attention_gradients)
        relevances = from_block("tibav", self.start, attention_relevance(view, len(attentions)))
        identity = torch.eye(attentions[0].shape[-1], device="cpu").to(attentions[0])
        flow = identity.expand(len(view.images), -1, -1)
        for gradient, relevance in zip(gradients, relevances, strict=True):
            flow = (identity + (gradient * relevance).relu().mean(1)) @ flow
        return patch_row(view, flow)


def attention_relevance(view: View, blocks: int) -> list[Tensor]:
    """Return the relevance (N, heads, T, T) of every block's attention, from one more pass."""
    found: list[list[Tensor]] = []
    for index in rows(len(view.images), view):
        recording = Recording()
        leaf, scores = recorded_scores(view, wide_images(view)[index], index, recording)
        table = AttentionRelevance(recording, len(index))
        backward(scores, [leaf], recording, table.rules, conserves="tibav")
        found.append(table.blocks()[-blocks:])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]

"""Attention by itself: the last block's, and its flow through all blocks. Both know no class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from torchsaliency.core.method import Method, Needs, register
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.attention.tokens import patch_row, whole_attentions


@register("raw-attention", family="attention", cite="dosovitskiy2021", needs=Needs.ATTENTION)
@final
@dataclass(frozen=True)
class RawAttention(Method):
    """Raw attention: what the class token reads of the patches in the last block.

    The mean over heads of the class token's row of the softmax.

    Source: as compared with by Chefer et al., CVPR 2021.
    """

    def saliency(self, view: View) -> Tensor:
        """Return the row on the grid of patches, (N, *grid)."""
        return patch_row(view, whole_attentions(view)[-1].mean(1))


@register("attention-rollout", family="attention", cite="abnar2020", needs=Needs.ATTENTION)
@final
@dataclass(frozen=True)
class AttentionRollout(Method):
    """Attention rollout: attention multiplied through all blocks, with the residual path.

    R = Â_L … Â_2 Â_1, Â = A + I with rows divided by their sums, A fused over heads; the class
    token's row of R.

    Differs from vit-explain in that rows, not columns, are made to sum to 1 (erratum L5); its
    `discard_ratio` is `discard`, 0 by default as in the paper.

    Attributes:
        heads: how heads are fused: "mean", "max" or "min".
        discard: share of the lowest entries of each fused matrix set to zero, in [0, 1); what the
            class token reads of itself stays.
        start: the first block that counts, from 0.

    Source: Abnar and Zuidema, ACL 2020.
    """

    heads: Literal["mean", "max", "min"] = "mean"
    discard: float | int = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.discard < 1:
            raise OptionError(
                f"attention-rollout.discard must be in [0, 1), and {self.discard} was given."
            )

    def saliency(self, view: View) -> Tensor:
        """Return the class token's row of the product, (N, *grid)."""
        blocks = from_block("attention-rollout", self.start, whole_attentions(view))
        identity = torch.eye(blocks[0].shape[-1], device="cpu").to(blocks[0])
        flow = identity.expand(len(blocks[0]), -1, -1)
        for block in blocks:
            mixed = self._fuse(block) + identity
            flow = (mixed / mixed.sum(-1, keepdim=True)) @ flow
        return patch_row(view, flow)

    def _fuse(self, block: Tensor) -> Tensor:
        fused = block.mean(1) if self.heads == "mean" else getattr(block, f"a{self.heads}")(1)
        count = int(self.discard * fused[0].numel())
        if count == 0:
            return fused
        flat = fused.flatten(1)
        lowest = flat.topk(count, dim=1, largest=False).indices
        kept = torch.ones_like(flat).scatter_(1, lowest, 0)
        kept[:, 0] = 1
        return (flat * kept).view_as(fused)


def from_block(name: str, start: int, blocks: list[Tensor]) -> list[Tensor]:
    """Return the blocks from `start` on.

    Raises:
        OptionError: the network has fewer blocks.
    """
    if not 0 <= start < len(blocks):
        raise OptionError(
            f"{name}.start must be a block from 0 to {len(blocks) - 1}, and {start} was given."
        )
    return blocks[start:]

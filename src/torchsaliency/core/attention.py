"""Reads attention off unmodified transformers, fused or not, with gradients where needed.

torchvision, timm and Hugging Face compute attention by `scaled_dot_product_attention`, whose
probabilities never become a tensor, or by a softmax. Both end in operations of ATen, which
`core.rules` observes; queries, keys and values of fused attention give its probabilities. Nothing
of the network, of torch or of the pass is changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.maps import upcast
from torchsaliency.core.rules import Observer, Operation

FUSED = frozenset(
    {
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    }
)
"""ATen's fused attention, by device."""

SOFTMAXES = frozenset({"_softmax", "_safe_softmax"})


@final
@dataclass(frozen=True, eq=False)
class FusedAttention:
    """What a fused attention computes, in float32 or better.

    Attributes:
        inputs: queries, keys and values (N, heads, T, d).
        weights: the probabilities (N, heads, T, T).
        scale: of the products of queries and keys.
    """

    inputs: tuple[Tensor, Tensor, Tensor]
    weights: Tensor
    scale: float


def attention_of(operation: Operation) -> FusedAttention:
    """Return the parts of a fused attention."""
    query, key, value = (upcast(tensor) for tensor in operation.args[:3])
    scale = operation.argument("scale")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    mask = operation.argument("attn_mask")
    mask = operation.argument("attn_bias") if mask is None else mask
    scores = (query * factor) @ key.mT
    if operation.argument("is_causal", False):
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if mask is not None and mask.dtype == torch.bool:  # True where a token is seen
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return FusedAttention((query, key, value), scores.softmax(-1), factor)


@final
@dataclass(frozen=True, eq=False)
class Attention:
    """One block's attention in a recorded pass.

    Attributes:
        weights: the probabilities (N, heads, T, T), out of the graph.
        source: the tensor in the graph from whose gradient that of the probabilities follows.
        value: (N, heads, T, d) of fused attention; None where the source is the probabilities.
    """

    weights: Tensor
    source: Tensor
    value: Tensor | None

    def gradient(self, of_source: Tensor) -> Tensor:
        """Return the gradient at the probabilities, from the source's."""
        found = upcast(of_source)
        if self.value is not None:
            found = found[..., : self.value.shape[-1]] @ self.value.mT
        return found.view(self.weights.shape)


def is_attention(found: Tensor) -> bool:
    """Whether a softmax may be the attention of a block: a square for each image."""
    return found.ndim >= 3 and found.shape[-1] == found.shape[-2] > 1  # noqa: PLR2004


def by_image(found: Tensor, count: int) -> Tensor:
    """Return (N·heads, T, T), as torch's multi-head attention has them, as (N, heads, T, T)."""
    joined = found.ndim == 3 and len(found) % count == 0  # noqa: PLR2004
    return found.unflatten(0, (count, -1)) if joined else found


@contextmanager
def record_attention(count: int, *, wanted: bool = True) -> Iterator[list[Attention]]:
    """Record the attention of every block that runs inside the context, in that order.

    Args:
        count: how many images are in the pass.
        wanted: if not, nothing is recorded.

    Yields:
        The list that fills as blocks run.
    """
    blocks: list[Attention] = []

    def keep_fused(operation: Operation) -> None:
        found = attention_of(operation)
        if is_attention(found.weights):
            value = found.inputs[2].detach()
            blocks.append(Attention(found.weights.detach(), operation.out[0], value))

    def keep_softmax(operation: Operation) -> None:
        if is_attention(operation.out):
            weights = by_image(upcast(operation.out.detach()), count)
            blocks.append(Attention(weights, operation.out, None))

    if not wanted:
        yield blocks
        return
    table = dict.fromkeys(FUSED, keep_fused) | dict.fromkeys(SOFTMAXES, keep_softmax)
    with Observer(table):
        yield blocks

"""Reads attention off unmodified transformers, fused or not, with gradients if asked.

torchvision, timm and Hugging Face compute attention by `scaled_dot_product_attention`, whose
probabilities never become a tensor, or by a softmax. A recorder sees the operations of ATen in
which both end; of fused attention it keeps queries, keys and values, from which the probabilities
follow. Nothing of the network, of torch or of the pass is changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchsaliency.core.maps import wide
from torchsaliency.core.rules import Operation

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

_SOFTMAXES = ("_softmax", "_safe_softmax")


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
    query, key, value = (wide(one) for one in operation.args[:3])
    scale = operation.given("scale")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    mask = operation.given("attn_mask")
    mask = operation.given("attn_bias") if mask is None else mask
    scores = hidden_scores(
        (query * factor) @ key.mT,
        mask,
        causal=bool(operation.given("is_causal", False)),
    )
    return FusedAttention((query, key, value), scores.softmax(-1), factor)


def hidden_scores(
    scores: Tensor, attn_mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Return attention's scores (…, T, T) with what a token may not see at minus infinity.

    Args:
        scores: before the softmax.
        attn_mask: True where a token is seen, or numbers to add; as torch's fused attention has it.
        causal: whether tokens see none after them.
    """
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if attn_mask is None:
        return scores
    if attn_mask.dtype == torch.bool:
        return scores.masked_fill(~attn_mask, -torch.inf)
    return scores + attn_mask


@final
@dataclass(frozen=True, eq=False)
class Attention:
    """One block's attention in a recorded pass.

    Attributes:
        weights: the probabilities (N, heads, T, T), out of the graph.
        source: the tensor in the graph whose gradient tells that of the probabilities.
        value: (N, heads, T, d) of fused attention; None where the source is the probabilities.
    """

    weights: Tensor
    source: Tensor
    value: Tensor | None

    def gradient(self, of_source: Tensor) -> Tensor:
        """Return the gradient at the probabilities, from the source's."""
        wanted = wide(of_source)
        if self.value is not None:
            wanted = wanted[..., : self.value.shape[-1]] @ self.value.mT
        return wanted.view(self.weights.shape)


@final
class AttentionRecorder(TorchDispatchMode):
    """Keeps the attention of every block while it is active.

    Args:
        count: how many images are in the pass.

    Attributes:
        blocks: in the order in which they ran.
    """

    def __init__(self, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blocks: list[Attention] = []
        self._count = count

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and keep it if it is attention."""
        del types
        options = kwargs or {}
        out = func(*args, **options)
        name = func._schema.name.partition("::")[2]
        if name in FUSED:
            self._keep_fused(Operation(name, func, args, options), out[0])
        elif name in _SOFTMAXES and is_attention(out):
            found = wide(out.detach())
            self.blocks.append(Attention(by_image(found, self._count), out, None))
        return out

    def _keep_fused(self, operation: Operation, out: Tensor) -> None:
        found = attention_of(operation)
        if is_attention(found.weights):
            self.blocks.append(Attention(found.weights.detach(), out, found.inputs[2].detach()))


def is_attention(found: Tensor) -> bool:
    """Whether a softmax may be the attention of a block: a square for each image."""
    return found.ndim >= 3 and found.shape[-1] == found.shape[-2] > 1  # noqa: PLR2004


def by_image(found: Tensor, count: int) -> Tensor:
    """Return (N·heads, T, T), as torch's multi-head attention has them, as (N, heads, T, T)."""
    joined = found.ndim == 3 and len(found) % count == 0  # noqa: PLR2004
    return found.unflatten(0, (count, -1)) if joined else found


@contextmanager
def recorded(count: int, *, wanted: bool) -> Iterator[list[Attention]]:
    """Record attention inside the context, if that is wanted; the list fills as blocks run."""
    if not wanted:
        yield []
        return
    with AttentionRecorder(count) as recorder:
        yield recorder.blocks

"""Reads attention off unmodified transformers, fused or not, with gradients if asked.

torchvision, timm and Hugging Face compute attention by `scaled_dot_product_attention`, whose
probabilities never become a tensor, or by a softmax. Both are torch functions, so a mode that sees
every torch function can put the explicit product in the place of the fused one and keep the
probabilities. The network and its modules stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_FUSED = F.scaled_dot_product_attention
_WHOLE = F.multi_head_attention_forward
_SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


@final
class AttentionRecorder(TorchFunctionMode):
    """Keeps the attention probabilities of every block while it is active.

    Attributes:
        maps: (N, heads, T, T) each, in the order in which they were computed.
    """

    def __init__(self, *, gradients: bool) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        self._gradients = gradients

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a torch function, the fused attention by its explicit product."""
        del types
        given = kwargs or {}
        if func is _FUSED:
            return self._attend(*args, **given)
        if func is _WHOLE:
            return self._multi_head(*args, **given)
        found = func(*args, **given)
        return self._kept(found) if func in _SOFTMAXES else found

    def _attend(  # noqa: PLR0913, PLR0917 (torch's signature)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,  # noqa: ARG002 (an explained network is in evaluation mode)
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (one.repeat_interleave(repeats, -3) for one in (key, value))
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = hidden_scores((query * factor) @ key.mT, attn_mask, causal=is_causal)
        return self._kept(scores.softmax(-1)) @ value

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        output = multi_head(args, kwargs, self._attend)
        if not kwargs.get("need_weights", True):
            return output, None
        weights = self.maps[-1]
        mean = kwargs.get("average_attn_weights", True)
        return output, weights.mean(1) if mean else weights

    def _kept(self, found: Tensor) -> Tensor:
        square = found.ndim >= 3 and found.shape[-1] == found.shape[-2] > 1  # noqa: PLR2004
        if not square or not found.is_floating_point():
            return found
        if self._gradients and not found.requires_grad:
            found = found.detach().requires_grad_()
        self.maps.append(found)
        return found


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


def multi_head(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    attend: Callable[..., Tensor],
    linear: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Run torch's multi-head attention with parts of it replaced, and return its output.

    The fused attention and the linear layers inside are unseen by a function mode, for torch calls
    them by their names in `torch.nn.functional`.

    Args:
        args: of `torch.nn.functional.multi_head_attention_forward`.
        kwargs: of the same; no weights are made.
        attend: in the place of `scaled_dot_product_attention`.
        linear: in the place of `linear`; None leaves it.
    """
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attend))
        if linear is not None:
            stack.enter_context(mock.patch.object(F, "linear", linear))
        output: Tensor = _WHOLE(*args, **{**kwargs, "need_weights": False})[0]
    return output


@contextmanager
def recorded(*, wanted: bool, gradients: bool) -> Iterator[list[Tensor]]:
    """Record attention inside the context, if that is wanted; the list fills as blocks run."""
    if not wanted:
        yield []
        return
    with AttentionRecorder(gradients=gradients) as recorder:
        yield recorder.maps

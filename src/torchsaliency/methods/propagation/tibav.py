"""Transformer interpretability beyond attention visualisation: relevance times gradient.

Relevance is propagated by the rules of Chefer et al. (CVPR 2021). Linear layers: α = 1, β = 0, only
positive contributions, without bias. Products of two activations: half to each factor, in
proportion. Sums: to each term in proportion to its absolute sum. Norms, activations and softmax:
unchanged; products with a constant or a gate: to the signal. All else as a gradient, which only
moves values about (`core.rules` checks that it does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.attention import FUSED, SOFTMAXES, attention_of, by_image, is_attention
from torchsaliency.core.maps import upcast
from torchsaliency.core.method import Method, Needs, register
from torchsaliency.core.rules import Gradients, Operation, Recording, Rule, Step, backward
from torchsaliency.core.trace import View
from torchsaliency.methods.attention.rollout import from_block
from torchsaliency.methods.attention.tokens import patch_row, whole_attentions
from torchsaliency.methods.passes import (
    images_of,
    record_scores,
    rows,
)
from torchsaliency.methods.propagation import operations as ops
from torchsaliency.methods.propagation.shares import share_by_epsilon, share_positive

NEEDS = Needs.ATTENTION | Needs.TARGET | Needs.GRADIENTS | Needs.PASSES

_TINY = 1e-9


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
        """Return the class token's row of the product, (N, *grid)."""
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
    parts: list[list[Tensor]] = []
    for index in rows(len(view.images), view):
        recording, found = Recording(len(index)), dict[Operation, Tensor]()
        leaf, scores = record_scores(view, images_of(view)[index], index, recording)
        rules = attention_rules(found.__setitem__)
        backward(scores, [leaf], recording, rules, conserves="tibav")
        attended = [operation for operation in recording.operations if _is_block(operation)]
        parts.append([_relevance(found, operation, len(index)) for operation in attended[-blocks:]])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _is_block(operation: Operation) -> bool:
    softmax = operation.name in SOFTMAXES and is_attention(operation.out)
    return operation.name in FUSED or softmax


def _relevance(found: dict[Operation, Tensor], operation: Operation, count: int) -> Tensor:
    """Return the relevance of one block's attention, zeros where it received none."""
    relevance = found.get(operation)
    if relevance is None:
        fused = operation.name in FUSED
        weights = attention_of(operation).weights if fused else operation.out
        relevance = torch.zeros_like(weights)
    return by_image(upcast(relevance), count)


def attention_rules(keep: Callable[[Operation, Tensor], None]) -> dict[str, Rule]:
    """Return the table of rules.

    Args:
        keep: called with each softmax or fused attention and the relevance of its probabilities.
    """

    def softmax(step: Step) -> Gradients:
        keep(step.operation.source, step.relevance)
        return ops.pass_unchanged(step)

    def attend(step: Step) -> Gradients:
        """Fused attention: a product, softmax, another product."""
        parts = attention_of(step.operation)
        query, key, value = parts.inputs
        of_weights, of_value = _halve(parts.weights, value, upcast(step.relevance))
        keep(step.operation.source, of_weights)
        of_query, of_key = _halve(query, key.mT, of_weights)
        return [of_query, of_key.mT, of_value]

    return {
        **dict.fromkeys(ops.ELEMENTWISE | ops.NORMS, ops.pass_unchanged),
        **dict.fromkeys(SOFTMAXES, softmax),
        **dict.fromkeys([*ops.CONVOLUTIONS, *ops.MATRICES], _weigh),
        **dict.fromkeys(("add", "sub"), _add),
        "mul": ops.pass_to_signal,
        "div": ops.pass_to_numerator,
        "sum": _sum,
        **dict.fromkeys(FUSED, attend),
    }


def _weigh(step: Step) -> Gradients:
    """Share among positive contributions where one factor is constant, else half to each."""
    operation, count = step.operation, len(step.gradients)
    layer = ops.weights_of(operation)
    if layer is not None:
        share = share_positive(step.relevance, layer.x, layer.weight, layer.apply, conserves=False)
        return ops.place_at(layer.place, share, count)
    start = ops.MATRICES.get(operation.name, 0)
    if start and operation.is_active(0):
        return step.gradients
    a, b = operation.args[start : start + 2]
    return [*[None] * start, *_halve(upcast(a), upcast(b), upcast(step.relevance))]


def _halve(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Half the relevance to each factor of a matrix product, in proportion to what each adds."""
    share = _divide(relevance, a @ b)
    return a * (share @ b.mT) / 2, b * (a.mT @ share) / 2


def _add(step: Step) -> Gradients:
    """To each term in proportion, then scaled to its share of the absolute sums, image by image.

    A residual: two activations of one shape. A bias or a position takes nothing.
    """
    operation, terms = step.operation, step.operation.args[:2]
    active = [operation.is_active(place) for place in (0, 1)]
    if not all(active):
        main = active.index(True)
        passed = step.relevance.sum_to_size(terms[main].shape)
        return ops.place_at(main, passed, len(step.gradients))
    if terms[0].shape != terms[1].shape:
        return step.gradients
    a, b = (upcast(term) for term in terms)
    b = (-1 if operation.name == "sub" else 1) * operation.argument("alpha", 1) * b
    relevance = upcast(step.relevance)
    share = _divide(relevance, a + b)
    parts = a * share, b * share
    dims = tuple(range(1, a.ndim))
    total = relevance.sum(dims, keepdim=True)
    sums = [part.sum(dims, keepdim=True) for part in parts]
    whole = sums[0].abs() + sums[1].abs()
    return [
        part * _divide(_divide(given.abs(), whole) * total, given)
        for part, given in zip(parts, sums, strict=True)
    ]


def _sum(step: Step) -> Gradients:
    """To each number in proportion."""
    x, *rest = step.operation.args
    call, options = step.operation.call, step.operation.options
    return [share_by_epsilon(step.relevance, x, lambda x: call(x, *rest, **options), _TINY)]


def _divide(above: Tensor, below: Tensor) -> Tensor:
    """Divide, keeping away from zero; zero where the denominator is exactly zero."""
    safe = torch.where(below >= 0, below.clamp_min(_TINY), below.clamp_max(-_TINY))
    return torch.where(below == 0, 0, above / safe)

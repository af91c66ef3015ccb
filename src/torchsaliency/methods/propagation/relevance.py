"""Layer-wise relevance propagation through an unmodified transformer, by Chefer et al. (CVPR 2021).

Linear layers: α = 1, β = 0, only positive contributions, without bias. Products of two activations:
half to each factor, in proportion. Sums: to each term in proportion to its absolute sum. Norms,
activations and softmax: unchanged; products with a constant or a gate: to the signal. All else as a
gradient, which only moves values about (`core.rules` insists that it does).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.attention import FUSED, attention_of, by_image, is_attention
from torchsaliency.core.maps import wide
from torchsaliency.core.rules import Gradients, Operation, Recording, Rule
from torchsaliency.methods.propagation.lrp.rules import positive_only, proportional
from torchsaliency.methods.propagation.operations import (
    BATCH_NORMS,
    CONVOLUTIONS,
    ELEMENTWISE,
    MATRICES,
    NORMS,
    SOFTMAXES,
    actives,
    divided_relevance,
    scaled_relevance,
    unchanged,
    weights_of,
)

_TINY = 1e-9


@final
class AttentionRelevance:
    """The table of rules for one recorded pass, and the relevance of every block's attention.

    Args:
        recording: of the pass.
        count: how many images it had.

    Attributes:
        rules: by operation.
    """

    def __init__(self, recording: Recording, count: int) -> None:
        self._count = count
        self._found: dict[Operation, Tensor] = {}
        self._blocks = [one for one in recording.operations if _is_block(one)]
        self.rules: Mapping[str, Rule] = {
            **dict.fromkeys(ELEMENTWISE, unchanged),
            **dict.fromkeys(NORMS, unchanged),
            **dict.fromkeys(BATCH_NORMS, unchanged),
            **dict.fromkeys(SOFTMAXES, self._softmax),
            **dict.fromkeys(CONVOLUTIONS, _weighted),
            **dict.fromkeys(MATRICES, _weighted),
            **dict.fromkeys(("add", "sub"), _add),
            "mul": self._multiply,
            "div": divided_relevance,
            "sum": _sum,
            **dict.fromkeys(FUSED, self._attend),
        }

    def blocks(self) -> list[Tensor]:
        """Return the relevance (N, heads, T, T) of every block's attention; zeros for none."""
        found = []
        for one in self._blocks:
            weights = attention_of(one).weights if one.name in FUSED else one.out
            relevance = self._found.get(one)
            relevance = torch.zeros_like(weights) if relevance is None else relevance
            found.append(by_image(wide(relevance), self._count))
        return found

    def _softmax(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        assert given[0] is not None
        self._found[operation.source] = given[0]
        return unchanged(operation, given, ordinary)

    def _multiply(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        assert given[0] is not None
        return scaled_relevance(operation, given[0], self.rules)[: len(ordinary)]

    def _attend(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        """Fused attention: a product, softmax, another product."""
        del ordinary
        assert given[0] is not None
        parts = attention_of(operation)
        query, key, value = parts.inputs
        of_weights, of_value = _product(parts.weights, value, wide(given[0]))
        self._found[operation.source] = of_weights
        of_query, of_key = _product(query, key.mT, of_weights)
        return [of_query, of_key.mT, of_value]


def _is_block(operation: Operation) -> bool:
    out = operation.out
    return operation.name in FUSED or (operation.name in SOFTMAXES and is_attention(out))


def _weighted(operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
    """Share among positive contributions where one factor is constant, else half to each."""
    relevance = given[0]
    assert relevance is not None
    found: list[Tensor | None] = [None] * len(ordinary)
    layer = weights_of(operation)
    if layer is not None:
        rule = positive_only(layer.x, layer.weight, layer.apply, spare=False)
        found[layer.place] = rule(relevance)
        return found
    start = MATRICES.get(operation.name, 0)
    if start and actives(operation, 1)[0]:
        return ordinary
    a, b = operation.args[start : start + 2]
    found[start : start + 2] = _product(wide(a), wide(b), wide(relevance))
    return found


def _product(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Half the relevance to each factor of a matrix product, in proportion to what each adds."""
    share = _divided(relevance, a @ b)
    return a * (share @ b.mT) / 2, b * (a.mT @ share) / 2


def _add(operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
    """To each term in proportion, then scaled to its share of the absolute sums, image by image.

    A residual: two activations of one shape. A bias or a position takes nothing.
    """
    terms = operation.args[:2]
    assert given[0] is not None
    if not all(actives(operation, 2)) or terms[0].shape != terms[1].shape:
        main = actives(operation, 2).index(True)
        passed = given[0].sum_to_size(terms[main].shape)
        return ordinary if all(actives(operation, 2)) else _at(main, passed, len(ordinary))
    a, b = (wide(one) for one in terms)
    b = (-1 if operation.name == "sub" else 1) * operation.given("alpha", 1) * b
    relevance = wide(given[0])
    share = _divided(relevance, a + b)
    parts = a * share, b * share
    dims = tuple(range(1, a.ndim))
    total = relevance.sum(dims, keepdim=True)
    sums = [part.sum(dims, keepdim=True) for part in parts]
    whole = sums[0].abs() + sums[1].abs()
    return [
        part * _divided(_divided(own.abs(), whole) * total, own)
        for part, own in zip(parts, sums, strict=True)
    ]


def _at(place: int, relevance: Tensor, count: int) -> list[Tensor | None]:
    found: list[Tensor | None] = [None] * count
    found[place] = relevance
    return found


def _sum(operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
    """To each number in proportion."""
    del ordinary
    assert given[0] is not None
    rest, options = operation.args[1:], operation.options
    rule = proportional(operation.args[0], lambda x: operation.call(x, *rest, **options), _TINY)
    return [rule(given[0])]


def _divided(above: Tensor, below: Tensor) -> Tensor:
    """Divide, keeping away from zero; zero where the denominator is exactly zero."""
    safe = torch.where(below >= 0, below.clamp_min(_TINY), below.clamp_max(-_TINY))
    return torch.where(below == 0, 0, above / safe)

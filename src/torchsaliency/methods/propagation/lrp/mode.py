"""The rules of layer-wise relevance propagation, operation by operation of ATen.

What no rule speaks of runs backward as a gradient, which only moves values about: reshaping,
joining, indexing, max-pooling. `core.rules` insists that it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor

from torchsaliency.core.attention import attention_of
from torchsaliency.core.rules import Gradients, Operation, Recording, Rule
from torchsaliency.methods.propagation.lrp.rules import (
    Backward,
    Linear,
    away,
    bounded,
    divided,
    own_sign,
    plain,
    positive_only,
    proportional,
)
from torchsaliency.methods.propagation.operations import (
    ACTIVATIONS,
    ATTENTIONS,
    BATCH_NORMS,
    CONVOLUTIONS,
    EXTREMES,
    FUNCTIONS,
    GATES,
    MATRICES,
    MEANS,
    NORMS,
    SOFTMAXES,
    WeightedLayer,
    actives,
    batch_scale_shift,
    divided_relevance,
    is_active,
    is_gate,
    product_of,
    scaled_relevance,
    unchanged,
    weights_of,
)

Propagation = Literal["composite", "epsilon", "alpha-beta"]
Biases = Literal["absorbs", "excluded"]

_FLAT = 2
"""Tensors of more dimensions have positions."""


@final
class Relevance:
    """The table of rules for one recorded pass.

    Args:
        rule: as `LRP`.
        epsilon: as `LRP`.
        bias: as `LRP`.
        recording: of the pass.
        count: how many images it had.

    Attributes:
        rules: by operation.
    """

    def __init__(
        self, rule: Propagation, epsilon: float, bias: Biases, recording: Recording, count: int
    ) -> None:
        self._rule, self._epsilon, self._excluded = rule, epsilon, bias == "excluded"
        self._count = count
        convolutions = (one for one in recording.operations if one.name in CONVOLUTIONS)
        self._first = next((one for one in convolutions if one.active[0]), None)
        self._folded: dict[Operation, Operation] = {}  # a layer's batch normalisation
        self.rules: Mapping[str, Rule] = {
            **dict.fromkeys(ACTIVATIONS | GATES | FUNCTIONS | SOFTMAXES, unchanged),
            **dict.fromkeys(NORMS, unchanged),
            **dict.fromkeys(EXTREMES, _as_gradient),
            **dict.fromkeys(BATCH_NORMS, self._normalise),
            **dict.fromkeys(CONVOLUTIONS, self._weighted),
            **dict.fromkeys(MATRICES, self._weighted),
            **dict.fromkeys(MEANS, self._mean),
            **dict.fromkeys(("add", "sub", "rsub"), self._add),
            "mul": self._multiply,
            "addcmul": self._add_product,
            "div": divided_relevance,
            "glu": _gated,
            "_trilinear": self._trilinear,
            "_log_softmax": self._log_softmax,
            **dict.fromkeys(ATTENTIONS, self._attend),
        }

    # --- layers with weights ---------------------------------------------------------------------

    def _weighted(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        relevance = given[0]
        assert relevance is not None  # `core.rules` asks only where there is some
        found: list[Tensor | None] = [None] * len(ordinary)
        start = MATRICES.get(operation.name, 0)
        if start and is_active(operation, 0):  # an activation is added
            added = operation.given("beta", 1) * plain(operation.args[0])
            parts = self._parts(added, plain(operation.out) - added)
            found[0] = _shared(relevance, parts[0], operation.args[0])
            relevance = _shared(relevance, parts[1], operation.out)
        layer = weights_of(operation)
        if layer is not None:
            found[layer.place] = self._layer_rule(operation, layer)(relevance)
            return found
        for place, one in self._factors(operation, start, relevance).items():
            found[place] = one
        return found

    def _layer_rule(self, operation: Operation, layer: WeightedLayer) -> Backward:
        weight, bias = plain(layer.weight), layer.bias
        norm = self._folded.get(operation)
        if norm is not None:
            known = batch_scale_shift(norm)
            assert known is not None
            assert layer.by_output is not None
            scale, shift = (layer.by_channel(one) for one in known)
            weight = weight * layer.by_output(known[0])
            bias = shift if bias is None else shift + plain(bias) * scale
        first = operation.source is self._first and layer.by_output is not None
        if first and self._rule == "composite":
            return bounded(layer.x, weight, layer.apply)
        if not self._by_epsilon(layer.x, layer.rows > self._count):
            return positive_only(layer.x, weight, layer.apply, spare=self._excluded)
        own_bias = 0 if bias is None or self._excluded else plain(bias)
        return self._proportional(layer.x, lambda own: layer.apply(own, weight.to(own)), own_bias)

    def _normalise(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        """Hand relevance to the layer before, which a batch normalisation belongs to."""
        del ordinary
        known, x = batch_scale_shift(operation), operation.args[0]
        before = operation.parents[0]
        if known is not None and before is not None and before.consumers == 1:
            layer = weights_of(before)
            if layer is not None and layer.by_output is not None:
                self._folded[before] = operation
                return [given[0]]
        if known is None or self._excluded or not self._by_epsilon(x):
            return [given[0]]
        scale, shift = (one.view(-1, *[1] * (x.ndim - 2)) for one in known)
        assert given[0] is not None
        return [self._proportional(x, lambda own: own * scale.to(own), shift)(given[0])]

    def _factors(self, operation: Operation, start: int, relevance: Tensor) -> dict[int, Tensor]:
        """Share among the factors of a product: to the signal, for a gate is constant."""
        places = [one for one in (start, start + 1) if is_active(operation, one)]
        gates = [is_gate(operation, one, self.rules) for one in places]

        def apply(place: int) -> Linear:
            other = 2 * start + 1 - place
            kept = plain(operation.args[other])

            def product(own: Tensor) -> Tensor:
                pair = (own, kept.to(own)) if place == start else (kept.to(own), own)
                return product_of(operation, *pair)

            return product

        if len(places) == 2 and gates[0] != gates[1]:  # noqa: PLR2004
            place = places[gates.index(False)]
            return {place: self._share(operation.args[place], apply(place), relevance)}
        return {
            place: self._proportional(operation.args[place], apply(place))(relevance) / len(places)
            for place in places
        }

    def _attend(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        """Fused attention hands relevance to its values alone."""
        if ordinary[2] is None or given[0] is None:
            return ordinary
        weights = attention_of(operation).weights
        value = operation.args[2]
        found = self._share(value, lambda own: weights.to(own) @ own, given[0])
        return [None, None, found]

    def _trilinear(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        """`bilinear`: to each input, in proportion to what it adds; weights take nothing."""
        assert given[0] is not None
        places = [one for one in range(3) if is_active(operation, one)]
        found: list[Tensor | None] = [None] * len(ordinary)
        for place in places:

            def apply(own: Tensor, place: int = place) -> Tensor:
                args = [one.to(own) if isinstance(one, Tensor) else one for one in operation.args]
                args[place] = own
                made: Tensor = operation.call(*args, **operation.options)
                return made

            rule = self._proportional(operation.args[place], apply)
            found[place] = rule(given[0]) / len(places)
        return found

    # --- sums, means and products number by number -----------------------------------------------

    def _mean(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        assert given[0] is not None
        rest, options = operation.args[1:], operation.options
        apply: Linear = lambda own: operation.call(own, *rest, **options)  # noqa: E731
        return [self._share(operation.args[0], apply, given[0]), *ordinary[1:]]

    def _add(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        assert given[0] is not None
        alpha = operation.given("alpha", 1)
        signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[operation.name]
        terms = operation.args[:2]
        return self._sum(
            given[0], operation.out, [*zip(terms, signs, strict=True)], actives(operation, 2)
        )[: len(ordinary)]

    def _sum(
        self,
        relevance: Tensor,
        out: Tensor,
        terms: list[tuple[Any, float | int]],
        active: list[bool],
    ) -> list[Tensor | None]:
        """Share among the terms that are active; a constant is a bias."""
        if all(active):
            a, b = (plain(one) * sign for one, sign in terms)
            parts = self._parts(a, b)
            return [
                _shared(relevance, part, one) for part, (one, _) in zip(parts, terms, strict=True)
            ]
        place = active.index(True)
        main, sign = terms[place]
        found: list[Tensor | None] = [None, None]
        if self._excluded or not self._by_epsilon(main):
            found[place] = relevance.sum_to_size(main.shape)
        else:
            part = sign * plain(main) / away(plain(out), self._epsilon)
            found[place] = _shared(relevance, part, main)
        return found

    def _parts(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Return the share of each term in every number of a sum."""
        whole = a + b
        if self._by_epsilon(whole):
            return [one / away(whole, self._epsilon) for one in (a, b)]
        up, down = a.clamp_min(0) + b.clamp_min(0), a.clamp_max(0) + b.clamp_max(0)
        return [
            torch.where(whole > 0, divided(one.clamp_min(0), up), 0)
            + torch.where(whole < 0, divided(one.clamp_max(0), down), 0)
            for one in (a, b)
        ]

    def _multiply(self, operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
        assert given[0] is not None
        return scaled_relevance(operation, given[0], self.rules)[: len(ordinary)]

    def _add_product(
        self, operation: Operation, given: Gradients, ordinary: Gradients
    ) -> Gradients:
        """X + value · a · b."""
        assert given[0] is not None
        x, a, b = operation.args[:3]
        active = actives(operation, 3)
        product = operation.given("value", 1) * plain(a) * plain(b)
        both = [active[0], active[1] or active[2]]
        of_x, of_product = self._sum(given[0], operation.out, [(x, 1), (product, 1)], both)
        if of_product is None:
            return [of_x, None, None]
        of_product = of_product.expand(product.shape)
        rest = scaled_relevance(operation, of_product, self.rules, first=1)
        return [of_x, *rest][: len(ordinary)]

    def _log_softmax(
        self, operation: Operation, given: Gradients, ordinary: Gradients
    ) -> Gradients:
        """Gradient times input."""
        del ordinary
        assert given[0] is not None
        apply: Linear = lambda own: own.log_softmax(operation.args[1])  # noqa: E731
        return [self._proportional(operation.args[0], apply)(given[0])]

    # --- which rule, and how it divides ----------------------------------------------------------

    def _by_epsilon(self, x: Tensor, positions: bool | None = None) -> bool:
        """Whether the ε rule holds here; scores of one number an image always have it."""
        if self._rule == "epsilon" or x.ndim < _FLAT:
            return True
        several = x.ndim > _FLAT or len(x) != self._count if positions is None else positions
        return self._rule == "composite" and not several

    def _share(self, x: Tensor, apply: Linear, relevance: Tensor) -> Tensor:
        """Share among numbers that are summed with weights not below zero."""
        rule = self._proportional(x, apply) if self._by_epsilon(x) else own_sign(x, apply)
        return rule(relevance)

    def _proportional(self, x: Tensor, apply: Linear, bias: Tensor | float | int = 0) -> Backward:
        return proportional(x, apply, self._epsilon, bias)


def _as_gradient(operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
    """Hand relevance to the number that was taken, as a gradient does."""
    del operation, given
    return ordinary


def _gated(operation: Operation, given: Gradients, ordinary: Gradients) -> Gradients:
    """Hand relevance of a · sigmoid(b) to a."""
    del ordinary
    assert given[0] is not None
    return [torch.cat([given[0], torch.zeros_like(given[0])], operation.given("dim", -1))]


def _shared(relevance: Tensor, part: Tensor, one: Tensor) -> Tensor:
    return (plain(relevance) * part).sum_to_size(one.shape).to(relevance.dtype)

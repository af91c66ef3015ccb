"""Layer-wise relevance propagation: its table of rules for ATen's operations, and the method.

What has no rule runs backward as a gradient, which only moves values about: reshaping, joining,
indexing, max-pooling. `core.rules` checks that it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor

from torchsaliency.core.attention import FUSED, SOFTMAXES, attention_of
from torchsaliency.core.method import Saliency, register
from torchsaliency.core.rules import Gradients, Rule, Step
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.reduction import Attribution, Channels
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    propagate,
)
from torchsaliency.methods.propagation import operations as ops
from torchsaliency.methods.propagation.layer_rules import LayerRule, find_rules
from torchsaliency.methods.propagation.shares import (
    Linear,
    divide,
    move_from_zero,
    share_bounded,
    share_by_epsilon,
    share_by_sign,
    share_positive,
)

Propagation = Literal["composite", "epsilon", "alpha-beta"]
Biases = Literal["absorbs", "excluded"]

_FLAT = 2
"""Tensors of more dimensions have positions."""


@register("lrp", family="attribution", cite="bach2015", needs=IMAGE_PASSES, signed=True)
@final
@dataclass(frozen=True)
class LRP(Attribution):
    """Layer-wise relevance propagation: the score is shared out from layer to layer.

    The output's relevance is its score. With contributions z_ij = x_i w_ij a layer hands on, by
    ε: R_i = Σ_j z_ij / (z_j + ε sign z_j) R_j; by αβ, with α = 1 and β = 0: the same of all z_ij⁺;
    by z^B, for a first layer whose inputs lie in [l, h], the extremes of the image: the same of
    (x_i - l) w_ij⁺ + (x_i - h) w_ij⁻. Batch normalisation belongs to the layer before it.
    Max-pooling: all to the largest. Sums and means: by ε, or else to the terms of the sum's own
    sign. ReLU and its like, softmax, other norms: unchanged. A sigmoid, softmax or logarithm at the
    network's end: to its logit, which then has itself as relevance, not its probability. Products:
    to the signal, for gates (sigmoid, softmax, or the smaller factor) count as constant; so
    attention hands relevance to its values alone.

    Source: Bach et al., PLOS ONE 2015; z^B: Montavon et al., Pattern Recognition 2017. Differs from
    captum, which sees only modules, refuses those used twice, and has no rule for sums.

    Attributes:
        rule: "composite" (z^B for the first convolution, αβ for all others and wherever there are
            positions, ε for linear layers after them), "epsilon" or "alpha-beta" everywhere.
        epsilon: ε, absolute; it only keeps away from zero.
        bias: "absorbs": a bias keeps its share in the ε rule (captum), and in αβ all of a unit
            without positive contributions; or "excluded": inputs share it all, so that relevance
            is conserved but where they are all zero; in deep networks ε everywhere overflows then.
        rules: for single modules, by their name or type, in the place of `rule`: a `LayerRule`
            (`EpsilonRule`, `GammaRule`, `PositiveRule`, `BoundedRule`, `FlatRule`, or one's own)
            of torchsaliency.methods.propagation, or its words: {"conv1": "flat",
            nn.Linear: GammaRule(0.5)}. A module's own name goes before its type, an inner module
            before an outer one.
    """

    above_zero = ("epsilon",)

    channels: Channels = "sum-positive"
    rule: Propagation = "composite"
    epsilon: float | int = 1e-9
    bias: Biases = "absorbs"
    rules: dict[Any, Any] = field(default_factory=dict, hash=False)

    def attributions(self, view: View) -> Saliency:
        """Return the relevance of every number, (N, C, *size), and what reached the image.

        Raises:
            LayerError: the network runs an operation that LRP has no rule for; or relevance grew
                beyond all bounds, where contributions cancel.
        """
        own = find_rules(view.session.net, self.rules)
        rules = lrp_rules(self.rule, float(self.epsilon), self.bias, own)
        shares = propagate(view, rules, conserves=self.name)
        if not bool(shares.isfinite().all()):
            raise LayerError(
                "The relevance overflowed, for contributions cancel in this network; choose "
                "lrp.rule=composite, lrp.bias=absorbs or a larger lrp.epsilon."
            )
        relevance = shares * add_sides(view.score.to(shares), shares)
        return Saliency(relevance, {"reached": shares.flatten(1).sum(1), "rise": view.score})


def lrp_rules(
    rule: Propagation = "composite",
    epsilon: float = 1e-9,
    bias: Biases = "absorbs",
    layers: Mapping[str, LayerRule] | None = None,
) -> dict[str, Rule]:
    """Return LRP's table of rules, for `propagate`; the options are those of `LRP`.

    Args:
        rule: as `LRP`.
        epsilon: as `LRP`.
        bias: as `LRP`.
        layers: rules of single modules, by their names.
    """
    by = _Rules(rule, epsilon, bias == "excluded")
    return {
        **{
            f"{name}:{operation}": replace(by, own=own).weigh
            for name, own in (layers or {}).items()
            for operation in (*ops.CONVOLUTIONS, *ops.MATRICES)
        },
        **dict.fromkeys(ops.ACTIVATIONS | ops.FUNCTIONS | ops.NORMS, ops.pass_unchanged),
        **dict.fromkeys((*ops.GATES, *SOFTMAXES, "log_sigmoid_forward", "log"), _pass_to_logit),
        **dict.fromkeys(ops.EXTREMES, ops.pass_gradient),
        **dict.fromkeys(ops.BATCH_NORMS, by.normalise),
        **dict.fromkeys([*ops.CONVOLUTIONS, *ops.MATRICES], by.weigh),
        **dict.fromkeys(ops.MEANS, by.average),
        **dict.fromkeys(("add", "sub", "rsub"), by.add),
        "mul": ops.pass_to_signal,
        "addcmul": by.add_product,
        "div": ops.pass_to_numerator,
        "glu": _pass_glu,
        "_trilinear": by.multiply_three,
        "_log_softmax": by.log_softmax,
        **dict.fromkeys(FUSED, by.attend),
    }


@final
@dataclass(frozen=True)
class _Rules:
    """The rules that depend on the options."""

    rule: Propagation
    epsilon: float
    excluded: bool
    own: LayerRule | None = None
    """Of the layer that the rules are for."""

    # --- layers with weights ---------------------------------------------------------------------

    def weigh(self, step: Step) -> Gradients:
        """Share among the inputs of a layer, or the factors of a product, and what it adds."""
        operation, relevance = step.operation, step.relevance
        found: list[Tensor | None] = [None] * len(step.gradients)
        start = ops.MATRICES.get(operation.name, 0)
        if start and operation.is_active(0):  # an activation is added
            added = operation.argument("beta", 1) * ops.plain(operation.args[0])
            parts = self._parts(step, added, ops.plain(operation.out) - added)
            found[0] = _share_part(relevance, parts[0], operation.args[0])
            relevance = _share_part(relevance, parts[1], operation.out)
        layer = ops.layer_of(step)
        if layer is not None:
            found[layer.place] = self._through_layer(step, layer, relevance)
            return found
        for place, part in self._factors(step, start, relevance).items():
            found[place] = part
        return found

    def _through_layer(self, step: Step, layer: ops.WeightedLayer, relevance: Tensor) -> Tensor:
        if self.own is not None:
            return self.own.share(relevance, layer, excluded=self.excluded).to(relevance.dtype)
        weight = ops.plain(layer.weight)
        first = layer.foldable and step.is_first(ops.CONVOLUTIONS)
        if first and self.rule == "composite":
            return share_bounded(relevance, layer.x, weight, layer.apply)
        if not self._by_epsilon(step, layer.x, layer.rows > step.count):
            return share_positive(relevance, layer.x, weight, layer.apply, conserves=self.excluded)
        bias = 0 if layer.bias is None or self.excluded else ops.plain(layer.bias)
        return share_by_epsilon(
            relevance, layer.x, lambda x: layer.apply(x, weight.to(x)), self.epsilon, bias
        )

    def normalise(self, step: Step) -> Gradients:
        """Hand relevance to the layer before, which a batch normalisation belongs to."""
        known, x = ops.batch_scale_shift(step.operation), step.operation.args[0]
        before = step.parents_of()[0]
        if known is not None and before is not None and len(step.consumers_of(before)) == 1:
            layer = ops.weights_of(before)
            if layer is not None and layer.foldable:
                return [step.relevance]
        if known is None or self.excluded or not self._by_epsilon(step, x):
            return [step.relevance]
        scale, shift = (numbers.view(-1, *[1] * (x.ndim - 2)) for numbers in known)
        apply: Linear = lambda x: x * scale.to(x)  # noqa: E731
        return [share_by_epsilon(step.relevance, x, apply, self.epsilon, shift)]

    def _factors(self, step: Step, start: int, relevance: Tensor) -> dict[int, Tensor]:
        """Share among the factors of a product: to the signal, for a gate is constant."""
        operation = step.operation
        places = [place for place in (start, start + 1) if operation.is_active(place)]
        gates = [ops.is_gate(step, place) for place in places]

        def apply(place: int, x: Tensor) -> Tensor:
            kept = ops.plain(operation.args[2 * start + 1 - place]).to(x)
            return ops.multiply(operation, *((x, kept) if place == start else (kept, x)))

        if len(places) == 2 and gates[0] != gates[1]:  # noqa: PLR2004
            place = places[gates.index(False)]
            x = operation.args[place]
            return {place: self._share(step, x, partial(apply, place), relevance)}
        return {
            place: share_by_epsilon(
                relevance, operation.args[place], partial(apply, place), self.epsilon
            )
            / len(places)
            for place in places
        }

    def attend(self, step: Step) -> Gradients:
        """Hand the relevance of fused attention to its values alone."""
        if step.gradients[2] is None:
            return step.gradients
        weights = attention_of(step.operation).weights
        value = step.operation.args[2]
        share = self._share(step, value, lambda x: weights.to(x) @ x, step.relevance)
        return [None, None, share]

    def multiply_three(self, step: Step) -> Gradients:
        """Share `bilinear` among its inputs, in proportion to what each adds; weights get none."""
        operation = step.operation
        places = [place for place in range(3) if operation.is_active(place)]

        def apply(place: int, x: Tensor) -> Tensor:
            args = [arg.to(x) if isinstance(arg, Tensor) else arg for arg in operation.args]
            args[place] = x
            made: Tensor = operation.call(*args, **operation.options)
            return made

        found: list[Tensor | None] = [None] * len(step.gradients)
        for place in places:
            x = operation.args[place]
            share = share_by_epsilon(step.relevance, x, partial(apply, place), self.epsilon)
            found[place] = share / len(places)
        return found

    # --- sums, means and products number by number -----------------------------------------------

    def average(self, step: Step) -> Gradients:
        """Share a mean, or another sum with constant weights."""
        x, *rest = step.operation.args
        apply: Linear = lambda x: step.operation.call(x, *rest, **step.operation.options)  # noqa: E731
        return [self._share(step, x, apply, step.relevance), *step.gradients[1:]]

    def add(self, step: Step) -> Gradients:
        """Share a sum among its terms."""
        operation = step.operation
        alpha = operation.argument("alpha", 1)
        signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[operation.name]
        terms = [*zip(operation.args[:2], signs, strict=True)]
        active = [operation.is_active(place) for place in (0, 1)]
        return self._sum(step, terms, active)[: len(step.gradients)]

    def _sum(
        self, step: Step, terms: list[tuple[Any, float | int]], active: list[bool]
    ) -> list[Tensor | None]:
        """Share among the terms that are active; a constant is a bias."""
        relevance = step.relevance
        if all(active):
            a, b = (ops.plain(term) * sign for term, sign in terms)
            parts = self._parts(step, a, b)
            return [
                _share_part(relevance, part, term)
                for part, (term, _) in zip(parts, terms, strict=True)
            ]
        place = active.index(True)
        main, sign = terms[place]
        if self.excluded or not self._by_epsilon(step, main):
            return ops.place_at(place, relevance.sum_to_size(main.shape), 2)
        part = sign * ops.plain(main) / move_from_zero(ops.plain(step.operation.out), self.epsilon)
        return ops.place_at(place, _share_part(relevance, part, main), 2)

    def _parts(self, step: Step, a: Tensor, b: Tensor) -> list[Tensor]:
        """Return the share of each term in every number of a sum."""
        whole = a + b
        if self._by_epsilon(step, whole):
            return [term / move_from_zero(whole, self.epsilon) for term in (a, b)]
        up, down = a.clamp_min(0) + b.clamp_min(0), a.clamp_max(0) + b.clamp_max(0)
        return [
            torch.where(whole > 0, divide(term.clamp_min(0), up), 0)
            + torch.where(whole < 0, divide(term.clamp_max(0), down), 0)
            for term in (a, b)
        ]

    def add_product(self, step: Step) -> Gradients:
        """Share x + value · a · b."""
        operation = step.operation
        x, a, b = operation.args[:3]
        active = [operation.is_active(place) for place in range(3)]
        product = operation.argument("value", 1) * ops.plain(a) * ops.plain(b)
        both = [active[0], active[1] or active[2]]
        of_x, of_product = self._sum(step, [(x, 1), (product, 1)], both)
        if of_product is None:
            return [of_x, None, None]
        rest = ops.to_signal(step, of_product.expand(product.shape), first=1)
        return [of_x, *rest][: len(step.gradients)]

    def log_softmax(self, step: Step) -> Gradients:
        """Return gradient times input."""
        x, dim = step.operation.args[:2]
        return [share_by_epsilon(step.relevance, x, lambda x: x.log_softmax(dim), self.epsilon)]

    # --- which rule ------------------------------------------------------------------------------

    def _by_epsilon(self, step: Step, x: Tensor, positions: bool | None = None) -> bool:
        """Whether the ε rule holds here; scores of one number an image always have it."""
        if self.rule == "epsilon" or x.ndim < _FLAT:
            return True
        several = x.ndim > _FLAT or len(x) != step.count if positions is None else positions
        return self.rule == "composite" and not several

    def _share(self, step: Step, x: Tensor, apply: Linear, relevance: Tensor) -> Tensor:
        """Share among numbers that are summed with weights not below zero."""
        if self._by_epsilon(step, x):
            return share_by_epsilon(relevance, x, apply, self.epsilon)
        return share_by_sign(relevance, x, apply)


_WEIGHTED = {*ops.CONVOLUTIONS, *ops.MATRICES, *ops.NORMS, *FUSED}


def _pass_to_logit(step: Step) -> Gradients:
    """Hand relevance through unchanged inside the network, and as the logit's own share at its end.

    A probability is above zero and its logarithm below, whatever the sign of the logit; unchanged,
    they would turn the sign of all contributions to a logit of the other sign.
    """
    unchanged = ops.pass_unchanged(step)
    if unchanged is step.gradients or not _ends_network(step):
        return unchanged
    logits, out = ops.plain(step.operation.args[0]), step.operation.out
    out = ops.plain(out[0] if isinstance(out, tuple) else out)
    return [divide(step.relevance * logits, out)]


def _ends_network(step: Step) -> bool:
    """Whether nothing with weights reads the result of an operation."""
    found = list(step.consumers_of())
    seen = set(found)
    while found:
        operation = found.pop()
        if operation is not None and operation.name in _WEIGHTED:
            return False
        later = () if operation is None else step.consumers_of(operation)
        found += [other for other in later if other not in seen]
        seen.update(later)
    return True


def _pass_glu(step: Step) -> Gradients:
    """Hand the relevance of a · sigmoid(b) to a."""
    zeros = torch.zeros_like(step.relevance)
    return [torch.cat([step.relevance, zeros], step.operation.argument("dim", -1))]


def _share_part(relevance: Tensor, part: Tensor, term: Tensor) -> Tensor:
    return (ops.plain(relevance) * part).sum_to_size(term.shape).to(relevance.dtype)

"""Layer-wise relevance propagation: the method. Its rules are in `rules`; `mode` puts them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.method import Saliency, register
from torchsaliency.core.rules import Recording, backward
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.reduction import (
    BACKWARD,
    Attribution,
    Channels,
    loss_scale,
    recorded_scores,
    rows,
    wide_images,
)
from torchsaliency.methods.propagation.lrp.mode import Biases, Propagation, Relevance


@register("lrp", family="attribution", cite="bach2015", needs=BACKWARD)
@final
@dataclass(frozen=True)
class LRP(Attribution):
    """Layer-wise relevance propagation: the score is shared out from layer to layer.

    The output's relevance is its score. With contributions z_ij = x_i w_ij a layer hands on, by
    ε: R_i = Σ_j z_ij / (z_j + ε sign z_j) R_j; by αβ, with α = 1 and β = 0: the same of all z_ij⁺;
    by z^B, for a first layer whose inputs lie in [l, h], the extremes of the image: the same of
    (x_i - l) w_ij⁺ + (x_i - h) w_ij⁻. Batch normalisation belongs to the layer before it.
    Max-pooling: all to the largest. Sums and means: by ε, or else to the terms of the sum's own
    sign. ReLU and its like, softmax, other norms: unchanged. Products: to the signal, for gates
    (sigmoid, softmax, or the smaller factor) count as constant; so attention hands relevance to
    its values alone.

    Source: Bach et al., PLOS ONE 2015; z^B: Montavon et al., Pattern Recognition 2017. Differs from
    captum, which sees only modules, refuses those used twice, and has no rule for sums.

    Attributes:
        channels: how colours are joined: "abs-sum", "sum-positive" or "max-abs".
        smooth: σ in pixels of a Gaussian over the map; 0 leaves it as it is.
        clip: values above this percentile of the map are cut to it; 100 cuts none.
        rule: "composite" (z^B for the first convolution, αβ for all others and wherever there are
            positions, ε for linear layers after them), "epsilon" or "alpha-beta" everywhere.
        epsilon: ε, absolute; it only keeps away from zero.
        bias: "absorbs": a bias keeps its share in the ε rule (captum), and in αβ all of a unit
            without positive contributions; or "excluded": inputs share it all, so that relevance
            is conserved but where they are all zero; in deep networks ε everywhere overflows then.
    """

    above_zero = ("epsilon",)

    channels: Channels = "sum-positive"
    rule: Propagation = "composite"
    epsilon: float | int = 1e-9
    bias: Biases = "absorbs"

    def attributions(self, view: View) -> Saliency:
        """Return the relevance of every number, (N, C, H, W), and what reached the image.

        Raises:
            LayerError: the network runs an operation that LRP has no rule for; or relevance grew
                beyond all bounds, where contributions cancel.
        """
        images, scale = wide_images(view), loss_scale(view)
        parts = [
            self._relevance(view, images[index], index, scale) for index in rows(len(images), view)
        ]
        shares = torch.cat(parts) / scale
        if not bool(shares.isfinite().all()):
            raise LayerError(
                "The relevance overflowed, for contributions cancel in this network; choose "
                "lrp.rule=composite, lrp.bias=absorbs or a larger lrp.epsilon."
            )
        relevance = shares * view.score.to(shares)[:, None, None, None]
        return Saliency(relevance, {"reached": shares.flatten(1).sum(1)})

    def _relevance(self, view: View, images: Tensor, index: Tensor, scale: float) -> Tensor:
        recording = Recording()
        leaf, scores = recorded_scores(view, images, index, recording)
        table = Relevance(self.rule, float(self.epsilon), self.bias, recording, len(images))
        begin = torch.full_like(scores, scale)
        (found,) = backward(
            scores, [leaf], recording, table.rules, weight=begin, conserves=self.name
        )
        return found

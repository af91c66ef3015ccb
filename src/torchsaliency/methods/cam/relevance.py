"""Relevance-CAM: channels weighted by the relevance that LRP brings to a layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.maps import upcast
from torchsaliency.core.method import GRADIENTS, PASSES, ChannelCAM, register
from torchsaliency.core.rules import Recording, backward
from torchsaliency.core.space import sides_of
from torchsaliency.core.target import ClassTarget, Scores, Target
from torchsaliency.core.trace import View
from torchsaliency.methods.passes import loss_scale
from torchsaliency.methods.propagation.lrp import lrp_rules


@register("relevance-cam", family="cam", cite="lee2021", needs=GRADIENTS | PASSES, signed=True)
@final
@dataclass(frozen=True)
class RelevanceCAM(ChannelCAM):
    """Relevance-CAM: channels weighted by their mean relevance, w_k = mean_u R_k(u), then ReLU.

    R is what layer-wise relevance propagation by the αβ rule (α = 1, β = 0) brings to the layer. It
    begins contrastively, with 1 at the class and -1/K at each of the K - 1 others, so that what all
    classes share cancels. A target that is no class has no others: its own relevance is taken.
    Early layers have class-specific maps by it, where gradients are noise. Costs one more pass.

    Source: Lee et al., CVPR 2021. Differs from the authors' code, which needs networks written in
    its own modules, and squares the variance of batch normalisation (erratum L10); here it belongs
    to the layer before it, as in `lrp`.

    Raises:
        LayerError: the network runs an operation that LRP has no rule for.
    """

    def weights(self, view: View) -> Tensor:
        """Return mean_u R_k(u), shape (N, K)."""
        count, keeper = len(view.images), _Keeper(view.target)
        recording = Recording(1 if view.session.mixes_images else count)
        with recording, view.trace_variants(view.images, target=keeper) as other:
            parts = other.traced.outputs[view.layer.name]
        (start,) = keeper.starts
        weight = _contrast(view.target, start) * loss_scale(view)
        found = backward(
            start, parts, recording, lrp_rules("alpha-beta"), weight=weight, conserves=self.name
        )
        assert view.layer.reshape is not None
        relevance = upcast(view.layer.reshape.to_maps(torch.cat(found))) / loss_scale(view)
        return relevance.mean(sides_of(relevance))


@dataclass(frozen=True, eq=False)
class _Keeper(Target):
    """Keeps the numbers that relevance begins at, inside their graph."""

    target: Target
    starts: list[Tensor] = field(default_factory=list)

    def __call__(self, output: Any) -> Scores:
        scores = self.target(output)
        self.starts.append(output if isinstance(self.target, ClassTarget) else scores)
        return scores

    def describe(self) -> dict[str, Any]:
        return self.target.describe()


def _contrast(target: Target, start: Tensor) -> Tensor:
    """Return 1 at the class and -1/K at the others, (N, K); ones for a target that is no class."""
    if not isinstance(target, ClassTarget):
        return torch.ones_like(start)
    own = F.one_hot(target.labels, start.shape[1]).to(start)
    return own - (1 - own) / start.shape[1]

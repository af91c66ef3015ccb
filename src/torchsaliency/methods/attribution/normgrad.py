"""NormGrad: how much the weights of a layer would change at each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.method import Method
from torchsaliency.core.registry import GRADIENTS, register
from torchsaliency.core.tracing import View


@register("normgrad", family="attribution", cite="rebuffi2020", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class NormGrad(Method):
    """NormGrad: the norm of every position's share in the gradient of a layer's weights.

    With features a = A(u) and g = ∂y_c/∂A(u), for an identity layer put in after A: a 1×1
    convolution ‖a gᵀ‖ = ‖a‖·‖g‖; a 3×3 convolution, the same with the 3×3 patch of a; a scaling
    ‖a ⊙ g‖; a bias ‖g‖. Several layers are joined by the product of their stretched maps.

    Source: Rebuffi et al., CVPR 2020. Only the norm is offered to join channels; the authors try
    their sum, maximum and positive part too.

    Attributes:
        virtual: the layer put in: "conv1x1", "conv3x3", "scaling" or "bias". Before global average
            pooling and one linear layer the gradient is the same at all positions: there "bias" is
            constant, and only "scaling" depends on the class.
    """

    joint: ClassVar[bool] = True

    virtual: Literal["conv1x1", "conv3x3", "scaling", "bias"] = "conv1x1"

    def saliency(self, view: View) -> Tensor:
        """Return the norms (N, h, w), or the product of several layers' maps (N, H, W)."""
        if len(view.layers) == 1:
            return self._norms(view)
        maps = [self._norms(view.trace[layer]) for layer in view.layers]
        return torch.stack([minmax(upsample(one, view.size)) for one in maps]).prod(0)

    def _norms(self, view: View) -> Tensor:
        a, g = view.activations, view.gradients
        if self.virtual == "scaling":
            return (a * g).norm(dim=1)
        if self.virtual == "bias":
            return g.norm(dim=1)
        if self.virtual == "conv1x1":
            return a.norm(dim=1) * g.norm(dim=1)
        # Zeros lie outside the map, as in a padded convolution.
        patches = F.avg_pool2d(a.square().sum(1, keepdim=True), 3, 1, 1)[:, 0] * 9
        return patches.sqrt() * g.norm(dim=1)

"""CAM, the first of them: the classifier's own weights on the last feature maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from torchsaliency.core.method import GRADIENTS, ChannelCAM, register
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError

_SPREAD = 1e-3
"""How far the gradient may vary over positions, relative to its size, for a head that pools."""


@register("cam", family="cam", cite="zhou2016", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class CAM(ChannelCAM):
    """CAM: channels weighted by the linear classifier after global average pooling; no ReLU.

    S = Σ_k w_kc A_k, where w_kc is the weight from channel k to class c. The weight is read as
    hw · ∂y_c/∂A_k, which for such a head is exactly w_kc whatever the modules are called; a head of
    another form is refused, because CAM is not defined there.

    Source: Zhou et al., CVPR 2016.

    Raises:
        LayerError: what follows the layer is not pooling and one linear layer.
    """

    rectified: ClassVar[bool] = False

    def weights(self, view: View) -> Tensor:
        """Return w_kc, shape (N, K)."""
        gradients = view.gradients
        mean = gradients.mean((-2, -1), keepdim=True)
        spread = (gradients - mean).abs().amax() / mean.abs().amax().clamp_min(1e-30)
        affine = _is_affine(view, mean)
        if spread > _SPREAD or not affine:
            raise LayerError(
                f"CAM needs a layer followed by global average pooling and one linear layer, and "
                f"{view.layer.name!r} is not; use gradcam, layercam or opticam."
            )
        return mean[..., 0, 0] * (gradients.shape[-2] * gradients.shape[-1])


def _is_affine(view: View, slope: Tensor) -> bool:
    """Whether halving the features moves the score by exactly what the gradient says.

    A normalisation or a hidden layer with a smooth activation also has a gradient that is constant
    over positions, but bends.
    """
    features = view.activations[0]
    halved = view.tail(0, lambda index: (features / 2).expand(len(index), -1, -1, -1), 1)[0]
    moved = view.score[0] - halved
    parts = slope[0] * features / 2
    error = (moved - parts.sum()).abs()
    if view.trace.holds(torch.float16, torch.bfloat16):
        return bool(error <= 5e-2 * (1 + parts.sum().abs()))
    # A fresh network's scores may be tiny: what is to be told from rounding is so, too.
    return bool(error <= 1e-3 * parts.abs().sum() + 1e-5 * view.score[0].abs())

"""CAMs weighted by gradients: all of them read the same activations A and gradients g = ∂y_c/∂A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from torchsaliency.core.method import GRADIENTS, ChannelCAM, register, require_positive
from torchsaliency.core.space import repeat_image, sides_of
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError

_SPREAD = 1e-3
"""How far the gradient may vary over positions, relative to its size, for a head that pools."""


@register("gradcam", family="cam", cite="selvaraju2017", needs=GRADIENTS, signed=True)
@final
@dataclass(frozen=True)
class GradCAM(ChannelCAM):
    """Grad-CAM: channels weighted by their mean gradient, w_k = mean_u g_k(u), then ReLU.

    Source: Selvaraju et al., ICCV 2017.
    """

    def weights(self, view: View) -> Tensor:
        """Return mean_u g_k(u), shape (N, K)."""
        return view.gradients.mean(sides_of(view.gradients))


@register("gradcam++", family="cam", cite="chattopadhay2018", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class GradCAMPlusPlus(ChannelCAM):
    """Grad-CAM++: positive gradients, weighted so that every instance of the class counts.

    α_k(u) = g² / (2g² + (Σ_v A_k(v)) g³ + eps), 0 where g = 0; w_k = Σ_u α_k(u) ReLU(g_k(u)).

    Source: Chattopadhay et al., WACV 2018. As in pytorch-grad-cam, with which tables are made, eps
    is absolute: gradients well below √eps are weighted by their square (erratum L3).

    Attributes:
        eps: added to the denominator; above 0.
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        require_positive("gradcam++", eps=self.eps)

    def weights(self, view: View) -> Tensor:
        """Return Σ_u α_k(u) ReLU(g_k(u)), shape (N, K)."""
        g = view.gradients
        total = view.activations.sum(sides_of(g), keepdim=True)
        squared = g.square()
        alpha = squared / (2 * squared + total * squared * g + self.eps)
        return (torch.where(g == 0, 0, alpha) * g.relu()).sum(sides_of(g))


@register("xgradcam", family="cam", cite="fu2020", needs=GRADIENTS, signed=True)
@final
@dataclass(frozen=True)
class XGradCAM(ChannelCAM):
    """XGrad-CAM: gradients weighted by the activations' share, w_k = Σ_u g_k A_k / Σ_u A_k.

    Source: Fu et al., BMVC 2020. Differs from pytorch-grad-cam in eps, which keeps the sign of
    Σ A, so that a signed channel cannot meet a zero denominator.

    Attributes:
        eps: least absolute value of the denominator; above 0.
    """

    eps: float = 1e-7

    def __post_init__(self) -> None:
        require_positive("xgradcam", eps=self.eps)

    def weights(self, view: View) -> Tensor:
        """Return Σ_u g_k(u) A_k(u) / Σ_u A_k(u), shape (N, K)."""
        sides = sides_of(view.activations)
        total = view.activations.sum(sides)
        safe = total + torch.where(total < 0, -self.eps, self.eps)
        return (view.gradients * view.activations).sum(sides) / safe


@register("hirescam", family="cam", cite="draelos2020", needs=GRADIENTS, signed=True)
@final
@dataclass(frozen=True)
class HiResCAM(ChannelCAM):
    """HiResCAM: gradient times activation at every position, S(u) = ReLU(Σ_k g_k(u) A_k(u)).

    Equal to Grad-CAM wherever the gradient is the same at every position (pooling and one linear
    layer after the map).

    Source: Draelos and Carin, 2020.
    """

    def weights(self, view: View) -> Tensor:
        """Return g_k(u), shape (N, K, *grid)."""
        return view.gradients


@register("layercam", family="cam", cite="jiang2021", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class LayerCAM(ChannelCAM):
    """LayerCAM: positive gradient times activation at every position, Σ_k ReLU(g_k(u)) A_k(u).

    Source: Jiang et al., TIP 2021.
    """

    def weights(self, view: View) -> Tensor:
        """Return ReLU(g_k(u)), shape (N, K, *grid)."""
        return view.gradients.relu()


@register("cam", family="cam", cite="zhou2016", needs=GRADIENTS, signed=True)
@final
@dataclass(frozen=True)
class CAM(ChannelCAM):
    """CAM: channels weighted by the linear classifier after global average pooling; no ReLU.

    S = Σ_k w_kc A_k, where w_kc is the weight from channel k to class c. The weight is read as the
    number of positions times ∂y_c/∂A_k, which for such a head is exactly w_kc whatever the modules
    are called; a head of another form is refused, because CAM is not defined there.

    Source: Zhou et al., CVPR 2016.

    Raises:
        LayerError: what follows the layer is not pooling and one linear layer.
    """

    rectified: ClassVar[bool] = False

    def weights(self, view: View) -> Tensor:
        """Return w_kc, shape (N, K)."""
        gradients = view.gradients
        mean = gradients.mean(sides_of(gradients), keepdim=True)
        spread = (gradients - mean).abs().amax() / mean.abs().amax().clamp_min(1e-30)
        affine = _is_affine(view, mean)
        if spread > _SPREAD or not affine:
            raise LayerError(
                f"CAM needs a layer followed by global average pooling and one linear layer, and "
                f"{view.layer.name!r} is not; use gradcam, layercam or opticam."
            )
        return mean.flatten(1) * gradients[0, 0].numel()


def _is_affine(view: View, slope: Tensor) -> bool:
    """Whether halving the features moves the score by exactly what the gradient says.

    A normalisation or a hidden layer with a smooth activation also has a gradient that is constant
    over positions, but bends.
    """
    features = view.activations[0]
    halved = view.tail(0, lambda index: repeat_image(features / 2, len(index)), 1)[0]
    moved = view.score[0] - halved
    parts = slope[0] * features / 2
    error = (moved - parts.sum()).abs()
    if view.trace.is_rounded_to(torch.float16, torch.bfloat16):
        return bool(error <= 5e-2 * (1 + parts.sum().abs()))
    # A fresh network's scores may be tiny: what is to be told from rounding is so, too.
    return bool(error <= 1e-3 * parts.abs().sum() + 1e-5 * view.score[0].abs())

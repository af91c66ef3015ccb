"""CAMs weighted by gradients: all of them read the same activations A and gradients g = ∂y_c/∂A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from torchsaliency.core.method import GRADIENTS, PASSES, ChannelCAM, register, require_positive
from torchsaliency.core.space import add_sides, repeat_image, sides_of
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attribution.gradient import normal_draws
from torchsaliency.methods.passes import images_of

_SPREAD = 1e-3
"""How far the gradient may vary over positions, relative to its size, for a head that pools."""


@register("gradcam", family="cam", cite="selvaraju2017", needs=GRADIENTS, signed=True)
@final
@dataclass(frozen=True)
class GradCAM(ChannelCAM):
    """Grad-CAM: channels weighted by their mean gradient, w_k = mean_u g_k(u), then ReLU.

    Source: Selvaraju et al., ICCV 2017.
    """

    differentiable: ClassVar[bool] = True

    def weights(self, view: View) -> Tensor:
        """Return mean_u g_k(u), shape (N, K)."""
        return view.gradients.mean(sides_of(view.gradients))


EpsScale = Literal["absolute", "relative"]
"""Whether eps is a number, or a share of the largest squared gradient of the image."""


@register("gradcam++", family="cam", cite="chattopadhay2018", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class GradCAMPlusPlus(ChannelCAM):
    """Grad-CAM++: positive gradients, weighted so that every instance of the class counts.

    α_k(u) = g² / (2g² + (Σ_v A_k(v)) g³ + eps), 0 where g = 0; w_k = Σ_u α_k(u) ReLU(g_k(u)).

    Source: Chattopadhay et al., WACV 2018. Differs from pytorch-grad-cam, with which tables are
    made and whose eps is absolute: there gradients well below √eps are weighted by their square, so
    the map depends on the scale of features and scores (erratum L3, with numbers).

    Attributes:
        eps: added to the denominator; above 0.
        eps_scale: "relative": eps times the largest g² of the image, so that the map knows no
            scale; or "absolute", as in pytorch-grad-cam and the papers' recipes.
    """

    differentiable: ClassVar[bool] = True

    eps: float = 1e-6
    eps_scale: EpsScale = "relative"

    def __post_init__(self) -> None:
        require_positive("gradcam++", eps=self.eps)

    def weights(self, view: View) -> Tensor:
        """Return Σ_u α_k(u) ReLU(g_k(u)), shape (N, K)."""
        g = view.gradients
        return _weigh_instances(self, view.activations, g, g.square(), g.square() * g)


@register("smoothgradcam++", family="cam", cite="omeiza2019", needs=GRADIENTS | PASSES)
@final
@dataclass(frozen=True)
class SmoothGradCAMPlusPlus(ChannelCAM):
    """Smooth Grad-CAM++: Grad-CAM++ with the derivatives averaged over noisy copies of the image.

    With D_p = mean_s g_s^p over copies x + ε_s, ε_s ~ N(0, σ²), σ = spread · (max x - min x):
    α_k(u) = D_2 / (2 D_2 + (Σ_v A_k(v)) D_3 + eps), w_k = Σ_u α_k(u) ReLU(D_1). A are the features
    of the image itself. Costs `samples` passes, forward and backward, plus the shared one.

    Source: Omeiza et al., 2019. Differs from the print, whose numerator of α is D_1: that has
    another unit than its denominator, and is not Grad-CAM++ without noise. Differs from torchcam,
    which weights the last copy's features, rectifies its gradient alone, and sums
    A ⊙ D_3 (errata L14, L15). All images get the same noise, so a map does not depend on its batch.

    Attributes:
        samples: noisy copies; above 0.
        spread: the noise's σ; above 0.
        unit: "range": σ is a share of the image's range, max x - min x; "absolute": it is in the
            images' units, as in torchcam.
        eps: as `gradcam++`.
        eps_scale: as `gradcam++`.
        seed: of the noise.
    """

    samples: int = 10
    spread: float | int = 0.15
    unit: Literal["range", "absolute"] = "range"
    eps: float = 1e-6
    eps_scale: EpsScale = "relative"
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self.name, samples=self.samples, spread=self.spread, eps=self.eps)

    def weights(self, view: View) -> Tensor:
        """Return Σ_u α_k(u) ReLU(D_1), shape (N, K)."""
        images = images_of(view)
        drawn = normal_draws(images, self.samples, self.seed)
        flat = images.flatten(1)
        scale = flat.amax(1) - flat.amin(1) if self.unit == "range" else flat.new_ones(len(flat))
        sums = [torch.zeros_like(view.activations) for _ in range(3)]
        for noise in self.spread * drawn:
            with view.trace_variants(images + add_sides(scale, images) * noise) as other:
                for power, total in enumerate(sums, 1):
                    total.add_(other.gradients**power / self.samples)
        return _weigh_instances(self, view.activations, *sums)


def _weigh_instances(
    method: GradCAMPlusPlus | SmoothGradCAMPlusPlus,
    activations: Tensor,
    first: Tensor,
    second: Tensor,
    third: Tensor,
) -> Tensor:
    """Return Σ_u α_k(u) ReLU(D_1), α = D_2 / (2 D_2 + (Σ A) D_3 + eps), (N, K)."""
    total = activations.sum(sides_of(activations), keepdim=True)
    eps: float | Tensor = method.eps
    if method.eps_scale == "relative":
        eps = method.eps * second.amax((1, *sides_of(second)), keepdim=True)
    alpha = second / (2 * second + total * third + eps)
    return (torch.where(second == 0, 0, alpha) * first.relu()).sum(sides_of(first))


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

    differentiable: ClassVar[bool] = True

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

    differentiable: ClassVar[bool] = True

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

    differentiable: ClassVar[bool] = True

    def weights(self, view: View) -> Tensor:
        """Return ReLU(g_k(u)), shape (N, K, *grid)."""
        return view.gradients.relu()


@register("gradcam-elementwise", family="cam", cite="gildenblat2021", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class GradCAMElementwise(ChannelCAM):
    """Grad-CAM element by element: the positive products alone, Σ_k ReLU(g_k(u) A_k(u)).

    Equal to LayerCAM where no feature is negative; where features have signs, a negative gradient
    on a negative feature speaks for the target, too.

    Source: Gildenblat et al., pytorch-grad-cam, 2021; there is no paper.
    """

    differentiable: ClassVar[bool] = True

    def weights(self, view: View) -> Tensor:
        """Return g_k(u) where g_k(u) A_k(u) is positive, else 0, shape (N, K, *grid)."""
        gradients = view.gradients
        return torch.where(gradients * view.activations > 0, gradients, 0)


@register("shapleycam", family="cam", cite="cai2025", needs=GRADIENTS | PASSES, signed=True)
@final
@dataclass(frozen=True)
class ShapleyCAM(ChannelCAM):
    """ShapleyCAM: channels weighted by the gradient less half the Hessian times the features.

    w_k = mean_u (g - ½ H A)_k(u), H = ∂²y_c/∂A², then ReLU: the Shapley values of the features in
    the game whose worth is y_c, expanded to second order. Where the score is linear in the features
    (pooling and one linear layer, the class logit) H = 0 and it is Grad-CAM; the paper explains the
    residual softmax target-class score instead: the target `rest`. Costs one more pass.

    Source: Cai, 2025.

    Raises:
        LayerError: an operation after the layer has no second derivative.
    """

    def weights(self, view: View) -> Tensor:
        """Return mean_u (g - ½ H A)_k(u), shape (N, K)."""
        gradients, curved = view.differentiate_twice()
        return (gradients - curved / 2).mean(sides_of(gradients))


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

    differentiable: ClassVar[bool] = True

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

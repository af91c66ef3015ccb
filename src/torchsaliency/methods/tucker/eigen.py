"""Eigen-CAM and its multi-vector form: features projected on their singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from torchsaliency.core.maps import to_float64
from torchsaliency.core.method import ACTIVATIONS, GRADIENTS, Method, register, require_positive
from torchsaliency.core.trace import View
from torchsaliency.methods.tucker.spectrum import orient, spectrum, spectrum_of, sum_projections


@register("eigencam", family="decomposition", cite="muhammad2020", needs=ACTIVATIONS)
@final
@dataclass(frozen=True)
class EigenCAM(Method):
    """Eigen-CAM: the features projected on their first singular vector, then ReLU.

    S = ReLU(± Σ_k U_k1 A_k). A singular vector has no sign of its own and the ReLU erases whatever
    side is negative, so the sign is part of the definition here.

    Source: Muhammad and Yeasin, IJCNN 2020; centred as in pytorch-grad-cam.

    Attributes:
        centred: subtract each channel's mean over positions first (pytorch-grad-cam), or not (the
            paper).
        sign: "max" turns the map so that its largest absolute value is positive; "abs" takes
            absolute values; "raw" keeps the sign that LAPACK's SVD of the positions x channels
            matrix happens to give, as pytorch-grad-cam does: it may differ between machines.
    """

    differentiable: ClassVar[bool] = True

    centred: bool = True
    sign: Literal["max", "abs", "raw"] = "max"

    def saliency(self, view: View) -> Tensor:
        """Return the projection (N, *grid)."""
        if self.sign == "raw":
            return _lapack_projection(view.activations, centred=self.centred).relu()
        found = spectrum_of(view, centred=self.centred, most=1).projections[:, 0]
        return found.abs() if self.sign == "abs" else orient(found).relu()


@register("multivec-eigencam", family="decomposition", cite="bouayed2025", needs=ACTIVATIONS)
@final
@dataclass(frozen=True)
class MultivecEigenCAM(Method):
    """Multivec-EigenCAM: all singular vectors, weighted by their singular values.

    S = Σ_i (σ_i/σ_1) |Σ_k U_ki A_k|, of the centred features.

    Source: Multivector Tucker Saliency Maps, TMLR. The listing averages where the formula sums,
    which is only a scale.

    Attributes:
        centred: subtract each channel's mean over positions first (the listing), or not, which
            makes it MTSM.
    """

    differentiable: ClassVar[bool] = True

    centred: bool = True

    def saliency(self, view: View) -> Tensor:
        """Return the weighted sum of absolute projections (N, *grid)."""
        return sum_projections(spectrum_of(view, centred=self.centred))


@register("eigengradcam", family="decomposition", cite="gildenblat2021", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class EigenGradCAM(Method):
    """Eigen-Grad-CAM: gradient times feature, projected on its first singular vector, then ReLU.

    As Eigen-CAM of g_k(u) A_k(u) in place of A, centred; so it is of a class, and equal to
    `EigenSmoothed(HiResCAM())`. The sign is chosen so that the largest absolute value is positive.

    Source: Gildenblat et al., pytorch-grad-cam, 2021, where the sign is that of LAPACK (erratum
    L1); there is no paper.
    """

    differentiable: ClassVar[bool] = True

    def saliency(self, view: View) -> Tensor:
        """Return the projection (N, *grid)."""
        return _first_component(view.gradients * view.activations)


@register("seg-eigencam", family="decomposition", cite="chung2025", needs=GRADIENTS)
@final
@dataclass(frozen=True)
class SegEigenCAM(Method):
    """Seg-Eigen-CAM: features times absolute gradients, projected on their first singular vector.

    As Eigen-CAM of |g_k(u)| A_k(u) (Eq. 10), centred, its sign such that the largest absolute value
    is positive (Eq. 13), then ReLU. Made for segmenters, whose target is `segment`.

    Source: Chung and Ying, Applied Sciences 2025.
    """

    differentiable: ClassVar[bool] = True

    def saliency(self, view: View) -> Tensor:
        """Return the projection (N, *grid)."""
        return _first_component(view.gradients.abs() * view.activations)


Kernel = Literal["sigmoid", "rbf", "poly", "cosine", "linear"]


@register("kpcacam", family="decomposition", cite="karmani2024", needs=ACTIVATIONS)
@final
@dataclass(frozen=True)
class KPCACAM(Method):
    """KPCA-CAM: the positions' first principal component under a kernel, then ReLU.

    With x_u the centred features at position u, the kernel matrix K_uv = k(x_u, x_v), centred, has
    the largest eigenvalue λ and its vector v: S = ReLU(√λ v), the sign such that the largest
    absolute value is positive. "linear" is Eigen-CAM. The matrix has the square of the number of
    positions, so a grid of 56 x 56 takes seconds.

    Source: Karmani et al., 2024; kernels as in scikit-learn and pytorch-grad-cam.

    Attributes:
        kernel: k(x, y): "sigmoid" tanh(γ⟨x, y⟩ + 1), "rbf" exp(-γ‖x - y‖²), "poly"
            (γ⟨x, y⟩ + 1)³, "cosine" ⟨x, y⟩ / (‖x‖‖y‖) or "linear" ⟨x, y⟩.
        gamma: γ; None for 1 / the number of channels.
    """

    kernel: Kernel = "sigmoid"
    gamma: float | None = None

    def __post_init__(self) -> None:
        if self.gamma is not None:
            require_positive("kpcacam", gamma=self.gamma)

    def saliency(self, view: View) -> Tensor:
        """Return the first component (N, *grid)."""
        return self.project(view.activations).relu()

    def project(self, features: Tensor) -> Tensor:
        """Return √λ v of features (N, K, *grid), before the ReLU, (N, *grid)."""
        matrix = to_float64(features).flatten(2).mT
        finite = matrix.isfinite().flatten(1).all(1)[:, None, None]
        matrix = matrix.where(finite, 0)
        centred = matrix - matrix.mean(1, keepdim=True)
        # as in `Unfolding`: what rounding leaves of constant features is no direction
        noise = 4 * torch.finfo(features.dtype).eps
        norms = [part.norm(dim=(1, 2), keepdim=True) for part in (centred, matrix)]
        kernel = self._kernel(torch.where(norms[0] > noise * norms[1], centred, 0))
        rows = kernel - kernel.mean(2, keepdim=True)
        values, vectors = torch.linalg.eigh(rows - rows.mean(1, keepdim=True))
        real = values[:, -1:] > 1e-12 * kernel.abs().amax((1, 2))[:, None]
        first = torch.where(real, vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt(), 0)
        first = first.where(finite[..., 0], torch.nan).to(features)
        return orient(first.unflatten(1, features.shape[2:]))

    def _kernel(self, x: Tensor) -> Tensor:
        gamma = 1 / x.shape[2] if self.gamma is None else self.gamma
        products = x @ x.mT
        squares = products.diagonal(dim1=1, dim2=2)
        if self.kernel == "sigmoid":
            return (gamma * products + 1).tanh()
        if self.kernel == "rbf":
            return (-gamma * (squares[:, :, None] + squares[:, None] - 2 * products)).exp()
        if self.kernel == "poly":
            return (gamma * products + 1) ** 3
        if self.kernel == "cosine":
            lengths = squares.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
            return products / (lengths[:, :, None] * lengths[:, None])
        return products


def _first_component(parts: Tensor) -> Tensor:
    return orient(spectrum(parts, centred=True, most=1).projections[:, 0]).relu()


def _lapack_projection(features: Tensor, *, centred: bool) -> Tensor:
    matrix = features.flatten(2).mT
    if centred:
        matrix = matrix - matrix.mean(1, keepdim=True)
    right = torch.linalg.svd(matrix, full_matrices=False).Vh[:, 0]
    return (matrix @ right[..., None])[..., 0].unflatten(1, features.shape[2:])

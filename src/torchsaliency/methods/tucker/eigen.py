"""Eigen-CAM and its multi-vector form: features projected on their singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from torchsaliency.core.method import ACTIVATIONS, Method, register
from torchsaliency.core.trace import View
from torchsaliency.methods.tucker.spectrum import orient, spectrum_of, sum_projections


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

    centred: bool = True

    def saliency(self, view: View) -> Tensor:
        """Return the weighted sum of absolute projections (N, *grid)."""
        return sum_projections(spectrum_of(view, centred=self.centred))


def _lapack_projection(features: Tensor, *, centred: bool) -> Tensor:
    matrix = features.flatten(2).mT
    if centred:
        matrix = matrix - matrix.mean(1, keepdim=True)
    right = torch.linalg.svd(matrix, full_matrices=False).Vh[:, 0]
    return (matrix @ right[..., None])[..., 0].unflatten(1, features.shape[2:])

"""FEM: where features are unusually strong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.method import ACTIVATIONS, Method, register
from torchsaliency.core.space import sides_of
from torchsaliency.core.trace import View


@register("fem", family="cam", cite="fuad2020", needs=ACTIVATIONS)
@final
@dataclass(frozen=True)
class FEM(Method):
    """FEM: features that are unusually strong, binarised and weighted by their channel's mean.

    S(u) = ReLU(Σ_k μ_k 1[A_k(u) > μ_k + d σ_k]), μ_k and σ_k the mean and the standard deviation of
    channel k over positions. No class, no gradient; no further pass.

    Source: Fuad et al., IPTA 2020; the ReLU is for features with signs, which the paper has not.
    Differs from pytorch-grad-cam, which weights the features themselves, not binarised, by the
    share of strong positions (erratum L17).

    Attributes:
        deviations: d, 2 in the paper.
    """

    deviations: float | int = 2.0

    def saliency(self, view: View) -> Tensor:
        """Return the weighted sum of binarised features (N, *grid)."""
        maps = view.activations
        sides = sides_of(maps)
        means = maps.mean(sides, keepdim=True)
        deviation = (maps - means).square().mean(sides, keepdim=True).sqrt()
        strong = maps > means + self.deviations * deviation
        # rounding must not make a constant channel strong
        strong &= deviation > 16 * torch.finfo(maps.dtype).eps * means.abs()
        return (means * strong).sum(1).relu()

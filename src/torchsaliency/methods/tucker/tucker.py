"""Tucker saliency maps: the channel factor of the features' Tucker decomposition as weights.

At full multilinear rank the channel factor that higher-order orthogonal iteration finds is the
left singular vectors of the uncentred unfolding, and the core's slices have its singular values as
norms: both maps have a closed form (ADR 3). Truncated ranks need the iteration, by tensorly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from torchsaliency.core.maps import to_float64
from torchsaliency.core.method import ACTIVATIONS, Method, register
from torchsaliency.core.runtime import without_warnings
from torchsaliency.core.space import MOST_SIDES
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.tucker.spectrum import Spectrum, spectrum_of, sum_projections

Rank = tuple[int, ...] | None


@dataclass(frozen=True)
class TuckerMap(Method):
    """A map from the Tucker decomposition of the features.

    Attributes:
        multilinear_rank: (channels, height, width) of a truncated decomposition, or (channels,
            depth, height, width) of a volume's; None is full rank. Ranks above the features' own
            size are cut to it.
    """

    differentiable: ClassVar[bool] = True

    multilinear_rank: Rank = None

    @final
    def __post_init__(self) -> None:
        rank = self.multilinear_rank
        if rank is not None and (min(rank, default=0) < 1 or not 1 < len(rank) <= MOST_SIDES + 1):
            raise OptionError(
                f"The multilinear rank {rank} must be three numbers of at least 1: channels, "
                "height, width; in a volume four: channels, depth, height, width."
            )

    @final
    def projections(self, view: View, most: int | None = None) -> Spectrum:
        """Return the norms of the core's slices, and the features projected on each column."""
        if self.multilinear_rank is None:
            return spectrum_of(view, centred=False, most=most)
        modes = view.activations.ndim - 1
        if len(self.multilinear_rank) != modes:
            raise OptionError(
                f"The multilinear rank {self.multilinear_rank} was given for features of {modes} "
                "modes; give one number a mode, the channels first."
            )
        parts = [_hooi(features, self.multilinear_rank) for features in view.activations]
        values, maps = (torch.stack(column) for column in zip(*parts, strict=True))
        return Spectrum(values, maps)


@register("tsm", family="decomposition", cite="bouayed2025", needs=ACTIVATIONS)
@final
@dataclass(frozen=True)
class TSM(TuckerMap):
    """Tucker saliency map: features weighted by the first column of the channel factor.

    F = C ×₁ A⁽¹⁾ ×₂ A⁽²⁾ ×₃ A⁽³⁾ (×₄ A⁽⁴⁾ in a volume); S = |Σ_k A⁽¹⁾_k1 F_k|.

    Source: Multivector Tucker Saliency Maps, TMLR. Differs from the printed listing, which takes a
    row of the factor where the singular vectors are its columns (erratum T2).
    """

    def saliency(self, view: View) -> Tensor:
        """Return the absolute projection (N, *grid)."""
        return self.projections(view, most=1).projections[:, 0].abs()


@register("mtsm", family="decomposition", cite="bouayed2025", needs=ACTIVATIONS)
@final
@dataclass(frozen=True)
class MTSM(TuckerMap):
    """Multivector Tucker saliency map: all columns of the channel factor, weighted by the core.

    S = Σ_i (σ_i/σ_1) |Σ_k A⁽¹⁾_ki F_k|, where σ_i = ‖C_i‖_F is the norm of the core's i-th slice.

    Source: Multivector Tucker Saliency Maps, TMLR. Differs from the printed listing, which takes
    rows of the factor where the singular vectors are its columns (erratum T2).
    """

    def saliency(self, view: View) -> Tensor:
        """Return the weighted sum of absolute projections (N, *grid)."""
        return sum_projections(self.projections(view))


def _hooi(features: Tensor, rank: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the norms of the core's slices (r,) and the features projected on each column."""
    # a second or two that most maps, which have a closed form, need not wait for
    import tensorly  # noqa: PLC0415
    from tensorly.decomposition import tucker  # noqa: PLC0415

    cut = [min(wanted, size) for wanted, size in zip(rank, features.shape, strict=True)]
    numbers = to_float64(features)
    # It warns when it completes a factor beyond the rank of the unfolding; that is harmless.
    with tensorly.backend_context("pytorch", local_threadsafe=True), without_warnings():
        # Drawn at random where it must be completed: not from the user's numpy generator.
        core, factors = tucker(numbers, rank=cut, random_state=0)
    values = core.flatten(1).norm(dim=1)
    projections = torch.einsum("ki,k...->i...", factors[0], numbers)
    return values.to(features), projections.to(features)

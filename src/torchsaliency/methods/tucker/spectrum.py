"""Singular vectors of feature maps, batched and without iteration.

For the unfolding M = U Σ Vᵀ (K x positions) of one image's features, everything here is made from
Σ and V, and those from the eigenvectors of the smaller of the two Gram matrices, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import to_float64
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View

_APART = 1e-12
"""How far eigenvalues are moved apart where they are differentiated, relative to their sum."""


@final
@dataclass(frozen=True)
class Spectrum:
    """Singular values and projections of a batch of unfoldings.

    Attributes:
        values: (N, r) singular values σ_i, descending, r = min(K, positions).
        projections: (N, r, *grid): σ_i v_i, the features weighted by the i-th left singular vector,
            Σ_k U_ki A_k. The sign is arbitrary, and the same at all positions of one map.
    """

    values: Tensor
    projections: Tensor


@final
class Unfolding:
    """The features of every image as a matrix (K, positions), and what its spectra are made of.

    Args:
        features: (N, K, *grid).
    """

    def __init__(self, features: Float[Tensor, "n k *grid"]) -> None:
        # Squaring halves the digits, so the Gram matrix is made in double precision; the features
        # of a device without it (Apple's) are decomposed on the CPU.
        matrix = to_float64(features).flatten(2)
        norms = matrix.norm(dim=(1, 2))[:, None]
        # An image whose features are not finite must not spoil the others: it gets NaN.
        finite = norms.isfinite()
        if not bool(finite.all()):
            finite = matrix.isfinite().flatten(1).all(1)[:, None]  # a norm may also overflow
            matrix = matrix.where(finite[..., None], 0)
            norms = matrix.norm(dim=(1, 2))[:, None]
        self._features, self._matrix, self._finite = features, matrix, finite
        # What the features' own rounding leaves of a constant map after centring is no direction.
        self._noise = 4 * torch.finfo(features.dtype).eps * norms
        self._gram = _gram(matrix)

    def _matrix_of(self, *, centred: bool) -> Tensor:
        return self._matrix - self._matrix.mean(2, keepdim=True) if centred else self._matrix

    def decompose(self, *, centred: bool) -> tuple[Tensor, Tensor]:
        """Return eigenvalues (N, r), ascending, and eigenvectors of the smaller Gram matrix.

        This is the costly part. The vectors are right singular vectors if there are no more
        positions than channels, else left ones.
        """
        gram = self._gram
        if centred and self._features.dtype == torch.float64:
            gram = _gram(self._matrix_of(centred=True))
        elif centred:
            gram = self._centred_gram()
        if gram.requires_grad:  # equal eigenvalues, as of dead channels, have no gradient
            steps = torch.arange(1, gram.shape[1] + 1, device=gram.device).to(gram) / gram.shape[1]
            trace = gram.detach().diagonal(dim1=1, dim2=2).sum(1)
            gram = gram + _APART * torch.diag_embed(trace[:, None] * steps)
        squares, vectors = torch.linalg.eigh(gram)
        return squares, vectors

    def _centred_gram(self) -> Tensor:
        """Return the Gram matrix of the centred unfolding from that of the plain one.

        Exact to 1e-16 of the features' squares; what lies below 1e-13 of them is noise of features
        that had float32's digits. It spares a second product of the large matrices.
        """
        channels, positions = self._matrix.shape[1:]
        if positions > channels:
            means = self._matrix.mean(2, keepdim=True)
            return self._gram - positions * means @ means.mT
        means = self._gram.mean(2, keepdim=True)
        return self._gram - means - means.mT + means.mean(1, keepdim=True)

    def spectrum(
        self, decomposition: tuple[Tensor, Tensor], *, centred: bool, most: int | None = None
    ) -> Spectrum:
        """Return the singular values and projections, all or the `most` largest."""
        squares, vectors = decomposition
        channels, positions = self._matrix.shape[1:]
        rank = min(channels, positions, most or channels)
        values = squares.flip(1)[:, :rank].clamp_min(0).sqrt()
        leading = vectors.flip(2)[:, :, :rank].mT
        if positions <= channels:
            projected = leading * values[..., None]
        else:
            projected = leading @ self._matrix_of(centred=centred)
        real, finite = values > self._noise, self._finite
        values = (values * real).where(finite, torch.nan)
        projected = (projected * real[..., None]).where(finite[..., None], torch.nan)
        maps = projected.unflatten(2, self._features.shape[2:])
        return Spectrum(values.to(self._features), maps.to(self._features))


def _gram(matrix: Tensor) -> Tensor:
    channels, positions = matrix.shape[1:]
    return matrix.mT @ matrix if positions <= channels else matrix @ matrix.mT


def spectrum(
    features: Float[Tensor, "n k *grid"], *, centred: bool = False, most: int | None = None
) -> Spectrum:
    """Return the singular values and projections of every image's features.

    Args:
        features: (N, K, *grid).
        centred: whether each channel's mean over positions is subtracted first.
        most: how many singular vectors to return; all by default.
    """
    unfolding = Unfolding(features)
    return unfolding.spectrum(unfolding.decompose(centred=centred), centred=centred, most=most)


def spectrum_of(view: View, *, centred: bool, most: int | None = None) -> Spectrum:
    """Return the spectrum of what a view reads, decomposed once for all methods of a pass."""
    features, once = view.activations, view.shared.compute_once
    unfolding: Unfolding = once("unfolding", lambda: Unfolding(features), features.device)
    decomposition = once(
        f"decomposition, centred={centred}",
        lambda: unfolding.decompose(centred=centred),
        features.device,
    )
    return unfolding.spectrum(decomposition, centred=centred, most=most)


def sum_projections(found: Spectrum) -> Float[Tensor, " n *size"]:
    """Return Σ_i (σ_i/σ_1) |σ_i v_i|."""
    tiny = torch.finfo(found.values.dtype).tiny
    weights = found.values / found.values[:, :1].clamp_min(tiny)
    return torch.einsum("nr,nr...->n...", weights, found.projections.abs())


def orient(maps: Float[Tensor, " n *size"]) -> Float[Tensor, " n *size"]:
    """Turn each map so that its largest absolute value is positive: a sign for what has none."""
    flat = maps.flatten(1)
    flip = -flat.amin(1) > flat.amax(1)
    return torch.where(add_sides(flip, maps), -maps, maps)


def dominant_variance(
    features: Float[Tensor, "n k *grid"],
    decomposition: Literal["svd", "tucker"] = "tucker",
    first: int = 1,
) -> Float[Tensor, "n first"]:
    """Return the share of each of the first singular values, σ_i / Σ_j σ_j, in [0, 1].

    "tucker" is the uncentred unfolding, whose singular values are those of the full-rank Tucker
    core; "svd" subtracts each channel's mean, as the published Eigen-CAM does (Figures 2 and 3 of
    the Tucker saliency paper compare the two, erratum T7).

    Args:
        features: (N, K, *grid).
        decomposition: which of the two.
        first: how many shares to return; those beyond the rank are 0.

    Example:
        >>> dominant_variance(torch.ones(1, 4, 3, 3), first=2)
        tensor([[1., 0.]])
    """
    values = spectrum(features, centred=decomposition == "svd").values
    shares = values / values.sum(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    padding = (0, max(0, first - shares.shape[1]))
    return torch.nn.functional.pad(shares[:, :first], padding)

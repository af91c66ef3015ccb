"""Singular vectors of feature maps, batched and without iteration.

For the K x hw unfolding M = U Σ Vᵀ of one image's features, everything here is made from Σ and V,
and those from the eigenvectors of the smaller of the two Gram matrices, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import exact
from torchsaliency.core.trace import View


@final
@dataclass(frozen=True)
class Spectrum:
    """Singular values and projections of a batch of unfoldings.

    Attributes:
        values: (N, r) singular values σ_i, descending, r = min(K, hw).
        projections: (N, r, h, w): σ_i v_i, the features weighted by the i-th left singular vector,
            Σ_k U_ki A_k. The sign is arbitrary, and the same at all positions of one map.
    """

    values: Tensor
    projections: Tensor


@final
@dataclass(frozen=True)
class Unfolding:
    """The features as matrices, and their products: what both decompositions begin with.

    Attributes:
        matrix: (N, K, hw) in float64.
        gram: (N, r, r) the smaller Gram matrix.
        noise: (N, 1) the singular value below which there is only rounding.
        finite: (N, 1) whether the image's features were.
        size: (h, w).
        home: device and precision of the features.
    """

    matrix: Tensor
    gram: Tensor
    noise: Tensor
    finite: Tensor
    size: tuple[int, ...]
    home: tuple[torch.device, torch.dtype]


@final
@dataclass(frozen=True)
class Decomposition:
    """The eigenvectors of a batch of Gram matrices: the costly part, which several maps share.

    Attributes:
        given: the unfoldings as they were made of the features.
        matrix: (N, K, hw) the same, centred if asked for.
        squares: (N, r) eigenvalues, ascending.
        vectors: (N, ., r) their eigenvectors, right ones if hw ≤ K, else left ones.
    """

    given: Unfolding
    matrix: Tensor
    squares: Tensor
    vectors: Tensor

    def spectrum(self, most: int | None = None) -> Spectrum:
        """Return the singular values and projections, all or the `most` largest."""
        channels, positions = self.matrix.shape[1:]
        rank = min(channels, positions, most or channels)
        values = self.squares.flip(1)[:, :rank].clamp_min(0).sqrt()
        leading = self.vectors.flip(2)[:, :, :rank].mT
        projected = leading * values[..., None] if positions <= channels else leading @ self.matrix
        real, finite, home = values > self.given.noise, self.given.finite, self.given.home
        values = (values * real).where(finite, torch.nan)
        projected = (projected * real[..., None]).where(finite[..., None], torch.nan)
        return Spectrum(values.to(*home), projected.unflatten(2, self.given.size).to(*home))


def unfold(features: Float[Tensor, "n k h w"]) -> Unfolding:
    """Unfold every image's features (N, K, h, w) along the channels."""
    # Squaring halves the digits, so the Gram matrix is made in double precision; the features of a
    # device without it (Apple's) are decomposed on the CPU.
    matrix = exact(features).flatten(2)
    norms = matrix.norm(dim=(1, 2))[:, None]
    # An image whose features are not finite must not spoil the others: it gets NaN, they do not.
    finite = norms.isfinite()
    if not bool(finite.all()):
        finite = matrix.isfinite().flatten(1).all(1)[:, None]  # a norm may also overflow
        matrix = matrix.where(finite[..., None], 0)
        norms = matrix.norm(dim=(1, 2))[:, None]
    # What the features' own rounding leaves of a constant map after centring is no direction.
    noise = 4 * torch.finfo(features.dtype).eps * norms
    gram = _gram(matrix)
    home = features.device, features.dtype
    return Unfolding(matrix, gram, noise, finite, tuple(features.shape[2:]), home)


def decompose(
    features: Float[Tensor, "n k h w"], *, centred: bool = False, unfolded: Unfolding | None = None
) -> Decomposition:
    """Decompose the unfolding of every image's features.

    Args:
        features: (N, K, h, w).
        centred: whether each channel's mean over positions is subtracted first.
        unfolded: of these features, if it was made before.
    """
    given = unfolded or unfold(features)
    matrix, gram = given.matrix, given.gram
    if centred:
        matrix = matrix - matrix.mean(2, keepdim=True)
        gram = _gram(matrix) if features.dtype == torch.float64 else _centred(given)
    squares, vectors = torch.linalg.eigh(gram)
    return Decomposition(given, matrix, squares, vectors)


def _gram(matrix: Tensor) -> Tensor:
    channels, positions = matrix.shape[1:]
    return matrix.mT @ matrix if positions <= channels else matrix @ matrix.mT


def _centred(given: Unfolding) -> Tensor:
    """Return the Gram matrix of the centred unfolding from that of the plain one.

    Exact to 1e-16 of the features' squares; what lies below 1e-13 of them is noise of features that
    had float32's digits. It spares a second product of the large matrices.
    """
    channels, positions = given.matrix.shape[1:]
    if positions > channels:
        means = given.matrix.mean(2, keepdim=True)
        return given.gram - positions * means @ means.mT
    rows = given.gram.mean(2, keepdim=True)
    return given.gram - rows - rows.mT + rows.mean(1, keepdim=True)


def spectrum(
    features: Float[Tensor, "n k h w"], *, centred: bool = False, most: int | None = None
) -> Spectrum:
    """Return the singular values and projections of every image's features.

    Args:
        features: (N, K, h, w).
        centred: whether each channel's mean over positions is subtracted first.
        most: how many singular vectors to return; all by default.
    """
    return decompose(features, centred=centred).spectrum(most)


def spectrum_of(view: View, *, centred: bool, most: int | None = None) -> Spectrum:
    """Return the spectrum of what a view reads, decomposed once for all methods of a pass."""
    features = view.activations
    once, device = view.shared.once, features.device
    unfolded = once("unfolding", lambda: unfold(features), device)
    made: Decomposition = once(
        f"decomposition, centred={centred}",
        lambda: decompose(features, centred=centred, unfolded=unfolded),
        device,
    )
    return made.spectrum(most)


def turned(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Turn each map so that its largest absolute value is positive: a sign for what has none."""
    flat = maps.flatten(1)
    flip = -flat.amin(1) > flat.amax(1)
    return torch.where(flip[:, None, None], -maps, maps)


def dominant_variance(
    features: Float[Tensor, "n k h w"],
    decomposition: Literal["svd", "tucker"] = "tucker",
    first: int = 1,
) -> Float[Tensor, "n first"]:
    """Return the share of each of the first singular values, σ_i / Σ_j σ_j, in [0, 1].

    "tucker" is the uncentred unfolding, whose singular values are those of the full-rank Tucker
    core; "svd" subtracts each channel's mean, as the published Eigen-CAM does (Figures 2 and 3 of
    the Tucker saliency paper compare the two, erratum T7).

    Args:
        features: (N, K, h, w).
        decomposition: which of the two.
        first: how many shares to return; those beyond the rank are 0.
    """
    values = spectrum(features, centred=decomposition == "svd").values
    shares = values / values.sum(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    padding = (0, max(0, first - shares.shape[1]))
    return torch.nn.functional.pad(shares[:, :first], padding)

"""Does what the map keeps still have the same embedding? For encoders without classes."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric

Reduction = Literal["sum", "mean"]


def embedding_mse(
    embeddings: Float[Tensor, "n d"],
    masked_embeddings: Float[Tensor, "n d"],
    reduction: Reduction = "sum",
) -> Float[Tensor, " n"]:
    """Return ‖z - z̄‖² of every image, or the mean over dimensions.

    Args:
        embeddings: z (N, D) of the images.
        masked_embeddings: z̄ (N, D) of the masked images.
        reduction: "sum" over dimensions, as Eq. 9 of the TMLR paper prints it, or "mean".

    Raises:
        InputError: different shapes, or numbers that are not finite.

    Example:
        >>> embedding_mse(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 2.0]]))
        tensor([4.], dtype=torch.float64)
    """
    first, second = _embeddings(embeddings, masked_embeddings)
    square = (first - second).square()
    return square.sum(1) if reduction == "sum" else square.mean(1)


def embedding_cosine(
    embeddings: Float[Tensor, "n d"], masked_embeddings: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Return 100 · ⟨z, z̄⟩ / (‖z‖ ‖z̄‖) of every image, NaN where one is zero.

    Args:
        embeddings: z (N, D) of the images.
        masked_embeddings: z̄ (N, D) of the masked images.

    Raises:
        InputError: different shapes, or numbers that are not finite.

    Example:
        >>> embedding_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])).round()
        tensor([100.], dtype=torch.float64)
    """
    first, second = _embeddings(embeddings, masked_embeddings)
    norms = first.norm(dim=1) * second.norm(dim=1)
    cosine = (first * second).sum(1) / torch.where(norms > 0, norms, 1)
    return torch.where(norms > 0, 100 * cosine.clamp(-1, 1), torch.nan)


@final
@metric(
    "mse",
    group="self-supervised",
    cite="tsm2025",
    requires="masked_embeddings",
    direction="lower",
    unit="squared distance",
    best=0.0,
)
class EmbeddingMSE(SaliencyMetric):
    """Embedding MSE: how far masking moves the image's embedding.

    Formula: 1/N · Σ_i ‖z_i - z̄_i‖², z and z̄ the embedding of the image and of the image masked by
    the map; reduction="mean" divides by the number of dimensions.

    Rewards: maps that keep what the encoder encodes, whatever that is.

    Misleads: a map that hides nothing is perfect. The number depends on the scale and on the
    number of dimensions of the embedding, so encoders cannot be compared.

    Undefined: never.

    Differs: named mean squared error in the paper, printed as a sum (erratum T10); the tables there
    are in units of 10⁻³.

    Source: Multivector Tucker Saliency Maps, TMLR, Eq. 9.

    Args:
        reduction: of the squared differences over the embedding: their "sum" or "mean".
    """

    def __init__(self, reduction: Reduction = "sum", **options: Any) -> None:
        self.reduction = reduction
        super().__init__(**options)

    def update(self, embeddings: Tensor, masked_embeddings: Tensor) -> None:
        """Add images: embeddings (N, D), before and after masking."""
        self._record(embedding_mse(embeddings, masked_embeddings, self.reduction))


@final
@metric(
    "cosine",
    group="self-supervised",
    cite="tsm2025",
    requires="masked_embeddings",
    direction="higher",
    best=100.0,
    worst=-100.0,
)
class EmbeddingCosine(SaliencyMetric):
    """Embedding cosine: does the masked image's embedding point where the image's does?

    Formula: 100/N · Σ_i ⟨z_i, z̄_i⟩ / (‖z_i‖ ‖z̄_i‖), z and z̄ the embedding of the image and of the
    image masked by the map.

    Rewards: maps that keep what the encoder encodes; unlike MSE it knows no scale.

    Misleads: a map that hides nothing is perfect; embeddings after a ReLU lie in one orthant, so
    that even unrelated images are alike.

    Undefined: where an embedding is zero.

    Source: this library's complement to Eq. 9 of Multivector Tucker Saliency Maps, TMLR.
    """

    def update(self, embeddings: Tensor, masked_embeddings: Tensor) -> None:
        """Add images: embeddings (N, D), before and after masking."""
        self._record(embedding_cosine(embeddings, masked_embeddings))


def _embeddings(clean: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    if clean.ndim != 2 or clean.shape != masked.shape or clean.shape[1] == 0:  # noqa: PLR2004
        raise InputError(
            f"Embeddings of {tuple(clean.shape)} and {tuple(masked.shape)} were given; give two "
            "of (N, D)."
        )
    first, second = clean.detach().double(), masked.detach().double()
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise InputError("The embeddings hold NaN or infinite values; look at the encoder.")
    return first, second.to(first.device)

"""How far masking moves an encoder's embedding: for networks without classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import require_maps, upcast
from torchsaliency.core.masking import Masking, MeanColour
from torchsaliency.core.scores import EMBEDDING, find_stated_scores
from torchsaliency.core.space import sides_of
from torchsaliency.errors import InputError, TargetError
from torchsaliency.measures.judge import judging


@final
@dataclass(frozen=True, eq=False)
class MaskedEmbeddings:
    """Embeddings of images, before and after masking.

    Attributes:
        embeddings: z (N, D) of the images.
        masked_embeddings: z̄ (N, D) of the masked images.
        passes: images that went through the encoder.
    """

    embeddings: Tensor
    masked_embeddings: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"embeddings": self.embeddings, "masked_embeddings": self.masked_embeddings}


def masked_embeddings(
    model: nn.Module,
    x: InputsLike,
    masks: Float[Tensor, " n *size"],
    *,
    masking: Masking | None = None,
    clean: Tensor | None = None,
    chunk: int | None = None,
) -> MaskedEmbeddings:
    """Embed images and their masked versions x ⊙ m + b ⊙ (1 - m).

    Args:
        model: the encoder. Feature maps (N, D, *grid) are averaged over positions, token sequences
            (N, T, D) over tokens; (N, D) is taken as it is.
        x: images (N, C, *size), preprocessed for the encoder.
        masks: (N, *size) in [0, 1].
        masking: the baseline b; mean colour by default.
        clean: embeddings or outputs of the clean images if they are known; they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: the images, masks or clean embeddings do not fit.
        TargetError: the network gives no embedding.

    Example:
        >>> import torch
        >>> encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten())
        >>> x, masks = torch.rand(2, 3, 16, 16), torch.rand(2, 16, 16)
        >>> masked_embeddings(encoder, x, masks).embeddings.shape
        torch.Size([2, 8])
    """
    scores = find_stated_scores(model) or EMBEDDING  # numbers are compared as they are explained
    with judging(model, x, chunk=chunk, scores=scores) as judge:
        kept = require_maps(judge.maps(masks))
        mask_out = masking or MeanColour()
        count = len(judge.images)
        before = (
            judge.session.run_variants(count, lambda index: judge.images[index])
            if clean is None
            else clean
        )
        after = judge.session.run_variants(
            count, lambda index: mask_out(judge.images[index], kept[index])
        )
        first, second = pool_embeddings(before.detach()), pool_embeddings(after)
        if first.shape != second.shape:
            raise InputError(
                f"Clean embeddings of {tuple(first.shape)} were given and the masked ones are "
                f"{tuple(second.shape)}."
            )
        return MaskedEmbeddings(first.to(second), second, judge.passes)


def pool_embeddings(output: Tensor) -> Tensor:
    """Return one vector an image (N, D) from an encoder's output.

    Raises:
        TargetError: the output is not (N, D), (N, T, D) or (N, D, *grid), or not finite.
    """
    if not bool(output.isfinite().all()):
        raise TargetError("The encoder gave NaN or infinite numbers; check weights and precision.")
    found = upcast(output)
    if found.ndim == 2:  # noqa: PLR2004
        return found
    if found.ndim == 3:  # noqa: PLR2004
        return found.mean(1)
    if found.ndim > 3:  # noqa: PLR2004
        return found.mean(sides_of(found))
    raise TargetError(
        f"The encoder gave {tuple(output.shape)}; accepted are (N, D), (N, T, D) and (N, D, *grid)."
    )

"""Embeddings as targets: of another image, of a set of images, of a text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.maps import wide
from torchsaliency.core.memory import checked_chunk, suited_chunk, with_less_memory
from torchsaliency.core.session import call, held_still, mixes_images
from torchsaliency.core.target import EmbeddingSimilarity
from torchsaliency.core.trace import checked_images
from torchsaliency.core.wrapper import unwrap
from torchsaliency.errors import InputError, TargetError


def embeddings(
    model: nn.Module, x: Float[Tensor, "n c H W"], *, chunk: int | None = None
) -> Float[Tensor, "n d"]:
    """Return the network's embeddings of images; the network is left as it was.

    Args:
        model: an encoder, or any network that gives (N, D).
        x: images (N, C, H, W), preprocessed.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: the images do not fit, or a chunk below 1.
        TargetError: the network gives something else than (N, D).
    """
    net = unwrap(model)
    checked_chunk(chunk)

    def whole(chunk: int) -> Tensor:
        found = []
        for part in images.split(chunk):
            output = call(net, part)
            if not isinstance(output, Tensor) or output.ndim != 2:  # noqa: PLR2004
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise TargetError(f"An embedding is (N, D), and the network gave {got}.")
            found.append(wide(output.detach()))
        return torch.cat(found)

    with held_still(net, x.device):
        images = checked_images(net, x)
        most = 1 if mixes_images(net, images) else chunk or suited_chunk(net, images)
        return with_less_memory(whole, most, net, images)[0]


def similarity_to(
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    kind: str = "cosine",
    *,
    prototype: bool = False,
    chunk: int | None = None,
) -> EmbeddingSimilarity:
    """Return the similarity to other images' embeddings as a target: what do two images share?

    Args:
        model: the encoder.
        x: the other images, one for each image that will be explained, or one for all of them.
        kind: as `EmbeddingSimilarity`.
        prototype: take the mean of all the images' directions z/‖z‖ as the one reference.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: no image.
        TargetError: the network gives no embeddings.

    Example:
        >>> target = similarity_to(encoder, other)  # doctest: +SKIP
        >>> explain(encoder, x, "gradcam", target)  # doctest: +SKIP
    """
    if not len(x):
        raise InputError("No image was given; similarity needs at least one.")
    found = embeddings(model, x, chunk=chunk)
    if prototype:
        found = F.normalize(found, dim=1).mean(0, keepdim=True)
    return EmbeddingSimilarity(found, kind)

"""Embeddings as targets: of another image, of a set of images, of a text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.inputs import InputsLike, images_of
from torchsaliency.core.maps import upcast
from torchsaliency.core.scores import EMBEDDING
from torchsaliency.core.session import Session, open_session
from torchsaliency.core.target import EmbeddingSimilarity, require_embeddings
from torchsaliency.errors import InputError


def embeddings(
    model: nn.Module, x: InputsLike, *, chunk: int | None = None
) -> Float[Tensor, "n d"]:
    """Return the network's embeddings of images; the network is left as it was.

    Args:
        model: an encoder, or any network that gives (N, D).
        x: images (N, C, *size), preprocessed.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: the images do not fit, or a chunk below 1.
        TargetError: the network gives something else than (N, D).

    Example:
        >>> import torch, torchsaliency
        >>> encoder = torchsaliency.load_model("builtin/shapes_ssl")
        >>> embeddings(encoder, torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 128])
    """
    with open_session(model, x, chunk=chunk, scores=EMBEDDING) as session:
        return session.with_less_memory(lambda: _embed(session))


def _embed(session: Session) -> Tensor:
    rows = torch.arange(len(session.images), device=session.images.device).split(session.chunk)
    outputs = (session.run(session.images[index], index) for index in rows)
    return torch.cat([upcast(require_embeddings(output).detach()) for output in outputs])


def similarity_to(
    model: nn.Module,
    x: InputsLike,
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
        >>> import torch, torchsaliency
        >>> encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> target = similarity_to(encoder, torch.rand(1, 3, 16, 16))
        >>> found = torchsaliency.explain(encoder, torch.rand(2, 3, 16, 16), "gradcam", target)
        >>> found["gradcam"].map.shape
        torch.Size([2, 16, 16])
    """
    if not len(images_of(x)):
        raise InputError("No image was given; similarity needs at least one.")
    found = embeddings(model, x, chunk=chunk)
    if prototype:
        found = F.normalize(found, dim=1).mean(0, keepdim=True)
    return EmbeddingSimilarity(found, kind)

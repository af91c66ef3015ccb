"""What photographs share with another one, or with a text: similarity of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.cli.mishaps import running
from torchsaliency.core.embedding import embeddings
from torchsaliency.core.method import Method, Needs
from torchsaliency.core.target import EmbeddingSimilarity
from torchsaliency.data import open_photo
from torchsaliency.errors import OptionError
from torchsaliency.zoo import Network, Preprocessing, similarity_to_text

_KIND = "cosine"


@final
@dataclass(frozen=True, eq=False)
class Shared:
    """References of photographs, by name.

    Attributes:
        references: (D,) the embedding that each photograph is compared with.
        others: what that is the embedding of, in words.
    """

    references: Mapping[str, Tensor]
    others: Mapping[str, str]

    def target(self, names: Sequence[str]) -> EmbeddingSimilarity:
        """Return the target of a batch of photographs."""
        return EmbeddingSimilarity(torch.stack([self.references[one] for one in names]), _KIND)


def shared(
    network: Network,
    preprocessing: Preprocessing,
    photos: Mapping[str, Path],
    other: str,
    chunk: int | None,
) -> Shared:
    """Return what compares photographs with another one, and that one with them.

    The other photograph is compared with the mean direction of all of them, which for one is its
    own.

    Args:
        network: whose embeddings (or logits) are compared.
        preprocessing: of the photographs.
        photos: by name, the other one among them.
        other: its name.
        chunk: images in one pass.

    Raises:
        DataError: a photograph cannot be read.
    """
    found: dict[str, Tensor] = {}
    for name, path in photos.items():
        with running(network.name):
            found[name] = embeddings(network, preprocessing(open_photo(path))[None], chunk=chunk)[0]
    own = [name for name in photos if name != other]
    mean = F.normalize(torch.stack([found[name] for name in own]), dim=1).mean(0)
    words = own[0] if len(own) == 1 else f"{len(own)} photos"
    return Shared(
        {**dict.fromkeys(own, found[other]), other: mean},
        {**dict.fromkeys(own, other), other: words},
    )


def matching(network: Network, photos: Mapping[str, Path], text: str) -> Shared:
    """Return what compares photographs with a text.

    Raises:
        TorchSaliencyError: the network knows no texts.
    """
    reference = similarity_to_text(network, text).reference[0]
    return Shared(dict.fromkeys(photos, reference), dict.fromkeys(photos, f"“{text}”"))


def insist_on_reading_targets(methods: Mapping[str, Method]) -> None:
    """Refuse methods that look at the image alone.

    Raises:
        OptionError: one does.
    """
    for label, method in methods.items():
        if Needs.TARGET not in method.entry.needs:
            raise OptionError(
                f"{label} does not read the target, so it cannot tell what a photograph shares "
                "with another or with a text; choose a method that does, such as gradcam, scorecam "
                "or opticam."
            )

"""Texts as targets, through CLIP: which part of the photograph matches the words?"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchsaliency.core.target import EmbeddingSimilarity
from torchsaliency.errors import CheckpointError, InputError
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.sources.request import hub_as_allowed, unreachable

_PREFIX = "hf/"


def similarity_to_text(
    network: Network, texts: str | Sequence[str], kind: str = "cosine"
) -> EmbeddingSimilarity:
    """Return the similarity of images to texts as a target.

    Args:
        network: a CLIP image encoder, `load_model("hf/openai/clip-vit-base-patch32")`.
        texts: one for all images, or one for each.
        kind: as `EmbeddingSimilarity`; CLIP was trained on the cosine.

    Raises:
        InputError: no text.
        CheckpointError: the network has no text encoder beside it, or it cannot be had.

    Example:
        >>> clip = load_model("hf/openai/clip-vit-base-patch32")  # doctest: +SKIP
        >>> explain(clip, x, "gradcam", similarity_to_text(clip, "a dog"))  # doctest: +SKIP
    """
    several = [texts] if isinstance(texts, str) else list(texts)
    if not several or not all(one.strip() for one in several):
        raise InputError("No text was given; similarity to a text needs some words.")
    return EmbeddingSimilarity(_embedded(network, several), kind)


def _embedded(network: Network, texts: Sequence[str]) -> Tensor:
    if type(network.module).__name__ != "CLIPVisionModelWithProjection":
        raise CheckpointError(
            f"{network.name} has no text encoder beside it; give a CLIP network, such as "
            "hf/openai/clip-vit-base-patch32."
        )
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    place = network.name.removeprefix(_PREFIX)
    try:
        with hub_as_allowed():
            tokenizer: Any = AutoTokenizer.from_pretrained(place)
            encoder = CLIPTextModelWithProjection.from_pretrained(place).float().eval()
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    except Exception as error:  # the hub's clients raise their own kinds of errors
        raise unreachable(f"the texts of {network.name}", error) from error
    with torch.no_grad():
        found: Tensor = encoder(**tokens).text_embeds
    return found

"""The 1000 classes of ImageNet: their synsets and names, as timm carries them."""

from __future__ import annotations

import functools
import re
from typing import Any

SYNSET = re.compile(r"n\d{8}")


@functools.cache
def synsets() -> tuple[str, ...]:
    """Return the synsets in the order of the networks' outputs, which is their sorted order."""
    return tuple(_info().label_names())


@functools.cache
def synset_names() -> tuple[str, ...]:
    """Return the classes' names, each with its synonyms ("tench, Tinca tinca")."""
    info = _info()
    return tuple(info.index_to_description(index, detailed=False) for index in range(1000))


@functools.cache
def synset_indices() -> dict[str, int]:
    """Return the class index of each synset."""
    return {synset: index for index, synset in enumerate(synsets())}


@functools.cache
def _info() -> Any:
    from timm.data import ImageNetInfo  # noqa: PLC0415 (takes seconds)

    return ImageNetInfo("imagenet-1k")

"""The names of a network's classes, and the class that a user's word stands for."""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence

from torchsaliency.errors import TargetError

IMAGENET_CLASSES = 1000

_MOST_LISTED = 6


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 ImageNet class names, in the order of the networks' outputs."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def find_class(classes: Sequence[str], wanted: str) -> int:
    """Return the index of the one class that a word names, whatever its case.

    A whole name (or one of its synonyms, "tabby, tabby cat") wins over a part of one; a part must
    be in one name alone ("dog" is in "dogsled" and in "Eskimo dog").

    Raises:
        TargetError: no class, or more than one, goes by that word.
    """
    word = _plain(wanted)
    names = [_plain(name) for name in classes]
    readings: tuple[Callable[[str], bool], ...] = (
        lambda name: word == name or word in name.split(", "),
        lambda name: word in name,
    )
    for reads in readings if word else ():
        found = [index for index, name in enumerate(names) if reads(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise TargetError(
                f"{len(found)} classes go by {wanted!r}: {_listed(classes, found)}; "
                "give the whole name or the number."
            )
    close = [names.index(name) for name in difflib.get_close_matches(word, names, n=4, cutoff=0.5)]
    hint = f"close names are {_listed(classes, close)}" if close else "no name is close to it"
    raise TargetError(f"The network has no class {wanted!r}; {hint}, and a number is accepted too.")


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _listed(classes: Sequence[str], indices: Sequence[int]) -> str:
    shown = ", ".join(f"{classes[index]} ({index})" for index in indices[:_MOST_LISTED])
    return shown + (", …" if len(indices) > _MOST_LISTED else "")

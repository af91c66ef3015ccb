"""What a weights file says of its network beside the tensors, in a safetensors file's metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from torchsaliency.core.scores import SCORE_KINDS
from torchsaliency.errors import CheckpointError, describe_error
from torchsaliency.zoo.preprocessing import Preprocessing
from torchsaliency.zoo.weights import make_damage_error

_NOTE = "torchsaliency"
"""The entry of a safetensors file's metadata that holds a `Note`."""

_MOST_BYTES = 16 << 20
_MOST_CLASSES = 10_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Note:
    """What a weights file says of its network beside the tensors.

    Attributes:
        classes: names of the outputs, in order.
        preprocessing: that the network was trained with.
        sha256: of the tensors (`tensors_sha256`), compared when they are read; None for none.
        scores: what the outputs mean, a word of `core.scores.SCORE_KINDS`; None if it is not said.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    sha256: str | None = None
    scores: str | None = None

    def metadata(self) -> dict[str, str]:
        """Return the metadata for a safetensors file.

        It is one entry, so that equal files have equal bytes: several are written in any order.
        """
        facts: dict[str, Any] = {
            "classes": self.classes,
            "preprocessing": self.preprocessing.to_dict(),
        }
        if self.sha256 is not None:
            facts["sha256"] = self.sha256
        if self.scores is not None:
            facts["scores"] = self.scores
        return {_NOTE: json.dumps(facts, ensure_ascii=False)}


def read_note(path: str | Path) -> Note | None:
    """Return what a safetensors file says of its network, None where it says nothing.

    Only the file's header is read.

    Raises:
        CheckpointError: it says something that cannot be understood.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_NOTE)
    except Exception as error:  # the library raises several types for a damaged file
        raise make_damage_error(path, describe_error(error)) from error
    if text is None:
        return None
    try:
        return _parse(text)
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"The metadata of {path} cannot be understood ({_describe(error)}); write the file "
            f"again, without the entry {_NOTE!r} or as `torchsaliency finetune` writes it."
        ) from error


def _parse(text: str) -> Note:
    if len(text.encode()) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
    facts = json.loads(text)
    if not isinstance(facts, Mapping):
        raise TypeError(f"it is a {type(facts).__name__} and no object")
    classes, sha256 = facts["classes"], facts.get("sha256")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("its classes are no list of names")
    if len(classes) > _MOST_CLASSES:
        raise ValueError(f"it has more than {_MOST_CLASSES} classes")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ValueError("its sha256 is no SHA-256")
    preprocessing = facts["preprocessing"]
    if not isinstance(preprocessing, Mapping):
        raise TypeError(f"its preprocessing is a {type(preprocessing).__name__} and no object")
    scores = facts.get("scores")
    if scores is not None and scores not in SCORE_KINDS:
        raise ValueError(f"its scores are none of {', '.join(SCORE_KINDS)}")
    return Note(tuple(classes), Preprocessing.from_dict(preprocessing), sha256, scores)


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {describe_error(error)}"
    return describe_error(error)

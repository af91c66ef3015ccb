"""What of a photograph is explained, what was found, and how the manifest says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from torchsaliency.api import box_labels, explained_boxes
from torchsaliency.core import target as targets
from torchsaliency.core.detection import DetectionScore
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.files import finite
from torchsaliency.core.scores import REGRESSION, ScoreKind
from torchsaliency.core.segmentation import MaskScore
from torchsaliency.core.target import TargetSpec
from torchsaliency.data import open_photo
from torchsaliency.errors import (
    DataError,
)
from torchsaliency.zoo import Network, Preprocessing

if TYPE_CHECKING:
    pass


class Photo(NamedTuple):
    """A photograph that was read; its files begin with its name, its size is (H, W), upright."""

    name: str
    path: Path
    sha256: str
    size: tuple[int, ...]


@final
@dataclass(frozen=True)
class MaskFile:
    """A segmenter's class over a region that a file shows: what is not black.

    Attributes:
        category: the class.
        path: of a mask of the photograph's size, or of a folder with one a photograph, NAME.png.
    """

    category: int
    path: Path

    def read(self, photos: Sequence[Photo], preprocessing: Preprocessing) -> MaskScore:
        """Return the target of photographs.

        Raises:
            DataError: a mask cannot be read, or does not fit its photograph.
        """
        masks = []
        for photo in photos:
            path = self.path / f"{photo.name}.png" if self.path.is_dir() else self.path
            mask = torch.from_numpy(np.array(open_photo(path))).amax(2).bool()
            if tuple(mask.shape) != photo.size:
                raise DataError(
                    f"The mask {path} has {mask.shape[1]}x{mask.shape[0]} pixels and {photo.path} "
                    f"has {photo.size[1]}x{photo.size[0]}; give a mask of the photograph's size."
                )
            placed = preprocessing.mask(mask.to(torch.int64)) == 1  # not padding
            if not bool(placed.any()):
                raise DataError(
                    f"The mask {path} shows nothing of what the network sees; draw the region in "
                    "another colour than black."
                )
            masks.append(placed)
        return MaskScore(torch.stack(masks).float(), self.category)


Target = int | TargetSpec | MaskFile | None
"""A class, another target, or the predicted class."""


Scores = dict[str, list[tuple[float | None, list[float | None]]]]
"""By metric, for each image: the value, and the row of which the mean is made."""


class Answer(NamedTuple):
    """A batch explained for one target."""

    target: str  # as in `Run.targets`
    maps: Mapping[str, Explanation]  # by method; those that failed are not there
    logits: Tensor | None  # (N, K), float32 on the processor; of detectors and segmenters none
    scores: Mapping[str, Scores]  # by method
    masked: Mapping[str, Tensor]  # by method, (N,) the class's probability on the masked images


@final
@dataclass(frozen=True, eq=False)
class TargetFacts:
    """Says what was explained, in JSON types.

    Attributes:
        network: with its class names.
        preprocessing: of the photographs.
        references: as of `Run`.
    """

    network: Network
    preprocessing: Preprocessing
    references: Mapping[str, tuple[Tensor, str]]

    def describe_class(self, logits: Tensor, index: int, scores: ScoreKind) -> dict[str, Any]:
        """Return the name of a class, its logit and its probability."""
        network = self.network
        named = network.classes is not None and index < len(network.classes)
        return {
            "index": index,
            "name": network.class_name(index) if named else str(index),
            "logit": float(logits[index]),
            "probability": float(scores.probabilities(logits)[index]) if scores.classes else None,
        }

    def describe_target(self, photo: Photo, answer: Answer, row: int) -> dict[str, Any]:
        """Say what is explained: a class, a similarity of embeddings, or another target."""
        explanation = next(iter(answer.maps.values()))
        facts = {"kind": type(explanation.target).__name__}
        if isinstance(explanation.target, targets.ClassTarget):
            assert answer.logits is not None  # a class target reads them
            index = int(explanation.target.labels[row])
            facts |= self.describe_class(answer.logits[row], index, explanation.scores)
            if not isinstance(explanation.target, targets.Logit):
                facts["name"] = f"{answer.target.partition(':')[0]} of {facts['name']}"
            return facts
        score = float(explanation.score[row])
        if isinstance(explanation.target, DetectionScore):
            return facts | self._describe_boxes(photo, explanation, row) | {"logit": score}
        if isinstance(explanation.target, MaskScore):
            return facts | self._describe_segment(explanation.target, row) | {"logit": score}
        if photo.name in self.references:
            name = f"similarity {score:.2f} to {self.references[photo.name][1]}"
        else:
            first = "the first number" if explanation.scores is REGRESSION else "its own embedding"
            name = answer.target or first
        return facts | {"index": None, "name": name, "logit": score, "probability": None}

    def _describe_boxes(self, photo: Photo, explanation: Explanation, row: int) -> dict[str, Any]:
        """Say which detections are explained, in the photograph's pixels."""
        found = explained_boxes(
            explanation, row, (photo.size[-2], photo.size[-1]), self.preprocessing
        )
        classes = self.network.classes
        names = box_labels((*found[:2], [None] * len(found[1])), classes)
        rows = zip(found[0].tolist(), found[1], names, found[2], strict=True)
        boxes = [
            {"box": [round(side, 2) for side in box], "class": label, "name": name, "score": score}
            for box, label, name, score in rows
        ]
        name = ", ".join(box_labels(found, classes))
        return {"index": None, "name": name, "probability": None, "boxes": boxes}

    def _describe_segment(self, target: MaskScore, row: int) -> dict[str, Any]:
        """Say which class is explained over how much of the network's input."""
        category = target.category
        category = int(category[row]) if isinstance(category, Tensor) else category
        area = float(target.masks[row].float().mean())
        classes = self.network.classes or ()
        name = classes[category] if category < len(classes) else str(category)
        name = f"{name} over {area:.1%}"
        return {"index": None, "class": category, "name": name, "probability": None, "area": area}


def describe_signs(values: Tensor) -> dict[str, float | None]:
    """Return the sums of what speaks for the target and against it, and what has full colour."""
    positive, negative = values.double().clamp_min(0).sum(), values.double().clamp_max(0).sum()
    facts = {"for": positive, "against": negative, "largest": values.abs().max()}
    return {name: finite(float(value)) for name, value in facts.items()}

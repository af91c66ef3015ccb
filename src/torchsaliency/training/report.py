"""Reports of a fine-tuning: its progress, its epochs and its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.training.settings import Finetuning

PAPER = {
    ("chest-xray", "resnet50"): 82.0,
    ("chest-xray", "vgg16_bn"): 83.2,
    ("kvasir", "resnet50"): 89.8,
    ("kvasir", "vgg16_bn"): 89.5,
}
"""Published accuracies, in percent, by data set and network."""


@final
@dataclass(frozen=True)
class Accuracy:
    """How often a classifier is right about labelled images.

    Attributes:
        classes: names.
        confusion: images by true class (row) and predicted class (column).
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """The number of images."""
        return sum(map(sum, self.confusion))

    @property
    def overall(self) -> float | None:
        """The share of images that are classified right; None without images."""
        return _share(sum(row[place] for place, row in enumerate(self.confusion)), self.count)

    @property
    def per_class(self) -> dict[str, float | None]:
        """The same of each class's images alone (its recall)."""
        rows = enumerate(zip(self.classes, self.confusion, strict=True))
        return {name: _share(row[place], sum(row)) for place, (name, row) in rows}

    @property
    def balanced(self) -> float | None:
        """The mean over the classes; a network that always says the commonest gains nothing."""
        return _mean(list(self.per_class.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON types."""
        return {
            "images": self.count,
            "accuracy": self.overall,
            "balanced_accuracy": self.balanced,
            "per_class": self.per_class,
            "images_per_class": dict(zip(self.classes, map(sum, self.confusion), strict=True)),
            "confusion": [list(row) for row in self.confusion],
        }


@final
@dataclass(frozen=True)
class LabelAccuracy:
    """How well a network tells which labels are true of images.

    Attributes:
        classes: names of the labels.
        count: the number of images.
        precision: average precision of each label, Σ (R_i - R_{i-1}) P_i over its distinct scores;
            None for a label that is true of no image.
        right: the share of images for which each label is told right at a probability of 1/2.
    """

    classes: tuple[str, ...]
    count: int
    precision: tuple[float | None, ...]
    right: tuple[float | None, ...]

    @classmethod
    def of(cls, classes: tuple[str, ...], logits: Tensor, truth: Tensor) -> LabelAccuracy:
        """Make it of logits (N, K) and what is true, (N, K) of 0 and 1."""
        columns = range(len(classes))
        hits = ((logits >= 0) == truth.bool()).double().mean(0).tolist()
        return cls(
            classes,
            len(logits),
            tuple(average_precision(logits[:, place], truth[:, place]) for place in columns),
            tuple(hits) if len(logits) else (None,) * len(classes),
        )

    @property
    def overall(self) -> float | None:
        """The share of all labels of all images that are told right; None without images."""
        return _mean(self.right)

    @property
    def per_class(self) -> dict[str, float | None]:
        """The average precision of each label."""
        return dict(zip(self.classes, self.precision, strict=True))

    @property
    def balanced(self) -> float | None:
        """The mean average precision over the labels."""
        return _mean(self.precision)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON types."""
        return {
            "images": self.count,
            "accuracy": self.overall,
            "mean_average_precision": self.balanced,
            "average_precision": self.per_class,
            "accuracy_per_label": dict(zip(self.classes, self.right, strict=True)),
        }


def average_precision(scores: Tensor, truth: Tensor) -> float | None:
    """Return Σ (R_i - R_{i-1}) P_i of one label, equal scores taken together; None if none is true.

    Example:
        >>> average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1]))
        0.8333333333333333
    """
    true = truth.double()
    if not bool(true.any()):
        return None
    order = scores.argsort(descending=True, stable=True)
    ranked, found = scores[order], true[order].cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool, device="cpu")])
    taken = torch.arange(1, len(scores) + 1, device="cpu")[last]
    hits = found[last]
    gains = torch.diff(hits, prepend=hits.new_zeros(1)) / true.sum()
    return float((gains * hits / taken).sum())


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@final
@dataclass(frozen=True)
class Epoch:
    """The results of one epoch.

    Attributes:
        number: from 1, over both stages.
        stage: "head" or "all".
        loss: mean cross-entropy (of labels: binary) of the training images, as they came.
        train: their accuracy, as they came: flipped, and before the network had seen the others.
        val: accuracy of the validation images after the epoch; None where there are none.
        seconds: that it took.
    """

    number: int
    stage: str
    loss: float
    train: float
    val: float | None
    seconds: float


@final
@dataclass(frozen=True)
class TrainingProgress:
    """How far a fine-tuning is.

    Attributes:
        what: "head", "all", or the part that is tested at the end.
        epoch: from 1, over both stages.
        epochs: of both stages.
        done: images of this epoch or test.
        total: images of it altogether.
        ended: the epoch, reported once more when it is over and its checkpoint is written.

    Given to the argument `watch` of `finetune`.
    """

    what: str
    epoch: int
    epochs: int
    done: int
    total: int
    ended: Epoch | None = None


Watch = Callable[[TrainingProgress], None]


@final
@dataclass(frozen=True)
class TrainingReport:
    """The results of a fine-tuning.

    Attributes:
        settings: as they were used.
        data: the data set's name.
        classes: their names.
        accuracy: of the final network, by part: "train" (unflipped), "val", "test".
        history: every epoch.
        skipped: by part, the images that could not be read, with the reason.
        before: epochs that earlier sessions did.
    """

    settings: Finetuning
    data: str
    classes: tuple[str, ...]
    accuracy: dict[str, Accuracy | LabelAccuracy]
    history: tuple[Epoch, ...]
    skipped: dict[str, dict[str, str]]
    before: int

    @property
    def paper(self) -> float | None:
        """The accuracy that the paper gives, in percent; None for other data and networks."""
        return PAPER.get((self.data, self.settings.architecture))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON types."""
        return {
            "program": "torchsaliency",
            "settings": self.settings.model_dump(mode="json"),
            "data": self.data,
            "classes": list(self.classes),
            "accuracy": {part: accuracy.to_dict() for part, accuracy in self.accuracy.items()},
            "paper_accuracy": None if self.paper is None else self.paper / 100,
            "epochs": [asdict(epoch) for epoch in self.history],
            "skipped": self.skipped,
        }

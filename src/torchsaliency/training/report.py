"""What a fine-tuning tells while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

from torchsaliency.training.accuracy import Accuracy
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
class Epoch:
    """What one epoch came to.

    Attributes:
        number: from 1, over both stages.
        stage: "head" or "all".
        loss: mean cross-entropy of the training images, as they came.
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
class Moment:
    """How far a fine-tuning is.

    Attributes:
        what: "head", "all", or the part that is tested at the end.
        epoch: from 1, over both stages.
        epochs: of both stages.
        done: images of this epoch or test.
        total: images of it altogether.
        ended: the epoch, told once more when it is over and its checkpoint is written.
    """

    what: str
    epoch: int
    epochs: int
    done: int
    total: int
    ended: Epoch | None = None


Watch = Callable[[Moment], None]


@final
@dataclass(frozen=True)
class Report:
    """What a fine-tuning came to.

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
    accuracy: dict[str, Accuracy]
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
            "accuracy": {part: found.to_dict() for part, found in self.accuracy.items()},
            "paper_accuracy": None if self.paper is None else self.paper / 100,
            "epochs": [asdict(one) for one in self.history],
            "skipped": self.skipped,
        }

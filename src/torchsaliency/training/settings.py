"""What a fine-tuning is told: the recipe of Opti-CAM's appendix E.2, and what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchsaliency.errors import OptionError, describe_unknown
from torchsaliency.zoo.sources.userfile import is_user_file

FREE = ("data", "weights", "epochs", "device", "workers")
"""Fields that a continued run may change: what lies where is checked by content, and more epochs at
the same rate are what a longer run would have done."""

_HEAD_RATES = {("kvasir", "resnet50"): 1e-4, ("kvasir", "vgg16_bn"): 5e-3}
_HEAD_RATE = 1e-3  # the paper's for the chest X-rays, with both networks

_RESIZED_WHOLE = ("chest-xray", "kvasir")
"""Data that the paper resizes to the network's square; the middle is not cropped."""

_PAPER_WEIGHTS = {"resnet50": "resnet50.imagenet1k_v1"}
"""Where torchvision's default weights are no longer those of the paper."""


class Finetuning(BaseModel):
    """How a network is fine-tuned. What the paper leaves unstated is marked so.

    Attributes:
        data: as `open_parts`: a folder in a known layout.
        arch: a torchvision network ("resnet50" has the paper's weights, torchvision's first), or
            any name that `load_model` takes.
        weights: a file that the network begins with.
        pretrained: False for random weights, without a file.
        head_epochs: of the first stage (unstated).
        head_rate: learning rate of the first stage; None for the data set's.
        epochs: of the second stage.
        rate: learning rate of the second stage.
        momentum: of both.
        weight_decay: of both (unstated).
        batch_size: images a step, or fewer: an epoch is cut evenly (unstated).
        flip: mirror half of the training images, drawn anew in each epoch (unstated).
        fit: how images become the network's square: "crop" the middle, or "squash"; None for
            "squash" with the paper's data sets and the network's own way otherwise.
        seed: of the new head, the order, the flips and dropout.
        device: "cpu", "cuda" …
        workers: processes that read images; None for as many as the machine bears.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    arch: str = "resnet50"
    weights: Path | None = None
    pretrained: bool = True
    head_epochs: int = Field(default=10, ge=0)
    head_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    epochs: int = Field(default=50, ge=0)
    rate: float = Field(default=1e-5, gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)
    flip: bool = True
    fit: Literal["crop", "squash"] | None = None
    seed: int = Field(default=0, ge=-(2**63), lt=2**64)
    device: str = "cpu"
    workers: int | None = Field(default=None, ge=0, le=512)

    @property
    def total(self) -> int:
        """The epochs of both stages."""
        return self.head_epochs + self.epochs

    @property
    def architecture(self) -> str:
        """The network's bare name, as the paper's tables have it."""
        return self.arch.removeprefix("torchvision/").partition(".")[0]

    @property
    def model(self) -> str:
        """The name for `load_model`."""
        if "/" in self.arch or is_user_file(self.arch):
            return self.arch
        return f"torchvision/{_PAPER_WEIGHTS.get(self.arch, self.arch)}"

    def for_data(self, name: str) -> Finetuning:
        """Return the settings with what the recipe says for a data set where nothing was given."""
        rate = _HEAD_RATES.get((name, self.architecture), _HEAD_RATE)
        fit = "squash" if name in _RESIZED_WHOLE else None
        return self.model_copy(update={"head_rate": self.head_rate or rate, "fit": self.fit or fit})


def make_finetuning(facts: Mapping[str, Any]) -> Finetuning:
    """Return settings whose every field exists and fits.

    Raises:
        OptionError: naming the field and what is accepted.
    """
    known = Finetuning.model_fields
    for key in facts:
        if key not in known:
            raise OptionError(describe_unknown("setting", key, known, where=" of fine-tuning"))
    try:
        settings = Finetuning.model_validate(dict(facts))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OptionError(f"{place}: {first['msg']}.") from None
    if settings.total == 0:
        raise OptionError("head_epochs and epochs are both 0, and nothing is learnt; raise one.")
    return settings

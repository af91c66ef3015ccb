"""The settings of a fine-tuning: the recipe of Opti-CAM's appendix E.2, and what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from torchsaliency.data import DataSet, as_dataset
from torchsaliency.data.dataset import PARTS
from torchsaliency.data.opening import IN_MEMORY
from torchsaliency.errors import OptionError, describe_unknown
from torchsaliency.options import FinetuneOptions, validate_options
from torchsaliency.zoo.sources.userfile import is_user_file

FREE = ("data", "weights", "epochs", "device", "workers")
"""Fields that a continued run may change: the content of data and weights is checked, and more
epochs at the same rate are what a longer run would have done."""

_HEAD_RATES = {("kvasir", "resnet50"): 1e-4, ("kvasir", "vgg16_bn"): 5e-3}
_HEAD_RATE = 1e-3  # the paper's for the chest X-rays, with both networks

_RESIZED_WHOLE = ("chest-xray", "kvasir")
"""Data that the paper resizes to the network's square; the middle is not cropped."""

_PAPER_WEIGHTS = {"resnet50": "resnet50.imagenet1k_v1"}
"""Where torchvision's default weights are no longer those of the paper."""


class Finetuning(FinetuneOptions):
    """How a network is fine-tuned; the fields are those of `FinetuneOptions`."""

    _images: DataSet | dict[str, DataSet] | None = PrivateAttr(default=None)

    @property
    def images(self) -> DataSet | dict[str, DataSet] | None:
        """The data set, or its parts, that `make_finetuning` was given; None if it is named."""
        return self._images

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

    Args:
        facts: values of the fields; `data` may be any data set that `as_dataset` takes, or one for
            each of "train", "val" and "test".

    Raises:
        DataError: the data set cannot be used.
        OptionError: naming the field and what is accepted.

    Example:
        >>> make_finetuning({"data": "pets", "arch": "builtin/shapes_cnn", "epochs": 5}).epochs
        5
    """
    images: DataSet | dict[str, DataSet] | None = None
    if isinstance(given := facts.get("data", ""), Mapping):
        for part in given:
            if part not in PARTS:
                raise OptionError(describe_unknown("part", part, PARTS, where=" of the data"))
        images = {part: as_dataset(given[part]) for part in PARTS if part in given}
        facts = {**facts, "data": IN_MEMORY + ", ".join(images)}
    elif not isinstance(given, str | Path):
        images = as_dataset(given)
        facts = {**facts, "data": IN_MEMORY + images.name}
    settings = validate_options(Finetuning, facts, where=" of fine-tuning")
    settings._images = images
    if settings.total == 0:
        raise OptionError("head_epochs and epochs are both 0, and nothing is learnt; raise one.")
    return settings

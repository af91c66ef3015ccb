"""What a user, a file or a checkpoint says of a network's input and of its classes.

Each part may be missing. The command line, the attributes of a user's file and the
hyper-parameters that a checkpoint holds are read alike, and what nobody says is assumed aloud.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from torchsaliency.core.scores import PROBLEM_TYPES, SOFTMAX, parse_scores
from torchsaliency.errors import OptionError, TorchSaliencyError, describe_error, shorten
from torchsaliency.zoo.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    as_channels,
)

_COLOURS = 3
_CROPPED = 0.875
"""The share of the shorter side that is seen, where nothing else is known: ImageNet's."""

_BYTE = 255
_SPELLINGS = {
    "size": ("size", "image_size", "img_size", "input_size", "crop_size"),
    "mean": ("mean", "image_mean", "pixel_mean"),
    "std": ("std", "image_std", "pixel_std"),
    "channels": ("channels", "in_channels", "in_chans", "num_channels", "input_channels"),
    "scores": ("scores", "problem_type"),
    "classes": ("classes", "class_names", "class_to_idx", "idx_to_class", "id2label", "labels"),
}
"""What people call the parts in checkpoints and hyper-parameters."""


@dataclass(frozen=True)
class InputFacts:
    """What is known of a network's input; None for what is not.

    Attributes:
        size: (height, width) in pixels.
        mean: per channel on values in [0, 1]. With a number above 1 in mean or std, both are of
            pixels in 0…255 (of one or three channels).
        std: as `mean`.
        channels: of the input.
        classes: names of the outputs, in order.
        scores: what the outputs mean, a word of `core.scores.SCORE_KINDS`.
        output: where they are in what the network returns.

    Example:
        >>> InputFacts.parse(size="64", mean="0.5", std="0.25").apply(None, nn.Conv2d(1, 4, 3)).mean
        (0.5,)
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None
    classes: tuple[str, ...] | None = None
    scores: str | None = None
    output: int | str | None = None

    @classmethod
    def parse(
        cls,
        *,
        size: Any = None,
        mean: Any = None,
        std: Any = None,
        channels: Any = None,
        classes: Any = None,
        scores: Any = None,
        output: int | str | None = None,
    ) -> InputFacts:
        """Return facts from words or numbers.

        Args:
            size: one side or height and width: "64", "64x96", 64, (64, 96).
            mean: a number, or one for each channel: "0.5", "0.5,0.4,0.3", 0.5, (0.5, 0.4, 0.3).
            std: as `mean`.
            channels: a whole number.
            classes: names in order, {name: index}, {index: name}, or a file of them.
            scores: "softmax", "sigmoid" …, or Hugging Face's word for it.
            output: an index, a key or a path.

        Raises:
            OptionError: one of them is something else.
        """
        return cls(
            size=None if size is None else _size(size),
            mean=None if mean is None else _numbers("mean", mean),
            std=None if std is None else _numbers("std", std),
            channels=None if channels is None else _whole("channels", channels),
            classes=None if classes is None else _names(classes),
            scores=None if scores is None else _scores(scores),
            output=output,
        )

    def or_else(self, other: InputFacts) -> InputFacts:
        """Return these facts, with the other's where these have none."""
        found = {f.name: getattr(other, f.name) for f in fields(self)}
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return InputFacts(**{**found, **{key: v for key, v in own.items() if v is not None}})

    def apply(self, known: Preprocessing | None, model: nn.Module) -> Preprocessing:
        """Return a network's preprocessing with these facts in it.

        Args:
            known: what is known else; None for ImageNet's standard.
            model: tells the number of channels where nobody does, by its first convolution.

        Raises:
            OptionError: the facts do not fit each other.
        """
        channels = self.channels
        for values in (self.mean, self.std):
            if channels is None and values is not None and len(values) > 1:
                channels = len(values)
        if channels is None:
            channels = known.channels if known is not None else find_channels(model) or _COLOURS
        mean, std = self._statistics(known, channels)
        if known is None:
            size = self.size or (224, 224)
            resize = _scale(size, 1 / _CROPPED, 1 / _CROPPED)
            return Preprocessing(size=size, resize=resize, mean=mean, std=std)
        order = known.order if channels == _COLOURS else "rgb"
        found = replace(known, mean=mean, std=std, order=order)
        if self.size is None or self.size == known.size:
            return found
        if known.size is None:  # nothing was cropped: now what hangs over is
            return replace(found, size=self.size, resize=self.size)
        if known.resize is None:
            return replace(found, size=self.size)
        down, across = (box / side for box, side in zip(known.resize, known.size, strict=True))
        return replace(found, size=self.size, resize=_scale(self.size, down, across))

    def _statistics(
        self, known: Preprocessing | None, channels: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        photographic = channels in {1, _COLOURS}
        if known is not None and known.channels == channels:
            mean, std = known.mean, known.std
        elif photographic:
            mean, std = as_channels(IMAGENET_MEAN, channels), as_channels(IMAGENET_STD, channels)
        else:
            mean, std = (0.0,) * channels, (1.0,) * channels
        given_mean = None if self.mean is None else as_channels(self.mean, channels)
        given_std = None if self.std is None else as_channels(self.std, channels)
        if photographic and max((*(given_mean or ()), *(given_std or ())), default=0) > 1:
            given_mean = given_mean and tuple(value / _BYTE for value in given_mean)
            given_std = given_std and tuple(value / _BYTE for value in given_std)
        return given_mean or mean, given_std or std

    def describe_assumptions(self, preprocessing: Preprocessing) -> str:
        """Return what of a preprocessing nobody said, in words; "" if all was said."""
        size = preprocessing.size
        parts = {
            "size": "the photograph's own size" if size is None else f"size {size[0]}x{size[1]}",
            "mean": f"mean {_words(preprocessing.mean)}",
            "std": f"std {_words(preprocessing.std)}",
        }
        return ", ".join(words for name, words in parts.items() if getattr(self, name) is None)


def given_facts(options: Any) -> InputFacts:
    """Return what the options size, mean, std, channels, class_names, scores … say.

    Raises:
        OptionError: one of them is no such thing.
    """
    return InputFacts.parse(
        size=options.size,
        mean=options.mean,
        std=options.std,
        channels=options.channels,
        classes=options.class_names,
        scores=options.scores,
        output=options.output_key,
    )


def find_channels(model: nn.Module) -> int | None:
    """Return how many channels a network's first convolution reads, None if it has none."""
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            return module.in_channels
    return None


def find_facts(content: Any) -> InputFacts:
    """Return what a checkpoint says beside its tensors, at its top or in `hyper_parameters`.

    What cannot be understood is left out: training scripts give these names other meanings, too.
    """
    found = InputFacts()
    if not isinstance(content, Mapping):
        return found
    for place in (content, content.get("hyper_parameters"), content.get("meta")):
        if isinstance(place, Mapping):
            for part, spellings in _SPELLINGS.items():
                for spelling in spellings:
                    if place.get(spelling) is not None:
                        with contextlib.suppress(TorchSaliencyError):
                            facts = InputFacts.parse(**{part: place[spelling]})
                            found = found.or_else(facts)
    return found


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Return class names from a file: one a line, or JSON (a list, {name: index}, {index: name}).

    Raises:
        OptionError: it cannot be read, or holds no names.
    """
    place = Path(path).expanduser()
    try:
        text = place.read_text(encoding="utf-8-sig")
        content = json.loads(text) if place.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise OptionError(
            f"The class names in {place} cannot be read ({describe_error(error)}); give a file "
            "with one name a line, or a JSON list."
        ) from error
    if isinstance(content, list):
        content = [str(name).strip() for name in content if str(name).strip()]
    return _names(content)


def _size(size: Any) -> tuple[int, int]:
    parts = size.lower().split("x") if isinstance(size, str) else size
    sides = [parts] if isinstance(parts, int | float) else [*_sequence("size", parts)]
    if len(sides) == 3:  # noqa: PLR2004 (timm's and torch's: channels, height, width)
        sides = sides[1:]
    whole = [_whole("size", side) for side in sides]
    if len(whole) not in {1, 2}:
        raise OptionError(f"size {size!r} was given; give one side, or HEIGHTxWIDTH.")
    return whole[0], whole[-1]


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    parts = values.split(",") if isinstance(values, str) else values
    several = [parts] if isinstance(parts, int | float) else [*_sequence(name, parts)]
    try:
        found = tuple(float(value) for value in several)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise OptionError(f"{name} {values!r} was given; give a number, or one for each channel.")
    return found


def _whole(name: str, value: Any) -> int:
    try:
        number, exact = int(value), float(value)
    except (TypeError, ValueError, OverflowError):
        number, exact = 0, 0.0
    if number < 1 or number != exact or isinstance(value, bool):
        raise OptionError(f"{name} {value!r} was given; give a whole number above 0.")
    return number


def _scores(scores: Any) -> str:
    kind = PROBLEM_TYPES.get(scores) if isinstance(scores, str) else None
    return (kind or parse_scores(str(scores)) or SOFTMAX).name


def _sequence(name: str, values: Any) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise OptionError(
            f"{name} is a {type(values).__name__}; give numbers, such as 0.5 or 0.5,0.4,0.3."
        ) from None


def _names(classes: Any) -> tuple[str, ...]:
    if isinstance(classes, str | Path):
        return read_classes(classes)
    if isinstance(classes, Mapping) and classes:
        pairs = list(classes.items())
        if all(isinstance(value, int) for _, value in pairs):
            pairs = [(index, name) for name, index in pairs]
        try:
            by_index = {int(index): str(name) for index, name in pairs}
        except (TypeError, ValueError):
            by_index = {}
        if sorted(by_index) == [*range(len(pairs))]:
            return tuple(by_index[index] for index in range(len(pairs)))
    elif (
        isinstance(classes, list | tuple)
        and classes
        and all(isinstance(name, str) for name in classes)
    ):
        return tuple(classes)
    raise OptionError(
        f"The classes are {shorten(repr(classes))}; give names in the order of the outputs, or "
        "each with its index from 0."
    )


def _scale(size: tuple[int, int], vertical: float, horizontal: float) -> tuple[int, int]:
    return round(size[0] * vertical), round(size[1] * horizontal)


def _words(values: tuple[float, ...]) -> str:
    same = len(set(values)) == 1
    return ",".join(f"{value:.4g}" for value in (values[:1] if same else values))

"""A network ready to be explained, with its preprocessing, class names and origin."""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torchsaliency.core.aspect import find_stride_of_any_aspect
from torchsaliency.core.layer import Layer
from torchsaliency.core.network import NetworkWrapper, find_fact, unwrap_output
from torchsaliency.core.scores import ScoresLike, parse_scores
from torchsaliency.errors import TargetError, describe_unknown
from torchsaliency.zoo.preprocessing import Preprocessing
from torchsaliency.zoo.volumes import VolumePreprocessing

IMAGENET_CLASSES = 1000

_MOST_LISTED = 6


class Network(NetworkWrapper):
    """A network and what has to be known to use it.

    Attributes:
        module: the network itself; layer names are relative to it.
        name: as given to `load_model`, for example "timm/resnet50".
        preprocessing: from a photograph to the network's input.
        classes: the names of its outputs, in order; none for an encoder; None when unknown.
        layer: the layer its maps are read at; None means found by a traced pass.
        judge: of an encoder, the classifier that judges its maps unless another is given.
        volumes: how scans or videos become its input; None for a network of pictures, or where
            nobody says.
        source: JSON-able facts for manifests: origin, weights, SHA-256, library versions.
        scores: what its numbers mean, see `torchsaliency.explain`; None finds it out.
        output: where in its output they are; None finds them.
        forward_kwargs: keyword arguments with which it is always called.
    """

    def __init__(  # noqa: PLR0913 (facts, all by name)
        self,
        module: nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        classes: tuple[str, ...] | None = None,
        layer: Layer | None = None,
        judge: str | None = None,
        volumes: VolumePreprocessing | None = None,
        source: dict[str, Any] | None = None,
        scores: ScoresLike = None,
        output: int | str | None = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            module, scores=parse_scores(scores), output=output, forward_kwargs=forward_kwargs
        )
        self.name = name
        self.preprocessing = preprocessing
        self.classes = classes
        self.layer = layer
        self.judge = judge
        self.volumes = volumes
        self.source = source or {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network and return its logits, also where it wraps them in an object."""
        return unwrap_output(super().forward(*args, **kwargs), self.output)

    def frame(self, fit: str | None) -> Preprocessing:
        """Return the network's preprocessing with another fit, see `Preprocessing.frame`.

        For "whole" it is tried out whether the network takes images of any aspect.
        """
        return frame_for(self, self.preprocessing, fit)

    @property
    def encoder(self) -> bool:
        """Whether the network gives embeddings and has no classes."""
        return self.classes == ()

    @property
    def class_count(self) -> int | None:
        """How many outputs the network has, as far as it says."""
        if self.classes is not None:
            return len(self.classes)
        config = getattr(self.module, "config", None)
        for owner, attribute in ((self.module, "num_classes"), (config, "num_labels")):
            if isinstance(count := getattr(owner, attribute, None), int) and count > 0:
                return count
        return None

    def class_index(self, name_or_index: str | int) -> int:
        """Return the number of a class given by number or by name.

        A name may be in any case, the beginning of one class's name or a part of it.

        Raises:
            TargetError: the number is out of range, or the word names no class or several.
        """
        if self.encoder:
            raise TargetError(
                f"{self.name} is an encoder without classes, so {name_or_index!r} cannot be "
                "explained; leave the target out: its own embedding is explained."
            )
        if isinstance(name_or_index, str) and not _is_number(name_or_index):
            if self.classes is None:
                raise TargetError(
                    f"{self.name} has no class names, so {name_or_index!r} cannot be looked up; "
                    "give a number."
                )
            return find_class(self.classes, name_or_index)
        index, count = int(name_or_index), self.class_count
        if index < 0 or (count is not None and index >= count):
            accepted = "0 and up" if count is None else f"0 to {count - 1}"
            raise TargetError(
                f"{self.name} has no class {index}; accepted are {accepted}, or a class name."
            )
        return index

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its number where names are unknown."""
        return str(index) if self.classes is None else self.classes[index]


_strides: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, int], int | None]] = (
    weakref.WeakKeyDictionary()
)


def frame_for(model: nn.Module, preprocessing: Preprocessing, fit: str | None) -> Preprocessing:
    """Return a network's preprocessing with another fit; for "whole" the network is tried out."""
    size = preprocessing.size
    if fit != "whole" or size is None:
        return preprocessing.frame(fit)
    known = _strides.setdefault(model, {})
    if size not in known:
        # noise, because a network may give nothing but zeros for a constant image
        draw = torch.Generator().manual_seed(0)
        image = torch.rand(1, preprocessing.channels, *size, generator=draw, device="cpu")
        layer = find_fact(model, "layer")
        known[size] = find_stride_of_any_aspect(
            model, image, layer if isinstance(layer, Layer) else None
        )
    return preprocessing.whole(known[size])


def _is_number(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 ImageNet class names, in the order of the networks' outputs.

    Example:
        >>> imagenet_classes()[282]
        'tiger cat'
    """
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
            listed = ", ".join(f"{classes[index]} ({index})" for index in found[:_MOST_LISTED])
            more = ", …" if len(found) > _MOST_LISTED else ""
            raise TargetError(
                f"{len(found)} classes go by {wanted!r}: {listed}{more}; give the whole name or "
                "the number."
            )
    numbers = {name: index for index, name in enumerate(names)}
    near = describe_unknown(
        "class",
        wanted,
        names,
        where=" in this network",
        label=lambda name: f"{name} ({numbers[name]})",
    )
    raise TargetError(f"{near[:-1]}, and a number is accepted too.")


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())

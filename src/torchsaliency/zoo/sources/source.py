"""A source of networks: how it is registered, what it is asked for, and the facts it records."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from torchsaliency.errors import CheckpointError, describe_error
from torchsaliency.registry import Entry, Registry
from torchsaliency.zoo.checkpoints import Checkpoint, read_checkpoint, state_dict_sha256
from torchsaliency.zoo.download import is_offline
from torchsaliency.zoo.inputs import InputFacts
from torchsaliency.zoo.network import Network

RANDOM = "random"
UNKNOWN = "as the factory made them"
_PRETRAINED = {RANDOM: False, UNKNOWN: None}

Build = Callable[[int | None], nn.Module]


@dataclass(frozen=True)
class Request:
    """A network as a user asks for it.

    Attributes:
        name: within the source, for example "resnet50".
        weights: a local weights file (or, for Hugging Face, folder); None means the source's own.
        pretrained: False means random weights, on purpose.
        num_classes: of the classifier; None means the weights' own.
        options: what the name has in brackets, "vit_tiny(img_size=64)", for the network's maker.
        given: what the user says of the network's input.

    Given to the function that `register_source` registers.
    """

    name: str
    weights: Path | None = None
    pretrained: bool = True
    num_classes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    given: InputFacts = field(default_factory=InputFacts)

    def checkpoint(self) -> Checkpoint | None:
        """Read the weights file, if one was given."""
        return None if self.weights is None else read_checkpoint(self.weights)

    def refuse_options(self) -> None:
        """Refuse options in the name, for a source whose networks take none.

        Raises:
            CheckpointError: there are some.
        """
        if self.options:
            raise CheckpointError(
                f"{self.name} was given {', '.join(self.options)} in brackets; options are taken "
                "by timm/NAME(…) and file.py:factory(…)."
            )

    def refuse_other_classes(self) -> None:
        """Refuse to replace a pretrained classifier: its new weights would be random.

        Raises:
            CheckpointError: another number of classes was asked of the source's own weights.
        """
        if self.num_classes is not None:
            raise CheckpointError(
                f"num_classes={self.num_classes} was given for {self.name}'s own weights, which "
                "would leave the classifier random; give weights=FILE with such a classifier, or "
                "pretrained=False."
            )


@dataclass(frozen=True)
class Source(Entry):
    """A registered source of networks.

    Attributes:
        networks: returns the names of its networks, each with its architecture's family; a source
            of networks without number returns none.
    """

    networks: Callable[[], Mapping[str, str]] = dict

    @property
    def options(self) -> Mapping[str, Any]:
        """None: a source takes a `Request`."""
        return {}


SOURCES: Registry[Source] = Registry(
    "source of networks", "torchsaliency.sources", error=CheckpointError
)

Load = Callable[[Request], Network]


def register_source(
    name: str, *, networks: Callable[[], Mapping[str, str]] = dict
) -> Callable[[Load], Load]:
    """Register the function that loads the networks `name/…`.

    Args:
        name: of the source.
        networks: returns the names of its networks, each with its architecture's family, for
            `models()`.

    Raises:
        OptionError: the name is taken.

    Example:
        >>> import torchsaliency
        >>> from torch import nn
        >>> from torchsaliency.zoo import imagenet
        >>> @register_source("lab", networks=lambda: {"small": "cnn"})
        ... def load(request: Request) -> Network:
        ...     net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        ...     return Network(net, name="lab/small", preprocessing=imagenet(32))
        >>> torchsaliency.load_model("lab/small").name
        'lab/small'
    """
    return SOURCES.decorate(lambda load: Source(name, load, networks))


def make_model(
    request: Request,
    build: Build,
    load_pretrained: Callable[[], tuple[nn.Module, str | Checkpoint]],
) -> tuple[nn.Module, str | Checkpoint]:
    """Return the network that is asked for, and its weights for `facts`.

    Args:
        request: decides between a weights file, the source's own weights and random ones.
        build: makes the network for a number of classes, None for its default; random weights.
        load_pretrained: makes it with the source's own weights.

    Raises:
        CheckpointError: the weights cannot be had, or do not fit.
    """
    if (checkpoint := request.checkpoint()) is not None:
        return build_and_fill(build, checkpoint, request.num_classes)[0], checkpoint
    if request.pretrained:
        request.refuse_other_classes()
        return load_pretrained()
    return build(request.num_classes), RANDOM


def build_and_fill(
    build: Build, checkpoint: Checkpoint, num_classes: int | None
) -> tuple[nn.Module, int | None]:
    """Build a network with as many classes as its weights file has, and load the file.

    Args:
        build: makes the network for a number of classes, None for its default.
        checkpoint: the weights.
        num_classes: as asked for; None means the file's.

    Returns:
        The network and its number of classes, None when that is the architecture's default.

    Raises:
        CheckpointError: the file does not fit.
    """
    model = build(num_classes)
    if num_classes is None and (num_classes := checkpoint.class_count(model)) is not None:
        model = build(num_classes)
    checkpoint.fill(model)
    return model, num_classes


def make_download_error(what: str, error: Exception) -> CheckpointError:
    """Return the error for weights that could not be fetched; nothing falls back to random ones."""
    return CheckpointError(
        f"The weights of {what} could not be fetched ({describe_error(error)}); connect to the "
        "network, or give a local file with weights=FILE (pretrained=False asks for random "
        "weights)."
    )


def refuse_offline(what: str) -> None:
    """Refuse weights that only a connection can bring, where connections are forbidden.

    Raises:
        CheckpointError: TORCHSALIENCY_OFFLINE is set.
    """
    if is_offline():
        raise make_download_error(what, OSError("TORCHSALIENCY_OFFLINE forbids to connect"))


@contextmanager
def restrict_hub() -> Iterator[None]:
    """Let Hugging Face's clients read their cache alone where connections are forbidden."""
    if not is_offline():
        yield
        return
    from huggingface_hub import constants  # noqa: PLC0415 (heavy, and here alone)

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def facts(
    origin: str, model: nn.Module, weights: str | Checkpoint, *packages: str
) -> dict[str, Any]:
    """Return what a manifest records about a network.

    Args:
        origin: the source's name.
        model: the network with its weights.
        weights: the weights file, or the name of the weights (RANDOM for none, UNKNOWN for a
            user's own, whose `pretrained` is then null).
        packages: the distributions it was built with, whose versions are recorded.
    """
    if isinstance(weights, Checkpoint):
        name, sha256, sha256_of = str(weights.path), weights.sha256, "file"
        fitted = weights.without_prefixes(model)
        stripped = {"stripped": fitted.stripped} if fitted.stripped else {}
    else:
        stripped = {}
        name, sha256, sha256_of = weights, state_dict_sha256(model), "state dict"
    return {
        "origin": origin,
        "architecture": type(model).__name__,
        "weights": name,
        "sha256": sha256,
        "sha256_of": sha256_of,
        **stripped,
        "pretrained": _PRETRAINED.get(name, True),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", *packages)},
    }

"""Networks by name: the one door to every source."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from torchsaliency.core.scores import parse_scores
from torchsaliency.errors import CheckpointError, OptionError, describe_unknown
from torchsaliency.zoo.checkpoints import read_note
from torchsaliency.zoo.inputs import InputFacts
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.sources.programs import is_program
from torchsaliency.zoo.sources.programs import load as load_program
from torchsaliency.zoo.sources.source import SOURCES, Request, register_source
from torchsaliency.zoo.sources.timm import load as load_timm
from torchsaliency.zoo.sources.userfile import is_user_file, parse_options
from torchsaliency.zoo.sources.userfile import load as load_user_file

_WITH_OPTIONS = (load_timm, load_user_file)


@dataclass(frozen=True)
class ModelEntry:
    """One network that can be loaded by name.

    Attributes:
        name: for `load_model`, for example "torchvision/resnet50".
        source: as registered, for example "torchvision".
        family: the architecture's family, for example "resnet".
    """

    name: str
    source: str
    family: str


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    given: InputFacts | None = None,
) -> Network:
    """Load a network in evaluation mode, with its preprocessing, class names and papers' layer.

    Weights are what was asked for or an error, never silently random.

    Args:
        name: "builtin/efficientnet_lite0", "torchvision/NAME", "timm/NAME" (either with a tag,
            "resnet50.a1_in1k"), "hf/NAME" (on the hub), "./folder" (that Hugging Face's
            `save_pretrained` wrote), "ssl/NAME" (self-supervised encoders), "encoder/" before any
            of these (a classifier without its last layer) or "path/to/file.py:factory". A
            factory's and timm's options stand in brackets: "file.py:factory(depth=3)".
        weights: a local weights file, safetensors or torch, instead of the source's own weights.
            Class names and preprocessing that `torchsaliency finetune` wrote into it are taken.
        device: where to put the network.
        dtype: of its parameters; None leaves them as they are.
        pretrained: False, without `weights`, means random weights; the network's `source` records
            it.
        num_classes: of the classifier; None means that of the weights.
        given: what you know of the input (`InputFacts.parse`); it goes before what the source says.
            What nobody says is ImageNet's, and `source["assumed"]` names it.

    Raises:
        CheckpointError: the name is unknown, or the weights cannot be had or do not fit.
        OptionError: the device or the type cannot be used.

    Example:
        >>> load_model("builtin/efficientnet_lite0").class_index("tiger cat")
        282
    """
    place, options = parse_options(name)
    load, inner_name = _source(place)
    given = given or InputFacts()
    request = Request(
        name=inner_name,
        weights=None if weights is None else Path(os.path.expanduser(weights)),
        pretrained=pretrained,
        num_classes=num_classes,
        options=options,
        given=given,
    )
    if load not in _WITH_OPTIONS:
        request.refuse_options()
    # initial values that a file overwrites are no reason to move the caller's random numbers on
    overwritten = weights is not None or (pretrained and load is not load_user_file)
    with torch.random.fork_rng(devices=(), enabled=overwritten):
        network = load(request)
    if request.weights is not None and (note := read_note(request.weights)) is not None:
        network.preprocessing = note.preprocessing
        network.classes = () if network.encoder else note.classes
        network.scores = parse_scores(note.scores) or network.scores
        network.source.pop("assumed", None)
    if given != InputFacts():
        network.preprocessing = given.apply(network.preprocessing, network.module)
        network.classes = given.classes or network.classes
        network.scores = parse_scores(given.scores) or network.scores
        network.output = network.output if given.output is None else given.output
    network.name = name if options else network.name
    return _place(network.eval(), device, dtype)


def models() -> list[ModelEntry]:
    """Return the networks that can be loaded by name; the Hugging Face hub's are not listed.

    Example:
        >>> "torchvision/resnet50" in [entry.name for entry in models()]
        True
    """
    return [
        ModelEntry(f"{source.name}/{name}", source.name, family)
        for source in map(SOURCES.get, SOURCES.names())
        for name, family in source.networks().items()
    ]


@register_source("encoder")
def load_encoder(request: Request) -> Network:
    """Load a classifier by its own name and take its last linear layer off.

    What a supervised network's features say of an image, without its classes: the label-free
    methods can be compared on it, judged by the whole network.
    """
    whole = load_model(
        request.name,
        weights=request.weights,
        pretrained=request.pretrained,
        num_classes=request.num_classes,
    )
    without_classifier(whole.module, request.name)
    return Network(
        whole.module,
        name=f"encoder/{request.name}",
        preprocessing=whole.preprocessing,
        classes=(),
        layer=whole.layer,
        judge=request.name if request.weights is None else None,
        source={**whole.source, "classifier": "taken off"},
    )


def without_classifier(model: nn.Module, name: str) -> None:
    """Replace the network's last linear layer by nothing, in place.

    Raises:
        CheckpointError: its last module with weights is no linear layer.
    """
    weighted = [
        (place, module)
        for place, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    if not weighted or not isinstance(weighted[-1][1], nn.Linear):
        kind = type(weighted[-1][1]).__name__ if weighted else "nothing"
        raise CheckpointError(
            f"The last layer with weights of {name} is a {kind} and no linear classifier; an "
            "encoder can be made of networks that end in one."
        )
    place, _, last = weighted[-1][0].rpartition(".")
    setattr(model.get_submodule(place), last, nn.Identity())


def _source(name: str) -> tuple[Callable[[Request], Network], str]:
    if is_user_file(name):
        return load_user_file, name
    if is_program(name):
        return load_program, name
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return _hugging_face_folder(name, folder)
    source, _, inner_name = name.partition("/")
    if source not in SOURCES or not inner_name:
        accepted = [*(f"{known}/NAME" for known in SOURCES), "./folder", "path/to/file.py:factory"]
        raise CheckpointError(describe_unknown("network", name, accepted))
    load: Callable[[Request], Network] = SOURCES.get(source).factory
    return load, inner_name


def _hugging_face_folder(name: str, folder: str) -> tuple[Callable[[Request], Network], str]:
    """Return the source and the name of a folder that `save_pretrained` wrote."""
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise CheckpointError(
            f"The folder {name} has no config.json; give one that Hugging Face's save_pretrained "
            "wrote, or a weights file with --weights and the name of its architecture."
        )
    load: Callable[[Request], Network] = SOURCES.get("hf").factory
    return load, folder


def _place(network: Network, device: str | torch.device, dtype: torch.dtype | None) -> Network:
    if dtype is not None and not dtype.is_floating_point:
        raise OptionError(f"dtype={dtype} was given; a network's parameters are floating-point.")
    if str(device).partition(":")[0] == "meta":
        raise OptionError("device='meta' was given, whose tensors hold no numbers; give cpu, say.")
    try:
        return network.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:  # torch asserts when it was built without CUDA
        seen = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        accepted = "cpu" if seen is None else f"cpu and {seen.type}"
        raise OptionError(
            f"The network cannot be put on device={str(device)!r}; this torch sees {accepted}."
        ) from error

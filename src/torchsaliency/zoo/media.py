"""Which kind of files a network takes, and how they become its input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from torchsaliency.core.network import unwrap
from torchsaliency.core.space import describe_size
from torchsaliency.data.clips import ANIMATION_SUFFIXES
from torchsaliency.data.media import Kind, is_volume
from torchsaliency.data.scans import is_scan
from torchsaliency.errors import OptionError
from torchsaliency.options import Options
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing, VolumePreprocessing

_OF_PHOTOGRAPHS = ("size", "mean", "std", "channels", "fit")
"""Options that say how a photograph becomes the network's input."""


def takes_volumes(network: Network) -> bool:
    """Whether a network says that its inputs are volumes, or convolves nothing else."""
    kinds = {type(module) for module in unwrap(network).modules()}
    volumes = any(issubclass(kind, nn.Conv3d) for kind in kinds)
    pictures = any(issubclass(kind, nn.Conv2d) for kind in kinds)
    return network.volumes is not None or (volumes and not pictures)


def find_kind(paths: Iterable[Path], network: Network) -> Kind:
    """Return what files are to a network; of none, photographs.

    Raises:
        OptionError: they are of different kinds.
    """
    volumes = takes_volumes(network)
    kinds = {_kind_of(path, volumes=volumes) for path in paths}
    if len(kinds) > 1:
        raise OptionError(
            f"{' and '.join(sorted(kinds))} were given together; take each kind by itself."
        )
    return kinds.pop() if kinds else "photographs"


def choose_volume_preprocessing(
    network: Network, kind: Kind, options: Options
) -> tuple[VolumePreprocessing, str]:
    """Return how scans or clips become a network's input, and a sentence if that is assumed.

    Raises:
        OptionError: an option of photographs was given.
    """
    known = type(options).model_fields
    given = [name for name in _OF_PHOTOGRAPHS if getattr(options, name) != known[name].default]
    if given:
        raise OptionError(
            f"--{given[0]} is for photographs; let the network's file say how its input is made, "
            "such as volumes = ScanPreprocessing(size=(32, 64, 64))."
        )
    return assume_volume_preprocessing(network, kind)


def assume_volume_preprocessing(network: Network, kind: Kind) -> tuple[VolumePreprocessing, str]:
    """Return how scans or clips become a network's input, and a sentence if that is assumed."""
    otherwise: VolumePreprocessing = ClipPreprocessing()
    if kind == "scans":
        convolutions = (m.in_channels for m in network.modules() if isinstance(m, nn.Conv3d))
        otherwise = ScanPreprocessing(channels=next(convolutions, 1))
    if isinstance(network.volumes, type(otherwise)):
        return network.volumes, ""
    facts = ", ".join(f"{key} {_word(value)}" for key, value in otherwise.to_dict().items())
    return otherwise, f"{network.name} does not say how its input is made; assumed: {facts}."


def _kind_of(path: Path, *, volumes: bool) -> Kind:
    """Return what a file is; a folder or an animation may also stand for photographs."""
    if is_volume(path):
        return "scans" if is_scan(path) else "clips"
    if volumes and path.is_dir() and is_scan(path):
        return "scans"
    return "clips" if volumes and path.name.lower().endswith(ANIMATION_SUFFIXES) else "photographs"


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return describe_size(value["size"]) if "size" in value else str(value)
    return "as it is" if value is None else str(value)

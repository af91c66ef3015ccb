"""What `explain` reads and writes: photographs, scans of medical scanners, and videos.

A medium opens a file, makes the network's input of it, and draws a map over it.
"""

from __future__ import annotations

import abc
import hashlib
import io
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor, nn

from torchsaliency.api import overlay
from torchsaliency.cli.console import say
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.files import sha256_of
from torchsaliency.core.masking import Masking
from torchsaliency.core.network import unwrap
from torchsaliency.core.space import describe_size
from torchsaliency.data.clips import ANIMATION_SUFFIXES, is_clip, open_clip
from torchsaliency.data.scans import dicom_files, is_scan, open_scan
from torchsaliency.errors import OptionError
from torchsaliency.options import ExplainOptions
from torchsaliency.viz import animate, montage
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network
from torchsaliency.zoo.preprocessing import PHOTOGRAPHIC, Preprocessing
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing

_OF_PHOTOGRAPHS = ("size", "mean", "std", "channels", "fit")
"""Options that say how a photograph becomes the network's input."""


class Medium(abc.ABC):
    """A kind of file that is explained.

    Attributes:
        options: how maps are drawn.
        preprocessing: how a file becomes the network's input.
        suffixes: of the files that are written for each map, the first one's is the picture's.
        alike: whether inputs have one size, so that they may share a batch.
    """

    suffixes: tuple[str, ...]
    alike = True

    def __init__(self, options: ExplainOptions, preprocessing: Any) -> None:
        self.options, self.preprocessing = options, preprocessing

    @abc.abstractmethod
    def open(self, path: Path) -> Any:
        """Read a file."""

    def prepare(self, source: Any, path: Path) -> Tensor:  # noqa: ARG002 (of use to photographs)
        """Return what was read of a file as the network's input (C, *size)."""
        prepared: Tensor = self.preprocessing(source)
        return prepared

    def size_of(self, source: Any) -> tuple[int, ...]:
        """Return the spatial size of what was read."""
        return tuple(source.size)

    def input_size(self, source: Any) -> tuple[int, ...]:
        """Return the spatial size of the network's input; inputs of one size share a batch."""
        return self.size_of(source)

    @final
    def baseline(self, name: str) -> Masking:
        """Return the masking of that name."""
        masking: Masking = self.preprocessing.baseline(name)
        return masking

    @abc.abstractmethod
    def draw(self, source: Any, explanation: Explanation, row: int) -> dict[str, bytes]:
        """Return the content of each file of a map, by what it is; as many as `suffixes`."""

    @final
    def to_dict(self) -> dict[str, Any]:
        """Return how inputs are made, as JSON-able values."""
        facts: dict[str, Any] = self.preprocessing.to_dict()
        return facts

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, or of all DICOM files in a folder."""
        if not path.is_dir():
            return sha256_of(path)
        found = hashlib.sha256()
        for file in sorted(dicom_files(path)):
            found.update(f"{file.name} {sha256_of(file)}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    def write(
        self, source: Any, explanation: Explanation, row: int
    ) -> dict[str, tuple[str, bytes]]:
        """Return the suffix and the content of each file of a map, by what it is."""
        drawn = self.draw(source, explanation, row)
        found = dict(zip(drawn, zip(self.suffixes, drawn.values(), strict=True), strict=True))
        for kind, suffix in self._numbers.items():
            buffer = io.BytesIO()
            np.save(buffer, getattr(explanation, kind)[row].detach().float().cpu().numpy())
            found[kind] = (suffix, buffer.getvalue())
        return found

    @final
    @property
    def written(self) -> tuple[str, ...]:
        """The suffixes of all files of a map."""
        return (*self.suffixes, *self._numbers.values())

    @property
    def _look(self) -> dict[str, Any]:
        """How maps are coloured, where something else than the default was asked for."""
        asked = {"alpha": self.options.alpha, "colormap": self.options.colormap}
        return {name: value for name, value in asked.items() if value is not None}

    @property
    def _numbers(self) -> dict[str, str]:
        """The ends of the names of files of numbers, by what of the explanation they hold."""
        signed = {"signed": ".signed.npy"} if self.options.signed else {}
        return {"raw": ".npy", **signed} if self.options.raw else {}


@final
class Photographs(Medium):
    """Photographs, each with its overlay."""

    suffixes = (".png",)
    preprocessing: Preprocessing

    def __init__(self, options: ExplainOptions, network: Network) -> None:
        super().__init__(options, network.frame(options.fit))
        self._network = network

    def open(self, path: Path) -> Any:
        """Read a photograph's picture."""
        return self.preprocessing.picture(path)

    def prepare(self, source: Any, path: Path) -> Tensor:
        """Return the photograph as the network's input; of other channels, not its picture."""
        return self.preprocessing(source if self.preprocessing.channels in PHOTOGRAPHIC else path)

    def size_of(self, source: Any) -> tuple[int, ...]:
        """Return (H, W)."""
        return source.height, source.width

    def draw(self, source: Any, explanation: Explanation, row: int) -> dict[str, bytes]:
        """Return the overlay, at the photograph's size."""
        drawn = overlay(
            source,
            explanation,
            self._network,
            index=row,
            fit=self.options.fit,
            alpha=self.options.alpha,
            colormap=self.options.colormap,
            signed=self.options.signed,
        )
        return {"overlay": png(drawn)}

    def input_size(self, source: Any) -> tuple[int, ...]:
        """Return (height, width) of the network's input."""
        return self.preprocessing.input_size((source.height, source.width))


@final
class Scans(Medium):
    """Scans, each with a montage and its map as NIfTI."""

    suffixes = (".png", ".nii.gz")
    alike = False
    preprocessing: ScanPreprocessing

    def open(self, path: Path) -> Any:
        """Read a NIfTI file or a DICOM series."""
        return open_scan(path)

    def draw(self, source: Any, explanation: Explanation, row: int) -> dict[str, bytes]:
        """Return the montage, and the map in the scan's own order, size and affine."""
        saliency = self.preprocessing.place_map(explanation.map[row]).float().cpu()
        drawn = montage(
            source.picture(),
            saliency,
            spacing=source.spacing,
            upright=True,
            **self._look,
        )
        return {"overlay": png(drawn), "map": source.nifti(saliency)}


@final
class Clips(Medium):
    """Videos, each with an animation of the frames that the network saw."""

    suffixes = (".gif",)
    alike = False
    preprocessing: ClipPreprocessing

    def open(self, path: Path) -> Any:
        """Read a video."""
        return open_clip(path)

    def draw(self, source: Any, explanation: Explanation, row: int) -> dict[str, bytes]:
        """Return the animation."""
        frames = self.preprocessing.choose_frames(source)
        drawn = animate(
            frames,
            self.preprocessing.place_map(explanation.map[row], source),
            seconds=source.seconds * len(source.frames) / len(frames),
            **self._look,
        )
        return {"overlay": drawn}


def is_volume(path: Path) -> bool:
    """Whether a file can be nothing but a scan or a video, by its name."""
    return not path.is_dir() and (is_scan(path) or is_clip(path))


def choose_medium(options: ExplainOptions, network: Network, paths: list[Path]) -> Medium:
    """Return how files are read and drawn.

    Raises:
        OptionError: they are of different kinds, or are drawn in no grid.
    """
    kinds = {_kind_of(path, network) for path in paths}
    if len(kinds) > 1:
        raise OptionError(
            f"{' and '.join(sorted(kind.__name__.lower() for kind in kinds))} were given together; "
            "explain each kind by itself."
        )
    kind = next(iter(kinds))
    if kind is Photographs:
        return Photographs(options, network)
    for name in ("grid", "signed"):
        if getattr(options, name):
            raise OptionError(
                f"--{name} draws photographs; leave it out: a scan has a montage and a video an "
                "animation of its own."
            )
    known = ExplainOptions.model_fields
    given = [name for name in _OF_PHOTOGRAPHS if getattr(options, name) != known[name].default]
    if given:
        raise OptionError(
            f"--{given[0]} is for photographs; let the network's file say how its input is made, "
            "such as volumes = ScanPreprocessing(size=(32, 64, 64))."
        )
    if kind is Clips:
        return Clips(options, _said(network, ClipPreprocessing, ClipPreprocessing()))
    channels = next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv3d)), 1)
    return Scans(options, _said(network, ScanPreprocessing, ScanPreprocessing(channels=channels)))


def _kind_of(path: Path, network: Network) -> type[Medium]:
    """Return what a file is; a folder or an animation may also stand for photographs."""
    if is_volume(path):
        return Scans if is_scan(path) else Clips
    if takes_volumes(network):
        if path.is_dir() and is_scan(path):
            return Scans
        if path.name.lower().endswith(ANIMATION_SUFFIXES):
            return Clips
    return Photographs


def takes_volumes(network: Network) -> bool:
    """Whether a network says that its inputs are volumes, or convolves nothing else."""
    kinds = {type(module) for module in unwrap(network).modules()}
    volumes = any(issubclass(kind, nn.Conv3d) for kind in kinds)
    pictures = any(issubclass(kind, nn.Conv2d) for kind in kinds)
    return network.volumes is not None or (volumes and not pictures)


def _said(network: Network, kind: Any, otherwise: Any) -> Any:
    """Return the preprocessing that a network says for a kind of input, or else the usual one."""
    if isinstance(network.volumes, kind):
        return network.volumes
    facts = ", ".join(f"{key} {_word(value)}" for key, value in otherwise.to_dict().items())
    say(f"{network.name} does not say how its input is made; assumed: {facts}.")
    return otherwise


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return describe_size(value["size"]) if "size" in value else str(value)
    return "as it is" if value is None else str(value)

"""What `explain` reads and writes: photographs, scans of medical scanners, and videos.

A medium opens a file, makes the network's input of it, and draws a map over it.
"""

from __future__ import annotations

import abc
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from torchsaliency import viz
from torchsaliency.api import box_labels, overlay, place_map
from torchsaliency.cli.console import say
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.files import sha256_of
from torchsaliency.core.maps import upsample
from torchsaliency.core.masking import Masking
from torchsaliency.data.clips import open_clip
from torchsaliency.data.scans import dicom_files, open_scan
from torchsaliency.errors import OptionError
from torchsaliency.options import ExplainOptions
from torchsaliency.viz import (
    Limits,
    add_scale,
    animate,
    apply_limits,
    draw_boxes,
    montage,
    write_limits,
)
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network
from torchsaliency.zoo.media import choose_volume_preprocessing, find_kind
from torchsaliency.zoo.preprocessing import PHOTOGRAPHIC, Preprocessing
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing


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
            colour_bar=self.options.colour_bar,
        )
        return {"overlay": png(drawn)}

    def redraw(
        self, source: Any, values: Tensor, target: Mapping[str, Any], limits: Limits
    ) -> bytes:
        """Return the overlay of a raw map, with the colours of these limits, as PNG.

        Args:
            source: the photograph's picture.
            values: the raw map (h, w), or the signed one.
            target: what the manifest says of what was explained.
            limits: the values of the first colour and the last.
        """
        options, size = self.options, self.input_size(source)
        scaled = apply_limits(upsample(values[None], size), limits, signed=options.signed)
        drawn = viz.overlay(
            source,
            place_map(scaled, source, self.preprocessing)[0],
            alpha=options.alpha,
            colormap=options.colormap,
            signed=options.signed,
        )
        if boxes := target.get("boxes"):
            found = torch.tensor([box["box"] for box in boxes])
            labels, scores = ([box[name] for box in boxes] for name in ("class", "score"))
            words = box_labels((found, labels, scores), self._network.classes)
            drawn = draw_boxes(drawn, found, words)
        if options.colour_bar:
            ends = write_limits(limits, signed=options.signed)
            drawn = add_scale(drawn, ends, options.colormap, signed=options.signed)
        return png(drawn)

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
            colour_bar=self.options.colour_bar,
            **self._look,
        )
        return {"overlay": drawn}


def choose_medium(options: ExplainOptions, network: Network, paths: list[Path]) -> Medium:
    """Return how files are read and drawn.

    Raises:
        OptionError: they are of different kinds, or are drawn in no grid.
    """
    kind = find_kind(paths, network)
    if kind == "photographs":
        return Photographs(options, network)
    for name in ("grid", "signed", "scale shared"):
        word, _, value = name.partition(" ")
        if getattr(options, word) == (value or True):
            raise OptionError(
                f"--{name} draws photographs; leave it out: a scan has a montage and a video an "
                "animation of its own."
            )
    preprocessing, assumed = choose_volume_preprocessing(network, kind, options)
    if assumed:
        say(assumed)
    return (Scans if kind == "scans" else Clips)(options, preprocessing)

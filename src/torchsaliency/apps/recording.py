"""Writes what was found: overlays, raw maps, and the facts needed to repeat them."""

from __future__ import annotations

import dataclasses
import io
import sys
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from PIL import Image

from torchsaliency.api import overlay
from torchsaliency.apps.explaining import Finding, Job
from torchsaliency.apps.folder import Folder
from torchsaliency.apps.report import Report
from torchsaliency.core.explanation import Explanation, versions
from torchsaliency.core.registry import Needs
from torchsaliency.data import open_photo

OVERLAY, RAW = ".png", ".npy"

_KEPT = (512, 512)
"""Pixels kept of a photo: sharp in a grid's cell."""


@dataclass(frozen=True)
class Style:
    """How pictures are drawn, and what is written beside them.

    Attributes:
        alpha: strength of the overlay, in [0, 1].
        colormap: any of matplotlib's.
        raw: whether raw maps are written.
        titled: whether file names hold the class, because the user named classes.
    """

    alpha: float
    colormap: str
    raw: bool
    titled: bool

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The endings of the files of one map."""
        return (OVERLAY, RAW) if self.raw else (OVERLAY,)

    def stem(self, photo: str, target: int | None, method: str) -> str:
        """Return how the files of one map begin."""
        return f"{photo}.{target}.{method}" if self.titled else f"{photo}.{method}"


@dataclass(frozen=True)
class Drawn:
    """A photograph and the overlays that were written of it, small enough to keep many."""

    photo: Image.Image
    overlays: dict[str, Image.Image]


@final
class Recorder:
    """Writes findings into a folder, and keeps their facts for the manifest."""

    def __init__(self, job: Job, folder: Folder, style: Style) -> None:
        self._job, self._folder, self._style = job, folder, style
        self._photos: dict[str, dict[str, Any]] = {}
        self._methods: dict[str, dict[str, Any]] = {}

    def record(self, finding: Finding) -> Drawn:
        """Write the overlays and raw maps of one finding.

        Raises:
            OptionError: the folder cannot be written to.
        """
        # Read again rather than kept: a batch of camera photographs would fill the memory.
        picture = open_photo(finding.photo.path)
        entry = self._photos.setdefault(finding.photo.name, _photo_facts(finding))
        overlays: dict[str, Image.Image] = {}
        for method, made in finding.maps.items():
            image = overlay(
                picture,
                made,
                self._job.preprocessing,
                index=finding.row,
                alpha=self._style.alpha,
                colormap=self._style.colormap,
            )
            stem = self._style.stem(finding.photo.name, finding.target.index, method)
            files = {"overlay": stem + OVERLAY}
            self._folder.write(files["overlay"], png(image))
            if self._style.raw:
                files["raw"] = stem + RAW
                self._folder.write(files["raw"], _npy(made, finding.row))
            self._methods.setdefault(method, _method_facts(made))
            entry["maps"].append(_map_facts(finding, method, made, files))
            overlays[method] = _shrunk(image)
        return Drawn(_shrunk(picture), overlays)

    def manifest(
        self, arguments: dict[str, Any], report: Report, grids: list[str]
    ) -> dict[str, Any]:
        """Return everything needed to repeat what was recorded, in JSON types."""
        job = self._job
        network = job.network
        return {
            "command": ["torchsaliency", *sys.argv[1:]],
            "arguments": arguments,
            "versions": versions(),
            "network": {"name": network.name, "classes": network.class_count, **network.source},
            "preprocessing": job.preprocessing.to_dict(),
            "masking": job.masking.describe(),
            "methods": self._methods,
            "photos": list(self._photos.values()),
            "grids": grids,
            "skipped_photos": [
                {"path": str(path), "reason": reason} for path, reason in report.photos.items()
            ],
            "skipped_methods": report.methods,
        }


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    # a third of the time of Pillow's default level, for a file an eighth larger
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _shrunk(image: Image.Image) -> Image.Image:
    """Shrink an image in place: a camera's photograph for every method would fill the memory."""
    image.thumbnail(_KEPT, Image.Resampling.LANCZOS)
    return image


def _npy(made: Explanation, row: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, made.raw[row].detach().float().cpu().numpy())
    return buffer.getvalue()


def _photo_facts(finding: Finding) -> dict[str, Any]:
    photo = finding.photo
    return {
        "name": photo.name,
        "path": str(photo.path.resolve()),
        "sha256": photo.sha256,
        "size": list(photo.size),
        "predicted": finding.predicted and dataclasses.asdict(finding.predicted),
        "maps": [],
    }


def _map_facts(
    finding: Finding, method: str, made: Explanation, files: dict[str, str]
) -> dict[str, Any]:
    row = finding.row
    found = {name: one[row].item() for name, one in made.details.items() if one.ndim == 1}
    return {
        "method": method,
        "target": {"kind": type(made.target).__name__, **dataclasses.asdict(finding.target)},
        "score": float(made.score[row]),
        "layers": list(made.layers),
        "status": made.status[row],
        "details": found,
        "scores": dict(finding.scores.get(method, {})),
        "files": files,
    }


def _method_facts(made: Explanation) -> dict[str, Any]:
    entry = made.method.entry
    return {
        "family": entry.family,
        "cite": entry.cite,
        "label_free": Needs.TARGET not in entry.needs,
        "options": made.manifest()["options"],
    }

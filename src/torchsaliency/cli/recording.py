"""Writes what was found: overlays, raw maps, and the facts needed to repeat them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from torchsaliency.api import overlay
from torchsaliency.cli.explaining import Finding, Job, Photo, Verdict
from torchsaliency.cli.folder import Folder
from torchsaliency.cli.report import Report
from torchsaliency.core.explanation import Explanation, versions
from torchsaliency.core.files import file_name, json_bytes, sha256_of
from torchsaliency.core.method import Needs
from torchsaliency.data import open_photo
from torchsaliency.viz.overlay import png
from torchsaliency.zoo.checkpoints import state_dict_sha256
from torchsaliency.zoo.sources.userfile import is_user_file

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
        method = file_name(method)
        return f"{photo}.{target}.{method}" if self.titled else f"{photo}.{method}"


@dataclass(frozen=True)
class Drawn:
    """What was written of a photograph and a target, small enough to keep many.

    Attributes:
        name: of the photograph.
        words: the class and its probability.
        photo: the photograph.
        overlays: by method.
        remarks: what must be said of a map, by method; nothing if all went well.
    """

    name: str
    words: str
    photo: Image.Image
    overlays: dict[str, Image.Image]
    remarks: dict[str, str]


Scored = dict[str, dict[str, list[Sequence[float | None]]]]
"""By method and metric, what the metric's mean is made of, one row a map."""


@final
class Recorder:
    """Writes findings into a folder, and keeps their facts for the manifest.

    Attributes:
        identity: of the run, as a digest: runs of one identity make the same files of a photograph.
        finished: what an earlier run of the same identity, that did not end, wrote, by SHA-256.
    """

    def __init__(
        self, job: Job, folder: Folder, style: Style, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Begin, or go on.

        Args:
            job: how photographs are explained.
            folder: held.
            style: how pictures are drawn.
            arguments: of the command; without them nothing is gone on with.
        """
        self._job, self._folder, self._style = job, folder, style
        self._photos: dict[str, dict[str, Any]] = {}
        self._methods: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, Scored] = {}
        self._left = dict[str, int]()
        self.identity = "" if arguments is None else _identity(job, arguments)
        self.finished = folder.finished(self.identity) if self.identity else {}

    def record(self, finding: Finding) -> Drawn:
        """Write the overlays and raw maps of one finding.

        Raises:
            OptionError: the folder cannot be written to.
        """
        # Read again rather than kept: a batch of camera photographs would fill the memory.
        picture = open_photo(finding.photo.path)
        name = finding.photo.name
        entry = self._photos.setdefault(name, _photo_facts(finding))
        rows = self._rows.setdefault(name, {})
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
            stem = self._style.stem(name, finding.target.index, method)
            files = {"overlay": stem + OVERLAY}
            self._folder.write(files["overlay"], png(image))
            if self._style.raw:
                files["raw"] = stem + RAW
                self._folder.write(files["raw"], _npy(made, finding.row))
            self._methods.setdefault(method, _method_facts(made))
            entry["maps"].append(_map_facts(finding, method, made, files))
            overlays[method] = _shrunk(image)
            for metric, graded in finding.scores.get(method, {}).items():
                rows.setdefault(method, {}).setdefault(metric, []).append(graded.row)
        self._left[name] = self._left.get(name, len(self._job.targets)) - 1
        if self.identity and not self._left[name]:
            told = {"photo": entry, "methods": self._methods, "rows": rows}
            self._folder.finish(self.identity, told)
        remarks = {
            method: _remark(made.status[finding.row]) for method, made in finding.maps.items()
        }
        return Drawn(name, finding.target.words, _shrunk(picture), overlays, remarks)

    def remember(self, photo: Photo) -> Iterator[Drawn]:
        """Take over what an earlier run wrote of a photograph; return its pictures by target."""
        told = self.finished[photo.sha256]
        entry = {**told["photo"], "name": photo.name, "path": str(photo.path.resolve())}
        self._photos[photo.name] = entry
        self._methods = {**told["methods"], **self._methods}
        self._rows[photo.name] = told["rows"]
        return self._drawn(photo, entry)

    def _drawn(self, photo: Photo, entry: Mapping[str, Any]) -> Iterator[Drawn]:
        picture = _shrunk(open_photo(photo.path))
        by_target: dict[Any, list[dict[str, Any]]] = {}
        for one in entry["maps"]:
            by_target.setdefault(one["target"]["index"], []).append(one)
        for maps in by_target.values():
            target = maps[0]["target"]
            overlays = {
                one["method"]: _shrunk(open_photo(self._folder.path / one["files"]["overlay"]))
                for one in maps
            }
            remarks = {one["method"]: _remark(one["status"]) for one in maps}
            verdict = Verdict(*(target[name] for name in ("index", "name", "logit", "probability")))
            yield Drawn(photo.name, verdict.words, picture, overlays, remarks)

    def rows(self) -> Scored:
        """Return what the metrics' means are made of, over all photographs in their order."""
        found: Scored = {}
        for rows in self._rows.values():
            for method, columns in rows.items():
                for metric, values in columns.items():
                    found.setdefault(method, {}).setdefault(metric, []).extend(values)
        return found

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


def _shrunk(image: Image.Image) -> Image.Image:
    """Shrink an image in place: a camera's photograph for every method would fill the memory."""
    image.thumbnail(_KEPT, Image.Resampling.LANCZOS)
    return image


def _remark(status: str) -> str:
    return "" if status == "ok" else status


def _identity(job: Job, arguments: Mapping[str, Any]) -> str:
    """Return a digest of all that decides what is written of a photograph."""
    free = {"output", "batch_size", "chunk", "grid"} | (set() if job.shared else {"photos"})
    code = Path(job.network.name.rpartition(":")[0])
    told = {
        "arguments": {name: value for name, value in arguments.items() if name not in free},
        "network": job.network.source,
        "weights": state_dict_sha256(job.network.module),
        "code": sha256_of(code) if is_user_file(job.network.name) and code.is_file() else None,
        "preprocessing": job.preprocessing.to_dict(),
        "versions": versions(),
    }
    return hashlib.sha256(json_bytes(told)).hexdigest()


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
        "scores": {name: one.value for name, one in finding.scores.get(method, {}).items()},
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

"""A run of `explain`: photographs in batches, all methods in one pass, every file recorded."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from torchsaliency.cli.answers import (
    Answer,
    MaskFile,
    Photo,
    Scores,
    Target,
    TargetFacts,
    describe_signs,
)
from torchsaliency.cli.console import say
from torchsaliency.cli.folder import Folder
from torchsaliency.cli.grid import Grid
from torchsaliency.cli.media import Medium, Photographs
from torchsaliency.cli.monitoring import MonitoredMethod, name_network_errors
from torchsaliency.cli.progress import show_progress
from torchsaliency.cli.scaling import share_scale
from torchsaliency.core import target as targets
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation, versions
from torchsaliency.core.files import file_name, finite, json_bytes
from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.isolation import Isolation, describe_failure, require_numbers
from torchsaliency.core.method import Method, Needs
from torchsaliency.core.target import TargetSpec
from torchsaliency.data.side_inputs import SideInputs
from torchsaliency.errors import (
    DataError,
    OptionError,
    TorchSaliencyError,
)
from torchsaliency.measures import masked_scores
from torchsaliency.options import ExplainOptions
from torchsaliency.viz import Limits, write_limits
from torchsaliency.zoo import Network, Preprocessing
from torchsaliency.zoo.checkpoints import state_dict_sha256
from torchsaliency.zoo.code import code_sha256

if TYPE_CHECKING:
    from torchsaliency.metrics import SaliencyMetric

ALL = "all"
"""Stands for all methods; those that do not fit the network are left out."""


@final
@dataclass(eq=False)
class Run:
    """Explains photographs into a folder, and keeps the facts for the manifest."""

    options: ExplainOptions
    folder: Folder
    photos: Mapping[str, Path]  # files by unique name
    network: Network  # with its class names
    methods: Mapping[str, Method]  # by the name under which their files are written
    metrics: Mapping[str, SaliencyMetric] = field(default_factory=dict)  # they stay empty
    # by what tells their files apart
    targets: Mapping[str, Target] = field(default_factory=lambda: {"": None})
    # of each photograph, the embedding (D,) that it is compared with, and what that is of; empty if
    # something else is explained
    references: Mapping[str, tuple[Tensor, str]] = field(default_factory=dict)
    masked: bool = False  # whether the class's probability on the masked photograph is measured
    pictures: Grid | None = None  # draws every photograph, too
    side_inputs: SideInputs | None = None  # what the network takes beside the photographs
    medium: Medium | None = None  # how files are read and drawn; photographs by default
    # takes each photograph, what was read of it, its maps and its row in them, in place of files
    view: Callable[[Photo, Any, Sequence[Answer], int], None] | None = None
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)  # of finished photographs
    skipped: dict[Path, str] = field(default_factory=dict)  # why a photograph was left out
    left_out: dict[str, str] = field(default_factory=dict)  # why a method was
    # the raw values of the first colour and the last, where all maps have one scale
    limits: Limits | None = None

    def __post_init__(self) -> None:
        self._medium = self.medium or Photographs(self.options, self.network)
        self.preprocessing: Preprocessing = (
            self._medium.preprocessing
            if isinstance(self._medium, Photographs)
            else self.network.preprocessing
        )
        self.masking = self._medium.baseline(self.options.masking)
        self._facts = TargetFacts(self.network, self.preprocessing, self.references)
        self._arguments = self.options.model_dump(mode="json", exclude={"as_json"})
        self._identity = ""
        self._finished: dict[str, dict[str, Any]] = {}
        self._unexplained: list[str] = []
        self._methods: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, dict[str, dict[str, list[Any]]]] = {}
        self._steps = len(self.methods) * len(self.targets) * (2 if self.metrics else 1)

    @property
    def files(self) -> list[str]:
        """The names of the files of all maps."""
        return [
            self._stem(photo, target, method) + suffix
            for photo in self.photos
            for target in self.targets
            for method in self.methods
            for suffix in self._medium.written
        ]

    def _stem(self, photo: str, target: str, method: str) -> str:
        return ".".join([photo, *([file_name(target)] if target else []), file_name(method)])

    def explain_all(self, *, resume: bool = False) -> dict[str, Any]:
        """Explain all photographs, draw them, and return the manifest of the run, which is written.

        With `resume`, photographs that a stopped run of the same options finished are taken over.
        """
        rows = len(self.photos) * len(self.targets)
        sheets = self.pictures.names(rows) if self.pictures else []
        with self.folder.lock():
            self.folder.refuse_to_replace([*self.files, *sheets], self.photos.values())
            if resume:
                self._identity = self._digest()
                self._finished = self.folder.read_finished(self._identity)
            try:
                self._explain()
            except BaseException:
                # also after an interruption: the same command continues
                with suppress(TorchSaliencyError):  # it would hide what went wrong first
                    if self.entries:
                        self.folder.write_manifest(self._manifest(), ended=False)
                raise
            if not self.entries:
                failed = "explained: " + self._unexplained[0] if self._unexplained else "read."
                raise DataError(f"None of the {len(self.photos)} photographs could be {failed}")
            manifest = self._manifest()
            self.folder.write_manifest(manifest, ended=True)
        known = sum(entry["sha256"] in self._finished for entry in self.entries.values())
        if known:
            photographs = "photograph was" if known == 1 else "photographs were"
            say(f"{known} {photographs} finished by an interrupted run of the same command.")
        return manifest

    def _explain(self) -> None:
        where = f"Finished photos are in {self.folder.path}/." if self.view is None else ""
        with show_progress("explaining", "photos", len(self.photos), where=where) as meter:
            self._advance: Callable[[float], None] = meter.advance
            drawn: Iterable[dict[str, Any]] = self._explain_batches()
            if self.options.scale == "shared":
                drawn = self._share_scale([*drawn])
            for entry in drawn:
                if self.pictures is not None:
                    path = self.photos[entry["name"]]
                    self.pictures.add(entry, self._medium.open(path))
            if self.pictures is not None:
                self.pictures.flush()

    def _share_scale(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Draw all overlays again, with one range of colours for all of them."""
        assert isinstance(self._medium, Photographs)
        self.limits = share_scale(entries, self.photos, self.folder, self._medium)
        if self.pictures is not None and self.limits is not None:
            self.pictures.words = write_limits(self.limits, signed=self.options.signed)
        return entries

    def _explain_batches(self) -> Iterator[dict[str, Any]]:
        """Explain and write batch by batch; yield the facts of each photograph."""
        isolation = Isolation()
        for batch, x in self._batches():

            def work(rows: slice, batch: list[Photo] = batch, x: Tensor | None = x) -> list[Answer]:
                return [] if x is None else self._explain_targets(batch[rows], x[rows])

            for rows, found in isolation.run(work, len(batch)):
                for place, photo in enumerate(batch[rows]):
                    if self._is_finished(photo.name, photo.sha256):
                        self._advance(1)
                        yield self._recall(photo)
                    elif not isinstance(found, Exception):
                        yield self._record(photo, found, place)
                    elif len(self.photos) == 1:
                        raise found
                    else:
                        reason = f"{photo.path}: {describe_failure(found)}"
                        self._unexplained.append(reason)
                        self._skip(photo.path, reason)

    def _is_finished(self, name: str, sha256: str) -> bool:
        """Whether an earlier run finished a photograph, with the same numbers beside it."""
        record = self._finished.get(sha256)
        return record is not None and record["photo"].get("inputs", {}) == self._numbers(name)

    def _numbers(self, name: str) -> dict[str, Any]:
        return {} if self.side_inputs is None else self.side_inputs.describe_row(name)

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped[path] = reason
        self._advance(1)
        say(f"Skipped: {reason}")

    def _batches(self) -> Iterator[tuple[list[Photo], Tensor | None]]:
        """Read photographs; only the batch's inputs are kept, for a folder may hold any number.

        Batches are cut from all photographs, known ones among them: so a run that goes on has the
        batches, and the last digits, of one that was not stopped. None stands for the inputs of a
        batch that is known. Inputs of another size begin another batch.
        """
        size: tuple[int, ...] | None = None
        batch: list[Photo] = []
        inputs: list[Tensor | Path] = []
        most = self.options.batch_size if self._medium.alike else 1

        def ready() -> tuple[list[Photo], Tensor | None]:
            if all(self._is_finished(photo.name, photo.sha256) for photo in batch):
                return batch, None
            open_, prepare = self._medium.open, self._medium.prepare
            made = [x if isinstance(x, Tensor) else prepare(open_(x), x) for x in inputs]
            return batch, torch.stack(made)

        for name, path in self.photos.items():
            try:
                sha256 = self._medium.digest(path)
                picture = self._medium.open(path)
                known = self._is_finished(name, sha256)
                prepared = path if known else self._medium.prepare(picture, path)
            except Exception as error:  # a decoder may raise anything
                if len(self.photos) == 1 and isinstance(error, DataError):
                    raise
                reason = f"{path} cannot be read: {describe_failure(error)}"
                if len(self.photos) == 1:
                    raise DataError(reason) from error
                self._skip(path, str(error) if isinstance(error, DataError) else reason)
                continue
            before, size = size, self._medium.input_size(picture)
            if batch and size != before:
                yield ready()
                batch, inputs = [], []
            inputs.append(prepared)
            batch.append(Photo(name, path, sha256, self._medium.size_of(picture)))
            if len(batch) == most:
                yield ready()
                batch, inputs = [], []
        if batch:
            yield ready()

    # --- one batch --------------------------------------------------------------------------------

    def _explain_targets(self, batch: Sequence[Photo], images: Tensor) -> list[Answer]:
        found, side = [], self.side_inputs
        x = images if side is None else side.beside(images, [photo.name for photo in batch])
        for tag, spec in self.targets.items():
            target = spec.read(batch, self.preprocessing) if isinstance(spec, MaskFile) else spec
            if self.references:
                references = [self.references[photo.name][0] for photo in batch]
                target = targets.EmbeddingSimilarity(torch.stack(references), "cosine")
            maps, logits = self._maps(x, target)
            scores = {name: self._scores(explanation) for name, explanation in maps.items()}
            masked = {
                name: self._masked_scores(explanation)
                for name, explanation in maps.items()
                if self.masked
            }
            found.append(Answer(tag, maps, logits, scores, masked))
        return found

    def _maps(
        self, x: InputsLike, target: int | TargetSpec | None
    ) -> tuple[dict[str, Explanation], Tensor | None]:
        """Return each fitting method's explanation, and the batch's logits of classes."""
        layers, guards = self.options.layer, {}
        for label, method in self.methods.items():
            calls = 1 if method.joint else max(1, len(layers))  # once a layer, or once for all
            step = functools.partial(self._advance, len(x) / self._steps / calls)
            guards[label] = MonitoredMethod(method, step, tolerant=ALL in self.options.method)
        with name_network_errors(self.network.name):
            maps = explain(
                self.network,
                x,
                guards,
                target,
                list(layers) or None,
                masking=self.masking,
                chunk=self.options.chunk,
                fuse=self.options.fuse,
            )
            output = next(iter(maps.values())).output
            require_numbers(self.network.name, output)
        for label, guard in guards.items():
            if guard.failures:
                del maps[label]
                if label not in self.left_out:
                    self.left_out[label] = guard.failures[0]
                    say(f"Left out {label}: {guard.failures[0]}.")
        if not maps:
            raise OptionError(f"No method fits: {next(iter(self.left_out.values()))}.")
        for label, explanation in maps.items():
            maps[label] = dataclasses.replace(explanation, method=self.methods[label])
        of_classes = isinstance(output, Tensor) and output.ndim <= 2  # noqa: PLR2004
        return maps, output.detach().float().cpu() if of_classes else None

    def _scores(self, explanation: Explanation) -> Scores:
        """Score the maps of a batch, for the classes they explain."""
        if not self.metrics:
            return {}
        from torchsaliency.evaluation import score

        metrics = [copy.deepcopy(metric) for metric in self.metrics.values()]
        with name_network_errors(self.network.name):
            score(self.network, explanation, metrics, chunk=self.options.chunk)
        self._advance(len(explanation) / self._steps)
        return {
            metric.name: list(
                zip(finite(metric.per_image.tolist()), finite(metric.rows.tolist()), strict=True)
            )
            for metric in metrics
        }

    def _masked_scores(self, explanation: Explanation) -> Tensor:
        """Return the probability of each predicted class on the image masked by its map."""
        x, maps, clean = explanation.given, explanation.map, explanation.output
        return masked_scores(
            self.network, x, maps, masking=self.masking, clean=clean, chunk=self.options.chunk
        ).masked

    # --- one photograph ---------------------------------------------------------------------------

    def _record(self, photo: Photo, answers: Sequence[Answer], row: int) -> dict[str, Any]:
        """Write the overlays and raw maps of one photograph."""
        # Read again rather than kept: a batch of camera photographs would fill the memory.
        picture = self._medium.open(photo.path)
        predicted = None
        meaning = next(iter(answers[0].maps.values())).scores
        found = answers[0].logits
        if meaning.classes and found is not None:  # no encoder, regression, detector or segmenter
            predicted = self._facts.describe_class(found[row], int(found[row].argmax()), meaning)
        entry: dict[str, Any] = {
            "name": photo.name,
            "path": str(photo.path.resolve()),
            "sha256": photo.sha256,
            "size": list(photo.size),
            "input": list(next(iter(answers[0].maps.values())).map.shape[1:]),
            **({"inputs": numbers} if (numbers := self._numbers(photo.name)) else {}),
            "predicted": predicted,
            "scores": meaning.name,
            "maps": [],
        }
        rows: dict[str, dict[str, list[Any]]] = {}
        if self.view is not None:
            self.view(photo, picture, answers, row)
        for answer in answers:
            target = self._facts.describe_target(photo, answer, row)
            for method, explanation in answer.maps.items():
                scores = {name: column[row] for name, column in answer.scores[method].items()}
                facts = {
                    "method": method,
                    "target": target,
                    "score": float(explanation.score[row]),
                    "layers": list(explanation.layers),
                    "status": explanation.status[row],
                    "details": {
                        name: values[row].item()
                        for name, values in explanation.details.items()
                        if values.ndim == 1
                    },
                    "scores": {name: value for name, (value, _) in scores.items()},
                    "files": {}
                    if self.view is not None
                    else self._write(picture, photo, answer.target, explanation, row),
                }
                if self.options.signed and explanation.signed is not None:
                    facts["signed"] = describe_signs(explanation.signed[row])
                if method in answer.masked:
                    facts["masked"] = float(answer.masked[method][row])
                entry["maps"].append(facts)
                known = explanation.method.entry
                self._methods[method] = {
                    "family": known.family,
                    "cite": known.cite,
                    "label_free": Needs.TARGET not in known.needs,
                    "options": explanation.manifest()["options"],
                }
                for name, (_, parts) in scores.items():
                    rows.setdefault(method, {}).setdefault(name, []).append(parts)
        self.entries[photo.name], self._rows[photo.name] = entry, rows
        if self._identity:
            record = {"photo": entry, "methods": self._methods, "rows": rows}
            self.folder.finish(self._identity, record)
        return entry

    def _recall(self, photo: Photo) -> dict[str, Any]:
        """Take over what an earlier run wrote of a photograph."""
        record = self._finished[photo.sha256]
        entry = {**record["photo"], "name": photo.name, "path": str(photo.path.resolve())}
        self.entries[photo.name], self._rows[photo.name] = entry, record["rows"]
        self._methods = {**record["methods"], **self._methods}
        return entry

    def _write(
        self, picture: Any, photo: Photo, target: str, explanation: Explanation, row: int
    ) -> dict[str, str]:
        """Write the overlay and the maps of a photograph; return the names of the files."""
        stem, files = self._stem(photo.name, target, explanation.method.name), {}
        for kind, (suffix, content) in self._medium.write(picture, explanation, row).items():
            files[kind] = stem + suffix
            self.folder.write(files[kind], content)
        return files

    # --- the manifest -----------------------------------------------------------------------------

    def _manifest(self) -> dict[str, Any]:
        """Return everything needed to repeat what was recorded, in JSON types."""
        network = self.network
        return {
            "command": ["torchsaliency", *sys.argv[1:]],
            "arguments": self._arguments,
            "versions": versions(),
            "network": {"name": network.name, "classes": network.class_count, **network.source},
            "preprocessing": self._medium.to_dict(),
            "inputs": None if self.side_inputs is None else self.side_inputs.describe(),
            "masking": self.masking.describe(),
            "methods": self._methods,
            "photos": list(self.entries.values()),
            **({} if self.limits is None else {"colour_limits": list(self.limits)}),
            "grids": [] if self.pictures is None else self.pictures.written,
            "skipped_photos": [
                {"path": str(path), "reason": reason} for path, reason in self.skipped.items()
            ],
            "skipped_methods": self.left_out,
            "scores": self._summaries(),
        }

    def _summaries(self) -> list[dict[str, Any]]:
        """Return the aggregate of every method and metric over all maps."""
        columns: dict[tuple[str, str], list[list[float]]] = {}
        for of_photo in self._rows.values():
            for method, of_metric in of_photo.items():
                for metric, rows in of_metric.items():
                    columns.setdefault((method, metric), []).extend(
                        [math.nan if part is None else part for part in row] for row in rows
                    )
        if not columns:
            return []
        from torchsaliency.metrics.refined import RefinedMetric  # takes seconds: not for maps alone

        found = []
        for (method, label), rows in columns.items():
            known = torch.tensor(rows, dtype=torch.float64, device="cpu")
            scorer = self.metrics[label]
            found.append({"method": method, **scorer.summarise(known).to_dict()})
            if isinstance(scorer, RefinedMetric) and scorer.error is not None:
                found[-1]["evaluation"] = scorer.describe(scorer.evaluations(known))
        return found

    def _digest(self) -> str:
        """Return a digest of all that decides what is written of a photograph."""
        free = {"output", "batch_size", "chunk", "grid", *([] if self.references else ["photos"])}
        facts = {
            "arguments": {key: value for key, value in self._arguments.items() if key not in free},
            "network": self.network.source,
            "weights": state_dict_sha256(self.network.module),
            "code": code_sha256(self.network),
            "preprocessing": self._medium.to_dict(),
            "versions": versions(),
        }
        return hashlib.sha256(json_bytes(facts)).hexdigest()

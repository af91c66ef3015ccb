"""Explains any number of photographs, a batch at a time, all methods in one pass."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from torchsaliency.cli.guarded import Guarded
from torchsaliency.cli.mishaps import running
from torchsaliency.cli.report import Report
from torchsaliency.cli.sharing import Shared
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.files import file_name
from torchsaliency.core.isolation import Isolation, in_words, insist_on_numbers
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Method
from torchsaliency.core.target import Target
from torchsaliency.data import open_photo
from torchsaliency.errors import DataError, OptionError
from torchsaliency.zoo import Network, Preprocessing

if TYPE_CHECKING:
    from torchsaliency.metrics import SaliencyMetric


@dataclass(frozen=True)
class Graded:
    """One map by one metric.

    Attributes:
        value: None where undefined.
        row: what the metric's mean is made of.
    """

    value: float | None
    row: tuple[float | None, ...]


Rows = list[dict[str, Graded]]
"""One dictionary of metrics an image."""

Score = Callable[[Mapping[str, Explanation], Report], Mapping[str, Rows]]
"""Scores the maps of a batch, by method."""


@dataclass(frozen=True)
class Job:
    """How photographs are explained.

    Attributes:
        network: with its class names.
        preprocessing: the network's, or a variant of it.
        methods: by the name under which their files are written.
        targets: classes, None for the predicted one.
        layers: none means the default layer.
        masking: baseline of masked passes.
        batch_size: photographs in one pass.
        chunk: images in one derived pass.
        tolerant: whether a method that does not fit is left out, instead of ending the run.
        metrics: by which the maps are scored, by name; they stay empty.
        shared: what the photographs are compared with, if that is what is explained.
    """

    network: Network
    preprocessing: Preprocessing
    methods: Mapping[str, Method]
    targets: tuple[int | None, ...]
    layers: tuple[str, ...]
    masking: Masking
    batch_size: int
    chunk: int | None
    tolerant: bool
    metrics: Mapping[str, SaliencyMetric] = field(default_factory=dict)
    shared: Shared | None = None

    @property
    def maps_per_photo(self) -> int:
        """How many maps one photograph gets."""
        return len(self.methods) * len(self.targets)

    @property
    def steps_per_photo(self) -> int:
        """How many maps and scores of maps one photograph takes, for the progress bar."""
        return self.maps_per_photo * (2 if self.metrics else 1)


@dataclass(frozen=True)
class Photo:
    """A photograph that was read.

    Attributes:
        name: unique in the run; its files begin with it.
        path: its file.
        sha256: of the file.
        size: (H, W) in pixels, upright.
    """

    name: str
    path: Path
    sha256: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """What the network says about one class; of an encoder, about one embedding.

    Attributes:
        index: of the class; None for an embedding.
        name: of the class, or what the embedding is of.
        logit: its output; for an embedding the similarity.
        probability: its softmax, in [0, 1]; None for an embedding.
    """

    index: int | None
    name: str
    logit: float
    probability: float | None

    @property
    def words(self) -> str:
        """Name and probability, for captions."""
        return self.name if self.probability is None else f"{self.name}  {self.probability:.1%}"


@dataclass(frozen=True)
class Finding:
    """One photograph explained for one class by all methods.

    Attributes:
        photo: the photograph.
        target: the class that is explained.
        predicted: the class with the largest logit; None of an encoder.
        row: of the photograph in the batches of `maps`.
        maps: by method; those that failed are not there.
        scores: by method and metric.
    """

    photo: Photo
    target: Verdict
    predicted: Verdict | None
    row: int
    maps: Mapping[str, Explanation]
    scores: Mapping[str, Mapping[str, Graded]]


def explained(
    job: Job,
    photos: Mapping[str, Path],
    report: Report,
    score: Score | None = None,
    known: Collection[str] = (),
) -> Iterator[Finding | Photo]:
    """Explain photographs batch by batch.

    Args:
        job: how.
        photos: files by unique name.
        report: is told of progress, and of what cannot be read or explained, or does not fit.
        score: scores the maps of a batch, if that was asked for.
        known: SHA-256 of photographs that need not be explained again.

    Yields:
        One finding a photograph and target, those of a photograph one after another; or the
        photograph alone, if it is known.

    Raises:
        DataError: the only photograph cannot be read.
        TorchSaliencyError: what was asked does not fit the network.
    """
    isolation = Isolation()
    for batch, x in _batches(job, photos, report, known):
        if x is None:
            yield from batch
            continue

        def work(rows: slice, batch: list[Photo] = batch, x: Tensor = x) -> list[Finding]:
            return list(_findings(job, batch[rows], x[rows], report, score))

        for rows, found in isolation.run(work, len(batch)):
            if not isinstance(found, Exception):
                for photo in batch[rows]:
                    if photo.sha256 in known:
                        yield photo
                    else:
                        yield from (one for one in found if one.photo is photo)
                continue
            if len(photos) == 1:
                raise found
            for photo in batch[rows]:
                if photo.sha256 in known:
                    yield photo
                    continue
                reason = f"{photo.path}: {in_words(found)}"
                report.unexplained[photo.path] = reason
                report.leave_out_photo(photo.path, reason)


def _findings(
    job: Job, batch: Sequence[Photo], x: Tensor, report: Report, score: Score | None
) -> Iterator[Finding]:
    answers = []
    for target in job.targets:
        asked = target if job.shared is None else job.shared.target([one.name for one in batch])
        maps, logits = _explain_batch(job, x, asked, report)
        answers.append((target, maps, logits, score(maps, report) if score else {}))
    for row, photo in enumerate(batch):
        for target, maps, logits, scores in answers:
            chosen, predicted = _verdicts(job, photo, target, maps, logits, row)
            own = {method: found[row] for method, found in scores.items()}
            yield Finding(photo, chosen, predicted, row, maps, own)


def _batches(
    job: Job, photos: Mapping[str, Path], report: Report, known: Collection[str]
) -> Iterator[tuple[list[Photo], Tensor | None]]:
    """Read photographs; only the batch's inputs are kept, for a folder may hold any number.

    Batches are cut from all photographs, known ones among them: so a run that goes on has the
    batches, and the last digits, of one that was not stopped. None stands for the inputs of a batch
    that is known.
    """
    batch: list[Photo] = []
    inputs: list[Tensor | Image.Image] = []

    def ready() -> tuple[list[Photo], Tensor | None]:
        if all(one.sha256 in known for one in batch):
            return batch, None
        read = [one if isinstance(one, Tensor) else job.preprocessing(one) for one in inputs]
        return batch, torch.stack(read)

    for name, path in photos.items():
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            picture = open_photo(path)
            photo = Photo(name, path, sha256, (picture.height, picture.width))
            read = picture if sha256 in known else job.preprocessing(picture)
        except DataError as error:
            if len(photos) == 1:
                raise
            report.leave_out_photo(path, str(error))
            continue
        except Exception as error:  # a decoder may raise anything
            reason = f"{path} cannot be read: {in_words(error)}"
            if len(photos) == 1:
                raise DataError(reason) from error
            report.leave_out_photo(path, reason)
            continue
        batch.append(photo)
        inputs.append(read)
        if len(batch) == job.batch_size:
            yield ready()
            batch, inputs = [], []
    if batch:
        yield ready()


def _explain_batch(
    job: Job, x: Tensor, target: int | Target | None, report: Report
) -> tuple[dict[str, Explanation], Tensor]:
    """Return each fitting method's explanation, and the batch's logits."""
    guards = {
        label: Guarded(
            method, functools.partial(report.advance, len(x) / _calls(job, method)), job.tolerant
        )
        for label, method in job.methods.items()
    }
    layers = list(job.layers) or None
    with running(job.network.name):
        made = explain(job.network, x, guards, target, layers, masking=job.masking, chunk=job.chunk)
        insist_on_numbers(job.network.name, next(iter(made.values())).output)
    logits = next(iter(made.values())).output.detach().float().cpu()
    for label, guard in guards.items():
        if guard.failures:
            report.leave_out_method(label, guard.failures[0])
            del made[label]
    if not made:
        raise OptionError(f"No method fits: {next(iter(report.methods.values()))}.")
    own = {
        label: dataclasses.replace(one, method=job.methods[label]) for label, one in made.items()
    }
    return own, logits


def _calls(job: Job, method: Method) -> int:
    """Return how often `explain` calls a method: once a layer, or once for all."""
    return 1 if method.joint else max(1, len(job.layers))


def _verdicts(
    job: Job,
    photo: Photo,
    target: int | None,
    maps: Mapping[str, Explanation],
    logits: Tensor,
    row: int,
) -> tuple[Verdict, Verdict | None]:
    """Return what is explained, and the predicted class."""
    top = int(logits[row].argmax())
    predicted = None if job.network.encoder else _verdict(job.network, logits[row], top)
    score = float(next(iter(maps.values())).score[row])
    if job.shared is not None:
        words = f"similarity {score:.2f} to {job.shared.others[photo.name]}"
        return Verdict(None, words, score, None), predicted
    if predicted is None:
        return Verdict(None, "its own embedding", score, None), None
    return _verdict(job.network, logits[row], top if target is None else target), predicted


def _verdict(network: Network, logits: Tensor, index: int) -> Verdict:
    named = network.classes is not None and index < len(network.classes)
    return Verdict(
        index=index,
        name=network.class_name(index) if named else str(index),
        logit=float(logits[index]),
        probability=float(logits.softmax(0)[index]),
    )


def unique_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Give every file a name of its own: its stem, numbered where stems repeat.

    Capitals do not tell names apart, because on some systems they do not tell files apart.
    """
    named: dict[str, Path] = {}
    taken: set[str] = set()
    for path in paths:
        name = file_name(path.stem) or "photo"
        number, candidate = 1, name
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.casefold())
        named[candidate] = path
    return named

"""Explains any number of photographs into a folder: a batch at a time, all methods in one pass."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.api import overlay
from torchsaliency.cli.console import printable, progress_bar, say
from torchsaliency.cli.folder import Folder
from torchsaliency.cli.options import parse_settings
from torchsaliency.core.acceleration.engine import accelerated
from torchsaliency.core.embedding import embeddings
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation, versions
from torchsaliency.core.files import file_name, finite, json_bytes, sha256_of
from torchsaliency.core.isolation import Isolation, in_words, insist_on_numbers
from torchsaliency.core.maps import Normalisation
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import METHODS, Method, Needs, Saliency
from torchsaliency.core.target import (
    ClassTarget,
    EmbeddingSimilarity,
    Logit,
    TargetSpec,
    parse_target,
)
from torchsaliency.core.trace import View
from torchsaliency.data import find_photos, open_photo, sample_photo, sample_photos
from torchsaliency.errors import (
    DataError,
    InputError,
    OptionError,
    TorchSaliencyError,
    out_of_memory,
)
from torchsaliency.methods.smoothing import Augmented, EigenSmoothed
from torchsaliency.viz import Panel, Row, colourise, grid
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network, Preprocessing, load_model, similarity_to_text
from torchsaliency.zoo.checkpoints import state_dict_sha256
from torchsaliency.zoo.messages import describe_error
from torchsaliency.zoo.sources.userfile import is_user_file

if TYPE_CHECKING:
    from torchsaliency.cli.explain import ExplainCommandOptions
    from torchsaliency.metrics import SaliencyMetric

OVERLAY, RAW = ".png", ".npy"
ALL, SAMPLE = "all", "sample:"
_DEFAULT, _WITHOUT_CLASSES = "opticam", "mtsm"
"""Methods where none is named: for targets, and for encoders without one."""


@dataclass(frozen=True)
class Job:
    """What is explained, and how it is drawn.

    Attributes:
        network: with its class names.
        preprocessing: the network's, or a variant of it.
        methods: by the name under which their files are written.
        masking: baseline of masked passes.
        targets: by what tells their files apart; None is the predicted class.
        references: of each photograph, by name, the embedding (D,) that it is compared with, and
            what that is of; empty if something else is explained.
        layers: none means the default layer.
        metrics: by which the maps are scored, by name; they stay empty.
        tolerant: whether a method that does not fit is left out, instead of ending the run.
        masked: whether the class's probability on the photograph masked by each map is measured.
        batch_size: photographs in one pass.
        chunk: images in one derived pass.
        alpha: strength of the overlay, in [0, 1].
        colormap: any of matplotlib's.
        raw: whether raw maps are written.
    """

    network: Network
    preprocessing: Preprocessing
    methods: Mapping[str, Method]
    masking: Masking
    targets: Mapping[str, int | TargetSpec | None] = field(default_factory=lambda: {"": None})
    references: Mapping[str, tuple[Tensor, str]] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    metrics: Mapping[str, SaliencyMetric] = field(default_factory=dict)
    tolerant: bool = False
    masked: bool = False
    batch_size: int = 8
    chunk: int | None = None
    alpha: float = 0.5
    colormap: str = "turbo"
    raw: bool = True

    def stem(self, photo: str, target: str, method: str) -> str:
        """Return how the names of the files of one map begin."""
        return ".".join([photo, *([file_name(target)] if target else []), file_name(method)])

    def files(self, photos: Mapping[str, Path]) -> list[str]:
        """Return the names of the files of all maps."""
        return [
            self.stem(photo, target, method) + suffix
            for photo in photos
            for target in self.targets
            for method in self.methods
            for suffix in ((OVERLAY, RAW) if self.raw else (OVERLAY,))
        ]


def explain_photos(options: ExplainCommandOptions) -> dict[str, Any]:
    """Explain photographs, write what was found, and return the manifest of the run.

    Raises:
        TorchSaliencyError: it cannot be done; the manifest then has what was written before.
    """
    # What costs least to check is checked first.
    settings = parse_settings(options.settings)
    methods = choose_methods(options.method or [_DEFAULT], settings)
    metrics = choose_metrics(options.score, settings, methods)
    colourise(torch.zeros(1, 1), options.colormap)  # raises if there is no such colormap
    _require_one_subject(options)
    words = [*options.photos, *([options.similar_to] if options.similar_to else [])]
    photos = unique_names(choose_photos(words, options.output))
    network = load_model(
        options.model,
        weights=options.weights,
        device=options.device,
        dtype=getattr(torch, options.precision),
    )
    if network.encoder and not (options.method or options.similar_to or options.text):
        methods = choose_methods([_WITHOUT_CLASSES], settings)
        say(
            f"{network.name} is an encoder without classes: explained by {_WITHOUT_CLASSES}, which "
            "needs none (--method takes any other; it then explains the image's own embedding)."
        )
    if metrics:
        from torchsaliency.evaluation.setting import insist_on_classes

        insist_on_classes(metrics, network, None)
    preprocessing = network.preprocessing.framed(options.fit)
    job = Job(
        network=network,
        preprocessing=preprocessing,
        methods=_smoothed(methods, options),
        masking=preprocessing.baseline(options.masking),
        targets=choose_targets(options.target, network),
        references=_references(options, network, preprocessing, photos, methods),
        layers=options.layer,
        metrics=metrics,
        tolerant=ALL in options.method,
        batch_size=options.batch_size,
        chunk=options.chunk,
        alpha=options.alpha,
        colormap=options.colormap,
        raw=options.raw,
    )
    folder = Folder(options.output)
    pictures = Grid(folder, job.colormap) if options.grid else None
    names = job.files(photos)
    if pictures is not None:
        names += pictures.names(len(photos) * len(job.targets))
    with folder.held(), accelerated(options.accelerate):
        folder.refuse_to_replace(names, photos.values())
        arguments = options.model_dump(mode="json", exclude={"as_json"})
        return Run(job, photos, folder, arguments, resume=True).go(pictures)


def _require_one_subject(options: ExplainCommandOptions) -> None:
    given = {
        "--target": options.target,
        "--similar-to": options.similar_to,
        "--text": options.text,
    }
    named = [name for name, value in given.items() if value]
    if len(named) > 1:
        raise OptionError(
            f"{' and '.join(named)} were given; a class is explained, or the similarity to a "
            "photograph, or to a text: leave all but one out."
        )


# --- from words to objects ------------------------------------------------------------------------


def choose_methods(
    words: Sequence[str], settings: Mapping[str, Mapping[str, str]]
) -> dict[str, Method]:
    """Return the methods by name.

    Args:
        words: names, also several with commas, or "all".
        settings: options of each by name.

    Raises:
        OptionError: an unknown method or option, or a value that does not fit.
    """
    names = _split(words)
    if ALL in names:
        names = list(METHODS)
    if not names:
        raise OptionError("No method was named; give --method NAME, or --method all.")
    return {METHODS.get(name).name: METHODS.create(name, settings.get(name)) for name in names}


def choose_metrics(
    words: Sequence[str], settings: Mapping[str, Mapping[str, str]], methods: Mapping[str, Method]
) -> dict[str, SaliencyMetric]:
    """Return the metrics by name, in the order given.

    Args:
        words: names, also several with commas.
        settings: options by the name of a metric or method; each must have been chosen.
        methods: that were chosen.

    Raises:
        OptionError: an unknown metric or option, one that needs annotations, a value that does not
            fit, or a setting of what was not chosen.
    """
    names = _split(words)
    others = settings.keys() - methods.keys()
    if not names and not others:
        return {}
    from torchsaliency.metrics import create_metric, metric_entry
    from torchsaliency.metrics import metrics as registered

    for name in names:
        if needed := metric_entry(name).annotations:
            raise OptionError(
                f"--score {name} needs {needed} of the objects, which a photograph does not have; "
                "choose metrics without (see `torchsaliency metrics`), or use "
                "torchsaliency.evaluation.score in Python."
            )
    for name in sorted(others - {*names}):
        if name not in registered():
            name = METHODS.get(name).name  # noqa: PLW2901 (raises for what is neither)
            raise OptionError(
                f"--set {name} was given and {name} is not among the methods; add --method {name}."
            )
        raise OptionError(f"--set {name} was given and {name} is not scored; add --score {name}.")
    return {name: create_metric(name, settings.get(name, {})) for name in names}


def _split(words: Sequence[str]) -> list[str]:
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def _smoothed(methods: Mapping[str, Method], options: ExplainCommandOptions) -> dict[str, Method]:
    """Wrap every method, under the longer name that says so."""
    found = list(methods.values())
    if options.eigen_smooth:
        found = [EigenSmoothed(method) for method in found]
    if options.aug_smooth:
        found = [Augmented(method) for method in found]
    return {method.name: method for method in found}


def choose_photos(words: Sequence[str], output: Path) -> list[Path]:
    """Return the photographs that files, folders and sample names stand for, each once.

    Of a folder, what an earlier run wrote (all below `output`) is left out, or the library would
    explain its own pictures.

    Raises:
        DataError: a path does not exist, or there is no photograph at all.
    """
    below = Path(os.path.realpath(output.expanduser()))
    found: dict[str, Path] = {}
    for word in words:
        path = Path(word).expanduser()
        if word.startswith(SAMPLE) or (word in sample_photos() and not path.exists()):
            path = sample_photo(word.removeprefix(SAMPLE)).path
        if not path.exists():
            raise DataError(
                f"{word} does not exist; give image files, folders of them, or samples "
                f"({', '.join(sample_photos())})."
            )
        for photo in find_photos(path):
            real = os.path.realpath(photo)  # not Path.resolve, which raises for a link to itself
            if not (path.is_dir() and Path(real).is_relative_to(below)):
                found.setdefault(real, photo)
    if not found:
        raise DataError(
            f"There are no photographs in {', '.join(words)} but those below {output}; give others."
        )
    return list(found.values())


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


def choose_targets(words: Sequence[str], network: Network) -> dict[str, int | TargetSpec | None]:
    """Return the targets, each once, by class number or word.

    Raises:
        TargetError: the network has no such class, or there is no such target.
    """
    found: dict[str, int | TargetSpec | None] = {}
    for word in words:
        target = parse_target(word, network.class_index)
        found[str(target) if isinstance(target, int) else word] = target
    return found or {"": None}


def _references(
    options: ExplainCommandOptions,
    network: Network,
    preprocessing: Preprocessing,
    photos: Mapping[str, Path],
    methods: Mapping[str, Method],
) -> dict[str, tuple[Tensor, str]]:
    """Return the embedding that each photograph is compared with, and what that is of.

    The other photograph is compared with the mean direction of all of them, which for one is its
    own.

    Raises:
        DataError: there is no photograph beside the other one, or it is a folder.
        OptionError: a method does not read the target.
        TorchSaliencyError: a photograph cannot be read, or the network knows no texts.
    """
    if options.similar_to is None and options.text is None:
        return {}
    for label, method in methods.items():
        if Needs.TARGET not in method.entry.needs:
            raise OptionError(
                f"{label} does not read the target, so it cannot tell what a photograph shares "
                "with another or with a text; choose a method that does, such as gradcam, scorecam "
                "or opticam."
            )
    if options.similar_to is None:
        assert options.text is not None
        reference = similarity_to_text(network, options.text).reference[0]
        return dict.fromkeys(photos, (reference, f"“{options.text}”"))
    chosen = choose_photos([options.similar_to], options.output)
    if len(chosen) > 1 or len(photos) < 2:  # noqa: PLR2004
        raise DataError(
            f"--similar-to {options.similar_to} stands for {len(chosen)} photographs, beside "
            f"{len(photos) - len(chosen)} others; give one, and at least one other to compare."
        )
    real = chosen[0].resolve()
    other = next(name for name, path in photos.items() if path.resolve() == real)
    found: dict[str, Tensor] = {}
    for name, path in photos.items():
        image = preprocessing(open_photo(path))[None]
        with running(network.name):
            found[name] = embeddings(network, image, chunk=options.chunk)[0]
    rest = [name for name in photos if name != other]
    mean = F.normalize(torch.stack([found[name] for name in rest]), dim=1).mean(0)
    words = rest[0] if len(rest) == 1 else f"{len(rest)} photos"
    return {**dict.fromkeys(rest, (found[other], other)), other: (mean, words)}


# --- the run --------------------------------------------------------------------------------------


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn whatever a network raises while it runs into one sentence.

    Args:
        name: of the network.

    Raises:
        InputError: something failed that is no error of this library's own.
    """
    try:
        yield
    except TorchSaliencyError:
        raise
    except Exception as error:  # any module may raise anything
        if out_of_memory(error):
            raise InputError(
                f"The memory does not suffice to run {name} ({describe_error(error)}); give a "
                "smaller --chunk or --batch-size."
            ) from error
        raise InputError(
            f"{name} failed while it was explained ({type(error).__name__}: "
            f"{describe_error(error)}); check that its input size, --precision and --device suit "
            "it."
        ) from error


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
class Answer:
    """A batch explained for one target.

    Attributes:
        target: as in `Job.targets`.
        maps: by method; those that failed are not there.
        logits: (N, K), float32 on the processor.
        scores: by method, metric and image: the value, and the row of which the mean is made.
        masked: by method, (N,) probability of the class on the masked images.
    """

    target: str
    maps: Mapping[str, Explanation]
    logits: Tensor
    scores: Mapping[str, Mapping[str, Sequence[tuple[float | None, list[float | None]]]]]
    masked: Mapping[str, Tensor]


@final
class Run:
    """Explains photographs into a folder, and keeps the facts for the manifest.

    Attributes:
        entries: the facts of each finished photograph, by name.
        skipped: why a photograph was left out.
        left_out: why a method was left out.
    """

    def __init__(
        self,
        job: Job,
        photos: Mapping[str, Path],
        folder: Folder,
        arguments: dict[str, Any],
        *,
        resume: bool = False,
    ) -> None:
        """Begin, or go on.

        Args:
            job: what is explained.
            photos: files by unique name.
            folder: held.
            arguments: of the command, for the manifest.
            resume: whether photographs are taken over that a run of the same arguments finished
                before it was stopped.
        """
        self.job, self.photos, self.folder, self.arguments = job, photos, folder, arguments
        self.entries: dict[str, dict[str, Any]] = {}
        self.skipped: dict[Path, str] = {}
        self.left_out: dict[str, str] = {}
        self._unexplained: list[str] = []
        self._methods: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, dict[str, dict[str, list[Any]]]] = {}
        self._identity = self._digest() if resume else ""
        self._finished = folder.finished(self._identity) if resume else {}
        self._steps = len(job.methods) * len(job.targets) * (2 if job.metrics else 1)

    def go(self, pictures: Grid | None = None) -> dict[str, Any]:
        """Explain all photographs and return the manifest of the run, which is written.

        Args:
            pictures: draws every photograph, too.

        Raises:
            DataError: no photograph can be read or explained.
            TorchSaliencyError: the job does not fit the network, or the folder cannot be written.
        """
        with progress_bar("photos") as bar:
            task = bar.add_task("explaining", total=len(self.photos))
            self._advance: Callable[[float], None] = functools.partial(bar.advance, task)
            try:
                for entry in self._explained():
                    if pictures is not None:
                        pictures.add(entry, Path(self.photos[entry["name"]]))
                if pictures is not None:
                    pictures.flush()
            except BaseException:
                # after an interruption, too, what was written is told; the same command goes on
                manifest = self._manifest(pictures)
                if manifest["photos"]:
                    with suppress(TorchSaliencyError):  # it would hide what went wrong first
                        self.folder.write_manifest(manifest, ended=False)
                raise
        manifest = self._manifest(pictures)
        if not manifest["photos"]:
            if not self._unexplained:
                raise DataError(f"None of the {len(self.photos)} photographs could be read.")
            raise DataError(
                f"None of the {len(self.photos)} photographs could be explained: "
                f"{self._unexplained[0]}"
            )
        self.folder.write_manifest(manifest, ended=True)
        known = sum(entry["sha256"] in self._finished for entry in self.entries.values())
        if known:
            photographs = "photograph was" if known == 1 else "photographs were"
            say(f"{known} {photographs} finished by an interrupted run of the same command.")
        return manifest

    def _explained(self) -> Iterator[dict[str, Any]]:
        """Explain and write batch by batch; yield the facts of each photograph."""
        isolation = Isolation()
        for batch, x in self._batches():

            def work(rows: slice, batch: list[Photo] = batch, x: Tensor | None = x) -> list[Answer]:
                return [] if x is None else self._answers(batch[rows], x[rows])

            for rows, found in isolation.run(work, len(batch)):
                for place, photo in enumerate(batch[rows]):
                    if photo.sha256 in self._finished:
                        self._advance(1)
                        yield self._recall(photo)
                    elif not isinstance(found, Exception):
                        yield self._record(photo, found, place)
                    elif len(self.photos) == 1:
                        raise found
                    else:
                        reason = f"{photo.path}: {in_words(found)}"
                        self._unexplained.append(reason)
                        self._skip(photo.path, reason)

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped[path] = reason
        self._advance(1)
        say(f"Skipped: {reason}")

    def _batches(self) -> Iterator[tuple[list[Photo], Tensor | None]]:
        """Read photographs; only the batch's inputs are kept, for a folder may hold any number.

        Batches are cut from all photographs, known ones among them: so a run that goes on has the
        batches, and the last digits, of one that was not stopped. None stands for the inputs of a
        batch that is known.
        """
        batch: list[Photo] = []
        inputs: list[Tensor | Image.Image] = []

        def ready() -> tuple[list[Photo], Tensor | None]:
            if all(photo.sha256 in self._finished for photo in batch):
                return batch, None
            prepare = self.job.preprocessing
            return batch, torch.stack([x if isinstance(x, Tensor) else prepare(x) for x in inputs])

        for name, path in self.photos.items():
            try:
                sha256 = sha256_of(path)
                picture = open_photo(path)
                known = sha256 in self._finished
                inputs.append(picture if known else self.job.preprocessing(picture))
            except Exception as error:  # a decoder may raise anything
                if len(self.photos) == 1 and isinstance(error, DataError):
                    raise
                reason = f"{path} cannot be read: {in_words(error)}"
                if len(self.photos) == 1:
                    raise DataError(reason) from error
                self._skip(path, str(error) if isinstance(error, DataError) else reason)
                continue
            batch.append(Photo(name, path, sha256, (picture.height, picture.width)))
            if len(batch) == self.job.batch_size:
                yield ready()
                batch, inputs = [], []
        if batch:
            yield ready()

    # --- one batch --------------------------------------------------------------------------------

    def _answers(self, batch: Sequence[Photo], x: Tensor) -> list[Answer]:
        found = []
        for tag, spec in self.job.targets.items():
            target = spec
            if self.job.references:
                references = [self.job.references[photo.name][0] for photo in batch]
                target = EmbeddingSimilarity(torch.stack(references), "cosine")
            maps, logits = self._maps(x, target)
            scores = {name: self._scores(made) for name, made in maps.items()}
            masked = {name: self._masked(made) for name, made in maps.items() if self.job.masked}
            found.append(Answer(tag, maps, logits, scores, masked))
        return found

    def _maps(
        self, x: Tensor, target: int | TargetSpec | None
    ) -> tuple[dict[str, Explanation], Tensor]:
        """Return each fitting method's explanation, and the batch's logits."""
        job = self.job
        guards = {}
        for label, method in job.methods.items():
            calls = 1 if method.joint else max(1, len(job.layers))  # once a layer, or once for all
            step = functools.partial(self._advance, len(x) / self._steps / calls)
            guards[label] = Guarded(method, step, job.tolerant)
        with running(job.network.name):
            made = explain(
                job.network,
                x,
                guards,
                target,
                list(job.layers) or None,
                masking=job.masking,
                chunk=job.chunk,
            )
            output = next(iter(made.values())).output
            insist_on_numbers(job.network.name, output)
        for label, guard in guards.items():
            if guard.failures:
                del made[label]
                if label not in self.left_out:
                    self.left_out[label] = guard.failures[0]
                    say(f"Left out {label}: {guard.failures[0]}.")
        if not made:
            raise OptionError(f"No method fits: {next(iter(self.left_out.values()))}.")
        maps = {
            label: dataclasses.replace(explanation, method=job.methods[label])
            for label, explanation in made.items()
        }
        return maps, output.detach().float().cpu()

    def _scores(
        self, made: Explanation
    ) -> dict[str, list[tuple[float | None, list[float | None]]]]:
        """Score the maps of a batch, for the classes they explain."""
        if not self.job.metrics:
            return {}
        from torchsaliency.evaluation import score

        metrics = [copy.deepcopy(metric) for metric in self.job.metrics.values()]
        with running(self.job.network.name):
            score(self.job.network, made, metrics, chunk=self.job.chunk)
        self._advance(len(made) / self._steps)
        return {
            metric.name: list(
                zip(finite(metric.per_image.tolist()), finite(metric.rows.tolist()), strict=True)
            )
            for metric in metrics
        }

    @torch.no_grad()
    def _masked(self, made: Explanation) -> Tensor:
        """Return the probability of each predicted class on the image masked by its map."""
        shares: Tensor = self.job.network(self.job.masking(made.images, made.map)).softmax(1)
        return shares.gather(1, made.output.argmax(1, keepdim=True))[:, 0]

    # --- one photograph ---------------------------------------------------------------------------

    def _record(self, photo: Photo, answers: Sequence[Answer], row: int) -> dict[str, Any]:
        """Write the overlays and raw maps of one photograph."""
        # Read again rather than kept: a batch of camera photographs would fill the memory.
        picture = open_photo(photo.path)
        predicted = None
        if not self.job.network.encoder:
            logits = answers[0].logits[row]
            predicted = self._class_facts(logits, int(logits.argmax()))
        entry: dict[str, Any] = {
            "name": photo.name,
            "path": str(photo.path.resolve()),
            "sha256": photo.sha256,
            "size": list(photo.size),
            "predicted": predicted,
            "maps": [],
        }
        rows: dict[str, dict[str, list[Any]]] = {}
        for answer in answers:
            target = self._target_facts(photo, answer, row)
            for method, made in answer.maps.items():
                scores = {name: column[row] for name, column in answer.scores[method].items()}
                facts = {
                    "method": method,
                    "target": target,
                    "score": float(made.score[row]),
                    "layers": list(made.layers),
                    "status": made.status[row],
                    "details": {
                        name: values[row].item()
                        for name, values in made.details.items()
                        if values.ndim == 1
                    },
                    "scores": {name: value for name, (value, _) in scores.items()},
                    "files": self._write(picture, photo, answer.target, made, row),
                }
                if method in answer.masked:
                    facts["masked"] = float(answer.masked[method][row])
                entry["maps"].append(facts)
                self._methods.setdefault(method, _method_facts(made))
                for name, (_, parts) in scores.items():
                    rows.setdefault(method, {}).setdefault(name, []).append(parts)
        self.entries[photo.name], self._rows[photo.name] = entry, rows
        if self._identity:
            told = {"photo": entry, "methods": self._methods, "rows": rows}
            self.folder.finish(self._identity, told)
        return entry

    def _recall(self, photo: Photo) -> dict[str, Any]:
        """Take over what an earlier run wrote of a photograph."""
        told = self._finished[photo.sha256]
        entry = {**told["photo"], "name": photo.name, "path": str(photo.path.resolve())}
        self.entries[photo.name], self._rows[photo.name] = entry, told["rows"]
        self._methods = {**told["methods"], **self._methods}
        return entry

    def _write(
        self, picture: Image.Image, photo: Photo, target: str, made: Explanation, row: int
    ) -> dict[str, str]:
        """Write the overlay and the raw map of a photograph; return the names of the files."""
        job = self.job
        stem = job.stem(photo.name, target, made.method.name)
        drawn = overlay(
            picture, made, job.preprocessing, index=row, alpha=job.alpha, colormap=job.colormap
        )
        self.folder.write(stem + OVERLAY, png(drawn))
        if not job.raw:
            return {"overlay": stem + OVERLAY}
        buffer = io.BytesIO()
        np.save(buffer, made.raw[row].detach().float().cpu().numpy())
        self.folder.write(stem + RAW, buffer.getvalue())
        return {"overlay": stem + OVERLAY, "raw": stem + RAW}

    def _class_facts(self, logits: Tensor, index: int) -> dict[str, Any]:
        network = self.job.network
        named = network.classes is not None and index < len(network.classes)
        return {
            "index": index,
            "name": network.class_name(index) if named else str(index),
            "logit": float(logits[index]),
            "probability": float(logits.softmax(0)[index]),
        }

    def _target_facts(self, photo: Photo, answer: Answer, row: int) -> dict[str, Any]:
        """Say what is explained: a class, a similarity of embeddings, or another target."""
        made = next(iter(answer.maps.values()))
        facts = {"kind": type(made.target).__name__}
        if isinstance(made.target, ClassTarget):
            index = int(made.target.labels[row])
            facts |= self._class_facts(answer.logits[row], index)
            if not isinstance(made.target, Logit):
                facts["name"] = f"{answer.target.partition(':')[0]} of {facts['name']}"
            return facts
        score = float(made.score[row])
        if photo.name in self.job.references:
            name = f"similarity {score:.2f} to {self.job.references[photo.name][1]}"
        else:
            name = answer.target or "its own embedding"
        return facts | {"index": None, "name": name, "logit": score, "probability": None}

    # --- the manifest -----------------------------------------------------------------------------

    def _manifest(self, pictures: Grid | None) -> dict[str, Any]:
        """Return everything needed to repeat what was recorded, in JSON types."""
        network = self.job.network
        return {
            "command": ["torchsaliency", *sys.argv[1:]],
            "arguments": self.arguments,
            "versions": versions(),
            "network": {"name": network.name, "classes": network.class_count, **network.source},
            "preprocessing": self.job.preprocessing.to_dict(),
            "masking": self.job.masking.describe(),
            "methods": self._methods,
            "photos": list(self.entries.values()),
            "grids": [] if pictures is None else pictures.written,
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
        return [
            {
                "method": method,
                **self.job.metrics[metric]
                .summarise(torch.tensor(rows, dtype=torch.float64, device="cpu"))
                .to_dict(),
            }
            for (method, metric), rows in columns.items()
        ]

    def _digest(self) -> str:
        """Return a digest of all that decides what is written of a photograph."""
        job, source = self.job, Path(self.job.network.name.rpartition(":")[0])
        free = {"output", "batch_size", "chunk", "grid"} | (set() if job.references else {"photos"})
        user_file = is_user_file(job.network.name) and source.is_file()
        facts = {
            "arguments": {key: value for key, value in self.arguments.items() if key not in free},
            "network": job.network.source,
            "weights": state_dict_sha256(job.network.module),
            "code": sha256_of(source) if user_file else None,
            "preprocessing": job.preprocessing.to_dict(),
            "versions": versions(),
        }
        return hashlib.sha256(json_bytes(facts)).hexdigest()


def _method_facts(made: Explanation) -> dict[str, Any]:
    entry = made.method.entry
    return {
        "family": entry.family,
        "cite": entry.cite,
        "label_free": Needs.TARGET not in entry.needs,
        "options": made.manifest()["options"],
    }


@final
@dataclass(frozen=True, eq=False)
class Guarded(Method):
    """A method that reports when it is done, and whose failure does not end the others.

    Attributes:
        method: the method.
        done: called after each call of the method, for the progress bar.
        tolerant: whether a failure is remembered, and the map zeros, or raised.
        failures: the reasons, at most one a layer.
    """

    method: Method
    done: Callable[[], None]
    tolerant: bool
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # it stands for its method in all that `explain` reads: needs, name, treatment of layers
        object.__setattr__(self, "entry", self.method.entry)
        object.__setattr__(self, "joint", self.method.joint)

    @property
    def normalisation(self) -> Normalisation:
        """The method's."""
        return self.method.scaling

    def saliency(self, view: View) -> Tensor | Saliency:
        """Return the method's map, or zeros if it failed and may."""
        try:
            return self.method.saliency(view)
        except Exception as error:  # one method's failure must not cost the others' maps
            if not self.tolerant:
                raise
            kind = "" if isinstance(error, TorchSaliencyError) else f"{type(error).__name__}: "
            self.failures.append(f"{kind}{describe_error(error)}")
            return view.images.new_zeros((len(view.images), 1, 1))
        finally:
            self.done()


# --- the labelled picture -------------------------------------------------------------------------

_ROWS, _CELL = 20, 256
"""Rows on a sheet, which bound the memory and the height of a sheet; and the width of a cell."""

_KEPT = (512, 512)
"""Pixels kept of a picture: sharp in a grid's cell."""


@final
class Grid:
    """One labelled picture of all photos and methods, on as many sheets as it needs.

    Attributes:
        written: the names of the sheets.
    """

    def __init__(self, folder: Folder, colormap: str, name: str = "grid") -> None:
        self.written: list[str] = []
        self._folder, self._colormap, self._name = folder, colormap, name
        self._rows: list[Row] = []

    def names(self, rows: int) -> list[str]:
        """Return the names of the sheets that so many rows fill."""
        count = -(-rows // _ROWS)
        return [f"{self._name}{f'-{n}' if n > 1 else ''}.png" for n in range(1, count + 1)]

    def add(self, entry: Mapping[str, Any], path: Path) -> None:
        """Add a row for each target: the photo with what is explained, and an overlay a method.

        Args:
            entry: the facts of a photograph whose overlays are in the folder.
            path: of the photograph.
        """
        by_target: dict[tuple[Any, str], list[Mapping[str, Any]]] = {}
        for facts in entry["maps"]:
            key = facts["target"]["index"], facts["target"]["name"]
            by_target.setdefault(key, []).append(facts)
        photo = _thumbnail(path)
        for (_, words), maps in by_target.items():
            probability = maps[0]["target"]["probability"]
            words = words if probability is None else f"{words}  {probability:.1%}"  # noqa: PLW2901
            overlays = tuple(
                Panel(
                    _thumbnail(self._folder.path / facts["files"]["overlay"]),
                    facts["method"],
                    _remark(facts),
                )
                for facts in maps
            )
            panel = Panel(photo, "photo", f"{words}\n{printable(entry['name'])}")
            self._rows.append(Row(overlays, panel))
            if len(self._rows) == _ROWS:
                self.flush()

    def flush(self) -> None:
        """Write the rows gathered so far."""
        if not self._rows:
            return
        name = self.names(_ROWS * len(self.written) + 1)[-1]
        picture = grid(self._rows, width=_CELL, colormap=self._colormap)
        self._folder.write(name, png(picture))
        self.written.append(name)
        self._rows = []


def _thumbnail(path: Path) -> Image.Image:
    image = open_photo(path)
    image.thumbnail(_KEPT, Image.Resampling.LANCZOS)
    return image


def _remark(facts: Mapping[str, Any]) -> str:
    if facts["status"] != "ok":
        return str(facts["status"])
    return f"masked {facts['masked']:.1%}" if "masked" in facts else ""

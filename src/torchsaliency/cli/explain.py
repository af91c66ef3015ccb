"""One run of `torchsaliency explain`, from the request to the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchsaliency.cli import choosing
from torchsaliency.cli.console import say
from torchsaliency.cli.explaining import Job, Photo, explained, unique_names
from torchsaliency.cli.folder import Folder
from torchsaliency.cli.recording import Recorder, Style
from torchsaliency.cli.report import Report
from torchsaliency.cli.request import Request
from torchsaliency.cli.sharing import Shared, insist_on_reading_targets, matching, shared
from torchsaliency.cli.sheets import Sheets
from torchsaliency.core.acceleration.engine import accelerated
from torchsaliency.core.method import Method
from torchsaliency.core.method import methods as registered
from torchsaliency.errors import DataError, OptionError, TorchSaliencyError
from torchsaliency.viz import colourise
from torchsaliency.zoo import Network, Preprocessing, load_model

if TYPE_CHECKING:
    from torchsaliency.cli.scoring import Scorer
    from torchsaliency.metrics import SaliencyMetric


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        manifest: of this run.
        complete: whether every photograph was explained.
    """

    manifest: dict[str, Any]
    complete: bool


def run(request: Request) -> Outcome:
    """Explain photographs and write what was found.

    Raises:
        TorchSaliencyError: what was asked cannot be done; the manifest then tells of what was
            written before.
    """
    # Everything that can be wrong is looked at in the order of what it costs to find out.
    methods = _methods(request, request.method or [_DEFAULT])
    metrics = _metrics(request)
    colourise(torch.zeros(1, 1), request.colormap)  # raises if there is no such colormap
    photos = unique_names(choosing.chosen_photos(_all_photos(request), request.output))
    job = _job(request, methods, metrics, photos)
    style = Style(request.alpha, request.colormap, request.raw, titled=bool(request.target))
    folder = Folder(request.output)
    with folder.held(), accelerated(request.accelerate):
        folder.refuse_to_replace(_planned(job, style, photos, grid=request.grid), photos.values())
        return _carry_out(request, job, photos, folder, style)


_DEFAULT, _WITHOUT_CLASSES = "opticam", "mtsm"
"""Methods for whoever names none: of targets, and of encoders without one."""


def _methods(request: Request, words: Sequence[str]) -> dict[str, Method]:
    return choosing.smoothed(
        choosing.chosen_methods(words, request.settings),
        eigen=request.eigen_smooth,
        augmented=request.aug_smooth,
    )


def _metrics(request: Request) -> dict[str, SaliencyMetric]:
    named = {choosing.parted(setting)[0] for setting in request.settings}
    if not request.score and named <= set(registered()):
        return {}
    from torchsaliency.cli.scoring import chosen_metrics

    return chosen_metrics(request.score, request.settings)


def _scorer(job: Job) -> Scorer | None:
    if not job.metrics:
        return None
    from torchsaliency.cli.scoring import Scorer

    return Scorer(job)


def _all_photos(request: Request) -> list[str]:
    """Return the photographs, the one they are compared with at the end.

    Raises:
        OptionError: several things are to be explained.
    """
    given = {
        "--target": request.target,
        "--similar-to": request.similar_to,
        "--text": request.text,
    }
    named = [name for name, value in given.items() if value]
    if len(named) > 1:
        raise OptionError(
            f"{' and '.join(named)} were given; a class is explained, or the similarity to a "
            "photograph, or to a text: leave all but one out."
        )
    return request.photos if request.similar_to is None else [*request.photos, request.similar_to]


def _job(
    request: Request,
    methods: dict[str, Method],
    metrics: dict[str, SaliencyMetric],
    photos: dict[str, Path],
) -> Job:
    network = load_model(
        request.model,
        weights=request.weights,
        device=request.device,
        dtype=getattr(torch, request.precision),
    )
    preprocessing = network.preprocessing.framed(request.fit)
    if not request.method and network.encoder and not (request.similar_to or request.text):
        methods = _methods(request, [_WITHOUT_CLASSES])
        say(
            f"{network.name} is an encoder without classes: explained by {_WITHOUT_CLASSES}, which "
            "needs none (--method takes any other; it then explains the image's own embedding)."
        )
    if metrics:
        from torchsaliency.evaluation.setting import insist_on_classes

        insist_on_classes(metrics, network, None)
    comparison = None
    if request.similar_to is not None:
        insist_on_reading_targets(methods)
        comparison = _comparison(request, network, preprocessing, photos)
    elif request.text is not None:
        insist_on_reading_targets(methods)
        comparison = matching(network, photos, request.text)
    return Job(
        network=network,
        preprocessing=preprocessing,
        methods=methods,
        metrics=metrics,
        targets=choosing.chosen_targets(request.target, network),
        layers=tuple(request.layer),
        masking=preprocessing.baseline(request.masking),
        batch_size=request.batch_size,
        chunk=request.chunk,
        tolerant=choosing.ALL in request.method,
        shared=comparison,
    )


def _comparison(
    request: Request, network: Network, preprocessing: Preprocessing, photos: dict[str, Path]
) -> Shared:
    """Return what the photographs are compared with.

    Raises:
        DataError: there is no photograph beside the other one, or it is a folder.
    """
    assert request.similar_to is not None
    chosen = choosing.chosen_photos([request.similar_to], request.output)
    places = [name for name, path in photos.items() if path.resolve() == chosen[0].resolve()]
    if len(chosen) > 1 or len(photos) < 2:  # noqa: PLR2004
        raise DataError(
            f"--similar-to {request.similar_to} stands for {len(chosen)} photographs, beside "
            f"{len(photos) - len(chosen)} others; give one, and at least one other to compare."
        )
    return shared(network, preprocessing, photos, places[0], request.chunk)


def _planned(job: Job, style: Style, photos: dict[str, Path], *, grid: bool) -> list[str]:
    """Name every file that the run may write."""
    maps = [
        style.stem(photo, target, method) + suffix
        for photo in photos
        for target in job.targets
        for method in job.methods
        for suffix in style.suffixes
    ]
    sheets = Sheets.names(len(photos) * len(job.targets)) if grid else ()
    return [*maps, *sheets]


def _carry_out(
    request: Request, job: Job, photos: dict[str, Path], folder: Folder, style: Style
) -> Outcome:
    recorder = Recorder(job, folder, style, request.arguments())
    scorer = _scorer(job)
    score = scorer.score if scorer else None
    sheets = Sheets(folder, request.colormap)
    remembered = 0

    def told(report: Report) -> dict[str, Any]:
        manifest = recorder.manifest(request.arguments(), report, sheets.written)
        return {**manifest, "scores": scorer.summaries(recorder.rows()) if scorer else []}

    with Report(len(photos), job.steps_per_photo) as report:
        try:
            for found in explained(job, photos, report, score, recorder.finished):
                if isinstance(found, Photo):
                    remembered += 1
                    report.advance(job.steps_per_photo)
                    drawn = recorder.remember(found)
                else:
                    drawn = iter([recorder.record(found)])
                for one in drawn if request.grid else ():
                    sheets.add(one)
            sheets.flush()
        except BaseException:
            # after an interruption, too, what was written is told; the same command goes on
            manifest = told(report)
            if manifest["photos"]:
                with suppress(TorchSaliencyError):  # it would hide what went wrong first
                    folder.write_manifest(manifest, ended=False)
            raise
    manifest = told(report)
    if not manifest["photos"]:
        if not report.unexplained:
            raise DataError(f"None of the {len(photos)} photographs could be read.")
        reason = next(iter(report.unexplained.values()))
        raise DataError(f"None of the {len(photos)} photographs could be explained: {reason}")
    folder.write_manifest(manifest, ended=True)
    if remembered:
        photographs = "photograph was" if remembered == 1 else "photographs were"
        say(f"{remembered} {photographs} finished by an interrupted run of the same command.")
    return Outcome(manifest, complete=not report.photos)

"""One run of `torchsaliency explain`, from the request to the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchsaliency.apps import choosing
from torchsaliency.apps.explaining import Job, explained, unique_names
from torchsaliency.apps.folder import Folder
from torchsaliency.apps.recording import Recorder, Style
from torchsaliency.apps.report import Report
from torchsaliency.apps.request import Request
from torchsaliency.apps.scoring import Scorer
from torchsaliency.apps.sheets import Sheets
from torchsaliency.core.errors import DataError
from torchsaliency.core.method import Method
from torchsaliency.metrics import SaliencyMetric
from torchsaliency.viz import colourise
from torchsaliency.zoo import load_model


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
    methods = choosing.smoothed(
        choosing.chosen_methods(request.method, request.settings),
        eigen=request.eigen_smooth,
        augmented=request.aug_smooth,
    )
    metrics = choosing.chosen_metrics(request.score, request.settings)
    colourise(torch.zeros(1, 1), request.colormap)  # raises if there is no such colormap
    photos = unique_names(choosing.chosen_photos(request.photos, request.output))
    job = _job(request, methods, metrics)
    style = Style(request.alpha, request.colormap, request.raw, titled=bool(request.target))
    folder = Folder(request.output)
    folder.refuse_to_replace(_planned(job, style, photos, grid=request.grid), photos.values())
    return _carry_out(request, job, photos, folder, style)


def _job(request: Request, methods: dict[str, Method], metrics: dict[str, SaliencyMetric]) -> Job:
    network = load_model(
        request.model,
        weights=request.weights,
        device=request.device,
        dtype=getattr(torch, request.precision),
    )
    preprocessing = network.preprocessing.framed(request.fit)
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
    )


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
    recorder = Recorder(job, folder, style)
    scorer = Scorer(job)
    sheets = Sheets(folder, request.colormap)
    manifest: dict[str, Any] = {"photos": []}
    with Report(len(photos), job.steps_per_photo) as report:
        try:
            for finding in explained(job, photos, report, scorer.score):
                drawn = recorder.record(finding)
                if request.grid:
                    sheets.add(finding, drawn)
        finally:
            # Also after an interruption: what was written must be known to the next run.
            sheets.flush()
            manifest = recorder.manifest(request.arguments(), report, sheets.written)
            manifest["scores"] = scorer.summaries()
            if manifest["photos"]:
                folder.write_manifest(manifest)
    if not manifest["photos"]:
        raise DataError(f"None of the {len(photos)} photographs could be read.")
    return Outcome(manifest, complete=not report.photos)

"""The first run: six real photographs, a real network and both papers' methods, offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchsaliency.cli.explaining import Finding, Job, explained
from torchsaliency.cli.folder import Folder
from torchsaliency.cli.recording import Recorder, Style
from torchsaliency.cli.report import Report
from torchsaliency.cli.sheets import Sheets
from torchsaliency.core.masking import MeanColour
from torchsaliency.core.method import create
from torchsaliency.data import sample_paths
from torchsaliency.zoo import DEFAULT_MODEL, load_model

SHEET = "demo"
_JUDGED = "opticam"
_METHODS: dict[str, dict[str, Any]] = {
    "gradcam": {},
    "layercam": {},
    "eigencam": {},
    "tsm": {},
    "mtsm": {},
    # the paper's 100 iterations of Adam take ten seconds a photo on two cores
    "opticam": {"solver": "trust-region", "iterations": 20},
}


@dataclass(frozen=True)
class Shown:
    """What the demo made.

    Attributes:
        picture: the sheet with all photos and methods.
        rows: a photo each: its class, probability, and the probability of the photo masked by
            Opti-CAM's map.
        files: how many were written.
    """

    picture: Path
    rows: list[dict[str, Any]]
    files: int


def run(output: Path) -> Shown:
    """Explain the six sample photographs and write pictures.

    Raises:
        OptionError: the folder cannot be written to, or holds somebody else's files.
    """
    photos = sample_paths()
    style = Style(alpha=0.5, colormap="turbo", raw=False, titled=False)
    folder = Folder(output)
    planned = [style.stem(photo, None, one) + ".png" for photo in photos for one in _METHODS]
    with folder.held():
        folder.refuse_to_replace([*planned, f"{SHEET}.png"], photos.values())
        job = _job(len(photos))
        recorder, sheets = Recorder(job, folder, style), Sheets(folder, style.colormap, SHEET)
        with Report(len(photos), job.maps_per_photo) as report:
            found = explained(job, photos, report)
            rows = [_show(job, one, recorder, sheets) for one in found if isinstance(one, Finding)]
        sheets.flush()
        manifest = recorder.manifest({"demo": True}, report, sheets.written)
        folder.write_manifest(manifest, ended=True)
    return Shown(folder.path / sheets.written[0], rows, len(planned) + 2)


def _show(job: Job, finding: Finding, recorder: Recorder, sheets: Sheets) -> dict[str, Any]:
    """Write the pictures of one photo, and say what they show."""
    masked = _masked(job, finding)
    captions = {method: f"masked {share:.1%}" for method, share in masked.items()}
    sheets.add(recorder.record(finding), captions)
    return {
        "photo": finding.photo.name,
        "class": finding.target.name,
        "probability": finding.target.probability,
        "masked": masked[_JUDGED],
    }


def _job(photos: int) -> Job:
    network = load_model(DEFAULT_MODEL)
    return Job(
        network=network,
        preprocessing=network.preprocessing,
        methods={name: create(name, options) for name, options in _METHODS.items()},
        targets=(None,),
        layers=(),
        masking=MeanColour(),
        batch_size=photos,
        chunk=None,
        tolerant=False,
    )


@torch.no_grad()
def _masked(job: Job, finding: Finding) -> dict[str, float]:
    """Return the class's probability on the photo masked by each map."""
    maps = torch.stack([made.map[finding.row] for made in finding.maps.values()])
    image = next(iter(finding.maps.values())).images[finding.row]
    masked = job.masking(image.expand(len(maps), -1, -1, -1), maps)
    shares = job.network(masked).softmax(1)[:, finding.target.index]
    return dict(zip(finding.maps, shares.tolist(), strict=True))

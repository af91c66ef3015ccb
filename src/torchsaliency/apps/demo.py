"""`torchsaliency demo`: the library's main job on what every installation carries."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from torchsaliency.apps.explaining import Job, run
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.registry import create
from torchsaliency.data import open_photo, sample_photos
from torchsaliency.zoo import Network, load_model

# Twenty trust-region passes reach what the paper's hundred do, and the demo stays under a minute.
QUICK_OPTICAM = {"solver": "trust-region", "iterations": 20}
METHODS = ("gradcam", "layercam", "eigencam", "tsm", "mtsm")


def run_demo(output: Path, console: Console) -> None:
    """Explain the built-in photographs, write the pictures to `output` and say what they show."""
    began = time.perf_counter()
    methods = [*(create(name) for name in METHODS), create("opticam", QUICK_OPTICAM)]
    job = Job(photos=list(sample_photos()), methods=methods, output=output, grid=True)
    manifest = run(job, console).manifest
    maps = [one for one in manifest["maps"] if one["method"] == "opticam"]
    seen = _probabilities_through(load_model(job.model), maps)
    table = Table("photograph", "class", "probability", "seen through Opti-CAM's map", box=None)
    for one, chance in zip(maps, seen, strict=True):
        before, after = f"{100 * one['probability']:.1f} %", f"{100 * chance:.1f} %"
        table.add_row(Path(one["photo"]).stem, one["class"], before, after)
    console.print(table)
    console.print(
        f"\n{manifest['grid']}: every photograph by {len(methods)} methods; red is what the "
        f"network looks at. Beside it one overlay for each, the raw maps and manifest.json. "
        f"{time.perf_counter() - began:.0f} s.",
        highlight=False,
    )


def _probabilities_through(network: Network, maps: list[dict[str, Any]]) -> list[float]:
    """Return the class probability of each photograph with all but its map greyed out."""
    preparation = network.preprocessing
    x = torch.stack([preparation(open_photo(one["photo"])) for one in maps])
    raw = torch.stack([torch.from_numpy(np.load(one["raw"])) for one in maps])
    masks = minmax(upsample(raw, preparation.size))
    with torch.no_grad():
        chances = network(x * masks[:, None]).softmax(1)
    return [float(row[one["class_index"]]) for row, one in zip(chances, maps, strict=True)]

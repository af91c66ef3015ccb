"""Passes and seconds that Opti-CAM needs for the objective of the official 100 iterations.

Run: `python -m benchmarks.opticam_passes` for the six sample photographs on the built-in network;
`--photos FOLDER` adds photographs (all its JPEGs), `--mobilenet FOLDER` the MobileNetV1 that lies
there as `mobilenetv1.py` and `mobilenetv1_imagenet.safetensors`. The others are
`builtin/shapes_cnn` and `builtin/shapes_vit` on as many drawn images. All sides see the same
batches in turn, so that other work on the machine hits all. `--label-free` compares the solvers on
the embeddings' squared distance with 100 gradient steps of this library instead.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from torch import Tensor, nn

import torchsaliency as ts
from benchmarks.peers import official_opticam
from torchsaliency.data import open_data, sample_photos
from torchsaliency.methods.cam.opticam import Solver

SOLVERS: tuple[Solver, ...] = ("trust-region", "surrogate")


@dataclass(frozen=True)
class Subject:
    """A trained network and how photographs become its input (N, C, H, W)."""

    name: str
    net: nn.Module
    prepare: Callable[[Sequence[Path]], Tensor]
    black: ts.BlackPixel
    layer: str | None = None


def built_in() -> Subject:
    """Return the built-in network."""
    found = ts.load_model("builtin/efficientnet_lite0")
    own = found.preprocessing
    return Subject(
        found.name,
        found.module.eval(),
        lambda paths: torch.stack([own(photo) for photo in _opened(paths)]),
        ts.BlackPixel(own.mean, own.std),
    )


def shapes(name: str) -> Subject:
    """Return a tiny network of the shapes; each photograph stands for one drawn image."""
    found = ts.load_model(f"builtin/{name}")
    own = found.preprocessing
    data = open_data("shapes:200")
    drawn = iter(range(len(data)))
    return Subject(
        found.name,
        found.module.eval(),
        lambda paths: torch.stack([own(data.picture(next(drawn)).image) for _ in paths]),
        ts.BlackPixel(own.mean, own.std),
    )


def _opened(paths: Sequence[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


def mobilenet(folder: Path) -> Subject:
    """Return the MobileNetV1 whose code and weights lie in the folder."""
    spec = importlib.util.spec_from_file_location("mobilenetv1", folder / "mobilenetv1.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "mobilenetv1.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    net = code.mobilenet_v1_imagenet(folder / "mobilenetv1_imagenet.safetensors").eval()
    return Subject(
        "MobileNetV1 0.75/192",
        net,
        lambda paths: torch.cat([code.preprocess(photo) for photo in _opened(paths)]),
        ts.BlackPixel(code.MEAN, code.STD),
    )


def passes_needed(objective: Tensor, wanted: float | Tensor) -> Tensor:
    """Return after how many passes the best so far (…, T) is what is wanted; T + 1 if never."""
    best = objective.nan_to_num(-torch.inf).cummax(-1).values
    reached = best >= torch.as_tensor(wanted)[..., None]
    return torch.where(reached.any(-1), reached.int().argmax(-1) + 1, objective.shape[-1] + 1)


def study(
    subject: Subject, photos: list[Path], *, batch: int = 8, most: int = 30
) -> dict[str, object]:
    """Run both on all photographs and return the passes and seconds."""
    theirs: list[Tensor] = []
    ours: dict[str, list[Tensor]] = {solver: [] for solver in SOLVERS}
    seconds = dict.fromkeys(["official", *SOLVERS], 0.0)
    net = subject.net
    for start in range(0, len(photos), batch):
        x = subject.prepare(photos[start : start + batch])
        with torch.no_grad():
            labels = net(x).argmax(1)
        begun = time.perf_counter()
        with ts.tracing(net, x, labels, [ts.default_layer(net, x)], gradients=False) as trace:
            features = trace[list(trace.traced.layers)].activations
        black = subject.black.baseline(x)
        theirs.append(official_opticam(net, x, labels, features, black).objective)
        seconds["official"] += time.perf_counter() - begun
        for solver, found in ours.items():
            method = ts.OptiCAM(solver=solver, iterations=most, keep="best")
            begun = time.perf_counter()
            made = ts.explain(net, x, method, labels, masking=subject.black, chunk=batch)
            seconds[solver] += time.perf_counter() - begun
            found.append(made["opticam"].details["objective"])
    official = torch.cat(theirs)
    best = official.amax(1)
    return {
        "network": subject.name,
        "photos": len(photos),
        "official_best": round(float(best.mean()), 3),
        "official_last": round(float(official[:, -1].mean()), 3),
        "seconds_official": round(seconds["official"], 1),
        "solvers": {
            solver: _sum_up(torch.cat(found), best, seconds["official"], seconds[solver])
            for solver, found in ours.items()
        },
    }


def study_label_free(
    subject: Subject, photos: list[Path], *, batch: int = 8, most: int = 50
) -> dict[str, object]:
    """Compare the solvers with 100 gradient steps on the embeddings' squared distance."""
    runs: dict[Solver, int] = {"adam": 100, **dict.fromkeys(SOLVERS, most)}
    found: dict[Solver, list[Tensor]] = {solver: [] for solver in runs}
    seconds = dict.fromkeys(runs, 0.0)
    for start in range(0, len(photos), batch):
        x = subject.prepare(photos[start : start + batch])
        for solver, iterations in runs.items():
            method = ts.OptiCAM(selector="mse", solver=solver, iterations=iterations, keep="best")
            begun = time.perf_counter()
            made = ts.explain(
                subject.net, x, method, ts.OwnEmbedding(), masking=subject.black, chunk=batch
            )
            seconds[solver] += time.perf_counter() - begun
            found[solver].append(made["opticam"].details["objective"].nan_to_num(-torch.inf))
    best = torch.cat(found["adam"]).amax(1)
    return {
        "network": subject.name,
        "photos": len(photos),
        "mean squared distance after 100 gradient steps": round(-float(best.mean()), 4),
        "solvers": {
            solver: _sum_up(torch.cat(found[solver]), best, seconds["adam"], seconds[solver])
            for solver in SOLVERS
        },
    }


def _sum_up(found: Tensor, best: Tensor, official: float, seconds: float) -> dict[str, object]:
    """Return what a solver's objectives (N, most), in so many seconds, say beside the official."""
    most = found.shape[1]
    alone = passes_needed(found, best)
    means = found.nan_to_num(-torch.inf).cummax(1).values.mean(0)
    needed = int(passes_needed(means, best.mean()))
    own = seconds / most * needed
    return {
        "passes_to_its_mean": needed if needed <= most else None,
        "photos_reaching_their_own": {
            str(t): round(float((alone <= t).float().mean()), 3) for t in (10, 14, 25, most)
        },
        "passes_each_median": int(alone.median()),
        "passes_each_p90": int(alone.float().quantile(0.9)),
        "seconds": round(own, 1),
        "times_faster": round(official / own, 2),
        "mean_after": {str(t): round(float(means[t - 1]), 4) for t in (5, 8, 10, 15, 20, 25, most)},
    }


def main(
    photos: Annotated[Path | None, typer.Option(help="a folder of more photographs")] = None,
    mobile: Annotated[Path | None, typer.Option("--mobilenet", help="a folder")] = None,
    most: Annotated[int, typer.Option(help="use at most so many photographs")] = 1000,
    label_free: Annotated[bool, typer.Option("--label-free", help="no classes")] = False,
) -> None:
    """Print the passes and seconds as JSON, a line a network."""
    torch.set_num_threads(2)
    paths = [photo.path for photo in sample_photos().values()]
    if photos is not None:
        paths += sorted([*photos.glob("*.JPEG"), *photos.glob("*.jpg")])
    second = "shapes_ssl" if label_free else "shapes_vit"
    subjects = [shapes("shapes_cnn"), shapes(second), built_in()] + (
        [mobilenet(mobile)] if mobile is not None else []
    )
    run = study_label_free if label_free else study
    for subject in subjects:
        print(json.dumps(run(subject, paths[:most])), flush=True)


if __name__ == "__main__":
    typer.run(main)

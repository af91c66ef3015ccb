"""Error of sampled maps by passes: the published procedures and the options of sampling.

Run: `python -m benchmarks.sampling --mobilenet FOLDER --photos FOLDER --cache FOLDER`, with the
MobileNetV1 that lies there as for `benchmarks.opticam_passes`. A map's error is relative: the norm
of its difference from a reference, each less its mean, over that of the reference. References take
long; they are kept in the cache, `METHOD-PHOTO.pt`, and are of other seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import torchsaliency as ts
from benchmarks.opticam_passes import mobilenet
from torchsaliency.core.method import Method, create


@dataclass(frozen=True)
class Study:
    """What is compared of one method.

    Attributes:
        method: its name.
        reference: options of the map that the others are compared with.
        count: the option that bounds the passes.
        rows: options, by label.
        sizes: how many samples each row is given.
        seeds: of each.
        ends: rows with a number of samples of their own, by label.
        exact: the method of the reference, if it is another one.
    """

    method: str
    reference: dict[str, Any]
    count: str
    rows: dict[str, dict[str, Any]]
    sizes: Sequence[int]
    seeds: int = 1
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    exact: str = ""


_BOTH = {"sampler": "antithetic", "control": "linear"}

STUDIES = [
    Study(
        "rise",
        {"samples": 32000, "seed": 1000, "control": "linear"},
        "samples",
        {
            "published": {},
            "antithetic": {"sampler": "antithetic"},
            "linear": {"control": "linear"},
            "antithetic, linear": _BOTH,
        },
        (200, 400, 1200),
        ends={
            "published": {"samples": 4000},
            **{f"until {one}": {"samples": 4000, **_BOTH, "until": one} for one in (0.5, 0.3)},
        },
    ),
    Study(
        "gradientshap",
        {"steps": 300},
        "samples",
        {"published": {}, "stratified": {"sampler": "stratified"}},
        (16, 50),
        seeds=2,
        ends={
            f"until {one}": {"samples": 400, "sampler": "stratified", "until": one}
            for one in (0.2, 0.1)
        },
        exact="integrated-gradients",
    ),
    Study(
        "kernelshap",
        {"passes": 6000, "seed": 1000},
        "passes",
        {"published": {}},
        (500, 2000),
        ends={f"until {one}": {"passes": 4000, "until": one} for one in (0.5, 0.3)},
    ),
]


def explain_once(net: nn.Module, x: Tensor, method: Method) -> ts.Explanation:
    """Return the map of one image for the class that the network predicts."""
    return ts.explain(net, x, method, int(net(x).argmax()))[method.name]


def find_error(maps: Tensor, reference: Tensor) -> float:
    """Return how far a map is from the reference, up to a constant, relative to it."""
    one, other = (each - each.mean() for each in (maps, reference))
    return float((one - other).norm() / other.norm())


def values_of(explanation: ts.Explanation) -> Tensor:
    """Return what is estimated: signed attributions where there are any, else the raw map."""
    found = explanation.attributions if explanation.signed is None else explanation.signed
    return (explanation.raw if found is None else found).double()


def compare(
    study: Study, net: nn.Module, images: dict[str, Tensor], cache: Path, only: str
) -> dict[str, Any]:
    """Return the errors of each row, one a photo and seed, by label and samples."""
    references = {}
    for name, x in images.items():
        path = cache / f"{study.method}-{name}.pt"
        if not path.exists():
            method = create(study.exact or study.method, study.reference)
            torch.save(values_of(explain_once(net, x, method)), path)
        references[name] = torch.load(path)
    options = {
        (label, size): {**row, study.count: size}
        for label, row in study.rows.items()
        for size in study.sizes
    }
    ends = {(label, int(row[study.count])): row for label, row in study.ends.items()}
    rows: dict[str, Any] = {}
    for (label, size), chosen in {**options, **ends}.items():
        if not label.startswith(only):
            continue
        errors, passes, said = [], [], []
        for name, x in images.items():
            for seed in range(study.seeds):
                found = explain_once(net, x, create(study.method, {**chosen, "seed": seed}))
                errors.append(find_error(values_of(found), references[name]))
                passes.append(found.passes - 1)
                if "relative_error" in found.details:
                    said.append(round(float(found.details["relative_error"]), 4))
        mean = (sum(one**2 for one in errors) / len(errors)) ** 0.5
        row = {"error": round(mean, 4), "passes": passes, "errors": [round(e, 4) for e in errors]}
        rows[f"{label}, {size}"] = {**row, "said": said}
        typer.echo(json.dumps({study.method: {f"{label}, {size}": rows[f"{label}, {size}"]}}))
    return rows


def main(
    folder: Annotated[Path, typer.Option("--mobilenet")],
    photos: Annotated[Path, typer.Option(help="JPEGs; every so many-th is taken")],
    cache: Annotated[Path, typer.Option(help="where references are kept")],
    places: Annotated[str, typer.Option(help="which photos, in order")] = "0,13,27,41,55",
    method: Annotated[str, typer.Option(help="only this one")] = "",
    only: Annotated[str, typer.Option(help="only rows whose label begins so")] = "",
    output: Annotated[Path | None, typer.Option(help="a JSON file")] = None,
) -> None:
    """Compare, and write the rows."""
    torch.set_num_threads(1)
    subject, files = mobilenet(folder), sorted(photos.glob("*.JPEG"))
    images = {place: subject.prepare([files[int(place)]]) for place in places.split(",")}
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"what": "python -m benchmarks.sampling", "photos": list(images)}
    if output is not None and output.exists():  # rows of other methods and labels are kept
        found = json.loads(output.read_text(encoding="utf-8"))
    for study in STUDIES:
        if method not in ("", study.method):
            continue
        rows = compare(study, subject.net, images, cache, only)
        found[study.method] = {**found.get(study.method, {}), **rows}
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

"""Which methods find the cause of a decision that is known by construction?

Run: `python -m benchmarks.planted --output FILE`, minutes on one core. Small networks are trained
on the shapes data for a class that one part of the image gives and nothing else does:

    mark    the colour, red or green, of a small square near a corner;
    circle  the colour of the circle, beside another object;
    ground  the tint of the background.

The image holds a lure as well: an object in red or green, drawn independently of the class. That a
network follows the rule is checked by repainting: another colour of the cause must change the
prediction, another colour of the lure must not. Scores are the share of a map's mass in the cause,
less the cause's share of the image (what a constant map has), and how often the maximum is in the
cause or in the lure.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import torchsaliency as ts
from torchsaliency.core.method import METHODS, Method, create, load_all
from torchsaliency.data.shapes import shapes
from torchsaliency.metrics.localisation.masks import (
    area_under_roc,
    relevance_mass_accuracy,
    top_k_intersection,
)
from torchsaliency.zoo.tiny import MEAN, STD

RULES = ("mark", "circle", "ground")
COLOURS = torch.tensor([[0.85, 0.15, 0.15], [0.15, 0.75, 0.15]])
"""Red and green, the two classes."""

_MARK, _MARGIN = 8, 8
"""Side of the mark and its distance from the edges, in pixels: one cell of the last features."""

_TINT = 0.5
"""Share of the colour in a tinted background."""

_CHECKED = 200
"""Test images on which it is checked that a network follows its rule."""

_SLOWEST = 20.0
"""Seconds after which the rest of a method's images are left out."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images before they are painted.

    Attributes:
        images: (N, 3, H, W) in [0, 1].
        cause: (N, H, W), 1 on the part whose colour is the class.
        lure: (N, H, W), 1 on the object whose colour says nothing.
        tint: the share of the colour in the cause.
    """

    images: Tensor
    cause: Tensor
    lure: Tensor
    tint: float = 1.0

    def paint(self, cause: Tensor, lure: Tensor) -> Tensor:
        """Return the images with these colours, 0 red and 1 green, (N,) each."""
        painted = self.images
        for mask, chosen, share in ((self.lure, lure, 1.0), (self.cause, cause, self.tint)):
            colour = COLOURS[chosen][:, :, None, None]
            painted = torch.where(
                mask[:, None] > 0, (1 - share) * painted + share * colour, painted
            )
        return painted


def draw_scenes(rule: str, count: int, seed: int) -> Scenes:
    """Return unpainted images of a rule."""
    if rule == "circle":
        drawn = shapes(count, seed=seed, objects=2, classes=[0] * count)
        return Scenes(drawn.images, (drawn.masks == 1).long(), (drawn.masks == 2).long())
    drawn = shapes(count, seed=seed)
    thing = (drawn.masks > 0).long()
    if rule == "ground":
        return Scenes(drawn.images, 1 - thing, thing, _TINT)
    corner = torch.randint(4, (count,), generator=torch.Generator().manual_seed(seed))
    mark = torch.zeros_like(thing)
    near, far = slice(_MARGIN, _MARGIN + _MARK), slice(-_MARGIN - _MARK, -_MARGIN)
    for image, place in zip(mark, corner.tolist(), strict=True):
        image[far if place // 2 else near, far if place % 2 else near] = 1
    return Scenes(drawn.images, mark, thing * (1 - mark))


def draw_colours(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return independent colours of causes and lures."""
    draw = torch.Generator().manual_seed(seed)
    cause, lure = torch.randint(2, (2, count), generator=draw).unbind()
    return cause, lure


def normalise(images: Tensor) -> Tensor:
    """Return the networks' input."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def build() -> nn.Sequential:
    """Return four convolutions with 64 maps of 8x8 at the end, pooled, and one linear layer."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride in ((16, 2), (32, 2), (64, 1), (64, 2)):
        convolution = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 2))


LAYER = "11"
"""The last ReLU, where maps of channels are read."""


def train(rule: str, seed: int, *, images: int, epochs: int, batch: int = 64) -> nn.Module:
    """Return a network that was trained on a rule."""
    torch.manual_seed(seed)
    scenes = draw_scenes(rule, images, 1000 + seed)
    net = build()
    steps = images // batch * epochs
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for epoch in range(epochs):
        net.train()
        # new colours in each epoch
        cause, lure = draw_colours(images, 1000 * (seed + 1) + epoch)
        inputs = normalise(scenes.paint(cause, lure))
        for index in torch.randperm(images)[: images // batch * batch].split(batch):
            loss = F.cross_entropy(net(inputs[index]), cause[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def check_rule(net: nn.Module, scenes: Scenes, cause: Tensor, lure: Tensor) -> dict[str, float]:
    """Return how often the network is right and follows a repainted cause or lure, in percent.

    "margin moved by the lure" is how far repainting the lure moves the difference of the logits, in
    percent of how far repainting the cause does: what a decision does not show, a logit may.
    """

    def read_margin(one: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            logits = net(normalise(scenes.paint(one, other)))
        return logits[:, 1] - logits[:, 0]

    before = read_margin(cause, lure)
    after = {"cause": read_margin(1 - cause, lure), "lure": read_margin(cause, 1 - lure)}
    moved = {name: float((margin - before).abs().mean()) for name, margin in after.items()}
    hits = {"accuracy": (before > 0) == (cause == 1)}
    hits |= {f"follows the {name}": (margin > 0) != (before > 0) for name, margin in after.items()}
    found = {name: 100 * float(one.double().mean()) for name, one in hits.items()}
    found["margin moved by the lure"] = 100 * moved["lure"] / moved["cause"]
    return {name: round(value, 1) for name, value in found.items()}


def score_maps(maps: Tensor, scenes: Scenes) -> dict[str, Tensor]:
    """Return the scores of maps (N, H, W) in [0, 1], in percent, (N,) each."""
    return {
        "above chance": relevance_mass_accuracy(maps, scenes.cause)
        - 100 * scenes.cause.double().mean((1, 2)),
        "hits": top_k_intersection(maps, scenes.cause, 1),
        "lured": top_k_intersection(maps, scenes.lure, 1),
        "auc": area_under_roc(maps, scenes.cause),
    }


def find_interval(values: Tensor) -> tuple[float, float]:
    """Return the 95 % t interval of the mean over images."""
    mean, error = float(values.mean()), float(values.std()) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean - reach, mean + reach


def find_wilson(percent: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share of so many images, in percent."""
    share, z = percent / 100, float(stats.norm.ppf(0.975))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return 100 * max(0.0, middle - reach), 100 * min(1.0, middle + reach)


def summarise(values: dict[str, Tensor]) -> dict[str, Any]:
    """Return means and intervals over the images on which a score is defined."""
    row: dict[str, Any] = {}
    for name, found in values.items():
        known = found[~found.isnan()].double()
        if len(known) < 2:
            continue
        mean = float(known.mean())
        share = name in ("hits", "lured")
        ends = find_wilson(mean, len(known)) if share else find_interval(known)
        row[name] = [round(number, 1) for number in (mean, *ends)]
        row["images"] = len(known)
    return row


def explain_all(
    net: nn.Module, x: Tensor, target: Tensor, method: Method, batch: int = 8
) -> Tensor | str:
    """Return a method's maps, or why there are none."""
    begun, maps = time.perf_counter(), []
    for start in range(0, len(x), batch):
        if time.perf_counter() - begun > _SLOWEST:
            return f"too slow: {start} images took more than {_SLOWEST:g} s"
        part = slice(start, start + batch)
        try:
            made = ts.explain(net, x[part], method, target[part], layer=LAYER)
        except (ts.TorchSaliencyError, ValueError) as error:
            return str(error)
        maps.append(made[method.name].map.detach())
    return torch.cat(maps)


def run_rule(
    rule: str, names: Sequence[str], *, networks: int, count: int, images: int, epochs: int
) -> dict[str, Any]:
    """Train networks on one rule, and score all methods on other images of each."""
    rows: dict[str, dict[str, list[Tensor]]] = {}
    left_out: dict[str, str] = {}
    checks = []
    for seed in range(networks):
        net = train(rule, seed, images=images, epochs=epochs)
        scenes = draw_scenes(rule, _CHECKED, 2000 + seed)
        cause, lure = draw_colours(_CHECKED, 2000 + seed)
        checks.append(check_rule(net, scenes, cause, lure))
        typer.echo(json.dumps({rule: checks[-1]}))
        few = Scenes(scenes.images[:count], scenes.cause[:count], scenes.lure[:count], scenes.tint)
        x = normalise(few.paint(cause[:count], lure[:count]))
        for name in names:
            if name in left_out:
                continue
            maps = explain_all(net, x, cause[:count], create(name))
            if isinstance(maps, str):
                left_out[name] = maps
                rows.pop(name, None)
                continue
            for score, values in score_maps(maps, few).items():
                rows.setdefault(name, {}).setdefault(score, []).append(values)
    found = {
        name: summarise({score: torch.cat(parts) for score, parts in scores.items()})
        for name, scores in rows.items()
    }
    for name, row in found.items():
        typer.echo(json.dumps({rule: {name: row}}))
    facts = {"training images": images, "epochs": epochs}
    return {**facts, "networks": checks, "methods": found, "left out": left_out}


def main(
    output: Annotated[Path, typer.Option(help="a JSON file; rules in it are kept")],
    rules: Annotated[str, typer.Option(help="which, in order")] = ",".join(RULES),
    methods: Annotated[str, typer.Option(help="names; all by default")] = "",
    networks: Annotated[int, typer.Option(help="networks of each rule")] = 1,
    count: Annotated[int, typer.Option(help="images explained of each network")] = 16,
    images: Annotated[int, typer.Option(help="training images")] = 2048,
    epochs: Annotated[int, typer.Option(help="of training")] = 8,
) -> None:
    """Train, explain and score; write the rows."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    load_all()
    names = methods.split(",") if methods else list(METHODS)
    found: dict[str, Any] = json.loads(output.read_text("utf-8")) if output.exists() else {}
    for rule in rules.split(","):
        found[rule] = run_rule(
            rule, names, networks=networks, count=count, images=images, epochs=epochs
        )
        found["what"] = (
            f"python -m benchmarks.planted: {networks} networks a rule, {count} images of each; "
            "mean, low and high in percent; intervals over images: Student's t for `above chance` "
            "and `auc`, Wilson's for `hits` and `lured`"
        )
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

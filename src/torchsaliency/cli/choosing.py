"""From the options of `choose` to a recommendation, and the files that say why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchsaliency.api import overlay
from torchsaliency.cli.monitoring import name_network_errors
from torchsaliency.cli.options import ChooseOptions, parse_settings, require_chosen
from torchsaliency.cli.photographs import (
    choose_photos,
    read_photos,
    say_assumptions,
    split_names,
)
from torchsaliency.cli.progress import show_progress
from torchsaliency.core.files import OutputFolder
from torchsaliency.core.method import create
from torchsaliency.core.target import parse_target
from torchsaliency.data import open_photo
from torchsaliency.evaluation.agreement import consensus
from torchsaliency.evaluation.choosing import CONTROLS, recommend
from torchsaliency.evaluation.verdicts import Recommendation
from torchsaliency.options import Framing
from torchsaliency.viz import Panel, Row, grid
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network, load_model
from torchsaliency.zoo.inputs import given_facts

FACTS, PICTURE = "recommendation.json", "consensus.png"
"""Names of the files that are written."""

_SHOWN, _PIXELS = 6, (512, 512)
"""Photographs in the picture, and pixels that are kept of each."""


def try_methods(options: ChooseOptions) -> tuple[Recommendation, dict[str, Any]]:
    """Try methods on photographs; return what was found, and what was written of it.

    Raises:
        TorchSaliencyError: something that was named does not exist or fit.
    """
    settings = parse_settings(options.settings)
    names = split_names(options.method)
    require_chosen(settings, names)
    methods = {name: create(name, settings.get(name)) for name in names} or None
    paths = choose_photos(options.photos, options.output)
    network = load_model(
        options.model,
        weights=options.weights,
        device=options.device,
        dtype=getattr(torch, options.precision),
        given=given_facts(options),
    )
    say_assumptions(network)
    target = None if options.target is None else parse_target(options.target, network.class_index)
    folder = OutputFolder(options.output)
    with folder.lock():
        folder.read_manifest(FACTS, lambda facts: "verdict" in facts)
        folder.require_own([FACTS, PICTURE])
        with (
            show_progress("reading photos", "photos", len(paths)) as meter,
            name_network_errors(network.name),
        ):
            images, read, skipped = read_photos(network, paths, options.fit, meter)
            found = recommend(
                network,
                images,
                target,
                methods=methods,
                batch_size=options.batch_size,
                chunk=options.chunk,
                seed=options.seed,
                watch=lambda done, total: meter.update(
                    what="trying methods", unit="batches", done=done, total=total
                ),
            )
        facts: dict[str, Any] = {
            "model": network.name,
            "photos": [str(path) for path in read],
            "skipped": skipped,
            **found.to_dict(),
            "values": {
                metric: {name: row.tolist() for name, row in of.items()}
                for metric, of in found.values.items()
            },
        }
        folder.write(PICTURE, _draw(found, read, network, options.fit))
        folder.write_manifest(FACTS, facts, [PICTURE])
        folder.dissolve()
    return found, facts


def _draw(
    found: Recommendation, paths: Sequence[Path], network: Network, fit: Framing | None
) -> bytes:
    """Draw the first photos with the best method's map, the consensus of all, and the doubt."""
    rows = []
    methods = [name for name in found.explanations if name not in CONTROLS]
    best = (*found.shortlist, *methods)[0]
    for place, path in enumerate(paths[:_SHOWN]):
        batch, row = 0, place
        while row >= len(found.explanations[best][batch]):
            row -= len(found.explanations[best][batch])
            batch += 1
        made = {name: found.explanations[name][batch][row] for name in methods}
        shown = {best: made[best]}
        if len(methods) > 1:
            agreed = consensus({name: one.map for name, one in made.items()})
            shown["consensus"] = replace(made[best], map=agreed.map)
            shown["doubt"] = replace(made[best], map=agreed.doubt)
        panels = [
            Panel(overlay(path, one, network, fit=fit), title) for title, one in shown.items()
        ]
        for panel in panels:
            panel.image.thumbnail(_PIXELS)
        small = open_photo(path)
        small.thumbnail(_PIXELS)
        rows.append(Row(tuple(panels), Panel(small, "photo", path.name)))
    return png(grid(rows))

"""From the options of `concepts` to the concepts, and the files that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchsaliency.api import describe_concepts, place_concepts
from torchsaliency.cli.monitoring import name_network_errors
from torchsaliency.cli.options import ConceptOptions
from torchsaliency.cli.photographs import (
    choose_photos,
    read_photos,
    say_assumptions,
    unique_names,
)
from torchsaliency.cli.progress import show_progress
from torchsaliency.concepts import ConceptBank, ConceptTest, Factorisation, craft, dff, tcav
from torchsaliency.concepts.passes import Watch
from torchsaliency.core.files import OutputFolder
from torchsaliency.core.target import TargetLike, parse_target
from torchsaliency.data import find_photos
from torchsaliency.errors import InputError, OptionError
from torchsaliency.viz import Panel, Row, add_legend, draw_concepts, grid, overlay
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network, load_model
from torchsaliency.zoo.inputs import given_facts

FACTS, PICTURE = "concepts.json", "concepts.png"
"""Names of the files that are written."""

_OF = {"concepts": "dff and craft", "samples": "craft", "target": "craft and tcav"}
_OF |= dict.fromkeys(("concept", "random", "runs"), "tcav")
"""Which methods read an option that not all read."""

_SHOWN, _PIXELS = 8, (768, 768)
"""Photographs in the picture, and pixels that are kept of each."""


def find_concepts(options: ConceptOptions) -> dict[str, Any]:
    """Find or test concepts, write the picture and the numbers, and return the numbers.

    Raises:
        TorchSaliencyError: something that was named does not exist or fit.
    """
    _require_read(options)
    paths = choose_photos(options.photos, options.output)
    sets = [find_photos(folder) for folder in options.concept]
    pool = find_photos(options.random) if options.random else []
    network = load_model(
        options.model,
        weights=options.weights,
        device=options.device,
        dtype=getattr(torch, options.precision),
        given=given_facts(options),
    )
    if network.volumes is not None:
        raise InputError(
            f"{network.name} takes scans or videos, and the command draws photographs; use dff, "
            "craft or tcav in Python."
        )
    say_assumptions(network)
    word = options.target
    target = None if word is None else parse_target(word, network.class_index)
    folder = OutputFolder(options.output)
    with folder.lock():
        folder.read_manifest(FACTS, lambda facts: "concepts" in facts)
        folder.require_own([FACTS, PICTURE])
        with (
            show_progress("reading photos", "photos", len(paths)) as meter,
            name_network_errors(network.name),
        ):

            def watch(what: str, unit: str, done: int, total: int) -> None:
                meter.update(what=what, unit=unit, done=done, total=total)

            images, read, skipped = read_photos(network, paths, options.fit, meter)
            if options.method == "tcav":
                others = [
                    read_photos(network, photos, options.fit, meter) for photos in [*sets, pool]
                ]
                for other in others:
                    skipped |= other[2]
                names = [*unique_names(options.concept)]
                parts = [one for one, *_ in others]
                tests = _test(network, images, names, parts, target, options, watch)
                facts, picture = _tested(tests)
            else:
                found = _find(network, images, target, options, watch)
                facts = _found(found, network, read)
                picture = png(_draw(found, read, network, options))
        facts = {
            "method": options.method,
            "model": network.name,
            "photos": [str(path) for path in read],
            "skipped": skipped,
            **facts,
        }
        folder.write(PICTURE, picture)
        folder.write_manifest(FACTS, facts, [PICTURE])
        folder.dissolve()
    return facts


def _require_read(options: ConceptOptions) -> None:
    """Refuse what the method does not read, and a test without photos of its concept."""
    for name, of in _OF.items():
        if getattr(options, name) not in (None, ()) and options.method not in of:
            spelled = "--count" if name == "concepts" else f"--{name}"
            raise OptionError(
                f"{spelled} was given, which only {of} reads; leave it out, or say --method."
            )
    if options.method == "tcav" and not (options.concept and options.random):
        raise OptionError(
            "tcav tests a concept that photos show; give --concept FOLDER and --random FOLDER."
        )


def _find(
    network: Network, images: Tensor, target: TargetLike, options: ConceptOptions, watch: Watch
) -> Factorisation | ConceptBank:
    layer, chunk = options.layer, options.chunk
    if options.method == "dff":
        return dff(network, images, options.concepts or 4, layer, chunk=chunk, watch=watch)
    return craft(
        network,
        images,
        options.concepts or 10,
        target,
        layer,
        samples=options.samples or 64,
        seed=options.seed,
        chunk=chunk,
        watch=watch,
    )


def _test(
    network: Network,
    images: Tensor,
    names: Sequence[str],
    others: Sequence[Tensor],
    target: TargetLike,
    options: ConceptOptions,
    watch: Watch,
) -> dict[str, ConceptTest]:
    return tcav(
        network,
        images,
        dict(zip(names, others[:-1], strict=True)),
        others[-1],
        target,
        layer=options.layer,
        runs=options.runs or 10,
        seed=options.seed,
        chunk=options.chunk,
        watch=watch,
    )


# --- what is written ------------------------------------------------------------------------------


def _found(
    found: Factorisation | ConceptBank, network: Network, paths: Sequence[Path]
) -> dict[str, Any]:
    peaks = found.maps.flatten(2).amax(2).tolist()
    facts: dict[str, Any] = {
        "concepts": describe_concepts(found, network.classes),
        "error": found.error,
        "presence": {str(path): row for path, row in zip(paths, peaks, strict=True)},
    }
    if isinstance(found, Factorisation):
        outputs = None if found.outputs is None else found.outputs.tolist()
        return {**facts, "layer": found.layer, "outputs": outputs}
    return {
        **facts,
        "layer": found.layer.name,
        "importance": found.importance.tolist(),
        "importances": found.importances.tolist(),
        "score": found.score.tolist(),
        "rebuilt_score": found.rebuilt_score.tolist(),
    }


def _draw(
    found: Factorisation | ConceptBank,
    paths: Sequence[Path],
    network: Network,
    options: ConceptOptions,
) -> Any:
    """Draw the first photos: which concept is strongest where, each concept, and the legend."""
    rows, frame = [], network.frame(options.fit)
    for index, path in enumerate(paths[:_SHOWN]):
        picture, maps = place_concepts(path, found, frame, index)
        picture.thumbnail(_PIXELS)
        panels = [Panel(draw_concepts(picture, maps), "strongest")]
        panels += [
            Panel(overlay(picture, one), f"concept {number}") for number, one in enumerate(maps, 1)
        ]
        rows.append(Row(tuple(panels), Panel(picture, "photo", path.name)))
    sheet = grid(rows)
    legend = describe_concepts(found, network.classes)
    return add_legend(sheet, legend, columns=2)


def _tested(tests: dict[str, ConceptTest]) -> tuple[dict[str, Any], bytes]:
    """Return the numbers of the tests, and the scores beside those of chance."""
    from torchsaliency.viz.curves import boxes, encode_figure

    first = next(iter(tests.values()))
    groups = {name: test.scores for name, test in tests.items()} | {"chance": first.chance}
    figure = boxes(groups, y="TCAV score", references={"no direction": 0.5})
    facts = {
        name: {
            "score": test.score,
            "scores": test.scores,
            "p_value": test.p_value,
            "strength": test.strength,
            "strengths": test.strengths,
            "strength_p_value": test.strength_p_value,
            "accuracy": test.accuracy,
        }
        for name, test in tests.items()
    }
    chance = {"score": first.chance, "strength": first.strength_chance}
    return {"concepts": facts, "chance": chance, "layer": first.layer}, encode_figure(
        figure, ".png"
    )

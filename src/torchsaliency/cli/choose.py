"""`torchsaliency choose`: which method can be defended on one's own network and photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchsaliency.cli.console import (
    bold,
    grid_of,
    print_json,
    print_line,
    say,
    stdout,
)
from torchsaliency.cli.options import JSON
from torchsaliency.options import (
    BATCH_SIZE,
    CHANNELS,
    CHUNK,
    CLASS_NAMES,
    DEVICE,
    EXPLAINED,
    FIT,
    MEAN,
    MODEL,
    OUTPUT_KEY,
    PRECISION,
    SCORES,
    SEED,
    SETTINGS,
    SIZE,
    STD,
    WEIGHTS,
    WRITTEN,
    Framing,
    Options,
    Precision,
    option,
)

if TYPE_CHECKING:
    from torchsaliency.evaluation.choosing import Recommendation

FACTS, PICTURE = "recommendation.json", "consensus.png"
"""Names of the files that are written."""


class ChooseOptions(Options):
    """What is tried, and on what."""

    photos: tuple[str, ...] = option(
        ...,
        "",
        "Photographs, folders of them, or samples as of `explain`; 20 to 40 of the kind that "
        "matters, at least 8.",
        metavar="PHOTO...",
    )
    method: tuple[str, ...] = option(
        (),
        EXPLAINED,
        "Methods that are tried; by default well-known ones of every family that fit the network, "
        "but for masking methods, which take thousands of passes an image.",
        metavar="NAME,NAME",
    )
    settings: tuple[str, ...] = SETTINGS
    target: str | None = option(
        None,
        EXPLAINED,
        "A class by number or name, or a target; the predicted class by default.",
        metavar="CLASS|NAME",
    )
    model: str = MODEL
    weights: Path | None = WEIGHTS
    size: str | None = SIZE
    mean: str | None = MEAN
    std: str | None = STD
    channels: int | None = CHANNELS
    class_names: Path | None = CLASS_NAMES
    scores: str | None = SCORES
    output_key: str | None = OUTPUT_KEY
    fit: Framing | None = FIT
    device: str = DEVICE
    precision: Precision = PRECISION
    batch_size: int = BATCH_SIZE
    chunk: int | None = CHUNK
    seed: int = SEED
    output: Path = option(Path("choice"), WRITTEN, "Made if it does not exist.", metavar="FOLDER")
    as_json: bool = JSON


def choose(options: ChooseOptions) -> int:
    """Say which method can be defended for which question, on your network and photos.

    Tries methods on a few photos, scores them by metrics that disagree by nature, and says where
    the evidence is too thin to tell. Draws where the methods agree, and where they do not.
    """
    from torchsaliency.cli.choosing import try_methods

    found, facts = try_methods(options)
    if options.as_json:
        print_json(facts)
    else:
        _print(found, options.output)
    return 1 if facts["skipped"] else 0


def _print(found: Recommendation, folder: Path) -> None:
    metrics = [*found.scores]
    table = grid_of("method", *metrics, "passes", "s/image", right=[*metrics, "passes", "s/image"])
    for name in found.costs:
        cost = found.costs[name]
        table.add_row(
            bold(name, name in found.shortlist),
            *(f"{found.scores[metric][name][0]:.3g}" for metric in metrics),
            f"{cost.passes:.0f}",
            f"{cost.seconds:.2g}",
        )
    stdout.print(table)
    for question, words in found.questions.items():
        able = ", ".join(found.defensible(question)) or "none, the evidence is too thin"
        stdout.print(f"[bold]{words}[/bold] {able}.", soft_wrap=True)
    for name, why in found.left_out.items():
        say(f"Left out {name}: {why}")
    print_line("")
    print_line(found.reason)
    print_line(f"Where the methods agree, and where not: {folder / PICTURE}.")
    print_line(f"All numbers: {folder / FACTS}.")

"""`torchsaliency reproduce`: a table or figure of the papers, made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchsaliency.cli.console import print_line, print_raw, say
from torchsaliency.cli.evaluate import watch_evaluation
from torchsaliency.cli.options import FORMAT
from torchsaliency.cli.table import check_format, print_table
from torchsaliency.errors import OptionError
from torchsaliency.options import (
    BATCH_SIZE,
    DATA,
    DEVICE,
    MASKING,
    NETWORK,
    PERMUTED,
    PERMUTED_WEIGHTS,
    WORKERS,
    WRITTEN,
    Baseline,
    Options,
    option,
)

if TYPE_CHECKING:
    from torchsaliency.papers.plans import Reproduction


class ReproduceOptions(Options):
    """Which recipe is made, and what replaces the recipe's own choices."""

    name: str = option(
        ...,
        "",
        "See `torchsaliency recipes`; `all` makes every one on built-in data.",
        metavar="NAME|all",
        values="recipes",
    )
    data: tuple[str, ...] = option(
        (),
        DATA,
        "The paper's data, samples, shapes:COUNT, or kind:FOLDER. Repeatable where a recipe needs "
        "several kinds.",
        metavar="FOLDER|NAME",
        values="datasets",
    )
    model: tuple[str, ...] = option(
        (),
        NETWORK,
        "A network instead of the recipe's. Repeatable.",
        metavar="NAME[=WEIGHTS]",
        values="networks",
    )
    permuted: str | None = PERMUTED
    permuted_weights: Path | None = PERMUTED_WEIGHTS
    limit: int | None = option(None, DATA, "At most so many images.", ge=1)
    masking: Baseline | None = MASKING
    device: str | None = DEVICE
    batch_size: int | None = BATCH_SIZE
    workers: int | None = WORKERS
    output: Path | None = option(
        None, WRITTEN, "Made if it does not exist; reproduced/NAME by default.", metavar="FOLDER"
    )
    form: str = FORMAT


def reproduce(options: ReproduceOptions) -> int:
    """Make a table or figure of the papers again: offline on built-in data, or on the real data."""
    from torchsaliency.papers.reproduce import reproduce as reproduce_recipe

    check_format(options.form)
    changes = options.model_dump(
        include={"masking", "device", "batch_size", "workers", "permuted", "permuted_weights"},
        exclude_unset=True,
    )
    if options.name == "all":
        return _reproduce_all(options, changes)
    folder = options.output or Path("reproduced") / options.name
    with watch_evaluation(f"What is done is in {folder}/.") as watch:
        reproduction = reproduce_recipe(
            options.name,
            folder,
            data=options.data,
            models=options.model,
            limit=options.limit,
            changes=changes,
            watch=watch,
        )
    print_reproduction(reproduction, options.form)
    return 0 if watch.complete else 1


def _reproduce_all(options: ReproduceOptions, changes: Mapping[str, Any]) -> int:
    """Make every recipe, and print which of the papers' claims hold."""
    from torchsaliency.core.files import OutputFolder
    from torchsaliency.papers.reproduce import reproduce_all
    from torchsaliency.report import render

    if options.data or options.model or options.permuted or options.permuted_weights:
        raise OptionError(
            "`reproduce all` takes built-in data and networks, and data or a network was given; "
            "name one recipe to give it its own."
        )
    folder = options.output or Path("reproduced")
    with watch_evaluation(f"What is done is in {folder}/.") as watch:
        table = reproduce_all(
            folder, limit=options.limit, changes=changes, watch=watch, announce=say
        )
    output = OutputFolder(folder)
    with output.lock():
        for form, suffix in (("markdown", "md"), ("csv", "csv"), ("json", "json")):
            output.write(f"claims.{suffix}", render(table, form).encode())
        output.dissolve()
    print_table(table, options.form)
    if options.form == "text":
        print_line(f"This table is {folder}/claims.md; each recipe has a folder beside it.")
    return 0 if watch.complete else 1


def print_reproduction(reproduction: Reproduction, form: str) -> None:
    """Print the tables, and as text also whether the paper's claims hold and where all is."""
    if form in ("csv", "json") and len(reproduction.tables) > 1:
        print_raw(_whole(reproduction, form))
        return
    for table in reproduction.tables.values():
        print_table(table, form)
    if form != "text":
        return
    if not reproduction.tables:
        notes = reproduction.recipe.notes
        for sentence in (reproduction.caption, *reproduction.differs, *notes):
            print_line(sentence)
    verdicts = {True: "holds", False: "does not hold", None: "cannot be told"}
    for claim in reproduction.claims:
        count = claim.measured.count if claim.measured is not None else 0
        of = f" ({count} image{'s' * (count != 1)})" if count else ""
        print_line(f"{claim.says}: {verdicts[claim.holds]} here{of}.")
    print_line(_next_steps(reproduction))


def _whole(reproduction: Reproduction, form: str) -> str:
    """Return several tables as one file: CSV with the table of each line, or one JSON object."""
    import pandas as pd

    from torchsaliency.core.files import json_text
    from torchsaliency.report.writers import write_csv

    if form == "json":
        return json_text({name: table.to_dict() for name, table in reproduction.tables.items()})
    frames = [
        table.frame.rename(columns={"row": table.corner}).assign(table=name)
        for name, table in reproduction.tables.items()
    ]
    return write_csv(pd.concat(frames))


def _next_steps(reproduction: Reproduction) -> str:
    """Say where everything is, and what to do with it."""
    if reproduction.recipe.kind == "survey":
        from torchsaliency.papers.survey import read_key

        page, key = reproduction.pages
        count = len(read_key(key).items)
        photographs = "1 photograph is" if count == 1 else f"{count} photographs are"
        return (
            f"{photographs} in the survey. Send {page} to participants, keep {key} to yourself, "
            f"and score the files that they send back by `torchsaliency survey-score {key} FILE…`."
        )
    sentences = (
        [f"Look at {', '.join(map(str, reproduction.pages))}."] if reproduction.pages else []
    )
    if reproduction.tables or reproduction.figures:
        kinds = "Tables, figures and rows" if reproduction.tables else "Figures"
        sentences.append(f"{kinds} are in {reproduction.folder}/.")
    return " ".join(sentences) or f"What is known of the run is in {reproduction.folder}/."

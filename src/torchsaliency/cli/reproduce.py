"""`torchsaliency reproduce`: a table or figure of the papers, made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchsaliency.cli.console import print_line, print_raw
from torchsaliency.cli.evaluate import watch_evaluation
from torchsaliency.cli.options import FORMAT
from torchsaliency.cli.table import check_format, print_table
from torchsaliency.options import (
    BATCH_SIZE,
    DATA,
    DEVICE,
    MASKING,
    NETWORK,
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

    name: str = option(..., "", "See `torchsaliency recipes`.", metavar="NAME")
    data: tuple[str, ...] = option(
        (),
        DATA,
        "The paper's data, samples, shapes:COUNT, or kind:FOLDER. Repeatable where a recipe needs "
        "several kinds.",
        metavar="FOLDER|NAME",
    )
    model: tuple[str, ...] = option(
        (),
        NETWORK,
        "A network instead of the recipe's. Repeatable.",
        metavar="NAME[=WEIGHTS]",
    )
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
    folder = options.output or Path("reproduced") / options.name
    with watch_evaluation(f"What is done is in {folder}/.") as watch:
        reproduction = reproduce_recipe(
            options.name,
            folder,
            data=options.data,
            models=options.model,
            limit=options.limit,
            changes=options.model_dump(
                include={"masking", "device", "batch_size", "workers"}, exclude_unset=True
            ),
            watch=watch,
        )
    print_reproduction(reproduction, options.form)
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
    for claim, holds in reproduction.claims:
        print_line(f"{claim}: {verdicts[holds]} here.")
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

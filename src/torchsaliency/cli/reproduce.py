"""`torchsaliency recipes` and `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from torchsaliency.cli.console import give, stdout
from torchsaliency.cli.evaluate import watched
from torchsaliency.cli.table import write
from torchsaliency.core.files import json_text
from torchsaliency.papers.recipes import load_recipes
from torchsaliency.papers.reproduce import Reproduction, reproduce
from torchsaliency.papers.survey import read_key
from torchsaliency.report import Table
from torchsaliency.report.writers import write_csv


def recipe_rows() -> list[dict[str, Any]]:
    """Describe every recipe in JSON types."""
    return [
        {
            "name": one.name,
            "paper": one.paper,
            "item": one.item,
            "title": one.title,
            "data": one.paper_version.summary,
            "builtin": one.builtin.summary,
            "published": bool(one.published),
        }
        for one in load_recipes().values()
    ]


def run(
    name: str,
    output: Path,
    data: Sequence[str],
    models: Sequence[str],
    limit: int | None,
    changes: Mapping[str, Any],
) -> tuple[Reproduction, bool]:
    """Reproduce, show how far it is, and tell whether every image could be used."""
    with watched() as watch:
        found = reproduce(
            name,
            output,
            data=data,
            models=models,
            limit=limit,
            changes={key: value for key, value in changes.items() if value is not None},
            watch=watch,
        )
    return found, watch.complete


def show(found: Reproduction, form: str) -> None:
    """Write the tables, and whether the paper's claims hold; without tables, what the notes say."""
    if form in _WHOLE and len(found.tables) > 1:
        give(_WHOLE[form](found.tables))
        return
    for table in found.tables.values():
        write(table, form)
    if form != "text":
        return
    if not found.tables:
        recipe = found.recipe
        told = [f"{recipe.paper}, {recipe.item}: {recipe.title}", *found.differs, *recipe.notes]
        for sentence in told:
            stdout.print(sentence, markup=False, soft_wrap=True)
    verdict = {True: "holds", False: "does not hold", None: "cannot be told"}
    for says, holds in found.claims:
        stdout.print(f"{says}: {verdict[holds]} here.", markup=False, soft_wrap=True)


def _csv(tables: Mapping[str, Table]) -> str:
    """Return several tables under one heading, with the table of each line."""
    frames = [
        table.frame.rename(columns={"row": table.corner}).assign(table=name)
        for name, table in tables.items()
    ]
    return write_csv(pd.concat(frames))


def _json(tables: Mapping[str, Table]) -> str:
    """Return several tables as one object."""
    made = {name: table.to_dict() for name, table in tables.items()}
    return json_text(made)


_WHOLE: Mapping[str, Callable[[Mapping[str, Table]], str]] = {"csv": _csv, "json": _json}
"""Formats of which a file is one whole."""


def where(found: Reproduction) -> str:
    """Say where what was made lies, and what to do with it."""
    if found.recipe.kind == "survey":
        page, key = found.pages
        count = len(read_key(key).items)
        shown = "1 photograph is" if count == 1 else f"{count} photographs are"
        return (
            f"{shown} in the survey. Send {page} to participants, keep {key} to yourself, and "
            f"score the files that they send back by `torchsaliency survey-score {key} FILE…`"
        )
    told = [f"Look at {', '.join(map(str, found.pages))}"] if found.pages else []
    if found.tables or found.figures:
        kinds = "Tables, figures and rows" if found.tables else "Figures"
        told.append(f"{kinds} are in {found.folder}/")
    return ". ".join(told) or f"What is known of the run is in {found.folder}/"

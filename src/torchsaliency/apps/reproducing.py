"""`torchsaliency recipes` and `reproduce`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchsaliency.apps.console import stdout
from torchsaliency.apps.evaluating import watched
from torchsaliency.apps.tabulating import write
from torchsaliency.evaluation.recipes import recipes
from torchsaliency.evaluation.reproducing import Reproduction, reproduce


def recipe_rows() -> list[dict[str, Any]]:
    """Describe every recipe in JSON types."""
    return [
        {
            "name": one.name,
            "paper": one.paper,
            "item": one.item,
            "title": one.title,
            "data": one.paper_version.said,
            "builtin": one.builtin.said,
            "published": bool(one.published),
        }
        for one in recipes().values()
    ]


def run(
    name: str,
    output: Path,
    data: str | None,
    models: Sequence[str],
    limit: int | None,
    changes: Mapping[str, Any],
) -> Reproduction:
    """Reproduce, and show how far it is."""
    with watched() as watch:
        return reproduce(
            name,
            output,
            data=data,
            models=models,
            limit=limit,
            changes={key: value for key, value in changes.items() if value is not None},
            watch=watch,
        )


def show(found: Reproduction, form: str) -> None:
    """Write the tables, and whether the paper's claims hold."""
    for table in found.tables.values():
        write(table, form)
    if form != "text":
        return
    verdict = {True: "holds", False: "does not hold", None: "cannot be told"}
    for says, holds in found.claims:
        stdout.print(f"{says}: {verdict[holds]} here.", markup=False, soft_wrap=True)

"""What all formats print of a cell, and the sentences under a table that explain its marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torchsaliency.report.tables import ALPHA, Cell, Column, Rank, Table

BOLD = "Bold", "underlined"
"""How most formats show best and second."""

NOTHING, UNDEFINED, UNPROVEN = "\N{EN DASH}", "undefined", "†"


@final
@dataclass(frozen=True)
class Parts:
    """A cell's printed parts; empty where there is nothing.

    Attributes:
        value: the number, a dash for none, "undefined" if no image defines it.
        mark: † if it is not shown to be worse than the best.
        interval: "[low, high]".
        published: the published number in round brackets.
        rank: of the number.
    """

    value: str
    mark: str
    interval: str
    published: str
    rank: Rank | None

    def joined(self, value: str) -> str:
        """Return all parts in one line, the value as the format marks it."""
        return " ".join(part for part in (value + self.mark, self.interval, self.published) if part)


def parts(cell: Cell, column: Column, *, intervals: bool = True) -> Parts:
    """Return what is printed of a cell."""
    value, interval, published = NOTHING, "", ""
    if cell.value is not None:
        value = column.text(cell.value)
        if intervals and cell.low is not None and cell.high is not None:
            ends = (column.text(end, like=cell.value) for end in (cell.low, cell.high))
            interval = f"[{', '.join(ends)}]"
    elif cell.undefined:
        value = UNDEFINED
    if cell.published is not None:
        published = f"({cell.published})"
    return Parts(value, UNPROVEN if cell.worse is False else "", interval, published, cell.rank)


def legend(table: Table, marks: tuple[str, str], *, intervals: bool = True) -> list[str]:
    """Return the sentences that a table's marks need, and no others, then its own notes.

    Args:
        table: what is explained.
        marks: how the format shows best and second.
        intervals: whether it prints them.
    """
    cells = [cell for _, _, cell in table.cells]
    ranks = {cell.rank for cell in cells}
    meaning = {"best": (marks[0], table.best), "second": (marks[1], "second")}
    found = []
    if told := [f"{mark}: {words}" for rank, (mark, words) in meaning.items() if rank in ranks]:
        if table.references:
            told.append(f"no contenders: {', '.join(table.references)}")
        found.append("; ".join(told) + ".")
    if intervals and (levels := sorted({cell.confidence for cell in cells if cell.confidence})):
        shown = ", ".join(f"{100 * level:g}" for level in levels)
        found.append(f"[low, high]: {shown} % bootstrap interval over images.")
    if any(cell.worse is False for cell in cells):
        found.append(
            f"{UNPROVEN} not shown to be worse than the best (Wilcoxon's signed-rank test, "
            f"Holm-corrected, α = {ALPHA:g})."
        )
    if any(cell.published is not None for cell in cells):
        found.append("(number): as published.")
    return [*found, *_undefined(table), *table.notes]


def _undefined(table: Table) -> list[str]:
    told = [
        f"{row.label}, {f'{column.group} {column.label}'.strip()} ({cell.undefined})"
        for row, column, cell in table.cells
        if cell.undefined
    ]
    return [f"Undefined on some images, and left out there: {'; '.join(told)}."] if told else []

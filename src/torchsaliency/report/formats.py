"""What a format of tables is: the registry, what each prints of a cell, and the legend.

`report.terminal` has plain text, `report.writers` all others. One file adds a format: a class that
extends `Format` or `MarkupFormat`, under `@register_format`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar, final

from torchsaliency.registry import Entry, Registry
from torchsaliency.report.tables import ALPHA, Column, Table

_FEW = 20
"""Images from which on intervals hold what they say, but for the most skewed values."""

_NOTHING, _UNDEFINED, _UNPROVEN = "\N{EN DASH}", "undefined", "†"


@dataclass(frozen=True)
class Format(abc.ABC):
    """A way to write a table.

    Attributes:
        intervals: whether intervals are written beside the numbers.
        suffix: of files in this format.
    """

    intervals: bool = True
    suffix: ClassVar[str]

    @abc.abstractmethod
    def render(self, table: Table) -> str:
        """Return the table in this format."""


FORMATS: Registry[Entry] = Registry("format", "torchsaliency.formats", base=Format)
"""What `render` writes, by name."""

F = TypeVar("F", bound=type[Format])


def register_format(name: str) -> Callable[[F], F]:
    """Add a format to the registry under `name`.

    Raises:
        OptionError: the name is taken.
    """
    return FORMATS.decorate(lambda factory: Entry(name, factory))


def render(table: Table, format: str = "text", *, intervals: bool = True) -> str:  # noqa: A002
    """Return a table in one of `FORMATS`.

    Args:
        table: what to write.
        format: "text", "markdown", "latex", "csv", "html", "json", or a plug-in's.
        intervals: whether intervals are written beside the numbers.

    Raises:
        OptionError: another format.

    Example:
        >>> cell = {"row": "gradcam", "column": "AD", "value": 12.5}
        >>> cell |= {"unit": "%", "direction": "lower"}
        >>> "12.5" in render(Table.of([cell]), "markdown")
        True
    """
    writer: Format = FORMATS.get(format).factory(intervals=intervals)
    return writer.render(table)


# --- what a cell and its legend say ---------------------------------------------------------------


class CellText(NamedTuple):
    """A cell's printed parts; empty where there is nothing."""

    value: str  # a dash for none, "undefined" if no image defines it
    mark: str  # † if it is not shown to be worse than the best
    interval: str  # "[low, high]"
    published: str  # in round brackets
    rank: str | None  # "best" or "second"


def read_cells(table: Table, *, intervals: bool) -> list[list[CellText]]:
    """Return what is printed of each cell, row by row."""
    width = len(table.columns)
    texts = [
        _read_cell(cell, table.columns[place % width], intervals=intervals)
        for place, cell in enumerate(table.cells)
    ]
    return [texts[start : start + width] for start in range(0, len(texts), width)]


def _read_cell(cell: dict[str, Any], column: Column, *, intervals: bool) -> CellText:
    number, interval = cell["value"], ""
    value = _UNDEFINED if cell["undefined"] else _NOTHING
    if number is not None:
        value = column.format_number(number)
        if intervals and cell["low"] is not None and cell["high"] is not None:
            low, high = (column.format_number(cell[end], like=number) for end in ("low", "high"))
            interval = f"[{low}, {high}]"
    published = "" if cell["published"] is None else f"({cell['published']})"
    mark = _UNPROVEN if cell["worse"] is False else ""
    return CellText(value, mark, interval, published, cell["rank"])


def write_legend(
    table: Table, marks: tuple[str, str] = ("Bold", "underlined"), *, intervals: bool = True
) -> list[str]:
    """Return the sentences that a table's marks need, and no others, then its own notes.

    `marks` are how the format shows best and second.
    """
    frame = table.frame
    meaning = {"best": (marks[0], table.best), "second": (marks[1], "second")}
    ranks = set(frame["rank"])
    legend = []
    if words := [f"{mark}: {word}" for rank, (mark, word) in meaning.items() if rank in ranks]:
        if table.references:
            words.append(f"no contenders: {', '.join(table.references)}")
        legend.append("; ".join(words) + ".")
    if intervals and (levels := sorted(set(frame["confidence"].dropna()))):
        percent = ", ".join(f"{100 * level:g}" for level in levels)
        legend.append(f"[low, high]: {percent} % bootstrap interval over images.")
        if (frame["low"].notna() & (frame["count"] < _FEW)).any():
            legend.append(
                f"Of fewer than {_FEW} images with skewed values, an interval holds the truth less "
                "often than it says."
            )
    if (frame["worse"].notna() & ~frame["worse"].fillna(value=True)).any():
        legend.append(
            f"{_UNPROVEN} not shown to be worse than the best (Wilcoxon's signed-rank test, "
            f"Holm-corrected, α = {ALPHA:g})."
        )
    if frame["published"].notna().any():
        legend.append("(number): as published.")
    undefined = [
        f"{cell['row']}, {cell['group']} {cell['column']} ({cell['undefined']})".replace(
            ",  ", ", "
        )
        for cell in table.cells
        if cell["undefined"]
    ]
    if undefined:
        legend.append(f"Undefined on some images, and left out there: {'; '.join(undefined)}.")
    return [*legend, *table.notes]


# --- formats with signs for best and second -------------------------------------------------------


@dataclass(frozen=True)
class MarkupFormat(Format):
    """A format of text with signs for the best and the second-best number.

    Attributes:
        best: a template of the best number.
        second: of the second best.
        reference: of the label of a row that is no contender.
        interval: of an interval, after its number.
    """

    best: ClassVar[str]
    second: ClassVar[str]
    reference: ClassVar[str] = "{}"
    interval: ClassVar[str] = " {}"

    def escape(self, text: str) -> str:
        """Return text that this format prints as it is."""
        return text

    def escape_number(self, text: str) -> str:
        """Return a number, or several, that this format prints as they are."""
        return self.escape(text)

    @final
    def labels(self, table: Table) -> list[str]:
        """Return the rows' labels, marked where a row is a reference."""
        references = table.references
        labels = {row: self.escape(row) for row in table.rows}
        return [
            self.reference.format(label) if row in references else label
            for row, label in labels.items()
        ]

    @final
    def cells(self, table: Table) -> list[list[str]]:
        """Return every cell as this format writes it, row by row."""
        rows = read_cells(table, intervals=self.intervals)
        return [list(map(self._cell, row)) for row in rows]

    def _cell(self, cell: CellText) -> str:
        template = {"best": self.best, "second": self.second, None: "{}"}[cell.rank]
        text = template.format(self.escape_number(cell.value)) + self.escape(cell.mark)
        for template, part in ((self.interval, cell.interval), (" {}", cell.published)):
            text += template.format(self.escape_number(part)) if part else ""
        return text

"""Tables as plain text for pipes and files, and as what a rich console prints in colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table as RichTable
from rich.text import Text

from torchsaliency.report.formats import (
    CellText,
    MarkupFormat,
    read_cells,
    register_format,
    write_legend,
)
from torchsaliency.report.tables import Column, Table

_PIPE = 100_000
"""Columns of a pipe: a line of a table stays a line."""

_GAP = 2
"""Blanks between two columns of rich's table."""


@final
@register_format("text")
@dataclass(frozen=True)
class PlainText(MarkupFormat):
    """Plain text for pipes and files: a line a row, *best* and _second_."""

    suffix = "txt"
    best, second = "*{}*", "_{}_"

    def render(self, table: Table) -> str:
        """Return caption, table and legend."""
        lines = _draw_headings(table, table.columns)
        for label, row in zip(table.rows, self.cells(table), strict=True):
            lines.add_row(*map(Text, (label, *row)))
        console = Console(width=_PIPE, color_system=None, highlight=False, emoji=False)
        with console.capture() as captured:
            console.print(lines)
        body = "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())
        legend = write_legend(table, ("*…*", "_…_"), intervals=self.intervals)
        return "\n\n".join(filter(None, (table.caption, body, "\n".join(legend)))) + "\n"


@final
@dataclass(frozen=True)
class Terminal:
    """A table as a rich console prints it: best bold, second underlined, intervals below.

    Columns that do not fit beside each other follow below, under the same rows.
    """

    table: Table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Text | RichTable]:
        """Print caption, as many blocks of columns as needed, and legend."""
        del console
        table = self.table
        cells = [list(map(_stack, row)) for row in read_cells(table, intervals=True)]
        references = table.references
        if table.caption:
            yield Text(table.caption, style="bold")
        for places in self._divide(cells, options.max_width):
            block = _draw_headings(table, [table.columns[place] for place in places])
            for label, row in zip(table.rows, cells, strict=True):
                style = "dim italic" if label in references else ""
                block.add_row(Text(label, style=style), *(row[place] for place in places))
            yield Text()
            yield block
        yield Text()
        for note in write_legend(table):
            yield Text(note, style="dim")

    def _divide(self, cells: Sequence[Sequence[Text]], room: int) -> Iterator[list[int]]:
        """Divide the columns so that each block is as wide as the console at most."""
        labels = max(map(cell_len, [self.table.corner, *self.table.rows]))
        block: list[int] = []
        used = labels
        for place, column in enumerate(self.table.columns):
            lines = [column.heading, column.group]
            for row in cells:
                lines += row[place].plain.splitlines()
            width = max(map(cell_len, lines)) + _GAP
            if block and used + width > room:
                yield block
                block, used = [], labels
            block.append(place)
            used += width
        yield block


def _draw_headings(table: Table, columns: Sequence[Column]) -> RichTable:
    """Return the empty table; a group's name stands over the first of its columns."""
    lines = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    grouped = any(column.group for column in columns)
    lines.add_column(Text("\n" * grouped + table.corner), overflow="fold")
    above = ""
    for column in columns:
        group = column.group if column.group != above else ""
        above = column.group
        heading = f"{group}\n{column.heading}" if grouped else column.heading
        lines.add_column(Text(heading), justify="right", no_wrap=True)
    return lines


def _stack(cell: CellText) -> Text:
    style = {"best": "bold", "second": "underline", None: ""}[cell.rank]
    text = Text.assemble((cell.value, style), cell.mark)
    for line in filter(None, (cell.interval, cell.published)):
        text.append(f"\n{line}", style="dim")
    return text

"""Tables as text, for terminals and pipes, and as Markdown, LaTeX, CSV, HTML and JSON.

`render(table, format)` gives a string for any of them, `Terminal(table)` what a rich console prints
in colour and within its width. CSV and JSON have all numbers in full; the others round them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table as RichTable
from rich.text import Text

from torchsaliency.core.files import json_text
from torchsaliency.data.tables import defuse
from torchsaliency.errors import OptionError
from torchsaliency.report.legend import BOLD, Parts, legend, parts
from torchsaliency.report.markup import html, latex
from torchsaliency.report.tables import Cell, Column, Line, Table

_PIPE = 100_000
"""Columns of a pipe: a line of a table stays a line."""


def text(table: Table, *, intervals: bool = True) -> str:
    """Return plain text for pipes and files: a line a row, *best* and _second_."""
    console = Console(width=_PIPE, color_system=None, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        console.print(_plain(table, intervals=intervals))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    body = "\n".join(line for line in lines if line)
    notes = legend(table, ("*…*", "_…_"), intervals=intervals)
    return "\n\n".join(part for part in (table.caption, body, "\n".join(notes)) if part) + "\n"


def markdown(table: Table, *, intervals: bool = True) -> str:
    """Return a table of GitHub's Markdown: **best** and <u>second</u>, groups in the headings."""
    headings = [table.corner, *(_grouped_heading(column) for column in table.columns)]
    lines = [_markdown_line(map(_markdown, headings))]
    lines.append(_markdown_line([":--", *["--:"] * len(table.columns)]))
    for row in table.rows:
        label = _markdown(row.label)
        cells = [
            _markdown_cell(parts(cell, column, intervals=intervals))
            for column, cell in zip(table.columns, row.cells, strict=True)
        ]
        lines.append(_markdown_line([f"*{label}*" if row.reference else label, *cells]))
    notes = legend(table, BOLD, intervals=intervals)
    said = [f"**{_markdown(table.caption)}**"] if table.caption else []
    return "\n\n".join([*said, "\n".join(lines), *map(_markdown, notes)]) + "\n"


def frame(table: Table) -> pd.DataFrame:
    """Return a line a cell, row by row: where it stands, what its column is, and all it holds."""
    lines = [
        {
            table.corner: row.label,
            "reference": row.reference,
            "group": column.group,
            "column": column.label,
            "unit": column.unit,
            "direction": column.direction,
            **_fields(cell),
        }
        for row, column, cell in table.cells
    ]
    names = [table.corner, "reference", "group", "column", "unit", "direction", *_fields(Cell())]
    types = {"count": "Int64", "undefined": "Int64", "worse": "boolean"}
    return pd.DataFrame(lines, columns=names).astype(types)


def csv(table: Table, *, intervals: bool = True) -> str:
    """Return `frame` as CSV, a line a cell, with every digit that reading it back needs."""
    made = frame(table)
    return as_csv(made if intervals else made.drop(columns=["low", "high", "confidence"]))


def as_csv(made: pd.DataFrame) -> str:
    """Return a frame as CSV of which a spreadsheet takes no text for a formula."""
    texts = made.select_dtypes(exclude=["number", "bool"])
    harmless = texts.map(lambda cell: defuse(cell) if isinstance(cell, str) else cell)
    written: str = made.assign(**harmless).to_csv(index=False, lineterminator="\n")
    return written


def to_json(table: Table, *, intervals: bool = True) -> str:
    """Return `Table.to_dict` as JSON; intervals are always in it."""
    del intervals
    return json_text(table.to_dict())


_FORMATS: Mapping[str, Callable[..., str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
    "html": html,
    "json": to_json,
}

FORMATS = tuple(_FORMATS)
"""What `render` writes."""


def render(table: Table, format: str = "text", *, intervals: bool = True) -> str:  # noqa: A002
    """Return a table in one of `FORMATS`.

    Args:
        table: what to write.
        format: "text", "markdown", "latex", "csv", "html" or "json".
        intervals: whether intervals are written beside the numbers.

    Raises:
        OptionError: another format.
    """
    if format not in _FORMATS:
        raise OptionError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    return _FORMATS[format](table, intervals=intervals)


@final
@dataclass(frozen=True)
class Terminal:
    """A table as a rich console prints it: best bold, second underlined, intervals below.

    Columns that do not fit beside each other follow below, under the same rows.

    Attributes:
        table: what to print.
        intervals: whether intervals are printed under the numbers.
    """

    table: Table
    intervals: bool = True

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Text | RichTable]:
        """Print caption, as many blocks of columns as needed, and legend."""
        del console
        if self.table.caption:
            yield Text(self.table.caption, style="bold")
        for places in self._blocks(options.max_width):
            yield Text()
            yield self._block(places)
        yield Text()
        for note in legend(self.table, BOLD, intervals=self.intervals):
            yield Text(note, style="dim")

    def _blocks(self, room: int) -> Iterator[list[int]]:
        """Divide the columns so that each block is as wide as the console at most."""
        first = max((cell_len(label) for label in self._labels), default=0)
        block: list[int] = []
        used = first
        for place in range(len(self.table.columns)):
            width = self._width(place) + _GAP
            if block and used + width > room:
                yield block
                block, used = [], first
            block.append(place)
            used += width
        yield block

    @property
    def _labels(self) -> list[str]:
        return [self.table.corner, *(row.label for row in self.table.rows)]

    def _width(self, place: int) -> int:
        column = self.table.columns[place]
        lines = [column.heading, column.group]
        for row in self.table.rows:
            lines += _stacked(self._parts(row, place)).plain.splitlines()
        return max(cell_len(line) for line in lines)

    def _parts(self, row: Line, place: int) -> Parts:
        return parts(row.cells[place], self.table.columns[place], intervals=self.intervals)

    def _block(self, places: Sequence[int]) -> RichTable:
        columns = [self.table.columns[place] for place in places]
        made = _skeleton(self.table, columns)
        for row in self.table.rows:
            cells = [_stacked(self._parts(row, place)) for place in places]
            made.add_row(Text(row.label, style="dim italic" if row.reference else ""), *cells)
        return made


_GAP = 2
"""Blanks between two columns of rich's table."""


def _skeleton(table: Table, columns: Sequence[Column]) -> RichTable:
    """Return the empty table; a group's name stands over the first of its columns."""
    made = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    grouped = any(column.group for column in columns)
    made.add_column(Text("\n" * grouped + table.corner), overflow="fold")
    above = ""
    for column in columns:
        group = column.group if column.group != above else ""
        above = column.group
        heading = f"{group}\n{column.heading}" if grouped else column.heading
        made.add_column(Text(heading), justify="right", no_wrap=True)
    return made


def _plain(table: Table, *, intervals: bool) -> RichTable:
    made = _skeleton(table, table.columns)
    for row in table.rows:
        cells = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            own = parts(cell, column, intervals=intervals)
            sign = {"best": "*", "second": "_", None: ""}[own.rank]
            cells.append(Text(own.joined(f"{sign}{own.value}{sign}")))
        made.add_row(Text(row.label), *cells)
    return made


def _stacked(own: Parts) -> Text:
    style = {"best": "bold", "second": "underline", None: ""}[own.rank]
    made = Text.assemble((own.value, style), own.mark)
    for line in (own.interval, own.published):
        if line:
            made.append(f"\n{line}", style="dim")
    return made


def _grouped_heading(column: Column) -> str:
    return f"{column.group} {column.heading}".strip()


def _markdown_line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(own: Parts) -> str:
    value = _markdown(own.value)
    marked = {"best": f"**{value}**", "second": f"<u>{value}</u>", None: value}[own.rank]
    return _markdown_brackets(own.joined(marked))


def _markdown_brackets(text: str) -> str:
    """Keep an interval from being taken for a link: `[0.1, 0.2] (0.1)`."""
    return text.replace("[", "\\[").replace("]", "\\]")


def _markdown(text: str) -> str:
    plain = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fields(cell: Cell) -> dict[str, Any]:
    names = (
        "value",
        "low",
        "high",
        "confidence",
        "count",
        "undefined",
        "rank",
        "p_value",
        "worse",
        "published",
    )
    return {name: getattr(cell, name) for name in names}


__all__ = ["FORMATS", "Terminal", "csv", "frame", "html", "latex", "markdown", "render"]

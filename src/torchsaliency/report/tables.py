"""Tables as data: what stands in each cell, and which cell is best. `formats` writes them.

A table may come from an evaluation (`tabulating.table`), from studies or from anything else that
has a `Summary` or a number in each cell (`Table.of`), and tables of several networks stand side by
side (`Table.beside`).

Numbers are kept in full; only formats round them. Two numbers that print alike rank alike, though:
of two 12.2 a reader expects both in bold or none, and methods that are one and the same in theory
(Grad-CAM and HiRes-CAM before global pooling) differ in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import Direction, Summary

Rank = Literal["best", "second"]

ARROWS: Mapping[str, str] = {"higher": "↑", "lower": "↓", "neither": ""}
ALPHA = 0.05
"""The level of every significance mark."""

_DIGITS = 3
_TINY = 1e-3
"""Below it, numbers without a fixed number of decimals are written 1.23e-04."""


@final
@dataclass(frozen=True)
class Column:
    """What the numbers of a column are.

    Attributes:
        label: its heading.
        unit: "%", "s", …; empty if none.
        direction: whether "higher" or "lower" is better, or "neither": nothing is marked then.
        group: the heading above it that it shares with its neighbours; empty if none.
        decimals: of its numbers; None: one for percentages, else three significant digits.
    """

    label: str
    unit: str = ""
    direction: Direction = "neither"
    group: str = ""
    decimals: int | None = None

    @property
    def key(self) -> Key:
        """How `Table.of` finds its scores: the label, or (group, label)."""
        return (self.group, self.label) if self.group else self.label

    @property
    def arrow(self) -> str:
        """↑ if higher is better, ↓ if lower."""
        return ARROWS[self.direction]

    @property
    def heading(self) -> str:
        """Label, arrow and unit: "AD ↓ (%)"."""
        unit = f"({self.unit})" if self.unit else ""
        return " ".join(part for part in (self.label, self.arrow, unit) if part)

    def text(self, value: float, like: float | None = None) -> str:
        """Return a number as it is printed.

        Args:
            value: the number.
            like: the number whose precision it shares, as an interval's ends share their value's.
        """
        text = format(value, self._precision(value if like is None else like))
        return text.removeprefix("-") if float(text) == 0 else text

    def _precision(self, value: float) -> str:
        if self.decimals is not None:
            return f".{self.decimals}f"
        if self.unit == "%":
            return ".1f"
        if value == 0 or not math.isfinite(value):
            return f".{_DIGITS - 1}f"
        rounded = f"{value:.{_DIGITS - 1}e}"  # 9.999 has the exponent of 10
        if abs(float(rounded)) < _TINY:
            return f".{_DIGITS - 1}e"
        return f".{max(0, _DIGITS - 1 - int(rounded.partition('e')[2]))}f"


@final
@dataclass(frozen=True)
class Cell:
    """One number of a table, and how sure it is.

    Attributes:
        value: None if there is none.
        low: lower end of its interval.
        high: upper end.
        confidence: of the interval.
        count: images behind the value; None if unknown.
        undefined: images left out since the metric is undefined on them.
        rank: "best" or "second" among its rivals.
        p_value: of the comparison with the best, corrected; None where none was made.
        worse: whether it is significantly worse than the best; None if it is the best itself, no
            contender, or was not tested.
        published: the number a paper prints, shown with the digits it has there.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    count: int | None = None
    undefined: int = 0
    rank: Rank | None = None
    p_value: float | None = None
    worse: bool | None = None
    published: float | None = None

    @classmethod
    def of(cls, score: Score) -> Cell:
        """Return a cell of a summary or a number; None and NaN give an empty one."""
        if isinstance(score, Cell):
            return score
        if isinstance(score, Summary):
            return cls(
                score.value,
                score.low,
                score.high,
                score.confidence,
                score.count,
                score.undefined,
            )
        return cls() if score is None or math.isnan(score) else cls(float(score))


Key = str | tuple[str, str]
Score = Summary | Cell | float | int | None
Place = tuple[int, int]


@final
@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        label: what it is about.
        cells: one a column.
        reference: whether it is no contender, like Fake-CAM.
    """

    label: str
    cells: tuple[Cell, ...]
    reference: bool = False


@final
@dataclass(frozen=True)
class Table:
    """Rows of numbers under columns.

    Attributes:
        columns: headings, units, directions and groups.
        rows: the lines.
        caption: what the table shows.
        corner: what the rows are, such as "method".
        notes: what else must be known, one sentence each.
        best: what a number in bold is, for the legend.
    """

    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    caption: str = ""
    corner: str = "method"
    notes: tuple[str, ...] = ()
    best: str = "best"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise InputError(
                    f"Row {row.label!r} has {len(row.cells)} cells under {len(self.columns)} "
                    "columns; give one a column, Cell() where there is nothing."
                )

    @classmethod
    def of(
        cls,
        scores: Mapping[str, Mapping[Any, Score]],
        columns: Sequence[Column] = (),
        *,
        references: Collection[str] = (),
        rivals: Literal["rows", "groups"] = "rows",
        caption: str = "",
        corner: str = "method",
        notes: Sequence[str] = (),
    ) -> Table:
        """Make a table and mark the best and second-best numbers.

        The best of a column is bold and the second underlined, by the column's direction. Numbers
        that print alike share their rank, and the next one after a shared best is second.
        References take no part, nor does a contender without rivals.

        Args:
            scores: by row and then by column: its label, or (group, label); a summary, a number, a
                cell, or None. What is missing becomes an empty cell.
            columns: in their order; by default those of `scores`, with the units and directions of
                the first summary found in each.
            references: rows, or with rivals="groups" groups, that are no contenders.
            rivals: whether the "rows" of a column compete, or, with methods side by side as in the
                TMLR paper's Table 2, the columns of one label in different "groups" of a row.
            caption: what the table shows.
            corner: what the rows are.
            notes: what else must be known.

        Raises:
            InputError: a column twice, a score without column, or a reference that is not there.

        Example:
            >>> made = Table.of(
            ...     {"fakecam": {"AD": 0.8}, "gradcam": {"AD": 12.2}, "opticam": {"AD": 1.5}},
            ...     [Column("AD", "%", "lower")],
            ...     references={"fakecam"},
            ... )
            >>> [row.cells[0].rank for row in made.rows]
            [None, 'second', 'best']
        """
        shown = tuple(columns) or _columns(scores)
        _check(scores, shown)
        by_row = rivals == "rows"
        _check_references(references, scores if by_row else {one.group for one in shown})
        lines = [[Cell.of(row.get(column.key)) for column in shown] for row in scores.values()]
        labels = list(scores)

        def contends(place: Place) -> bool:
            name = labels[place[0]] if by_row else shown[place[1]].group
            return name not in references and lines[place[0]][place[1]].value is not None

        for contest in _contests(len(lines), shown, by_row=by_row):
            places = [place for place in contest if contends(place)]
            for (row, column), rank in _ranks(places, lines, shown).items():
                lines[row][column] = replace(lines[row][column], rank=rank)
        rows = tuple(
            Line(label, tuple(cells), by_row and label in references)
            for label, cells in zip(labels, lines, strict=True)
        )
        return cls(shown, rows, caption, corner, tuple(notes))

    @classmethod
    def beside(cls, tables: Mapping[str, Table], *, caption: str = "") -> Table:
        """Put tables side by side, each a group of columns, as the papers do with networks.

        Args:
            tables: by the group's heading, tables without groups. A row that only some of them have
                is empty in the others.
            caption: what the table shows.

        Raises:
            InputError: no table, or one that has groups already.
        """
        if not tables or any(column.group for one in tables.values() for column in one.columns):
            raise InputError(
                f"{len(tables)} tables were given to stand side by side; give at least one, each "
                "without groups of columns."
            )
        parts = tables.values()
        columns = [
            replace(column, group=group) for group, one in tables.items() for column in one.columns
        ]
        known = [{row.label: row for row in one.rows} for one in parts]
        labels = dict.fromkeys(label for rows in known for label in rows)
        lines = []
        for label in labels:
            cells: list[Cell] = []
            for one, rows in zip(parts, known, strict=True):
                cells += rows[label].cells if label in rows else [Cell()] * len(one.columns)
            reference = any(rows[label].reference for rows in known if label in rows)
            lines.append(Line(label, tuple(cells), reference))
        notes: dict[str, None] = {}
        for group, one in tables.items():
            # what all tables say is said once, the rest with the name of its table
            for note in one.notes:
                shared = all(note in other.notes for other in parts)
                notes[note if shared else f"{group}: {note}"] = None
        first = next(iter(parts))
        return cls(tuple(columns), tuple(lines), caption, first.corner, tuple(notes), first.best)

    @property
    def references(self) -> tuple[str, ...]:
        """The rows that are no contenders."""
        return tuple(row.label for row in self.rows if row.reference)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group: its heading and their number; empty without groups."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = column.group, found[-1][1] + 1
            else:
                found.append((column.group, 1))
        return found if any(group for group, _ in found) else []

    @property
    def cells(self) -> list[tuple[Line, Column, Cell]]:
        """Every cell with its row and column, row by row."""
        return [
            (row, column, cell)
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in JSON types, numbers in full."""
        return {
            **asdict(self),
            "columns": [{**asdict(one), "arrow": one.arrow} for one in self.columns],
            "rows": [
                {**asdict(row), "cells": [asdict(one) for one in row.cells]} for row in self.rows
            ],
            "notes": list(self.notes),
        }


def _columns(scores: Mapping[str, Mapping[Any, Score]]) -> tuple[Column, ...]:
    keys = dict.fromkeys(key for row in scores.values() for key in row)
    found = []
    for key in keys:
        group, label = key if isinstance(key, tuple) else ("", key)
        made = (row.get(key) for row in scores.values())
        first = next((one for one in made if isinstance(one, Summary)), None)
        unit, direction = (first.unit, first.direction) if first else ("", "neither")
        found.append(Column(label, unit, direction, group))  # type: ignore[arg-type]
    return tuple(found)


def _check(scores: Mapping[str, Mapping[Any, Score]], columns: Sequence[Column]) -> None:
    keys = [column.key for column in columns]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"Column {twice!r} was given twice; give each once, or use groups.")
    for label, row in scores.items():
        if unknown := [key for key in row if key not in keys]:
            raise InputError(
                f"Row {label!r} has a score for {unknown[0]!r}, and the columns are "
                f"{', '.join(map(repr, keys))}; add the column or leave the score out."
            )


def _check_references(references: Collection[str], known: Collection[str]) -> None:
    if missing := [name for name in references if name not in known]:
        raise InputError(
            f"{missing[0]!r} is to be a reference, and the contenders are "
            f"{', '.join(map(repr, known))}; name one of them."
        )


def _contests(rows: int, columns: Sequence[Column], *, by_row: bool) -> list[list[Place]]:
    """Return which cells compete with each other."""
    if by_row:
        return [[(row, place) for row in range(rows)] for place in range(len(columns))]
    alike: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        alike.setdefault(column.label, []).append(place)
    return [[(row, place) for place in places] for row in range(rows) for places in alike.values()]


def _ranks(
    places: Sequence[Place], lines: Sequence[Sequence[Cell]], columns: Sequence[Column]
) -> dict[Place, Rank]:
    """Return the best and second best of cells that have values."""
    if len(places) < 2 or columns[places[0][1]].direction == "neither":  # noqa: PLR2004
        return {}
    column = columns[places[0][1]]
    printed = {
        place: float(column.text(lines[place[0]][place[1]].value or 0.0)) for place in places
    }
    order = sorted(set(printed.values()), reverse=column.direction == "higher")
    names: dict[float, Rank] = dict(zip(order, ("best", "second"), strict=False))
    return {place: names[value] for place, value in printed.items() if value in names}

"""A results table: a pandas DataFrame with a line for each cell, and what its columns are.

Numbers are kept in full; only formats round them. Two numbers that print alike share a rank: of two
12.2 a reader expects both in bold or none, and methods that are the same in theory (Grad-CAM and
HiRes-CAM before global pooling) differ in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, groupby
from typing import Any, Literal, final

import pandas as pd

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import Direction

ARROWS: Mapping[str, str] = {"higher": "↑", "lower": "↓", "neither": ""}
ALPHA = 0.05
"""The level of every significance mark."""

PLACE = ("row", "group", "column")
"""The columns of `Table.frame` that say where a cell is."""

CELL: Mapping[str, Any] = {
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "confidence": "float64",
    "count": "Int64",
    "undefined": "Int64",
    "rank": object,
    "p_value": "float64",
    "worse": "boolean",
    "published": "float64",
}
"""The columns of `Table.frame` that say what a cell holds, and their types."""

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
    def arrow(self) -> str:
        """↑ if higher is better, ↓ if lower."""
        return ARROWS[self.direction]

    @property
    def heading(self) -> str:
        """Label, arrow and unit: "AD ↓ (%)"."""
        unit = f"({self.unit})" if self.unit else ""
        return " ".join(part for part in (self.label, self.arrow, unit) if part)

    def format_number(self, value: float, like: float | None = None) -> str:
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
@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers under columns.

    Attributes:
        frame: a line for each cell, row by row: `row`, `reference` (whether the row is no
            contender, like Fake-CAM), `group`, `column`, `unit` and `direction`; `value` (NaN if
            there is none), its interval from `low` to `high` and the interval's `confidence`; the
            `count` of images behind it, and of the images left out because the metric is
            `undefined` on them; its `rank`, "best" or "second"; the corrected `p_value` of the
            comparison with the best, and whether it is significantly `worse` than the best (missing
            if it is the best, no contender, or was not tested); the `published` number of a paper.
        columns: the table's columns, from left to right.
        caption: what the table shows.
        corner: what the rows are, such as "method".
        notes: what else must be known, one sentence each.
        best: what a number in bold is, for the legend.
    """

    frame: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str = ""
    corner: str = "method"
    notes: tuple[str, ...] = ()
    best: str = "best"

    @classmethod
    def of(
        cls,
        cells: Iterable[Mapping[str, Any]],
        *,
        references: Collection[str] = (),
        rivals: Literal["row", "group"] = "row",
        order: Sequence[str] = (),
        **about: Any,
    ) -> Table:
        """Make a table and mark the best and second-best numbers.

        The best of a column is bold and the second underlined, by the column's direction. Numbers
        that print alike share their rank, and the next one after a shared best is second.
        References take no part, nor does a contender without rivals.

        Rows and columns stand in the order of their first cells, columns of a group together. A
        column's unit, direction and decimals are those of its first cell.

        Args:
            cells: `row`, `column`, and perhaps `group`, `decimals` and the columns of `frame`. A
                cell that is missing is empty.
            references: rows, or with rivals="group" groups, that are no contenders.
            rivals: whether each "row" of a column competes, or, with methods side by side as in the
                TMLR paper's Table 2, each "group" of a row.
            order: rows that come first, in their order.
            about: caption, corner, notes and best.

        Raises:
            InputError: a cell twice, an unknown fact, or an unknown reference.

        Example:
            >>> facts = {"column": "AD", "unit": "%", "direction": "lower"}
            >>> values = {"fakecam": 0.8, "gradcam": 12.2, "opticam": 1.5}
            >>> cells = [{"row": row, "value": value, **facts} for row, value in values.items()]
            >>> Table.of(cells, references={"fakecam"}).pivot("rank")["", "AD"].tolist()
            [None, 'second', 'best']
        """
        places = _index_cells(cells)
        columns = _find_columns(places)
        labels = dict.fromkeys(row for row, _, _ in places)
        rows = [
            *(row for row in order if row in labels),
            *(row for row in labels if row not in order),
        ]
        contenders = labels if rivals == "row" else {group: None for _, group, _ in places}
        if unknown := [name for name in references if name not in contenders]:
            raise InputError(
                f"{unknown[0]!r} is to be a reference, and the contenders are "
                f"{', '.join(map(repr, contenders))}; name one of them."
            )
        grid = [(row, column.group, column.label) for row in rows for column in columns]
        lines = [
            {**places.get(place, {}), **dict(zip(PLACE, place, strict=True))} for place in grid
        ]
        frame = pd.DataFrame(lines, columns=[*PLACE, *CELL], dtype=object)
        frame = frame.astype(CELL).fillna({"undefined": 0})
        frame["unit"] = [column.unit for column in columns] * len(rows)
        frame["direction"] = [column.direction for column in columns] * len(rows)
        frame["reference"] = frame["row"].isin(references) & (rivals == "row")
        printed = [
            column.format_number(value)
            for column, value in zip(list(columns) * len(rows), frame["value"], strict=True)
        ]
        numbers = frame.assign(number=pd.Series(printed, dtype=float))
        ranks = _rank(numbers[~frame[rivals].isin(references)], rivals)
        known = [ranks.get(place, given) for place, given in frame["rank"].items()]
        frame["rank"] = pd.Series(
            [rank if rank in _RANKS else None for rank in known], dtype=object
        )
        return cls(frame[_ORDER], columns, **{**about, "notes": tuple(about.get("notes", ()))})

    @classmethod
    def beside(
        cls, tables: Mapping[str, Table], *, order: Sequence[str] = (), caption: str = ""
    ) -> Table:
        """Put tables side by side, each a group of columns, as the papers do with networks.

        Args:
            tables: by the group's heading, tables without groups. A row that only some of them have
                is empty in the others.
            order: rows that come first, in their order.
            caption: what the table shows.

        Raises:
            InputError: no table, or one that has groups already.
        """
        if not tables or any(table.groups for table in tables.values()):
            raise InputError(
                f"{len(tables)} tables were given to stand side by side; give at least one, each "
                "without groups of columns."
            )
        notes: dict[str, None] = {}
        cells: list[dict[str, Any]] = []
        references: set[str] = set()
        for group, table in tables.items():
            references |= set(table.references)
            for cell, column in zip(table.cells, cycle(table.columns), strict=False):
                del cell["reference"]
                cells.append({**cell, "group": group, "decimals": column.decimals})
            # what all tables say is said once, the rest with the name of its table
            for note in table.notes:
                shared = all(note in other.notes for other in tables.values())
                notes[note if shared else f"{group}: {note}"] = None
        return cls.of(
            cells,
            references=references,
            order=order,
            caption=caption,
            corner=table.corner,
            notes=notes,
            best=table.best,
        )

    @property
    def rows(self) -> list[str]:
        """The rows' labels, from top to bottom."""
        return list(dict.fromkeys(self.frame["row"]))

    @property
    def references(self) -> list[str]:
        """The rows that are no contenders."""
        return list(dict.fromkeys(self.frame.loc[self.frame["reference"], "row"]))

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group: its heading and their number; empty without groups."""
        groups = groupby(column.group for column in self.columns)
        found = [(group, len(list(members))) for group, members in groups]
        return found if any(group for group, _ in found) else []

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The lines of `frame` as dictionaries; None stands for what is missing."""
        frame = self.frame.astype(object).where(self.frame.notna(), None)
        cells: list[dict[str, Any]] = frame.to_dict("records")
        return cells

    def pivot(self, fact: str = "value") -> pd.DataFrame:
        """Return one fact of every cell in the table's shape: rows by (group, column)."""
        facts = self.frame[fact]
        places = [(column.group, column.label) for column in self.columns]
        columns = pd.MultiIndex.from_tuples(places, names=["group", "column"])
        rows = pd.Index(self.rows, dtype=object, name=self.corner)
        values = facts.to_numpy().reshape(len(rows), len(columns))
        return pd.DataFrame(values, rows, columns, dtype=facts.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in JSON types, numbers in full."""
        rows: dict[str, dict[str, Any]] = {}
        for cell in self.cells:
            row = {"label": cell["row"], "cells": [], "reference": cell["reference"]}
            facts = {name: cell[name] for name in CELL}
            rows.setdefault(cell["row"], row)["cells"].append(facts)
        return {
            "columns": [{**asdict(column), "arrow": column.arrow} for column in self.columns],
            "rows": list(rows.values()),
            "caption": self.caption,
            "corner": self.corner,
            "notes": list(self.notes),
            "best": self.best,
        }


_ORDER = ["row", "reference", "group", "column", "unit", "direction", *CELL]


_Places = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""Cells by row, group and column."""


def _index_cells(cells: Iterable[Mapping[str, Any]]) -> _Places:
    known = [*PLACE, "unit", "direction", "decimals", *CELL]
    places: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for cell in cells:
        if unknown := [name for name in cell if name not in known]:
            raise InputError(f"A cell has no {unknown[0]!r}; it has {', '.join(known)}.")
        place = (cell["row"], cell.get("group", ""), cell["column"])
        if place in places:
            name = ", ".join(filter(None, place))
            raise InputError(f"The cell {name!r} was given twice; give each once.")
        places[place] = cell
    if not places:
        raise InputError("A table needs at least one cell, and none was given.")
    return places


def _find_columns(places: _Places) -> tuple[Column, ...]:
    """Return the columns that cells are in, groups together."""
    columns: dict[tuple[str, str], Column] = {}
    for (_, group, label), cell in places.items():
        facts = [
            cell.get("unit", ""),
            cell.get("direction", "neither"),
            group,
            cell.get("decimals"),
        ]
        columns.setdefault((group, label), Column(label, *facts))
    groups = list(dict.fromkeys(group for group, _ in columns))
    return tuple(sorted(columns.values(), key=lambda column: groups.index(column.group)))


_RANKS = ("best", "second")


def _rank(frame: pd.DataFrame, rivals: str) -> dict[Any, str]:
    """Return the best and the second best of the contenders' numbers, by their line."""
    frame = frame[frame["number"].notna() & (frame["direction"] != "neither")]
    scores = frame["number"].where(frame["direction"] == "lower", -frame["number"])
    contests = ["group", "column"] if rivals == "row" else ["row", "column"]
    contest = scores.groupby([frame[key] for key in contests])
    places = contest.rank("dense").where(contest.transform("size") > 1)
    return {line: _RANKS[int(place) - 1] for line, place in places.items() if place <= len(_RANKS)}

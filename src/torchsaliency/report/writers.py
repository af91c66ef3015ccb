"""Tables as Markdown, LaTeX with booktabs, HTML that loads nothing, CSV and JSON.

CSV and JSON have all numbers in full; the others round them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import accumulate
from typing import final

import jinja2
import pandas as pd

from torchsaliency.core.files import json_text
from torchsaliency.data.tables import defuse
from torchsaliency.report.formats import (
    Format,
    MarkupFormat,
    read_cells,
    register_format,
    write_legend,
)
from torchsaliency.report.tables import Table


@final
@register_format("markdown")
@dataclass(frozen=True)
class Markdown(MarkupFormat):
    """GitHub's Markdown: **best** and <u>second</u>, groups in the headings."""

    suffix = "md"
    best, second, reference = "**{}**", "<u>{}</u>", "*{}*"

    def escape(self, text: str) -> str:
        """Return text without any sign of Markdown's or HTML's."""
        plain = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))
        return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    def render(self, table: Table) -> str:
        """Return caption, table and legend."""
        headings = [f"{column.group} {column.heading}".strip() for column in table.columns]
        lines = [
            [self.escape(heading) for heading in (table.corner, *headings)],
            [":--", *["--:"] * len(headings)],
            *(
                [label, *row]
                for label, row in zip(self.labels(table), self.cells(table), strict=True)
            ),
        ]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        caption = [f"**{self.escape(table.caption)}**"] if table.caption else []
        legend = map(self.escape, write_legend(table, intervals=self.intervals))
        return "\n\n".join([*caption, body, *legend]) + "\n"


@final
@register_format("latex")
@dataclass(frozen=True)
class LaTeX(MarkupFormat):
    r"""A `table` environment for \usepackage{booktabs}; \textbf best, \underline second."""

    suffix = "tex"
    best, second, reference = r"\textbf{{{}}}", r"\underline{{{}}}", r"\textit{{{}}}"
    interval = r" {{\scriptsize {}}}"

    def escape(self, text: str) -> str:
        """Return text without any sign of TeX's."""
        return " ".join(text.split()).translate(_ESCAPES)

    def escape_number(self, text: str) -> str:
        """Return numbers whose hyphens are minus signs."""
        return self.escape(text.replace("-", "−"))

    def render(self, table: Table) -> str:
        """Return the environment, with a rule below each group of columns, and the legend."""
        headings = [self.escape(column.heading) for column in table.columns]
        rows = [
            [label, *row] for label, row in zip(self.labels(table), self.cells(table), strict=True)
        ]
        caption = [rf"\caption{{{self.escape(table.caption)}}}"] if table.caption else []
        widths = [width for _, width in table.groups] or [len(headings)]
        legend = map(self.escape, write_legend(table, intervals=self.intervals))
        lines = [
            r"% needs \usepackage{booktabs}",
            *(r"\begin{table}", r"\centering", *caption),
            rf"\begin{{tabular}}{{l{' '.join('r' * width for width in widths)}}}",
            *(r"\toprule", *self._group_lines(table)),
            *(self._line([self.escape(table.corner), *headings]), r"\midrule"),
            *map(self._line, rows),
            *(r"\bottomrule", r"\end{tabular}"),
            *(rf"\par{{\footnotesize {note}}}" for note in legend),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _group_lines(self, table: Table) -> list[str]:
        cells, rules, start = [""], "", 2
        for group, width in table.groups:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{self.escape(group)}}}")
            rules += rf"\cmidrule(lr){{{start}-{start + width - 1}}}" if group else ""
            start += width
        return [self._line(cells), rules] if table.groups else []

    def _line(self, cells: Sequence[str]) -> str:
        line = " & ".join(cells) + r" \\"
        # after the \\ of the line above, a bracket or a star would be its argument
        return "{}" + line if line.startswith(("[", "*")) else line


_TEXT = r"\ backslash ^ asciicircum ~ asciitilde < less > greater | bar " + '" quotedbl'
_MATHS = (
    "† ^\\dagger ↑ \\uparrow ↓ \\downarrow × \\times ≥ \\geq ≤ \\leq ∩ \\cap ∪ \\cup ∖ \\setminus "
    "² ^2 − - α \\alpha λ \\lambda σ \\sigma τ \\tau δ \\delta"
)


def _pair(text: str) -> Iterator[tuple[str, str]]:
    words = iter(text.split())
    return zip(words, words, strict=True)


_ESCAPES = str.maketrans(
    {sign: rf"\text{name}{{}}" for sign, name in _pair(_TEXT)}
    | {sign: f"${name}$" for sign, name in _pair(_MATHS)}
    | {sign: rf"\{sign}" for sign in "{}$&#%_"}
    | {"\N{EN DASH}": "--"}
)


@final
@register_format("csv")
@dataclass(frozen=True)
class CSV(Format):
    """`Table.frame`, a line a cell, with every digit that reading it back needs."""

    suffix = "csv"

    def render(self, table: Table) -> str:
        """Return the lines."""
        frame = table.frame.rename(columns={"row": table.corner})
        return write_csv(
            frame if self.intervals else frame.drop(columns=["low", "high", "confidence"])
        )


def write_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV of which a spreadsheet takes no text for a formula."""
    harmless = {
        name: pd.Series(
            [defuse(cell) if isinstance(cell, str) else cell for cell in texts],
            frame.index,
            dtype=object,  # pandas' strings cannot be names of files that are not Unicode
        )
        for name, texts in frame.select_dtypes(exclude=["number", "bool"]).items()
    }
    text: str = frame.assign(**harmless).to_csv(index=False, lineterminator="\n")
    return text


@final
@register_format("html")
@dataclass(frozen=True)
class HTML(Format):
    """A page that loads nothing: light or dark as the reader's system, scrolls if wide.

    Headings have a scope, arrows and marks have words for screen readers.
    """

    suffix = "html"

    def render(self, table: Table) -> str:
        """Return the page."""
        groups = table.groups  # a line on the left of each
        starts = accumulate((width for _, width in groups[:-1]), initial=0) if groups else ()
        return _load_template("table.html.jinja").render(
            table=table,
            rows=zip(table.rows, read_cells(table, intervals=self.intervals), strict=True),
            starts=list(starts),
            notes=write_legend(table, intervals=self.intervals),
        )


@cache
def _load_template(name: str) -> jinja2.Template:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(text)


@final
@register_format("json")
@dataclass(frozen=True)
class JSON(Format):
    """`Table.to_dict` as JSON; intervals are always in it."""

    suffix = "json"

    def render(self, table: Table) -> str:
        """Return the object."""
        return json_text(table.to_dict())

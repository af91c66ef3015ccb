"""Tables for papers and for browsers: LaTeX with booktabs, and HTML that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2

from torchsaliency.report.legend import BOLD, Parts, legend, parts
from torchsaliency.report.tables import Column, Table

_LATEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\N{EN DASH}": "--",
    "−": "$-$",
    "†": r"$^\dagger$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "∩": r"$\cap$",
    "∪": r"$\cup$",
    "∖": r"$\setminus$",
    "²": r"$^2$",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "δ": r"$\delta$",
}
_ESCAPES = str.maketrans(_LATEX)


def latex(table: Table, *, intervals: bool = True) -> str:
    r"""Return a `table` environment for \usepackage{booktabs}; \textbf best, \underline second."""
    headings = [_latex(table.corner), *(_latex(one.heading) for one in table.columns)]
    body = [_latex_line(headings), r"\midrule"]
    for row in table.rows:
        label = _latex(row.label)
        cells = [
            _latex_cell(parts(cell, column, intervals=intervals))
            for column, cell in zip(table.columns, row.cells, strict=True)
        ]
        body.append(_latex_line([rf"\textit{{{label}}}" if row.reference else label, *cells]))
    notes = legend(table, BOLD, intervals=intervals)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{_latex(table.caption)}}}"] if table.caption else []),
        rf"\begin{{tabular}}{{l{_alignment(table)}}}",
        r"\toprule",
        *_latex_groups(table),
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par{{\footnotesize {_latex(note)}}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _alignment(table: Table) -> str:
    widths = [count for _, count in table.groups] or [len(table.columns)]
    return " ".join("r" * width for width in widths)


def _latex_groups(table: Table) -> list[str]:
    if not table.groups:
        return []
    cells, rules, start = [""], [], 2
    for group, count in table.groups:
        cells.append(rf"\multicolumn{{{count}}}{{c}}{{{_latex(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    return [_latex_line(cells), "".join(rules)]


def _latex_line(cells: Sequence[str]) -> str:
    line = " & ".join(cells) + r" \\"
    # after the \\ of the line above, a bracket or a star would be its argument
    return "{}" + line if line.startswith(("[", "*")) else line


def _latex_cell(own: Parts) -> str:
    value = _latex_number(own.value)
    marked = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}", None: value}
    said = marked[own.rank] + _latex(own.mark)
    if own.interval:
        said += rf" {{\scriptsize {_latex_number(own.interval)}}}"
    return f"{said} {_latex_number(own.published)}" if own.published else said


def _latex_number(text: str) -> str:
    """A hyphen is no minus sign."""
    return _latex(text.replace("-", "−"))


def _latex(text: str) -> str:
    return " ".join(text.split()).translate(_ESCAPES)


def html(table: Table, *, intervals: bool = True) -> str:
    """Return a page that loads nothing: light or dark as the reader's system, scrolls if wide.

    Headings have a scope, arrows and marks have words for screen readers.
    """
    notes = legend(table, BOLD, intervals=intervals)
    # a cell begins a group if its column does; a line on its left says so
    starts = {0, *_starts(table)} if table.groups else set()
    rows = [
        {
            "label": row.label,
            "reference": row.reference,
            "cells": [
                (parts(cell, column, intervals=intervals), place in starts)
                for place, (column, cell) in enumerate(zip(table.columns, row.cells, strict=True))
            ],
        }
        for row in table.rows
    ]
    return _PAGE.render(
        table=table,
        heads=[_head(column, starts=place in starts) for place, column in enumerate(table.columns)],
        rows=rows,
        notes=notes,
        title=table.caption or "Results",
    )


def _starts(table: Table) -> list[int]:
    places, start = [], 0
    for _, count in table.groups:
        places.append(start)
        start += count
    return places


def _head(column: Column, *, starts: bool) -> dict[str, Any]:
    words = {"higher": "higher is better", "lower": "lower is better", "neither": ""}
    return {"column": column, "words": words[column.direction], "starts": starts}


_PAGE = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
).from_string(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
:root { --ink: #1a1a1a; --soft: #5c5c5c; --paper: #ffffff; --rule: #c9c9c9; --band: #f4f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #a6a6a6; --paper: #16181c; --rule: #41454d; --band: #1f2228; }
}
body { margin: 2rem; color: var(--ink); background: var(--paper);
  font: 16px/1.45 system-ui, sans-serif; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .6rem; }
th, td { padding: .35rem .8rem; white-space: nowrap; }
thead th { font-weight: 600; text-align: right; vertical-align: bottom; }
thead th[scope=colgroup] { text-align: center; }
th.label { text-align: left; vertical-align: top; font-weight: 400; position: sticky; left: 0;
  background: var(--paper); }
thead th.label { font-weight: 600; }
td { text-align: right; vertical-align: top; }
thead tr:first-child > * { border-top: 2px solid var(--ink); }
thead tr:last-child > * { border-bottom: 1px solid var(--ink); }
tbody tr:last-child > * { border-bottom: 2px solid var(--ink); }
tbody tr:nth-child(even) > * { background: var(--band); }
.starts { border-left: 1px solid var(--rule); }
.reference > * { color: var(--soft); font-style: italic; }
u { text-underline-offset: .2em; }
small { display: block; color: var(--soft); font-size: .78em; }
.unit { color: var(--soft); font-weight: 400; }
.notes { color: var(--soft); font-size: .88em; max-width: 48rem; padding-left: 0;
  list-style: none; }
.spoken { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
</style>
</head>
<body>
<div class="scroll" role="region" aria-label="{{ title }}" tabindex="0">
<table>
{% if table.caption %}
<caption>{{ table.caption }}</caption>
{% endif %}
<thead>
{% if table.groups %}
<tr>
<td class="label"></td>
{% for group, count in table.groups %}
<th scope="colgroup" colspan="{{ count }}" class="starts">{{ group }}</th>
{% endfor %}
</tr>
{% endif %}
<tr>
<th scope="col" class="label">{{ table.corner }}</th>
{% for head in heads %}
<th scope="col"{% if head.starts %} class="starts"{% endif %}>{{ head.column.label }}\
{% if head.words %} <span aria-hidden="true">{{ head.column.arrow }}</span>\
<span class="spoken">, {{ head.words }}</span>{% endif %}\
{% if head.column.unit %} <span class="unit">{{ head.column.unit }}</span>{% endif %}</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for row in rows %}
<tr{% if row.reference %} class="reference"{% endif %}>
<th scope="row" class="label">{{ row.label }}</th>
{% for cell, starts in row.cells %}
<td{% if starts %} class="starts"{% endif %}>\
{% if cell.rank == "best" %}<strong>{{ cell.value }}</strong>\
<span class="spoken"> {{ table.best }}</span>\
{% elif cell.rank == "second" %}<u>{{ cell.value }}</u><span class="spoken"> second</span>\
{% else %}{{ cell.value }}{% endif %}\
{{ cell.mark }}\
{% if cell.interval %}<small>{{ cell.interval }}</small>{% endif %}\
{% if cell.published %}<small>{{ cell.published }}</small>{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if notes %}
<ul class="notes">
{% for note in notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
{% endif %}
</body>
</html>
"""
)

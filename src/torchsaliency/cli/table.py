"""`torchsaliency table` and `compare`: on a terminal in colour, in a pipe as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchsaliency.cli.console import print_raw, stdout
from torchsaliency.cli.options import CONFIDENCE, FORMAT
from torchsaliency.options import Options, option

if TYPE_CHECKING:
    from torchsaliency.report import Table

RUN = option(
    ...,
    "",
    "What `torchsaliency evaluate --output` wrote: a folder, or an address such as "
    "s3://bucket/run.",
    metavar="RUN",
    min_length=1,
)


class TableOptions(Options):
    """Which results are shown, and how."""

    run: str = RUN
    form: str = FORMAT
    confidence: float = CONFIDENCE


def table(options: TableOptions) -> None:
    """Show what an evaluation found: best bold, second best underlined, with intervals."""
    from torchsaliency.evaluation import load_results
    from torchsaliency.report import table as table_of

    check_format(options.form)
    results = load_results(options.run)
    print_table(table_of(results, confidence=options.confidence), options.form)


class CompareOptions(Options):
    """Which methods are compared."""

    run: str = RUN
    first: str = option(..., "", "A method of the evaluation.", metavar="A")
    second: str = option(..., "", "Another.", metavar="B")
    form: str = FORMAT


def compare(options: CompareOptions) -> None:
    """Compare two methods of an evaluation, image by image."""
    from torchsaliency.evaluation import load_results
    from torchsaliency.report import comparison

    check_format(options.form)
    results = load_results(options.run)
    print_table(comparison(results, options.first, options.second), options.form)


def check_format(form: str) -> None:
    """Refuse a format that does not exist."""
    from torchsaliency.report import FORMATS

    FORMATS.get(form)


def print_table(table: Table, form: str) -> None:
    """Print a table on stdout."""
    from torchsaliency.report import render
    from torchsaliency.report.terminal import Terminal

    if form == "text" and stdout.is_terminal:
        stdout.print(Terminal(table))
    else:
        print_raw(render(table, form))

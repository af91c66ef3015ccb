"""`torchsaliency table` and `compare`: on a terminal in colour, in a pipe as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchsaliency.cli.console import print_raw, say, stdout
from torchsaliency.cli.options import CONFIDENCE, FORMAT
from torchsaliency.errors import OptionError
from torchsaliency.options import EXPLAINED, SCORED, Options, option

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
    """What is compared."""

    what: tuple[str, ...] = option(
        ...,
        "",
        "A run and two of its methods; or two runs, of two networks, judges or versions, whose "
        "methods are compared with themselves.",
        metavar="RUN A B|RUN RUN",
    )
    method: tuple[str, ...] = option(
        (),
        EXPLAINED,
        "Of two runs: methods that are compared; all that both have by default. Repeatable.",
        metavar="NAME",
        values="methods",
    )
    allow: tuple[str, ...] = option(
        (),
        SCORED,
        "Of two runs: what may differ though it decides what a number means, one of data, masking, "
        "target, normalise and study. Repeatable.",
        metavar="NAME",
    )
    form: str = FORMAT
    confidence: float = CONFIDENCE


def compare(options: CompareOptions) -> None:
    """Compare two methods of an evaluation, or two evaluations, image by image."""
    from torchsaliency.evaluation import compare_runs, load_results
    from torchsaliency.report import comparison, tabulate_runs

    check_format(options.form)
    if len(options.what) not in _COMPARED:
        raise OptionError(
            f"{len(options.what)} names were given; give two runs, or a run and two of its methods."
        )
    if len(options.what) == _COMPARED[0]:
        found = compare_runs(
            *options.what,
            methods=options.method,
            allow=options.allow,
            confidence=options.confidence,
        )
        if options.form == "csv":  # which has no notes
            for sentence in found.describe():
                say(sentence)
        return print_table(tabulate_runs(found), options.form)
    if options.method or options.allow:
        name = "--method" if options.method else "--allow"
        raise OptionError(f"{name} was given with one run; it is for two: leave it out.")
    run, first, second = options.what
    made = comparison(load_results(run), first, second, confidence=options.confidence)
    return print_table(made, options.form)


_COMPARED = (2, 3)
"""Names that are given: two runs, or a run and two methods."""


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

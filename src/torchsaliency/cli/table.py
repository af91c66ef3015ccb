"""`torchsaliency table` and `compare`: on a terminal in colour, in a pipe as plain text."""

from __future__ import annotations

from torchsaliency.cli.console import give, stdout
from torchsaliency.errors import OptionError
from torchsaliency.evaluation import Results
from torchsaliency.report import FORMATS, Table, comparison, render, table
from torchsaliency.report.terminal import Terminal


def show(results: Results, form: str, *, confidence: float = 0.95) -> None:
    """Write the table of all methods by all metrics."""
    checked(form)
    write(table(results, confidence=confidence), form)


def show_comparison(results: Results, first: str, second: str, form: str) -> None:
    """Write two methods side by side."""
    checked(form)
    write(comparison(results, first, second), form)


def checked(form: str) -> None:
    """Refuse a format that does not exist.

    Raises:
        OptionError: it does not.
    """
    if form not in FORMATS:
        raise OptionError(f"--format {form} was given; choose among {', '.join(FORMATS)}.")


def write(made: Table, form: str) -> None:
    """Write a table to stdout."""
    if form == "text" and stdout.is_terminal:
        stdout.print(Terminal(made))
    else:
        give(render(made, form))

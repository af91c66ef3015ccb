"""Counts what was tried and what held, for docs/reliability.md (`scripts/reliability_page.py`)."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

FULL = bool(os.environ.get("FULL"))
"""Whether all trials run, as for the page, or the few that every run has."""


@pytest.fixture
def trials() -> Callable[[int, int], int]:
    """Return how many trials to make: the first number, or with FULL=1 the second."""
    return lambda few, many: many if FULL else few


@pytest.fixture
def tally() -> Callable[..., None]:
    """Note a line of the page, if TALLY names a file: all processes append to it."""

    def note(kind: str, what: str, tried: int, held: int, happens: str) -> None:
        assert tried > 0
        path = os.environ.get("TALLY")
        if path:
            row = {"kind": kind, "what": what, "tried": tried, "held": held, "happens": happens}
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    return note

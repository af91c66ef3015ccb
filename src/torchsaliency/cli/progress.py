"""What a long command shows while one waits: a bar on a terminal, plain lines in a file of logs.

Where stderr is no terminal, a line follows whenever another tenth is done, 30 seconds after the
one before at the earliest and 5 minutes at the latest; a command that ends before says nothing. The
lines come from a thread, so that a batch of an hour is not silent, either.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from torchsaliency.cli.console import say, stderr

_SOONEST, _LATEST, _SHARE = 30.0, 300.0, 0.1
"""Seconds between two lines, and how much more must be done for one that is not the latest."""


@contextmanager
def show_progress(
    what: str, unit: str, total: float | int | None = None, *, where: str = ""
) -> Iterator[Meter]:
    """Show what a command does, how far it is, how fast, and the time left.

    Args:
        what: such as "explaining"; `Meter.update` may change it.
        unit: what is counted, such as "photos".
        total: how many there are; None while that is not known.
        where: a sentence on where to look at what is done already.
    """
    meter = Meter(what, unit, total, where)
    with end_when_asked(), meter.show():
        yield meter


@contextmanager
def end_when_asked() -> Iterator[None]:
    """Let a process that is asked to end (SIGTERM) end as by Ctrl-C: what is done is kept.

    Clusters and containers ask so. Only the main thread may; in others nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # it is somebody's
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@final
class Meter:
    """How far a command is."""

    def __init__(self, what: str, unit: str, total: float | int | None, where: str = "") -> None:
        self.what, self.unit, self.total, self.where = what, unit, total, where
        self.done: float | int = 0
        self._bar: Progress | None = None
        self._begun = self._stage = time.monotonic()  # of the command, and of what it does now
        self._ended = threading.Event()

    def update(
        self,
        *,
        done: float | int,
        total: float | int | None = None,
        what: str | None = None,
        unit: str | None = None,
    ) -> None:
        """Say how far it is; less than before, or something else, begins another stage."""
        if done < self.done or (what is not None and what != self.what):
            self._stage = time.monotonic()
        self.done, self.total, self.what = done, total or self.total, what or self.what
        self.unit = unit or self.unit
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                completed=done,
                total=self.total,
                description=self.what,
                unit=self.unit,
            )

    def advance(self, step: float | int = 1) -> None:
        """Say that more is done."""
        self.update(done=self.done + step)

    @contextmanager
    def show(self) -> Iterator[None]:
        """Show a bar on a terminal, and lines elsewhere."""
        if stderr.is_terminal:
            if self.where:
                say(self.where)
            with _make_bar() as self._bar:
                self._bar.add_task(self.what, total=self.total, unit=self.unit)
                yield
            return
        reporter = threading.Thread(target=self._report, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            self._ended.set()
            reporter.join()

    def _report(self) -> None:
        last, said, first = time.monotonic(), 0.0, True
        while not self._ended.wait(_SOONEST):
            more = abs(self.done - said) >= _SHARE * (self.total or 0)
            if first or more or time.monotonic() - last >= _LATEST:
                say(f"{self.describe()} {self.where if first else ''}")
                last, said, first = time.monotonic(), self.done, False

    def describe(self) -> str:
        """Return how far it is in a sentence."""
        now = time.monotonic()
        if not self.total:
            return f"{self.what}, for {_minutes(now - self._begun)} so far."
        words = f"{self.what}: {int(self.done)} of {self.total:.0f} {self.unit}"
        words += f" ({self.done / self.total:.0%})"
        if not self.done:
            return f"{words}, for {_minutes(now - self._begun)} so far."
        speed = self.done / max(1e-9, now - self._stage)
        left = _minutes((self.total - self.done) / speed)
        return f"{words}, {_rate(speed)}, {left} left."


def _make_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]},"),
        _Speed(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=stderr,
        transient=True,
    )


@final
class _Speed(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """Return the speed of the last while."""
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{_rate(speed)},")


def _rate(speed: float) -> str:
    """Return a speed in words: below one a second, how long one takes."""
    return f"{speed:.1f} a second" if speed >= 1 else f"{1 / speed:.1f} s each"


def _minutes(seconds: float) -> str:
    """Return a time in words, such as "1 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"  # noqa: PLR2004

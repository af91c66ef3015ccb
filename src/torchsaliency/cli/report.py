"""What happens during a run: a progress bar with the time left, and what had to be left out."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from torchsaliency.cli.console import say, stderr


@final
class Report:
    """Tells the user how far a run is, and remembers what it could not do.

    Attributes:
        photos: why a photograph was left out.
        unexplained: of these, why one was that could be read.
        methods: why a method was left out.
    """

    def __init__(self, photos: int, steps_per_photo: int) -> None:
        self.photos: dict[Path, str] = {}
        self.unexplained: dict[Path, str] = {}
        self.methods: dict[str, str] = {}
        self._share = 1 / steps_per_photo
        self._progress = Progress(
            TextColumn("explaining"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("photos,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=stderr,
            disable=not stderr.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=photos)

    def __enter__(self) -> Report:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def advance(self, steps: float | int) -> None:
        """Note that so many maps, or scores of maps, are done."""
        self._progress.advance(self._task, steps * self._share)

    def leave_out_photo(self, path: Path, reason: str) -> None:
        """Note that a photograph cannot be explained."""
        self.photos[path] = reason
        self._progress.advance(self._task, 1)
        say(f"Skipped: {reason}")

    def leave_out_method(self, name: str, reason: str) -> None:
        """Note that a method does not fit, once."""
        if name not in self.methods:
            self.methods[name] = reason
            say(f"Left out {name}: {reason}.")

"""`--watch`: the report of an evaluation, written again while it grows.

The report is written whole or not at all, so that an end at any moment leaves a valid one or none.
What is wrong with it never ends the evaluation, whose rows are worth more.
"""

from __future__ import annotations

import os
import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, final

from torchsaliency.cli.console import say
from torchsaliency.core.files import OutputFolder
from torchsaliency.errors import OptionError

if TYPE_CHECKING:
    from torchsaliency.evaluation import ExplainedImage, Plan, Progress, Results

REPORT = "report.html"
"""The name of the report in the folder of the evaluation."""

_AGAIN, _LEAST = 20, 20.0
"""After how many seconds a browser looks again, and between two reports at least."""

_SHARE = 0.05
"""Of the time that reports may take."""


@final
class GrowingReport:
    """A callback of `evaluate` that writes the report now and then, and opens it once.

    Args:
        browse: whether a browser is asked to open it, where there is a screen.
    """

    samples = 0

    def __init__(self, *, browse: bool = True) -> None:
        self._browse, self._next = browse and _has_screen(), 0.0
        self._folder = Path()
        self._failed = False

    def begin(self, plan: Plan, folder: Path | str) -> None:  # noqa: ARG002
        """Take the folder.

        Raises:
            OptionError: the rows go to an address, where no page is written.
        """
        if isinstance(folder, str):
            raise OptionError(
                f"watch: the rows go to {folder}, and a page is written beside them only in a "
                "folder; write one with `torchsaliency report`."
            )
        self._folder = folder

    def advance(self, progress: Progress) -> None:
        """Write the report of what is done, if it is time."""
        if not progress.done + progress.before or time.monotonic() < self._next:
            return
        begun = time.monotonic()
        if not self._write(again=_AGAIN, images=0):
            return
        taken = time.monotonic() - begun
        self._next = time.monotonic() + max(_LEAST, taken / _SHARE)

    def show(self, explained: ExplainedImage) -> None:
        """Take no image: reports have their own."""

    def finish(self, results: Results | None) -> None:
        """Write the whole report, with images and their maps; of a stopped run what is done."""
        from torchsaliency.pages.evaluations import IMAGES

        self._write(again=0, images=0 if results is None else IMAGES)

    def _write(self, *, again: int, images: int) -> bool:
        """Write the report; say whether it is there."""
        from torchsaliency.evaluation import Store
        from torchsaliency.pages.evaluations import evaluation_report

        try:
            if not Store(self._folder).done():
                return False
            html = evaluation_report(self._folder, images=images, again=again)
            folder = OutputFolder(self._folder)
            with folder.lock():
                folder.write(REPORT, html.encode(errors="replace"))
        except Exception as error:  # the evaluation goes on
            from torchsaliency.core.isolation import describe_failure

            if not self._failed:
                say(f"{REPORT} could not be written: {describe_failure(error)}")
            self._failed = True
            return False
        if self._browse:
            self._browse = False
            webbrowser.open((self._folder / REPORT).absolute().as_uri())
        return True


def _has_screen() -> bool:
    """Whether a browser has a screen; without one, Python would start a browser of the terminal."""
    named = {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys()
    return sys.platform in ("win32", "darwin") or bool(named)

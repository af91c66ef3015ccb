"""`--watch`: the report of an evaluation, written again while it grows."""

from __future__ import annotations

import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, final

from torchsaliency.core.files import OutputFolder

if TYPE_CHECKING:
    from torchsaliency.evaluation import ExplainedImage, Plan, Progress, Results

REPORT = "report.html"
"""The name of the report in the folder of the evaluation."""

_SECONDS, _LEAST = 20, 20.0
"""After how many seconds a browser looks again, and between two reports at least."""

_SHARE = 0.05
"""Of the time that reports may take."""


@final
class GrowingReport:
    """A callback of `evaluate` that writes the report now and then, and opens it once.

    Args:
        browse: whether a browser is asked to open it.
    """

    samples = 0

    def __init__(self, *, browse: bool = True) -> None:
        self._browse, self._next = browse, 0.0
        self._folder = Path()

    def begin(self, plan: Plan, folder: Path) -> None:  # noqa: ARG002
        """Take the folder."""
        self._folder = folder

    def advance(self, progress: Progress) -> None:
        """Write the report of what is done, if it is time."""
        if not progress.done + progress.before or time.monotonic() < self._next:
            return
        begun = time.monotonic()
        if not self._write(refresh=True):
            return
        taken = time.monotonic() - begun
        self._next = time.monotonic() + max(_LEAST, taken / _SHARE)

    def show(self, explained: ExplainedImage) -> None:
        """Take no image: reports have their own."""

    def finish(self, results: Results | None) -> None:
        """Write the whole report, with images and their maps."""
        if results is not None:
            self._write(refresh=False)

    def _write(self, *, refresh: bool) -> bool:
        """Write the report; say whether there was something to write."""
        from torchsaliency.evaluation import Store
        from torchsaliency.pages.evaluations import IMAGES, evaluation_report

        if not Store(self._folder).done():
            return False
        html = evaluation_report(self._folder, images=0 if refresh else IMAGES)
        if refresh:
            again = f'<meta http-equiv="refresh" content="{_SECONDS}">'
            html = html.replace("<head>", f"<head>{again}", 1)
        OutputFolder(self._folder).write(REPORT, html.encode(errors="replace"))
        if self._browse:
            webbrowser.open((self._folder / REPORT).absolute().as_uri())
            self._browse = False
        return True

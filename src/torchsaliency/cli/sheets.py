"""One labelled picture of all photos and methods, on as many sheets as it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from torchsaliency.cli.console import printable
from torchsaliency.cli.folder import Folder
from torchsaliency.cli.recording import Drawn
from torchsaliency.viz import Panel, Row, grid
from torchsaliency.viz.overlay import png

_ROWS = 20
"""Rows on a sheet: bounds the memory, and the height that a viewer must bear."""

_CELL = 256


@final
class Sheets:
    """Gathers rows, and writes a sheet whenever one is full.

    Attributes:
        written: the names of the sheets.
    """

    def __init__(self, folder: Folder, colormap: str, name: str = "grid") -> None:
        self.written: list[str] = []
        self._folder, self._colormap, self._name = folder, colormap, name
        self._rows: list[Row] = []

    @classmethod
    def names(cls, rows: int, name: str = "grid") -> Iterator[str]:
        """List the sheets that so many rows fill."""
        for number in range(1, -(-rows // _ROWS) + 1):
            yield f"{name}.png" if number == 1 else f"{name}-{number}.png"

    def add(self, drawn: Drawn, captions: Mapping[str, str] | None = None) -> None:
        """Add a row: the photo with its class and probability, then an overlay a method.

        Args:
            drawn: the pictures.
            captions: what stands under the overlays, by method.
        """
        notes = captions or {}
        overlays = tuple(
            Panel(image, method, notes.get(method) or drawn.remarks[method])
            for method, image in drawn.overlays.items()
        )
        photo = Panel(drawn.photo, "photo", f"{drawn.words}\n{printable(drawn.name)}")
        self._rows.append(Row(overlays, photo))
        if len(self._rows) == _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows gathered so far."""
        if not self._rows:
            return
        *_, name = self.names(_ROWS * len(self.written) + 1, self._name)
        picture = grid(self._rows, width=_CELL, colormap=self._colormap)
        self._folder.write(name, png(picture))
        self.written.append(name)
        self._rows = []

"""One labelled picture of all photos and methods, on as many sheets as it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from PIL import Image

from torchsaliency.cli.console import printable
from torchsaliency.cli.folder import Folder
from torchsaliency.data import open_photo
from torchsaliency.viz import Panel, Row, grid
from torchsaliency.viz.overlay import png

_ROWS, _CELL = 20, 256
"""Rows on a sheet, which bound the memory and the height of a sheet; and the width of a cell."""

_KEPT = (512, 512)
"""Pixels kept of a picture: sharp in a grid's cell."""


@final
class Grid:
    """Gathers rows, and writes a sheet whenever one is full."""

    def __init__(
        self,
        folder: Folder,
        colormap: str | None = None,
        name: str = "grid",
        *,
        signed: bool = False,
    ) -> None:
        self.words: tuple[str, ...] = ()  # under the colour bar, where it is of all maps
        self.written: list[str] = []
        self._folder, self._colormap, self._name = folder, colormap, name
        self._signed = signed
        self._rows: list[Row] = []

    def names(self, rows: int) -> list[str]:
        """Return the names of the sheets that so many rows fill."""
        count = -(-rows // _ROWS)
        return [f"{self._name}{f'-{n}' if n > 1 else ''}.png" for n in range(1, count + 1)]

    def add(self, entry: Mapping[str, Any], photo: Image.Image) -> None:
        """Add a row for each target: the photo with what is explained, and an overlay a method."""
        by_target: dict[tuple[Any, str], list[Mapping[str, Any]]] = {}
        for facts in entry["maps"]:
            key = facts["target"]["index"], facts["target"]["name"]
            by_target.setdefault(key, []).append(facts)
        size, photo = photo.size, _shrink(photo.copy())
        for (_, words), maps in by_target.items():
            probability = maps[0]["target"]["probability"]
            words = words if probability is None else f"{words}  {probability:.1%}"  # noqa: PLW2901
            overlays = tuple(
                Panel(
                    # without the colour scale beside it
                    _shrink(self._open(facts["files"]["overlay"]).crop((0, 0, *size))),
                    facts["method"],
                    _remark(facts),
                )
                for facts in maps
            )
            panel = Panel(photo, "photo", f"{words}\n{printable(entry['name'])}")
            self._rows.append(Row(overlays, panel))
            if len(self._rows) == _ROWS:
                self.flush()

    def _open(self, name: str) -> Image.Image:
        return open_photo(self._folder.path / name)

    def flush(self) -> None:
        """Write the rows gathered so far."""
        if not self._rows:
            return
        name = self.names(_ROWS * len(self.written) + 1)[-1]
        picture = grid(
            self._rows,
            width=_CELL,
            colormap=self._colormap,
            signed=self._signed,
            words=self.words,
        )
        self._folder.write(name, png(picture))
        self.written.append(name)
        self._rows = []


def _shrink(image: Image.Image) -> Image.Image:
    image.thumbnail(_KEPT, Image.Resampling.LANCZOS)
    return image


def _remark(facts: Mapping[str, Any]) -> str:
    if facts["status"] != "ok":
        return str(facts["status"])
    return f"masked {facts['masked']:.1%}" if "masked" in facts else ""

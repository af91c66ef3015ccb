"""Photos and their saliency maps side by side in one labelled picture.

A row is one photo: the photo itself in the first column, one overlay per method in the others,
wrapped onto further lines when there are many. Headings stand over a line when they differ from
those above it; captions stand under the images. Everything is measured in fractions of the cell's
width, so that a small grid and a large one look alike. Pillow draws it: the images are resampled
once, and text is measured before it is placed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import final

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from torchsaliency.data import to_rgb
from torchsaliency.errors import InputError, OptionError
from torchsaliency.viz.overlay import colourise, overlay

_PAPER = "white"
_INK = "#1a1a1a"
_SOFT_INK = "#6b6b6b"
_TALLEST = 1.25  # of a cell's width: taller images are shown whole, but narrower than their cell
_NARROWEST = 64
_ROW_PIXELS = (1024, 1024)  # more than a cell; a camera's photo for every method is too much
_CAPTION_LINES = 2
_BAR = ("0", "saliency", "1")
_SIGNED_BAR = ("−max  against", "0", "for  max")
_ELLIPSIS = "…"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
"""What Pillow draws with; the second is its bitmap font, for a Pillow built without FreeType."""


@final
@dataclass(frozen=True)
class Panel:
    r"""One image of a grid.

    Attributes:
        image: the photo or overlay, any size.
        title: the heading of its column, for example the method's name.
        subtitle: what stands under it; the first line is set darker than those after a line break,
            so "tiger cat\n87.3 %" is a class and its probability. A long line wraps once, then ends
            in an ellipsis.
    """

    image: Image.Image
    title: str = ""
    subtitle: str = ""

    def __post_init__(self) -> None:
        if 0 in self.image.size:
            raise InputError("A panel's image has no pixels; give another image.")


@final
@dataclass(frozen=True)
class Row:
    """One photo and its overlays.

    Attributes:
        overlays: one panel per method; may be empty when there is a photo.
        photo: the panel of the first column; None leaves that column empty.

    Example:
        >>> photo = Image.new("RGB", (12, 8), "white")
        >>> len(Row((Panel(photo, "gradcam"),), Panel(photo, "cat")).overlays)
        1
    """

    overlays: tuple[Panel, ...]
    photo: Panel | None = None

    def __post_init__(self) -> None:
        if not self.overlays and self.photo is None:
            raise InputError(
                "A row was given neither photo nor overlays, it needs one panel at least; "
                "leave the row out or give it a photo."
            )

    @classmethod
    def of(
        cls,
        photo: Image.Image,
        maps: Mapping[str, Tensor],
        *,
        subtitle: str = "",
        alpha: float | None = None,
        colormap: str | None = None,
        blend: str = "intensity",
        signed: bool = False,
    ) -> Row:
        r"""Lay every map over the photo.

        Args:
            photo: any, as `torchsaliency.data.to_rgb` takes.
            maps: heading → map (H, W) in [0, 1], in [-1, 1] if signed.
            subtitle: what stands under the photo, for example "tiger cat\n87.3 %".
            alpha: the opacity, as in `overlay`.
            colormap: the colormap, as in `overlay`; give `grid` the same.
            blend: the blend, as in `overlay`.
            signed: whether the maps have signs, as in `overlay`; give `grid` the same.

        Returns:
            A row of 1 + len(maps) panels.

        Raises:
            InputError: the photo or a map is not what `overlay` accepts.
            OptionError: alpha, colormap or blend is not what `overlay` accepts.
        """
        small = to_rgb(photo)
        small.thumbnail(_ROW_PIXELS)
        overlays = tuple(
            Panel(
                overlay(small, values, alpha=alpha, colormap=colormap, blend=blend, signed=signed),
                name,
            )
            for name, values in maps.items()
        )
        return cls(overlays, Panel(small, "photo", subtitle))


def grid(
    rows: Sequence[Row],
    *,
    width: int = 256,
    columns: int = 8,
    colormap: str | None = None,
    colour_bar: bool = True,
    signed: bool = False,
    words: Sequence[str] = (),
) -> Image.Image:
    """Put photos and overlays into one picture with headings, captions and a colour bar.

    Args:
        rows: one per photo, at least one.
        width: of a cell, in pixels, at least 64; images keep their aspect ratio.
        columns: the most columns, at least 2, the photo's included; a longer row wraps onto lines
            of even length.
        colormap: that of the overlays, for the colour bar.
        colour_bar: whether to draw the bar from 0 to 1; without overlays there is none.
        signed: whether the overlays are of signed maps: the bar reaches from against to for.
        words: what stands under the bar, evenly from its beginning to its end; by default that each
            map has a range of its own, 0 to 1 or -max to max.

    Returns:
        An RGB image.

    Raises:
        InputError: there is no row.
        OptionError: the width or the columns are too small, or the colormap does not exist.

    Example:
        >>> photo = Image.new("RGB", (120, 80), "white")
        >>> grid([Row.of(photo, {"gradcam": torch.rand(7, 7)}, subtitle="cat")], width=100).mode
        'RGB'
    """
    _check(rows, width, columns)
    style = _Style(width)
    lines = _lines(rows, columns)
    bar = colour_bar and any(row.overlays for row in rows)
    height = sum(line.height(style) for line in lines) + style.line_gap * (len(lines) - 1)
    height += bar * (style.line_gap + style.bar_height)
    right = style.find_left(max(len(line.cells) for line in lines)) - style.gap
    sheet = Image.new("RGB", (right + style.margin, height + 2 * style.margin), _PAPER)
    top = style.margin
    for line in lines:
        line.draw(sheet, top, style)
        top += line.height(style) + style.line_gap
    if bar:
        column = int(any(row.photo is not None for row in rows))  # the first with overlays
        words = words or (_SIGNED_BAR if signed else _BAR)
        _draw_bar(sheet, (style.find_left(column), top), colormap, style, words, signed=signed)
    return sheet


@final
class _Style:
    """Every measure of the grid, in pixels, from the width of a cell."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.margin = round(width * 0.11)  # the white space around everything
        self.gap = round(width * 0.07)  # between columns
        self.line_gap = round(width * 0.11)  # wider, so that rows hold together
        self.tallest = round(width * _TALLEST)
        self.type_size = max(10, round(width * 0.06))
        self.leading = round(self.type_size * 1.4)  # from a line of text to the next
        self.text_gap = round(self.type_size * 0.5)  # from an image to its heading or caption
        self.bar_thickness = max(4, round(width * 0.035))
        self.bar_height = self.bar_thickness + self.text_gap + self.leading  # with its labels
        self.heading = _font(self.type_size, bold=True)
        self.body = _font(self.type_size)

    def find_left(self, column: int) -> int:
        """Return where a column begins."""
        return self.margin + column * (self.width + self.gap)

    def fit_image(self, image: Image.Image) -> tuple[int, int]:
        """Return the size at which an image fills its cell."""
        scale = min(self.width / image.width, self.tallest / image.height)
        return max(1, round(image.width * scale)), max(1, round(image.height * scale))

    def caption(self, panel: Panel) -> list[tuple[str, str]]:
        """Return the lines under a panel, each with its ink."""
        return [
            (text, _SOFT_INK if index else _INK)
            for index, paragraph in enumerate(panel.subtitle.splitlines())
            for text in _wrap(paragraph, self.body, self.width, most=_CAPTION_LINES)
        ]

    def caption_height(self, panel: Panel) -> int:
        """Return the height of a caption and the white space above it; 0 without a caption."""
        count = len(self.caption(panel))
        return self.text_gap + count * self.leading if count else 0


@final
@dataclass(frozen=True)
class _Line:
    """Cells side by side; None is an empty one, as under the photo of a wrapped row."""

    cells: tuple[Panel | None, ...]
    headed: bool

    def heading_height(self, style: _Style) -> int:
        """Return the height of the heading and the white space under it."""
        return self.headed * (style.leading + style.text_gap)

    def height(self, style: _Style) -> int:
        """Return the height of heading, images and captions together."""
        return self.heading_height(style) + max(
            style.fit_image(panel.image)[1] + style.caption_height(panel)
            for panel in self.cells
            if panel is not None
        )

    def draw(self, sheet: Image.Image, top: int, style: _Style) -> None:
        """Draw the cells onto the sheet, with their headings and captions."""
        pen = ImageDraw.Draw(sheet)
        image_top = top + self.heading_height(style)
        for column, panel in enumerate(self.cells):
            if panel is None:
                continue
            left = style.find_left(column)
            if self.headed:
                title = _shorten(" ".join(panel.title.split()), style.heading, style.width)
                pen.text((left, top), title, fill=_INK, font=style.heading)
            size = style.fit_image(panel.image)
            pixels = to_rgb(panel.image).resize(size, Image.Resampling.LANCZOS)
            sheet.paste(pixels, (left, image_top))
            # A caption follows its own image: beside a taller one it must not hang in the air.
            below = image_top + size[1] + style.text_gap
            for index, (text, ink) in enumerate(style.caption(panel)):
                pen.text((left, below + index * style.leading), text, fill=ink, font=style.body)


def _lines(rows: Sequence[Row], columns: int) -> list[_Line]:
    """Wrap every row into lines, and head those whose titles are not the ones above."""
    with_photo = any(row.photo is not None for row in rows)
    lines = [cells for row in rows for cells in _wrap_row(row, columns, with_photo=with_photo)]
    titles = [tuple(cell.title if cell else "" for cell in cells) for cells in lines]
    changed = [True] + [here != above[: len(here)] for above, here in pairwise(titles)]
    return [
        _Line(cells, headed=new and any(heading))
        for cells, heading, new in zip(lines, titles, changed, strict=True)
    ]


def _wrap_row(row: Row, columns: int, *, with_photo: bool) -> list[tuple[Panel | None, ...]]:
    """Break a row's overlays into lines of even length; only the first line shows the photo."""
    room = columns - with_photo
    count = max(1, math.ceil(len(row.overlays) / room))
    length = max(1, math.ceil(len(row.overlays) / count))
    lines: list[tuple[Panel | None, ...]] = []
    for start in range(0, max(1, len(row.overlays)), length):
        cells = row.overlays[start : start + length]
        photo = row.photo if start == 0 else None
        lines.append((photo, *cells) if with_photo else cells)
    return lines


def _draw_bar(
    sheet: Image.Image,
    corner: tuple[int, int],
    colormap: str | None,
    style: _Style,
    words: Sequence[str],
    *,
    signed: bool,
) -> None:
    left, top = corner
    values = torch.linspace(-1 if signed else 0, 1, style.width, device="cpu")
    colours = colourise(values.expand(style.bar_thickness, -1), colormap, signed=signed)
    sheet.paste(Image.fromarray(colours), corner)
    pen = ImageDraw.Draw(sheet)
    below = top + style.bar_thickness + style.text_gap
    for number, text in enumerate(words):
        share = number / (len(words) - 1)
        anchor = "la" if share == 0 else "ra" if share == 1 else "ma"
        place = (left + share * style.width, below)
        pen.text(place, text, fill=_SOFT_INK, font=style.body, anchor=anchor)


def _check(rows: Sequence[Row], width: int, columns: int) -> None:
    if not rows:
        raise InputError("The grid was given no rows, it needs one at least; make one with Row.of.")
    if width < _NARROWEST:
        raise OptionError(
            f"width is {width}, a cell has at least {_NARROWEST} pixels; 256 is the default."
        )
    if columns < 2:  # noqa: PLR2004 (a photo and an overlay)
        raise OptionError(f"columns is {columns}, a grid has at least 2; 8 is the default.")


@lru_cache(maxsize=32)
def _font(size: int, *, bold: bool = False) -> Font:
    """Return DejaVu Sans, which matplotlib carries: class names may be Greek or Cyrillic."""
    import matplotlib  # noqa: PLC0415 (importing the library must not cost matplotlib)

    file = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", file)
    try:
        return ImageFont.truetype(str(path), size)
    except (OSError, ImportError):  # some Linux distributions ship matplotlib without its typefaces
        return ImageFont.load_default(size)


def _shorten(text: str, face: Font, measure: int) -> str:
    """Return the text, cut with an ellipsis if it is longer than the measure in pixels."""
    if face.getlength(text) <= measure:
        return text
    fitting = bisect_right(
        range(len(text)),
        measure,
        key=lambda n: math.ceil(face.getlength(text[:n].rstrip() + _ELLIPSIS)),
    )
    return text[: max(0, fitting - 1)].rstrip() + _ELLIPSIS


def _wrap(text: str, face: Font, measure: int, *, most: int) -> list[str]:
    """Break the text between words into at most `most` lines of at most `measure` pixels."""
    words = text.split()
    lines: list[str] = []
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and face.getlength(" ".join(words[: taken + 1])) <= measure:
            taken += 1
        lines.append(_shorten(" ".join(words[:taken]), face, measure))
        words = words[taken:]
    if words:
        lines.append(_shorten(" ".join(words), face, measure))
    return lines

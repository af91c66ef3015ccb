"""Type for pictures: one typeface in two weights, and text that stays within its measure."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

_ELLIPSIS = "…"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
"""What Pillow draws with; the second is its bitmap font, for a Pillow built without FreeType."""


@lru_cache(maxsize=32)
def font(size: int, *, bold: bool = False) -> Font:
    """Return DejaVu Sans, which matplotlib carries: class names may be Greek or Cyrillic."""
    import matplotlib  # noqa: PLC0415 (importing the library must not cost matplotlib)

    file = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", file)
    try:
        return ImageFont.truetype(str(path), size)
    except (OSError, ImportError):  # some Linux distributions ship matplotlib without its typefaces
        return ImageFont.load_default(size)


def shortened(text: str, face: Font, measure: int) -> str:
    """Return the text, cut with an ellipsis if it is longer than the measure in pixels."""
    if face.getlength(text) <= measure:
        return text
    fitting = bisect_right(
        range(len(text)),
        measure,
        key=lambda n: math.ceil(face.getlength(text[:n].rstrip() + _ELLIPSIS)),
    )
    return text[: max(0, fitting - 1)].rstrip() + _ELLIPSIS


def wrapped(text: str, face: Font, measure: int, *, most: int) -> list[str]:
    """Break the text between words into at most `most` lines of at most `measure` pixels."""
    words = text.split()
    lines: list[str] = []
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and face.getlength(" ".join(words[: taken + 1])) <= measure:
            taken += 1
        lines.append(shortened(" ".join(words[:taken]), face, measure))
        words = words[taken:]
    if words:
        lines.append(shortened(" ".join(words), face, measure))
    return lines

"""Where the command line speaks: results on stdout, everything else on stderr.

Names of files and classes may hold anything, also terminal codes: all text is made harmless before
it is printed, and what the encoding of an output lacks becomes a plain character.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, final

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from torchsaliency.core.files import json_text


@final
class _PlainConsole(Console):
    """A console that writes only its own control characters."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does, every text made harmless."""
        for segment in super().render(renderable, options):
            control = segment.control
            text = segment.text if control else printable(segment.text, self.encoding)
            yield Segment(text, segment.style, control)


_LONGEST_WORD = 400
"""Characters after which a word is cut: no name is longer in earnest."""

stdout = _PlainConsole(highlight=False)
stderr = _PlainConsole(highlight=False, stderr=True)


def say(sentence: str) -> None:
    """Tell the user something beside the result; progress bars make room for it."""
    words = (word if len(word) <= _LONGEST_WORD else f"{word[:60]}…" for word in sentence.split())
    stderr.print(" ".join(words), markup=False, soft_wrap=True)


def print_line(sentence: str) -> None:
    """Print a sentence on stdout, on one line that can be copied."""
    stdout.print(sentence, markup=False, soft_wrap=True)


def print_raw(text: str) -> None:
    """Print a result on stdout as it is, lines and all."""
    stdout.file.write(printable(text, stdout.encoding))


def print_json(value: Any) -> None:
    """Print a machine-readable result, and nothing else, on stdout."""
    stdout.file.write(json_text(value))


def grid_of(*columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table with these headings, those in `right` aligned right."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return grid


def bold(text: str, when: bool = True) -> Text:
    """Return text without markup, in bold if `when`."""
    return Text(text, style="bold" if when else "")


# --- harmless text --------------------------------------------------------------------------------


def printable(text: str, encoding: str | None = None) -> str:
    """Return text of the same length that the encoding takes, stdout's by default."""
    safe = "".join("?" if _is_control(letter) else letter for letter in text)
    encoding = encoding or stdout.encoding
    try:
        safe.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_replace_letter(letter, encoding) for letter in safe)
    return safe


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and letter not in "\n\t"


def _replace_letter(letter: str, encoding: str) -> str:
    """Return a character, or the plain one that stands for it where the encoding has none."""
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        plain = _PLAIN.get(letter) or unicodedata.normalize("NFKD", letter)[0]
        return plain if plain.isascii() else "?"
    return letter


_FANCY = "↓↑→←–—−…×·•“”„‘’≤≥≈±∑Σ∂√σμαβλ′″│─┌┐└┘├┤┬┴┼━┃"  # noqa: RUF001 (they are what it is about)
_PLAIN = dict(zip(_FANCY, 'v^><---.x.*"""\'\'<>~+SSdVsmabl\'"|-+++++++++-|', strict=True))


def replace_unencodable() -> None:
    """Let Python's own streams write a question mark where they would end in an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

"""Where the command line speaks: results on stdout, everything else on stderr.

Names of files and classes may hold anything, terminal codes too: all text is made harmless on its
way out, and what an output's encoding does not have becomes a plain character.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from torchsaliency.core.files import json_text


@final
class _Plain(Console):
    """A console that writes no control characters but its own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as ever, every text made harmless."""
        for one in super().render(renderable, options):
            text = one.text if one.control else printable(one.text, self.encoding)
            yield Segment(text, one.style, one.control)


_LONGEST = 400
"""Letters of a word, beyond which it is only begun: no name is longer in earnest."""

stdout = _Plain(highlight=False)
stderr = _Plain(highlight=False, stderr=True)


def say(sentence: str) -> None:
    """Tell the user something beside the result; progress bars make room for it."""
    words = (word if len(word) <= _LONGEST else f"{word[:60]}…" for word in sentence.split())
    stderr.print(" ".join(words), markup=False, soft_wrap=True)


def give(text: str) -> None:
    """Write a result as it is, lines and all, to stdout."""
    stdout.file.write(printable(text, stdout.encoding))


def give_json(value: Any) -> None:
    """Write a machine-readable result, and nothing else, to stdout."""
    stdout.file.write(json_text(value))


def printable(text: str, encoding: str | None = None) -> str:
    """Return text that any terminal takes, of the same length.

    Args:
        text: line breaks and tabs stay.
        encoding: of the output; None for stdout's.
    """
    safe = "".join("?" if _is_control(one) else one for one in text)
    encoding = encoding or stdout.encoding
    try:
        safe.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_in(encoding, one) for one in safe)
    return safe


def _is_control(one: str) -> bool:
    return unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and one not in "\n\t"


def _in(encoding: str, one: str) -> str:
    """Return a character, or the plain one that stands for it where the encoding has none."""
    try:
        one.encode(encoding)
    except UnicodeEncodeError:
        plain = _PLAIN.get(one) or unicodedata.normalize("NFKD", one)[0]
        return plain if plain.isascii() else "?"
    return one


_FANCY = "↓↑→←–—−…×·•“”„‘’≤≥≈±∑Σ∂√σμαβλ′″│─┌┐└┘├┤┬┴┼━┃"  # noqa: RUF001 (they are what it is about)
_PLAIN = dict(zip(_FANCY, 'v^><---.x.*"""\'\'<>~+SSdVsmabl\'"|-+++++++++-|', strict=True))


def speak_plainly() -> None:
    """Let Python's own streams write a question mark where they would end in an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

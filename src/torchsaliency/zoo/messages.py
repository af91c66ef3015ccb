"""Texts of other people (errors, names in files) made short and printable for our messages."""

from __future__ import annotations

import re

_MOST_CHARACTERS = 200
_ADVICE = re.compile(r"weights[_ ]only", re.IGNORECASE)


def describe_error(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where there is none.

    torch advises to load files with `weights_only=False`, which runs the code in them; that is
    never repeated.
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a user's own class of errors may fail here, too
        lines = []
    if not lines or _ADVICE.search(lines[0]):
        return type(error).__name__
    return shorten(lines[0].rstrip(". "), _MOST_CHARACTERS)


def shorten(text: str, most: int = 80) -> str:
    """Return a text of at most so many characters, all printable."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return printable if len(printable) <= most else f"{printable[: most - 1]}…"

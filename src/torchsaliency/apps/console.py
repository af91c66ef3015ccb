"""Where the command line speaks: results on stdout, everything else on stderr."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from torchsaliency.core.files import json_text

stdout = Console(highlight=False)
stderr = Console(highlight=False, stderr=True)


def say(sentence: str) -> None:
    """Tell the user something beside the result; progress bars make room for it."""
    stderr.print(printable(sentence), markup=False, soft_wrap=True)


def give_json(value: Any) -> None:
    """Write a machine-readable result, and nothing else, to stdout."""
    stdout.file.write(json_text(value))


def printable(text: str) -> str:
    """Return text that any terminal takes: a file's name may hold bytes that are no text."""
    encoding = stdout.encoding
    return text.encode(encoding, "replace").decode(encoding, "replace")

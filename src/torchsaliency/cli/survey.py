"""`torchsaliency survey-score`: what people preferred who answered a survey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchsaliency.cli.console import say, stdout
from torchsaliency.cli.table import checked, write
from torchsaliency.papers.survey import score_answers


def run(
    key: Path,
    answers: Sequence[Path],
    by: str,
    confidence: float,
    form: str,
) -> bool:
    """Write the table, name the files that do not count, and return whether all do."""
    checked(form)
    found = score_answers(key, answers, confidence=confidence)
    write(found.table(by), form)
    if form == "text" and by == "participant":
        for code, comment in found.comments.items():
            stdout.print(f"{code}: {comment}", markup=False, soft_wrap=True)
    for sentence in found.left_out:
        say(f"Left out: {sentence}")
    return not found.left_out

"""`torchsaliency survey-score`: what the people preferred who answered a survey."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torchsaliency.cli.console import print_line, say
from torchsaliency.cli.options import CONFIDENCE, FORMAT
from torchsaliency.cli.table import check_format, print_table
from torchsaliency.options import WRITTEN, Options, option


class SurveyOptions(Options):
    """Which answers are scored."""

    key: Path = option(
        ..., "", "The survey-key.json that was written beside the page.", metavar="KEY"
    )
    answers: tuple[Path, ...] = option(..., "", "What participants exported.", metavar="ANSWERS...")
    by: Literal["network", "photograph", "participant"] = option(
        "network", WRITTEN, "What a row is."
    )
    confidence: float = CONFIDENCE
    form: str = FORMAT


def survey_score(options: SurveyOptions) -> int:
    """Score the answers to a survey that `reproduce opticam-appendixD` made."""
    from torchsaliency.papers.survey import score_answers

    check_format(options.form)
    scores = score_answers(options.key, options.answers, confidence=options.confidence)
    print_table(scores.table(options.by), options.form)
    if options.form == "text" and options.by == "participant":
        for code, comment in scores.comments.items():
            print_line(f"{code}: {comment}")
    for sentence in scores.left_out:
        say(f"Left out: {sentence}")
    return 1 if scores.left_out else 0

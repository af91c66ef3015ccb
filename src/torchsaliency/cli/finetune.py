"""`torchsaliency finetune`: from options to settings, a progress bar, the accuracy in tables."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from torchsaliency.cli.console import say, stderr, stdout
from torchsaliency.errors import CheckpointError
from torchsaliency.training import (
    Accuracy,
    Epoch,
    Finetuning,
    Moment,
    Report,
    Watch,
    finetune,
    make_finetuning,
)

_STAGES = {"head": "training the head", "all": "training everything"}
_OPTIONS = {"weights=FILE": "--weights FILE", "pretrained=False": "--no-pretrained"}
_MOST_CONFUSED = 12


def asked_settings(given: Mapping[str, Any]) -> Finetuning:
    """Return the settings that the options say.

    Raises:
        OptionError: one does not fit.
    """
    plain = {
        key: value.value if isinstance(value, enum.Enum) else value for key, value in given.items()
    }
    return make_finetuning({key: value for key, value in plain.items() if value is not None})


def run(settings: Finetuning, output: Path) -> Report:
    """Fine-tune, show how far it is, and tell what was skipped.

    Raises:
        CheckpointError: the network's weights cannot be had, in the words of the command line.
    """
    try:
        with watched() as watch:
            report = finetune(settings, output, watch=watch)
    except CheckpointError as error:
        sentence = str(error)
        for name, option in _OPTIONS.items():
            sentence = sentence.replace(name, option)
        raise CheckpointError(sentence) from error
    if report.before:
        new = len(report.history) - report.before
        say(f"{report.before} epochs were finished before; {new or 'none'} are new.")
    for part, found in report.skipped.items():
        for one, reason in found.items():
            say(f"Skipped in {part}: {one}: {reason}")
    return report


def show(report: Report) -> None:
    """Write the accuracies, and what the last part's images were taken for."""
    stdout.print(_accuracy_table(report))
    part, found = list(report.accuracy.items())[-1]
    if len(found.classes) <= _MOST_CONFUSED:
        stdout.print(_confusion_table(part, found))
    if report.paper is not None:
        stdout.print(
            f"The paper's accuracy with {report.settings.architecture} is {report.paper} %, on a "
            "split that is not published.\n"
            if report.data == "kvasir"
            else f"The paper's accuracy with {report.settings.architecture} is {report.paper} %.\n"
        )


@contextmanager
def watched() -> Iterator[Watch]:
    """Show stage, epoch, images done and the time left of it; a line for each epoch."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )
    task = bar.add_task("preparing", total=None)

    def watch(now: Moment) -> None:
        if now.ended is not None:
            say(_told(now.ended, now.epochs))
            return
        stage = _STAGES.get(now.what)
        what = f"testing {now.what}" if stage is None else f"{stage}, {now.epoch} of {now.epochs}"
        bar.update(task, description=what, completed=now.done, total=now.total)

    with bar:
        yield watch


def _told(epoch: Epoch, epochs: int) -> str:
    val = "" if epoch.val is None else f", validation {epoch.val:.1%}"
    return (
        f"Epoch {epoch.number} of {epochs} ({epoch.stage}): loss {epoch.loss:.4f}, "
        f"training {epoch.train:.1%}{val}, {epoch.seconds:.1f} s"
    )


def _accuracy_table(report: Report) -> Table:
    """List the accuracy of each class, and of all, in each part."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("accuracy", overflow="fold")
    for part, found in report.accuracy.items():
        table.add_column(f"{part} ({found.count})", justify="right")
    parts = report.accuracy.values()
    for name in report.classes:
        table.add_row(Text(name), *(_percent(found.per_class[name]) for found in parts))
    table.add_row("mean of the classes", *(_percent(found.balanced) for found in parts))
    table.add_row(
        Text("all images", style="bold"),
        *(Text(_percent(found.overall), style="bold") for found in parts),
    )
    return table


def _confusion_table(part: str, found: Accuracy) -> Table:
    """List the images by true class (rows) and predicted class (columns, by number)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{part}: true class, and taken for", overflow="fold")
    for number in range(len(found.classes)):
        table.add_column(str(number), justify="right")
    for number, (name, row) in enumerate(zip(found.classes, found.confusion, strict=True)):
        cells = (
            Text(str(count), style="bold" if place == number else "" if count else "dim")
            for place, count in enumerate(row)
        )
        table.add_row(Text(f"{number} {name}"), *cells)
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"

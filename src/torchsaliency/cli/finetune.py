"""`torchsaliency finetune`: a progress bar while a network is trained, then its accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from torchsaliency.cli.console import (
    bold,
    grid_of,
    print_json,
    print_line,
    say,
    stdout,
)
from torchsaliency.cli.options import JSON
from torchsaliency.cli.progress import show_progress
from torchsaliency.errors import CheckpointError
from torchsaliency.options import WRITTEN, FinetuneOptions, option

if TYPE_CHECKING:
    from torchsaliency.training import Accuracy, TrainingProgress, TrainingReport, Watch

_STAGES = {"head": "training the head", "all": "training everything"}
_MOST_CONFUSED = 12


class FinetuneCommandOptions(FinetuneOptions):
    """A fine-tuning, and where it is written."""

    output: Path = option(
        Path("finetuned"), WRITTEN, "Made if it does not exist.", metavar="FOLDER"
    )
    as_json: bool = JSON


def finetune(options: FinetuneCommandOptions) -> int:
    """Train a network for the classes of a data set; continues where it was stopped.

    First a new head on the frozen network, then everything, as Opti-CAM's appendix E.2 does for
    medical images.
    """
    from torchsaliency.training import finetune as run
    from torchsaliency.training import make_finetuning

    settings = make_finetuning(options.model_dump(include={*FinetuneOptions.model_fields}))
    try:
        with _watch_training(options.output) as watch:
            report = run(settings, options.output, watch=watch)
    except CheckpointError as error:  # in the words of the command line
        raise CheckpointError(str(error).replace("pretrained=False", "--no-pretrained")) from error
    if report.before:
        new = len(report.history) - report.before
        say(f"{report.before} epochs were finished before; {new or 'none'} are new.")
    for part, skipped in report.skipped.items():
        for image, reason in skipped.items():
            say(f"Skipped in {part}: {image}: {reason}")
    if options.as_json:
        print_json(report.to_dict())
    else:
        _print_report(report)
        weights = options.output / "model.safetensors"
        use = f"--model {report.settings.model} --weights {weights}"
        print_line(f"Use the network by `torchsaliency explain PHOTO {use}`.")
    return 1 if report.skipped else 0


@contextmanager
def _watch_training(folder: Path) -> Iterator[Watch]:
    """Show stage, epoch, images done and the time left of it; a line for each epoch."""

    def watch(now: TrainingProgress) -> None:
        if (epoch := now.ended) is not None:
            val = "" if epoch.val is None else f", validation {epoch.val:.1%}"
            say(
                f"Epoch {epoch.number} of {now.epochs} ({epoch.stage}): loss {epoch.loss:.4f}, "
                f"training {epoch.train:.1%}{val}, {epoch.seconds:.1f} s"
            )
            return
        stage = _STAGES.get(now.what)
        what = f"testing {now.what}" if stage is None else f"{stage}, {now.epoch} of {now.epochs}"
        meter.update(what=what, done=now.done, total=now.total)

    where = f"{folder}/ has every finished epoch; the same command continues."
    with show_progress("preparing", "images", where=where) as meter:
        yield watch


def _print_report(report: TrainingReport) -> None:
    """Print the accuracies, and what the last part's images were taken for."""
    from torchsaliency.training import Accuracy

    stdout.print(_accuracy_table(report))
    part, accuracy = list(report.accuracy.items())[-1]
    if isinstance(accuracy, Accuracy) and len(accuracy.classes) <= _MOST_CONFUSED:
        stdout.print(_confusion_table(part, accuracy))
    if report.paper is not None:
        split = ", on a split that is not published" if report.data == "kvasir" else ""
        network = report.settings.architecture
        stdout.print(f"The paper's accuracy with {network} is {report.paper} %{split}.\n")


def _accuracy_table(report: TrainingReport) -> Table:
    """List the accuracy of each class, and of all, in each part."""
    parts = report.accuracy.values()
    headings = [f"{part} ({accuracy.count})" for part, accuracy in report.accuracy.items()]
    from torchsaliency.training import LabelAccuracy

    several = any(isinstance(part, LabelAccuracy) for part in parts)
    what, mean, everything = (
        ("average precision", "mean of the labels", "right of all labels")
        if several
        else ("accuracy", "mean of the classes", "all images")
    )
    table = grid_of(what, *headings, right=headings)
    for name in report.classes:
        table.add_row(Text(name), *(_percent(part.per_class[name]) for part in parts))
    table.add_row(
        mean,
        *(_percent(part.balanced) for part in parts),
    )
    table.add_row(bold(everything), *(bold(_percent(part.overall)) for part in parts))
    return table


def _confusion_table(part: str, accuracy: Accuracy) -> Table:
    """List the images by true class (rows) and predicted class (columns, by number)."""
    numbers = [str(number) for number in range(len(accuracy.classes))]
    table = grid_of(f"{part}: true class, and taken for", *numbers, right=numbers)
    for number, (name, row) in enumerate(zip(accuracy.classes, accuracy.confusion, strict=True)):
        cells = (
            Text(str(count), style="bold" if place == number else "" if count else "dim")
            for place, count in enumerate(row)
        )
        table.add_row(Text(f"{number} {name}"), *cells)
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"

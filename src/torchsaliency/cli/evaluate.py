"""`torchsaliency evaluate`: from options to a plan, and the evaluation with its progress bar."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from torchsaliency.cli.choosing import parted
from torchsaliency.cli.console import say, stderr
from torchsaliency.errors import OptionError
from torchsaliency.evaluation import Plan, Progress, Results, Watch, evaluate, make_plan, read_plan


def asked_plan(path: Path | None, given: Mapping[str, Any], settings: Sequence[str]) -> Plan:
    """Return the plan of a file, its fields replaced by what the options say.

    Args:
        path: of the file, if there is one.
        given: fields; None and empty ones were not given.
        settings: "NAME.OPTION=VALUE" each, of methods or metrics.

    Raises:
        TorchSaliencyError: something in it does not work.
    """
    told = {key: _plain(value) for key, value in given.items() if value is not None and value != []}
    if path is None and not {"methods", "metrics"} <= told.keys():
        raise OptionError(
            "An evaluation needs --methods and --metrics, such as --methods gradcam,opticam "
            "--metrics ad,ai,ag; or a plan in YAML."
        )
    plan = make_plan(told) if path is None else read_plan(path, told)
    return _with_settings(plan, settings)


def run(plan: Plan, output: Path) -> tuple[Results, bool]:
    """Evaluate, show how far it is, and tell whether every image could be used."""
    with watched() as watched_:
        results = evaluate(plan, output, watch=watched_)
    return results, watched_.complete


class Watched:
    """Is told of an evaluation, or of several one after another.

    Attributes:
        before: images that earlier sessions finished.
        done: images of this one.
        skipped: images that could not be used.
        odd: images of which some map is not finite.
    """

    def __init__(self, tell: Watch) -> None:
        self.before = self.done = self.skipped = self.odd = 0
        self._tell = tell
        self._last = Progress(0, 0, 0, 0)

    def __call__(self, now: Progress) -> None:
        """Take what an evaluation tells of itself."""
        last = self._last if now.done else Progress(0, 0, 0, 0)  # another one begins with 0
        self.before += now.before - last.before
        self.done += now.done - last.done
        self.skipped += now.skipped - last.skipped
        self.odd += now.odd - last.odd
        self._last = now
        self._tell(now)

    @property
    def complete(self) -> bool:
        """Whether every image could be used."""
        return not self.skipped and not self.odd


@contextmanager
def watched() -> Iterator[Watched]:
    """Show images done, images a second and the time left; say at the end what was skipped."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images,"),
        _Speed(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )
    task = bar.add_task("evaluating", total=None)
    found = Watched(lambda now: bar.update(task, completed=now.done, total=now.total))
    with bar:
        yield found
    if found.before:
        say(f"{found.before} images were finished before; {found.done} are new.")
    if found.skipped:
        images = "image" if found.skipped == 1 else "images"
        say(f"{found.skipped} {images} could not be used; run.json says why.")
    if found.odd:
        images = "image has" if found.odd == 1 else "images have"
        say(f"{found.odd} {images} maps that are not finite; run.json says of which methods.")


class _Speed(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """Return the speed of the last while."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} a second,")


def _with_settings(plan: Plan, settings: Sequence[str]) -> Plan:
    facts = plan.model_dump(mode="json")
    for setting in settings:
        name, option, value = parted(setting)
        chosen = [
            choice
            for field in ("methods", "metrics")
            for choice in facts[field]
            if name in (choice["label"], choice["name"])
        ]
        if not chosen:
            raise OptionError(
                f"--set {setting!r} was given and {name} is neither among the methods nor the "
                "metrics; add it."
            )
        for choice in chosen:
            choice["options"][option] = value
    return make_plan(facts) if settings else plan


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value

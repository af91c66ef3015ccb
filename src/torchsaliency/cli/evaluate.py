"""`torchsaliency evaluate`: options become a plan, and a progress bar shows how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torchsaliency.cli.console import print_line, say
from torchsaliency.cli.options import JSON, parse_settings, require_chosen
from torchsaliency.cli.progress import end_when_asked, show_progress
from torchsaliency.cli.table import print_table
from torchsaliency.cli.watching import REPORT, GrowingReport
from torchsaliency.errors import OptionError
from torchsaliency.options import SETTINGS, WRITTEN, PlanOptions, option

if TYPE_CHECKING:
    from torchsaliency.evaluation import Callback, Plan, Progress, Results


class PlanFileOptions(PlanOptions):
    """A plan, from a file or from options."""

    plan: Path | None = option(
        None, "", "A plan; options beside it replace its fields.", metavar="[PLAN.yaml]"
    )
    settings: tuple[str, ...] = SETTINGS


class EvaluateOptions(PlanFileOptions):
    """A plan, and where its rows go."""

    output: str = option(
        "evaluation",
        WRITTEN,
        "Made if it does not exist; also an address, such as s3://bucket/run.",
        metavar="FOLDER|ADDRESS",
        min_length=1,
    )
    log: tuple[str, ...] = option(
        (),
        WRITTEN,
        "Keep scalars with their intervals, the table and pictures of eight images in a tracker, "
        "too: mlflow, wandb or tensorboard, each an extra of that name. Repeatable.",
        metavar="NAME",
    )
    watch: bool = option(
        False,
        WRITTEN,
        "Write report.html in the folder again and again while it grows, and open it in a browser.",
    )
    as_json: bool = JSON


def evaluate(options: EvaluateOptions) -> int:
    """Score methods by metrics over a whole data set; continues where it was stopped."""
    from torchsaliency.evaluation import compute_rows
    from torchsaliency.evaluation import evaluate as evaluate_plan
    from torchsaliency.evaluation.engines import tells_results
    from torchsaliency.report import table
    from torchsaliency.tracking import EvaluationLog

    plan = plan_of(options)
    if not tells_results(plan):  # of several processes, one does
        with end_when_asked():
            compute_rows(plan, options.output)
        return 0
    callbacks: list[Callback] = [EvaluationLog(name) for name in options.log]
    where = f"`torchsaliency table {options.output}` shows what is done."
    if options.watch:
        where += f" The report grows in {Path(options.output) / REPORT}."
        callbacks.append(GrowingReport())
    with watch_evaluation(where) as watch:
        results = evaluate_plan(plan, options.output, watch=watch, callbacks=callbacks)
    print_table(table(results), "json" if options.as_json else "text")
    if plan.until_interval is not None:
        say(_describe_end(results, plan.until_interval))
    if not options.as_json:
        folder = options.output
        print_line(f"The rows are in {folder}/; see `torchsaliency table {folder}`.")
    return 0 if watch.complete else 1


def _describe_end(results: Results, until: float) -> str:
    """Return whether the intervals are as narrow as they were wanted."""
    from torchsaliency.evaluation.stopping import LEAST, find_widest

    widest = find_widest(results)
    if widest.width is None or widest.images < LEAST:
        return f"All images are used, and {widest.images} are too few for intervals; give more."
    narrow = widest.width <= until
    how = f"every interval is narrower than {until:g}" if narrow else "no more are left"
    return (
        f"Stopped after {widest.images} images: {how}. The widest is that of {widest.metric} of "
        f"{widest.method}, {widest.width:.3g} {widest.unit}."
    )


def plan_of(options: PlanFileOptions) -> Plan:
    """Return the plan of the file, its fields replaced by the options that were given."""
    from torchsaliency.evaluation import make_plan, read_plan

    fields = options.model_fields_set & PlanOptions.model_fields.keys()
    given = options.model_dump(include=fields)
    explained = fields & {"methods", "maps_from"}
    if options.plan is None and not (explained and "metrics" in fields):
        raise OptionError(
            "An evaluation needs --methods and --metrics, such as --methods gradcam,opticam "
            "--metrics ad,ai,ag, or --maps-from NAME=FOLDER in place of methods; or a plan in YAML."
        )
    plan = make_plan(given) if options.plan is None else read_plan(options.plan, given)
    if not options.settings:
        return plan
    facts = plan.model_dump()
    settings, choices = parse_settings(options.settings), [*facts["methods"], *facts["metrics"]]
    require_chosen(settings, [choice[key] for choice in choices for key in ("label", "name")])
    for choice in choices:
        for name in (choice["name"], choice["label"]):
            choice["options"] |= settings.get(name, {})
    return make_plan(facts)


# --- how far it is --------------------------------------------------------------------------------


class Watcher:
    """Keeps the latest progress of an evaluation, or of several one after another."""

    def __init__(self, show: Callable[..., None]) -> None:
        self._latest: list[Progress] = []
        self._show = show

    def __call__(self, now: Progress) -> None:
        """Take the progress of an evaluation; the next one begins with 0 done."""
        self._show(done=now.done, total=now.total, what=now.what, unit=now.unit)
        if now.what != "evaluating":
            return
        if now.done and self._latest:
            self._latest.pop()
        self._latest.append(now)

    def count(self, name: str) -> int:
        """Return how many images are "before", "done", "skipped" or "odd"; see `Progress`."""
        return sum(getattr(progress, name) for progress in self._latest)

    @property
    def complete(self) -> bool:
        """Whether every image could be used."""
        return not self.count("skipped") and not self.count("odd")


@contextmanager
def watch_evaluation(where: str) -> Iterator[Watcher]:
    """Show images done, images a second and the time left; say at the end what was skipped."""
    with show_progress("evaluating", "images", where=where) as meter:
        watcher = Watcher(meter.update)
        yield watcher
    if before := watcher.count("before"):
        say(f"{before} images were finished before; {watcher.count('done')} are new.")
    if skipped := watcher.count("skipped"):
        images = "image" if skipped == 1 else "images"
        say(f"{skipped} {images} could not be used; run.json says why.")
    if odd := watcher.count("odd"):
        images = "image has" if odd == 1 else "images have"
        say(f"{odd} {images} maps that are not finite; run.json says of which methods.")

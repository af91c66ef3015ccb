"""The evaluation of a plan: passes are shared, rows are kept, a stopped run is continued."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pandas as pd
import torch

from torchsaliency.core.explanation import versions
from torchsaliency.data.fingerprints import draw_key
from torchsaliency.errors import DataError
from torchsaliency.evaluation.batches import batches, cut
from torchsaliency.evaluation.callbacks import Callback, Progress, Watch
from torchsaliency.evaluation.engines import Job, RunEngine, make_run_engine, tells_results
from torchsaliency.evaluation.engines.share import find_share
from torchsaliency.evaluation.given import FolderMaps
from torchsaliency.evaluation.lines import FrameLines, Lines
from torchsaliency.evaluation.places import FolderPlace
from torchsaliency.evaluation.plan import Plan, restore_plan
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.setting import Setting
from torchsaliency.evaluation.shards import KEY
from torchsaliency.evaluation.stopping import Stopping, Widest
from torchsaliency.evaluation.store import Store
from torchsaliency.evaluation.streaming import StoreLines
from torchsaliency.evaluation.studies import study_metrics
from torchsaliency.evaluation.work import Outcome, Recipe, Unit
from torchsaliency.measures import judging
from torchsaliency.metrics.base import SaliencyMetric
from torchsaliency.zoo import Network

FLUSH_SECONDS = 20.0
"""At most so much work is lost when the process is killed."""

FEW_LINES = 500_000
"""So many lines of results are held in memory, half a gigabyte."""

_FLUSH_ROWS = 10_000
"""At most so many rows wait in memory, a few megabytes."""


def evaluate(  # noqa: PLR0913 (all but the first two by name)
    plan: Plan,
    folder: str | Path,
    *,
    model: Network | None = None,
    judge: Network | None = None,
    permuted: Network | None = None,
    data: Any = None,
    watch: Watch | None = None,
    callbacks: Sequence[Callback] = (),
) -> Results:
    """Evaluate a plan into a folder, from where an earlier session stopped.

    Every image runs once for all methods, and once masked for all metrics of masked scores. The
    process may be killed at any moment; the folder stays valid.

    Args:
        plan: what is evaluated.
        folder: where the rows go; new, or one that the same plan began. Methods may have been
            added to the plan since.
        model: the explained network, instead of `plan.model`.
        judge: the network that scores, instead of `plan.judge`.
        permuted: the network trained on permuted labels, instead of `plan.permuted`.
        data: the images, instead of `plan.data`; any data set that `as_dataset` takes.
        watch: called after every batch.
        callbacks: told of the beginning, of progress, of the first maps and of the results, such as
            `torchsaliency.tracking.EvaluationLog("mlflow")`; of processes that share the folder, in
            the first one.

    Raises:
        TorchSaliencyError: something in the plan does not work, or the folder holds another
            evaluation.

    Example:
        >>> from torchsaliency.evaluation import make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> plan = make_plan({**facts, "methods": ["gradcam", "tsm"]})
        >>> found = evaluate(plan, "run")
        >>> found.methods, found.summary("tsm", "ad").count
        (('gradcam', 'tsm'), 4)
    """
    told = callbacks if tells_results(plan) else ()
    run = _make_run(Recipe(plan, model, judge, permuted, data), folder, told)
    try:
        with run.store.lock():
            run.finish(watch)
        results = load_results(folder)
    except BaseException:  # an interruption, too
        _finish(told, None)
        raise
    _finish(told, results)
    return results


def compute_rows(plan: Plan, folder: str | Path) -> None:
    """Compute the rows that a folder lacks and read none of them: `evaluate` without results.

    Args:
        plan: what to compute.
        folder: new, or one that the same plan began.

    Raises:
        TorchSaliencyError: as `evaluate` does.

    Example:
        >>> from torchsaliency.evaluation import make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> plan = make_plan({**facts, "methods": ["gradcam", "tsm"]})
        >>> compute_rows(plan, "run")  # several processes may do so at once
        >>> load_results("run").methods
        ('gradcam', 'tsm')
    """
    run = _make_run(Recipe(plan), folder)
    with run.store.lock():
        run.finish()


def _make_run(recipe: Recipe, folder: str | Path, callbacks: Sequence[Callback] = ()) -> Run:
    """Load everything for a session, on the device that is this process's."""
    engine = make_run_engine(recipe.plan)
    device = find_share().choose_device(recipe.plan.device) if engine.shares else None
    store = Store(folder, shared=engine.shares)
    return Run(recipe.make_setting(device), store, recipe, engine, callbacks)


def _finish(callbacks: Sequence[Callback], results: Results | None) -> None:
    """Tell all callbacks of the end, also where one of them raises."""
    with ExitStack() as stack:
        for callback in reversed(callbacks):
            stack.callback(callback.finish, results)


def load_results(folder: str | Path) -> Results:
    """Return what an evaluation found so far.

    A run of more than half a million lines is not held in memory: `Results` reads what it is asked
    for, as long as the folder is there.

    Args:
        folder: what `evaluate` wrote; a folder, or an address such as s3://bucket/run.

    Raises:
        DataError: the folder holds no evaluation, a damaged one, or one that another version or
            other plug-ins made.

    Example:
        >>> from torchsaliency.evaluation import evaluate, make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> plan = make_plan({**facts, "methods": ["gradcam", "tsm"]})
        >>> found = evaluate(plan, "run")
        >>> load_results("run").methods
        ('gradcam', 'tsm')
    """
    store = Store(folder)
    name, facts = store.place.name, store.facts
    if facts is None:
        raise DataError(
            f"{name} holds no evaluation (it has no run.json); give the folder that "
            "`torchsaliency evaluate --output` wrote."
        )
    plan = restore_plan(name, facts)
    methods, metrics = plan.create_methods(), plan.create_metrics() | study_metrics(plan.study)
    references = frozenset(label for label, method in methods.items() if method.entry.control)
    samples = facts.get("samples") or None
    made = Results(_load_lines(store, samples, methods, metrics), metrics, (*methods,), references)
    if not made.samples:
        raise DataError(
            f"{name} has no rows yet; its evaluation was stopped before the first ones: start "
            "`torchsaliency evaluate` again."
        )
    return made


def _load_lines(
    store: Store,
    samples: list[str] | None,
    methods: Mapping[str, Any],
    metrics: Mapping[str, SaliencyMetric],
) -> Lines:
    """Return the lines of a store: in memory if they are few."""

    def sort(frame: pd.DataFrame) -> pd.DataFrame:
        orders = {"sample": samples or frame["sample"].unique(), "method": methods}
        orders |= {"metric": metrics}
        places = {key: {name: n for n, name in enumerate(names)} for key, names in orders.items()}
        for key, known in places.items():
            frame = frame[frame[key].isin(known)]
        frame = frame.sort_values(KEY, key=lambda column: column.map(places[column.name]))
        return frame.reset_index(drop=True)

    lines = 0
    for table in store.scan(["sample"]):
        lines += len(table)
        if lines > FEW_LINES:
            widths = {label: metric.width for label, metric in metrics.items()}
            return StoreLines(store, samples, [*methods], widths, lambda: sort(store.frame()))
    return FrameLines(sort(store.frame()))


@final
class Run:
    """One session of an evaluation."""

    def __init__(
        self,
        setting: Setting,
        store: Store,
        recipe: Recipe,
        engine: RunEngine,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.setting, self.store, self.callbacks = setting, store, callbacks
        self.engine, self._recipe = engine, recipe
        self.skipped: dict[str, str] = {}  # why an image has no rows, by its id
        self.scores: str | None = None  # what the numbers mean, once that is known
        self.odd: dict[str, list[str]] = {}  # methods whose map of an image has NaN, by its id
        until = setting.plan.until_interval
        self._stopping = None if until is None else Stopping(until)
        self._told = (0, 0)
        self._rows: list[dict[str, Any]] = []
        self._shown = 0
        self._flushed = time.monotonic()

    def finish(self, watch: Watch | None = None) -> None:
        """Compute what is missing."""
        facts = self.store.begin(self._facts(), self.setting.plan.to_yaml())
        self.setting = self._keep(facts, watch)
        data = self.setting.data
        facts = {**facts, "samples": [sample.id for sample in data.samples]}
        self.store.write(facts)
        units = self._missing(self.store.done())
        done, elsewhere, total = 0, 0, sum(map(len, units))

        def report() -> None:
            before, skipped, odd = len(data) - total, len(self.skipped), len(self.odd)
            progress = Progress(min(done + elsewhere, total), total, before, skipped, odd)
            if watch is not None:
                watch(progress)
            for callback in self.callbacks:
                callback.advance(progress)

        # an address may hold keys, which no tracker keeps
        place = self.store.place
        where = place.path if isinstance(place, FolderPlace) else place.name
        for callback in self.callbacks:
            callback.begin(self.setting.plan, where)
        report()
        recipe = replace(self._recipe, samples=tuple(facts["samples"]))
        outcomes = self.engine.run(Job(self.setting, recipe, self.store), units)
        enough = self._is_enough(len(data) - total)
        try:
            with closing(outcomes):
                while not enough and (outcome := next(outcomes, None)):
                    self._take(outcome)
                    done, elsewhere = done + outcome.images, elsewhere + outcome.elsewhere
                    self._flush(now=outcome.commit)
                    if outcome.commit and self._told != self._findings():
                        self._tell(facts)
                    self._show(outcome)
                    report()
                    enough = self._is_enough(len(data) - total + done + elsewhere)
        finally:
            self._flush(now=True)
        facts["sessions"][-1] |= {"finished": _now(), "images": done}
        if enough:
            facts["sessions"][-1] |= {"stopped at": enough.to_dict()}
        self._tell(facts)
        if not self.store.done():
            reason = next(iter(self.skipped.values()), "the data is empty")
            raise DataError(f"None of the {len(data)} images can be used: {reason}")

    def _tell(self, facts: Mapping[str, Any]) -> None:
        """Write what was found beside the rows."""
        self._told = self._findings()
        scores = {"scores": self.scores} if self.scores else {}
        odd = {**facts.get("not finite", {}), **self.odd}
        self.store.write({**facts, "skipped": self.skipped, "not finite": odd, **scores})

    def _findings(self) -> tuple[int, int]:
        return len(self.skipped), len(self.odd)

    def _facts(self) -> dict[str, Any]:
        plan, classes, side = self.setting.plan, self.setting.data.classes, self.setting.side_inputs
        return {
            "identity": self.setting.identity((self.store.facts or {}).get("identity")),
            "methods": self._method_identity(),
            "plan": plan.model_dump(mode="json"),
            "classes": None if classes is None else [*classes],
            "inputs": None if side is None else side.describe(),
            "session": {
                "begun": _now(),
                "versions": versions(),
                "hardware": hardware(plan.device),
                "batch_size": plan.batch_size,
                "chunk": plan.chunk,
            },
        }

    def _method_identity(self) -> dict[str, Any]:
        """Return what decides each method's numbers; of given maps, their digest, too."""
        known = self.setting.plan.method_identity()
        for label, method in self.setting.methods.items():
            if isinstance(method, FolderMaps):
                known[label] = {**known[label], "options": method.options}
        return known

    # --- which images, which methods -------------------------------------------------------------

    def _keep(self, facts: Mapping[str, Any], watch: Watch | None) -> Setting:
        """Return the setting with only the images that the plan keeps."""
        keep, data = self.setting.plan.keep, self.setting.data
        if keep == "all":
            return self.setting
        ids = facts.get("samples")
        if ids is None:
            ids = [name for name, right in self._classify(watch) if right == (keep == "correct")]
        if not ids:
            raise DataError(f"keep: None of the {len(data)} images is {keep}.")
        return replace(self.setting, data=data.subset(ids=ids))

    def _classify(self, watch: Watch | None) -> Iterator[tuple[str, bool]]:
        """Yield each labelled image's id, and whether the explained network classifies it right."""
        setting = replace(self.setting, judge=None, judge_preprocessing=None)
        done = 0
        for batch, failed in batches(setting):
            done += len(failed) + (0 if batch is None else len(batch))
            if watch is not None:
                watch(Progress(done, len(setting.data), what="classifying"))
            if batch is None:
                continue
            x = setting.inputs(batch.images.to(setting.plan.device), batch.ids)
            with judging(setting.network, x) as judge:
                known = torch.tensor([label or 0 for label in batch.labels], device="cpu")
                right = judge.scores.predicts(judge.clean_logits(None), known).tolist()
            for name, label, is_right in zip(batch.ids, batch.labels, right, strict=True):
                if label is not None:
                    yield name, is_right

    def _is_enough(self, images: int) -> Widest | None:
        """Return the widest interval if the plan wants no narrower one."""
        if self._stopping is None or not self._stopping.is_due(images):
            return None
        self._flush(now=True)
        return self._stopping.is_enough(load_results(self.store.folder))

    def _missing(self, done: Set[tuple[str, str]]) -> list[Unit]:
        """Return groups of samples, each with the methods that it lacks.

        Batches are cut from the whole data before what is done is left out, so that a continued
        run has the batches of an undisturbed one.
        """
        samples, seed = self.setting.data.samples, self.setting.plan.subset_seed
        order = [*range(len(samples))]
        if self._stopping is not None:  # every beginning of it is a random draw
            order.sort(key=lambda place: draw_key(seed, samples[place].id))
        show = max((callback.samples for callback in self.callbacks), default=0)
        missing: list[Unit] = []
        for number, group in enumerate(cut(len(samples), self.setting.batch_size)):
            lacking: dict[tuple[str, ...], list[int]] = {}
            for place in map(order.__getitem__, group):
                left = tuple(m for m in self.setting.methods if (samples[place].id, m) not in done)
                if left:
                    lacking.setdefault(left, []).append(place)
            for methods, places in lacking.items():
                shown = min(show, len(places))
                missing.append(Unit(number, methods, tuple(places), shown))
                show -= shown
        return missing

    # --- what came of a unit ---------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        """Keep what a unit gave."""
        self._rows += outcome.rows
        self.skipped |= outcome.skipped
        self.scores = outcome.scores or self.scores
        for name, labels in outcome.odd.items():
            self.odd[name] = sorted({*self.odd.get(name, []), *labels})
        for name, method, saliency in outcome.maps:
            self.store.keep_map(name, method, saliency)
        for name, method, nifti in outcome.scans:
            self.store.keep_scan(name, method, nifti)

    def _show(self, outcome: Outcome) -> None:
        """Show the callbacks the first images with their maps."""
        for number, explained in enumerate(outcome.shown, self._shown):
            for callback in self.callbacks:
                if number < callback.samples:
                    callback.show(explained)
        self._shown += len(outcome.shown)

    def _flush(self, *, now: bool = False) -> None:
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if now or late or len(self._rows) > _FLUSH_ROWS:
            self.store.add(self._rows)
            self._rows, self._flushed = [], time.monotonic()


def hardware(device: str) -> dict[str, Any]:
    """Return what the times were measured on."""
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

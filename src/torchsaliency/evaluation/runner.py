"""The evaluation itself: every pass shared, every finding kept, continued where it stopped."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.core.acceleration.engine import accelerated
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation, versions
from torchsaliency.core.isolation import Isolation, in_words, insist_on_numbers
from torchsaliency.core.memory import empty_caches
from torchsaliency.data import DataSet
from torchsaliency.errors import DataError, out_of_memory
from torchsaliency.evaluation.batches import Batch, batches
from torchsaliency.evaluation.plan import Plan
from torchsaliency.evaluation.probes import Scene, Scored, study_metrics
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.setting import LABEL, PREDICTED, Setting, make_setting
from torchsaliency.evaluation.store import Store
from torchsaliency.measures import judging
from torchsaliency.zoo import Network

FLUSH_SECONDS = 20.0
"""At most so much work is lost when the process is killed."""

_FLUSH_ROWS = 10_000
"""At most so many lines wait in memory, some megabytes."""


@final
@dataclass(frozen=True)
class Progress:
    """How far an evaluation is.

    Attributes:
        done: images of this session that are finished.
        total: images of this session.
        before: images that earlier sessions finished.
        skipped: images that cannot be read, or that a network fails on.
        odd: images of which some method's map is not finite.
    """

    done: int
    total: int
    before: int
    skipped: int
    odd: int = 0


Watch = Callable[[Progress], None]


def evaluate(
    plan: Plan,
    folder: str | Path,
    *,
    model: Network | None = None,
    judge: Network | None = None,
    data: DataSet | None = None,
    watch: Watch | None = None,
) -> Results:
    """Evaluate a plan into a folder, from where an earlier session stopped.

    Every image runs once for all methods, and once masked for all metrics of masked scores. The
    process may be killed at any moment; what is in the folder stays right.

    Args:
        plan: what is evaluated.
        folder: where the rows go; new, or one that the same plan began. Methods may have been
            added to the plan since.
        model: the explained network, instead of `plan.model`.
        judge: the network that scores, instead of `plan.judge`.
        data: the images, instead of `plan.data`.
        watch: told of every batch.

    Raises:
        TorchSaliencyError: something in the plan does not work, in a sentence; or the folder holds
            another evaluation.

    Example:
        >>> plan = make_plan({"methods": ["gradcam", "tsm"], "metrics": ["ad"]})  # doctest: +SKIP
        >>> evaluate(plan, "run").summary("tsm", "ad").value  # doctest: +SKIP
        24.3
    """
    setting = make_setting(plan, model=model, judge=judge, data=data)
    store = Store(folder)
    with store.held():
        Run(setting, store).go(watch)
    return load_results(folder)


def load_results(folder: str | Path) -> Results:
    """Return what an evaluation found so far.

    Raises:
        DataError: the folder holds no evaluation, or a damaged one.
    """
    store = Store(folder)
    facts = store.facts
    frame = store.frame()
    assert facts is not None  # or `frame` would have raised
    if frame.empty:
        raise DataError(
            f"{folder} has no rows yet; its evaluation was stopped before the first ones: start "
            "`torchsaliency evaluate` again."
        )
    plan = plan_of(facts)
    methods, metrics = plan.create_methods(), plan.create_metrics() | study_metrics(plan.study)
    ordered = store.frame(facts["samples"], list(methods), list(metrics))
    references = frozenset(label for label, one in methods.items() if one.name == "fakecam")
    return Results(ordered, metrics, tuple(methods), references)


def plan_of(facts: Mapping[str, Any]) -> Plan:
    """Return the plan that `run.json` tells of, with every method that was ever added."""
    return Plan.model_validate({**facts["plan"], "methods": list(facts["methods"].values())})


@final
class Run:
    """One session of an evaluation.

    Attributes:
        setting: what is evaluated.
        store: where the rows go.
        chunk: images in one derived pass; halved when the memory is too small.
        skipped: why an image has no rows, by its id.
        odd: methods that gave an image a map with NaN, by its id; its metrics are undefined.
    """

    def __init__(self, setting: Setting, store: Store) -> None:
        self.setting, self.store = setting, store
        self.skipped: dict[str, str] = {}
        self.odd: dict[str, list[str]] = {}
        self._isolation = Isolation()
        self.chunk = setting.plan.chunk
        self._rows: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def go(self, watch: Watch | None = None) -> None:
        """Compute what is missing."""
        facts = self.store.begin(self._facts(), self.setting.plan.to_yaml())
        self.setting = self._kept(facts)
        facts = {**facts, "samples": [one.id for one in self.setting.data.samples]}
        self.store.write(facts)
        groups, wanted = self._missing(self.store.done())
        total = sum(map(len, groups))
        before, done = len(self.setting.data) - total, 0
        session = facts["sessions"][-1]
        tell = watch or (lambda _: None)
        tell(Progress(0, total, before, 0))
        try:
            for methods, (batch, failed) in zip(
                wanted, batches(self.setting, groups, self.setting.plan.workers), strict=True
            ):
                self.skipped |= {one.id: one.reason for one in failed}
                done += len(failed)
                if batch is not None:
                    with accelerated(self.setting.plan.accelerate):
                        self._compute(batch, methods)
                    done += len(batch)
                self._flush()
                tell(Progress(done, total, before, len(self.skipped), len(self.odd)))
        finally:
            self._flush(now=True)
        session |= {"finished": _now(), "images": done, "chunk": self.chunk}
        self.store.write({**facts, "skipped": self.skipped, "not finite": self.odd})
        if not self.store.done():
            reason = next(iter(self.skipped.values()), "the data is empty")
            raise DataError(f"None of the {len(self.setting.data)} images can be used: {reason}")

    def _facts(self) -> dict[str, Any]:
        plan = self.setting.plan
        return {
            "identity": self.setting.identity(),
            "methods": plan.method_identity(),
            "plan": plan.model_dump(mode="json"),
            "classes": None if self.setting.data.classes is None else [*self.setting.data.classes],
            "session": {
                "begun": _now(),
                "versions": versions(),
                "hardware": hardware(plan.device),
                "batch_size": plan.batch_size,
                "chunk": plan.chunk,
            },
        }

    # --- which images, which methods -------------------------------------------------------------

    def _kept(self, facts: Mapping[str, Any]) -> Setting:
        """Return the setting with only the images that the plan keeps."""
        keep = self.setting.plan.keep
        if keep == "all":
            return self.setting
        ids = facts.get("samples")
        if ids is None:
            ids = [one for one, right in self._classified() if right == (keep == "correct")]
        if not ids:
            raise DataError(f"keep: None of the {len(self.setting.data)} images is {keep}.")
        return replace(self.setting, data=self.setting.data.subset(ids=ids))

    def _classified(self) -> Iterator[tuple[str, bool]]:
        """Tell of every labelled image whether the explained network classifies it right."""
        setting = replace(self.setting, metrics={}, judge=None, judge_preprocessing=None)
        size, count = self.setting.plan.batch_size, len(setting.data)
        groups = [list(range(at, min(at + size, count))) for at in range(0, count, size)]
        for batch, _ in batches(setting, groups, self.setting.plan.workers):
            if batch is None:
                continue
            with judging(setting.network, self._on_device(batch.images)) as judge:
                found = judge.clean_logits(None).argmax(1).tolist()
            for one, label, top in zip(batch.ids, batch.labels, found, strict=True):
                if label is not None:
                    yield one, label == top

    def _missing(self, done: set[tuple[str, str]]) -> tuple[list[list[int]], list[tuple[str, ...]]]:
        """Return groups of samples and the methods that each of them lacks.

        Batches are cut from the whole data before what is done is left out, so that a continued
        run has the batches of an undisturbed one.
        """
        samples, size = self.setting.data.samples, self.setting.plan.batch_size
        groups: list[list[int]] = []
        wanted: list[tuple[str, ...]] = []
        for start in range(0, len(samples), size):
            lacking: dict[tuple[str, ...], list[int]] = {}
            for place in range(start, min(start + size, len(samples))):
                left = tuple(m for m in self.setting.methods if (samples[place].id, m) not in done)
                if left:
                    lacking.setdefault(left, []).append(place)
            groups += lacking.values()
            wanted += lacking
        return groups, wanted

    # --- one batch -------------------------------------------------------------------------------

    def _compute(self, batch: Batch, methods: tuple[str, ...]) -> None:
        """Compute a batch; an image that fails is skipped alone."""

        def work(rows: slice) -> list[dict[str, Any]]:
            return self._with_less_memory(batch.part(rows), methods)

        for rows, found in self._isolation.run(work, len(batch)):
            if isinstance(found, Exception):
                self.skipped |= {one: in_words(found) for one in batch.ids[rows]}
            else:
                self._rows += found

    def _with_less_memory(self, batch: Batch, methods: tuple[str, ...]) -> list[dict[str, Any]]:
        """Compute a batch; where memory ends, halve the chunk."""
        while True:
            try:
                return self._computed(batch, methods)
            except Exception as error:  # each library has errors of its own
                # one not given halves where it is used
                if not out_of_memory(error) or self.chunk in (None, 1):
                    raise
            empty_caches()
            self.chunk //= 2

    def _computed(self, batch: Batch, methods: Sequence[str]) -> list[dict[str, Any]]:
        setting = self.setting
        images = self._on_device(batch.images)
        judged = None if batch.judged is None else self._on_device(batch.judged)
        made = explain(
            setting.network,
            images,
            {label: setting.methods[label] for label in methods},
            self._target(batch),
            list(setting.layers) or None,
            masking=setting.masking,
            chunk=self.chunk,
        )
        insist_on_numbers(setting.network.name, next(iter(made.values())).output)
        clean, first_cost = self._clean(judged)
        if setting.judge is not None and clean is not None:
            insist_on_numbers(setting.judge.name, clean)
        scene = Scene(
            setting,
            batch,
            images,
            judged,
            clean,
            self._judged(batch, clean),
            made,
            self.chunk,
        )
        metrics, study = scene.metrics(), scene.study()
        rows = []
        for place, (label, explanation) in enumerate(made.items()):
            scored = [*metrics[label], *study[label]]
            if place == 0:
                scored[0] = replace(scored[0], passes=scored[0].passes + first_cost)
            odd = [status == "not finite" for status in explanation.status]
            for one in (one for one, is_odd in zip(batch.ids, odd, strict=True) if is_odd):
                self.odd[one] = sorted({*self.odd.get(one, []), label})
            rows += _rows(batch, label, explanation, scored, odd)
            if setting.plan.maps:
                for one, saliency in zip(batch.ids, explanation.map, strict=True):
                    self.store.keep_map(one, label, saliency.half().cpu().numpy())
        return rows

    def _clean(self, judged: Tensor | None) -> tuple[Tensor | None, int]:
        """Return another judge's logits on the clean images, one pass for all methods."""
        if self.setting.judge is None or judged is None:
            return None, 0
        with judging(self.setting.judge, judged, chunk=self.chunk) as judge:
            return judge.clean_logits(None), judge.passes

    def _judged(self, batch: Batch, clean: Tensor | None) -> Tensor | list[int] | int | None:
        """Return the classes that are judged: those explained, wherever both networks have them."""
        if self.setting.target == PREDICTED and not self.setting.judges_explained:
            return None if clean is None else clean.argmax(1)
        return self._chosen(batch)

    def _target(self, batch: Batch) -> list[int] | int | None:
        return None if self.setting.network.encoder else self._chosen(batch)

    def _chosen(self, batch: Batch) -> list[int] | int | None:
        if self.setting.target == PREDICTED:
            return None
        if self.setting.target == LABEL:
            return [-1 if one is None else one for one in batch.labels]
        assert isinstance(self.setting.target, int)
        return self.setting.target

    def _on_device(self, images: Tensor) -> Tensor:
        return images.to(self.setting.plan.device, non_blocking=True)

    def _flush(self, *, now: bool = False) -> None:
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if now or late or len(self._rows) > _FLUSH_ROWS:
            self.store.add(self._rows)
            self._rows, self._flushed = [], time.monotonic()


def _rows(
    batch: Batch,
    label: str,
    explanation: Explanation,
    scored: Sequence[Scored],
    odd: Sequence[bool],
) -> list[dict[str, Any]]:
    """Return a line an image and metric, in the store's columns; undefined for an odd map."""
    count = len(batch)
    return [
        {
            "sample": sample,
            "method": label,
            "metric": one.metric,
            "value": math.nan if is_odd else value,
            "row": [math.nan] * len(row) if is_odd else row,
            "seconds": explanation.seconds / count,
            "passes": explanation.passes / count,
            "judge_passes": one.passes / count,
        }
        for one in scored
        for sample, value, row, is_odd in zip(
            batch.ids, one.values.tolist(), one.rows.tolist(), odd, strict=True
        )
    ]


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

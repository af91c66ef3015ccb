"""What an evaluation will cost, from a short measured sample: passes, hours, bytes and memory."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.flop_counter import FlopCounterMode

from torchsaliency.core.inputs import as_inputs, images_of
from torchsaliency.core.method import METHODS
from torchsaliency.core.network import unwrap
from torchsaliency.core.session import call_network
from torchsaliency.errors import DataError, OptionError, describe_unknown
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.plan import Plan
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.setting import Setting
from torchsaliency.evaluation.shards import SCHEMA
from torchsaliency.evaluation.studies import study_metrics
from torchsaliency.evaluation.work import Outcome, Recipe, Unit, Worker
from torchsaliency.metrics.base import METRICS, SaliencyMetric
from torchsaliency.metrics.refined import RefinedMetric
from torchsaliency.registry import Registry

GPUS: Mapping[str, float] = {
    "t4": 8.1,
    "v100": 15.7,
    "a10": 31.2,
    "l4": 30.3,
    "rtx4090": 82.6,
    "a100": 19.5,
    "h100": 66.9,
    "h200": 66.9,
}
"""Peak of float32 on each kind of GPU, without tensor cores, in 10¹² operations a second, as the
maker states it (of SXM boards where there are several)."""

_FEWEST = 16
"""Samples that any method with `until` takes at least."""

_AROUND = 3
"""Passes that such a method takes at most beside its samples: image, baseline, shared pass."""

_MANY = 2000
"""Masks of which an eighth still fits a control variate."""

SHARE = 0.4
"""Of a GPU's peak that convolutional networks reach in float32; the estimate's weakest number."""

PATIENCE = 10.0
"""Seconds of one image above which no batch is measured."""

_LONG = 100
"""Passes of a curve from which it is worth ending early."""

_STEPS = (
    *("iterations", "steps", "samples", "passes", "optimization_steps", "segments"),
    *("groups", "regions", "superpixels", "stages"),
)
"""Options that say how many passes a method or metric takes."""


@final
@dataclass(frozen=True)
class Entry:
    """What a method or a metric costs.

    Attributes:
        kind: "method" or "metric"; a metric's cost is that of all methods' maps together.
        label: as in the plan.
        passes: an image.
        seconds: an image.
        share: of all seconds, in [0, 1].
        most: passes an image if nothing ends before its last step; `passes` for all that has no
            `error`.
    """

    kind: str
    label: str
    passes: float
    seconds: float
    share: float
    most: float


@final
@dataclass(frozen=True)
class Costs:
    """What an evaluation costs on the machine that measured it.

    Attributes:
        images: that the plan names.
        measured: images that were measured.
        methods: their number.
        metrics: their number.
        entries: what each costs, the most expensive first.
        passes: an image, of all methods and metrics.
        most_passes: an image, if no curve ends before its last step.
        seconds: an image, reading and writing included.
        operations: of one pass of one image through the explained network, in floating point.
        memory: megabytes that a batch took beyond the networks.
        row_bytes: an image, in the store.
        map_bytes: an image, if maps are kept.
        widths: of the interval of each metric over all images, expected from the sample; the widest
            of all methods, in the metric's unit. Without those that too few images define.
    """

    images: int
    measured: int
    methods: int
    metrics: int
    entries: tuple[Entry, ...]
    passes: float
    most_passes: float
    seconds: float
    operations: float
    memory: float
    row_bytes: float
    map_bytes: float
    widths: Mapping[str, float]

    @property
    def hours(self) -> float:
        """Of the whole evaluation on this machine, as the plan runs it."""
        return self.seconds * self.images / 3600

    def estimate_gpu_hours(self, kind: str, count: int = 1) -> float:
        """Estimate the hours on some GPUs of a kind, each with work of its own.

        The passes' operations over the peak of the GPU, of which `SHARE` is reached; a pass
        backwards counts as two forwards. Good to a factor of two: a short run with `--engine local`
        on such a GPU measures it.

        Raises:
            OptionError: an unknown kind.
        """
        if kind not in GPUS:
            raise OptionError(describe_unknown("kind of GPU", kind, GPUS))
        operations = 3 * self.passes * self.operations * self.images
        return operations / (GPUS[kind] * 1e12 * SHARE) / 3600 / count

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in JSON types."""
        return {**asdict(self), "widths": dict(self.widths), "hours": self.hours}


def estimate_costs(plan: Plan, *, count: int = 4, data: Any = None) -> Costs:
    """Measure a plan on a few of its images, and say what all of them will take.

    One image is computed first, which finds layers and fills caches. Where that took less than
    `PATIENCE`, a batch of `count` images is measured; else the one image is what is known.

    Args:
        plan: what would be evaluated; nothing is written.
        count: images that are measured, drawn at random by the plan's seed.
        data: the images, instead of `plan.data`.

    Raises:
        TorchSaliencyError: something in the plan does not work.
        DataError: none of the images can be used.

    Example:
        >>> estimate_costs(read_plan("plan.yaml")).hours  # doctest: +SKIP
        311.4
    """
    setting = Recipe(plan, data=data).make_setting()
    images = len(setting.data)
    drawn = setting.data.subset(count=count, seed=plan.subset_seed)
    setting = dataclasses.replace(setting, data=drawn)
    held = _find_held(plan.device)
    worker = Worker(setting)
    outcome, seconds = _measure(worker, 1)
    if seconds < PATIENCE or not outcome.rows:
        outcome, seconds = _measure(worker, len(drawn))
    usable = outcome.images - len(outcome.skipped)
    if not usable:
        raise DataError(
            f"None of the {len(drawn)} measured images can be used: "
            f"{next(iter(outcome.skipped.values()), 'the data is empty')}"
        )
    frame = pd.DataFrame(outcome.rows)
    entries = _find_entries(frame, seconds, setting)
    found = {**setting.metrics, **study_metrics(plan.study)}
    side = math.prod(outcome.maps[0][2].shape) if outcome.maps else 0
    return Costs(
        images=images,
        measured=usable,
        methods=len(setting.methods),
        metrics=len(found),
        entries=entries,
        passes=sum(entry.passes for entry in entries),
        most_passes=sum(entry.most for entry in entries),
        seconds=seconds / usable,
        operations=_count_operations(setting),
        memory=(_find_most(plan.device) - held) / 2**20,
        row_bytes=_count_bytes(outcome.rows) / usable,
        map_bytes=2.0 * side * len(setting.methods),
        widths=_expect_widths(Results(frame, found, tuple(setting.methods)), images),
    )


def _measure(worker: Worker, count: int) -> tuple[Outcome, float]:
    """Compute the first images; return what that gave, and the seconds that it took."""
    setting = worker.setting
    unit = Unit(0, tuple(setting.methods), tuple(range(min(count, len(setting.data)))))
    begun = time.perf_counter()
    (outcome,) = worker.work([unit], readers=0)
    if setting.plan.device.startswith("cuda"):
        torch.cuda.synchronize(setting.plan.device)
    return outcome, time.perf_counter() - begun


def _find_entries(frame: pd.DataFrame, seconds: float, setting: Setting) -> tuple[Entry, ...]:
    """Return what each method and metric costs an image, the most expensive first.

    A method's time is measured. What is left belongs to the metrics by their passes; without any
    pass, to all rows alike. What curves with an `error` and methods with `until` take depends on
    the images.
    """
    once = frame.drop_duplicates(["sample", "method"])
    count = frame["sample"].nunique()
    methods = once.groupby("method", sort=False)[["seconds", "passes"]].sum() / count
    judged = frame.groupby("metric", sort=False)["judge_passes"].sum() / count
    left = max(0.0, seconds / count - methods["seconds"].sum())
    weights = judged if judged.sum() else judged + 1
    weights = weights / weights.sum()
    rows = [
        (
            "method",
            label,
            row["passes"],
            row["seconds"],
            _count_undrawn(setting.methods.get(str(label)), row["passes"]),
        )
        for label, row in methods.iterrows()
    ] + [
        (
            "metric",
            label,
            judged[label],
            left * weights[label],
            _count_spared(frame[frame["metric"] == label], setting.metrics.get(str(label))) / count,
        )
        for label in judged.index
    ]
    total = sum(row[3] for row in rows) or 1.0
    entries = [
        Entry(kind, str(label), float(passes), float(spent), float(spent / total), passes + spared)
        for kind, label, passes, spent, spared in rows
    ]
    return tuple(sorted(entries, key=lambda entry: -entry.seconds))


def _count_spared(frame: pd.DataFrame, metric: SaliencyMetric | None) -> float:
    """Return the passes that exact curves take and a metric's curves did not, of all images."""
    if not isinstance(metric, RefinedMetric) or metric.error is None:
        return 0.0
    rows = frame.loc[frame["judge_passes"] > 0, "row"]  # of another metric's passes none are spared
    known = torch.tensor([*rows], dtype=torch.float64, device="cpu").view(-1, metric.width)
    _, passes, steps = metric.evaluations(known).nan_to_num(0.0).sum(0).tolist()
    return float(steps - passes)


def _count_undrawn(method: Any, passes: float) -> float:
    """Return at most how many more passes an image a method with `until` takes on other images."""
    inner = getattr(method, "method", method)  # of a wrapper, which explains several copies
    if getattr(inner, "until", None) is None:
        return 0.0
    samples = next(int(inner.options[key]) for key in ("samples", "passes") if key in inner.options)
    if inner is not method:
        return float(passes * samples / _FEWEST)
    return max(0.0, samples + _AROUND - passes)


def _count_bytes(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of rows in the store."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), sink, compression="zstd")
    return int(sink.getvalue().size)


def _expect_widths(results: Results, images: int) -> dict[str, float]:
    """Return the width of each metric's interval over all images, from those measured.

    2 · 1.96 · s / √images, s the deviation of the images' values.
    """
    widths: dict[str, float] = {}
    for method in results.methods:
        for label in results.metrics:
            values = results.per_image(method, label)
            values = values[~values.isnan()]
            if len(values) > 1:
                width = 2 * 1.96 * float(values.std()) / math.sqrt(images)
                widths[label] = max(width, widths.get(label, 0.0))
    return widths


def _count_operations(setting: Setting) -> float:
    """Return the floating-point operations of one image's pass."""
    ((batch, _),) = batches(setting, [[0]], 0)
    assert batch is not None  # it was used
    x = setting.inputs(batch.images.to(setting.plan.device), batch.ids)
    inputs = None if isinstance(x, torch.Tensor) else as_inputs(x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call_network(unwrap(setting.network), images_of(x), inputs=inputs)
    return float(counter.get_total_flops())


def _find_held(device: str) -> float:
    """Return the bytes that are held now."""
    if device.startswith("cuda"):
        return float(torch.cuda.memory_allocated(device))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # another system: what was ever held, so that the batch's is a lower bound
        return _find_most(device)
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _find_most(device: str) -> float:
    """Return the most bytes that were ever held; NaN where the system does not say."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource  # noqa: PLC0415 (Windows has none)
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def suggest_savings(plan: Plan, costs: Costs, most: int = 3) -> list[str]:
    """Return what would halve the bill, a sentence each.

    Args:
        plan: that was measured.
        costs: what it costs.
        most: entries that are looked at, the most expensive ones.
    """
    found = [
        sentence
        for entry in costs.entries[:most]
        if entry.share > 0.1  # noqa: PLR2004 (less is not worth a change)
        and (sentence := _suggest(entry, _options_of(plan, entry), costs))
    ]
    half = [f"{label} {width * math.sqrt(2):.2g}" for label, width in costs.widths.items()]
    if costs.images > 1 and half:
        found.append(
            f"--count {max(1, costs.images // 2)} halves it all; intervals would be about so wide: "
            f"{', '.join(half[:8])}{' …' if len(half) > 8 else ''}."  # noqa: PLR2004
        )
    return found


def _suggest(entry: Entry, options: Mapping[str, Any], costs: Costs) -> str:
    """Return what would make one entry cheaper; "" if nothing is known."""
    if options.get("solver") == "adam":
        return (
            f"{entry.label} takes {entry.share:.0%} of the time; {entry.label}.solver=trust-region "
            "with iterations=20 reaches the same objective in a fifth of the passes, with other "
            "numbers (docs/opticam.md)."
        )
    if options.get("error", 0) is None and entry.passes >= _LONG * costs.methods:
        return (
            f"{entry.label} takes {entry.share:.0%} of the time; {entry.label}.error=1 knows each "
            "image to one point in a fifth of the passes or fewer (docs/speed.md)."
        )
    if said := _suggest_sampling(entry, options):
        return said
    for key in _STEPS:
        value = options.get(key)
        if isinstance(value, int) and value > 1:
            saved = entry.share / 2
            return (
                f"{entry.label} takes {entry.share:.0%} of the time; {entry.label}.{key}="
                f"{value // 2} in place of {value} would save {saved:.0%} of all, with other "
                "numbers."
            )
    if entry.kind == "method":
        return f"{entry.label} takes {entry.share:.0%} of the time; without it, so much is saved."
    return (
        f"{entry.label} takes {entry.share:.0%} of the time, for {costs.methods} methods; fewer "
        "methods, or without it, so much is saved."
    )


def _suggest_sampling(entry: Entry, options: Mapping[str, Any]) -> str:
    """Return what would make a method that draws at random cheaper; "" if it does not."""
    if options.get("until"):
        return (
            f"{entry.label} takes {entry.share:.0%} of the time; a larger {entry.label}.until than "
            f"{options['until']} ends earlier, with other numbers."
        )
    if options.get("control") == "none" and options["samples"] >= _MANY:
        return (
            f"{entry.label} takes {entry.share:.0%} of the time; {entry.label}.control=linear with "
            f"sampler=antithetic and samples={options['samples'] // 8} comes about as near to the "
            "map of endless masks, with other numbers (docs/speed.md)."
        )
    return ""


def _options_of(plan: Plan, entry: Entry) -> Mapping[str, Any]:
    """Return all options of a method or metric, defaults included."""
    method = entry.kind == "method"
    registry: Registry[Any] = METHODS if method else METRICS
    for choice in plan.methods if method else plan.metrics:
        if choice.label == entry.label and choice.name in registry:
            return {**registry.get(choice.name).options, **choice.options}
    return {}

"""What a metric is: per-image numbers that are collected, and one number made of them.

A metric never runs a network. It says which measure does (`entry.requires`) and with which settings
(`settings`); a measure's results have the names of the arguments of `update`.
"""

from __future__ import annotations

import abc
import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, final

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.distributed import gather_all_tensors

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.statistics import CONFIDENCE, RESAMPLES, Result, bootstrap
from torchsaliency.options import read_choice
from torchsaliency.registry import Entry, Registry

Annotations = Literal["", "boxes", "masks"]
Direction = Literal["higher", "lower", "neither"]

SECTIONS = ("Formula", "Rewards", "Misleads", "Undefined", "Differs", "Source")
"""The paragraphs of a metric's documentation."""


@dataclass(frozen=True)
class MetricEntry(Entry):
    """A registered metric.

    Attributes:
        group: "classification", "perturbation", "faithfulness", "robustness", "localisation",
            "segmentation", "self-supervised", "sanity", "axiomatic" or "complexity".
        cite: key of the paper.
        requires: the measures that run the network for it; "maps" alone if nothing runs.
        annotations: what a person must have drawn: "", "boxes" or "masks".
        direction: whether "higher" or "lower" is better, or "neither".
        unit: "%" or what else the numbers are in.
        best: the perfect score, in the unit; None if there is no bound.
        worst: the worst score; None if there is no bound.
    """

    group: str
    cite: str
    requires: tuple[str, ...]
    annotations: Annotations
    direction: Direction
    unit: str
    best: float | None
    worst: float | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What `update` takes, by name."""
        return tuple(inspect.signature(self.factory.update).parameters)[1:]

    def section(self, name: str) -> str:
        """Return the paragraph of the documentation that begins with `name:`, in one line."""
        text = inspect.cleandoc(self.factory.__doc__ or "")
        found = re.search(rf"^{name}: (.+?)(?=\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        return " ".join(found.group(1).split()) if found else ""

    def describe_options(self) -> dict[str, str]:
        """Return what the documentation says of each option, in one line."""
        found: dict[str, str] = {}
        for base in reversed(self.factory.__mro__):
            listed = inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2]
            told = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", listed, re.MULTILINE)
            found |= {name: " ".join(text.split()) for name, text in told}
        return {name: found.get(name, "") for name in self.options}

    def to_dict(self) -> dict[str, Any]:
        """Return everything about the metric in JSON types."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del facts["factory"]
        return {
            **_to_json(facts),
            "summary": self.summary,
            **{name.lower(): self.section(name) for name in SECTIONS},
            "inputs": list(self.inputs),
            "options": _to_json(self.options),
        }


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_json(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


METRICS: Registry[MetricEntry] = Registry("metric", "torchsaliency.metrics")

M = TypeVar("M", bound="type[SaliencyMetric]")


def metric(  # noqa: PLR0913 (a metric's facts, all by name)
    name: str,
    *,
    group: str,
    cite: str,
    direction: Direction,
    requires: str | tuple[str, ...] = "maps",
    annotations: Annotations = "",
    unit: str = "%",
    best: float | None = None,
    worst: float | None = None,
) -> Callable[[M], M]:
    """Add a metric to the registry under `name`; every option of it must have a default.

    A metric in percent lies between 0 and 100, unless `best` or `worst` is given.

    Args:
        name: new, in lower case.
        group: the heading under which lists show it.
        cite: the key of its paper.
        direction: whether higher or lower is better, or neither.
        requires: the measures that it reads.
        annotations: what the data must have, such as boxes.
        unit: of the number, percent by default.
        best: the best value there can be; by default that of a share in percent.
        worst: the worst value there can be.

    Raises:
        OptionError: the name is taken, or an option has no default.

    Example:
        >>> @metric("brightest", group="complexity", cite="me", direction="neither", unit="1")
        ... class Brightest(SaliencyMetric):
        ...     def update(self, maps):
        ...         self._record(maps.flatten(1).amax(1))
        >>> create_metric("brightest").name
        'brightest'
    """
    if unit == "%" and best is worst is None:
        worst, best = {"higher": (0.0, 100.0), "lower": (100.0, 0.0)}.get(direction, (None, None))

    def add(factory: M) -> M:
        measures = (requires,) if isinstance(requires, str) else requires
        entry = MetricEntry(
            name, factory, group, cite, measures, annotations, direction, unit, best, worst
        )
        factory.entry = METRICS.register(entry)
        factory.higher_is_better = {"higher": True, "lower": False, "neither": None}[direction]
        return factory

    return add


def metrics() -> Mapping[str, MetricEntry]:
    """Return every registered metric by name, read-only.

    Example:
        >>> "insertion" in metrics()
        True
    """
    return METRICS.entries()


def metric_entry(name: str) -> MetricEntry:
    """Return the metric registered under `name`.

    Raises:
        OptionError: there is none; close names are listed.

    Example:
        >>> metric_entry("ad").direction
        'lower'
    """
    return METRICS.get(name)


def create_metric(name: str, options: Mapping[str, Any] | None = None) -> SaliencyMetric:
    """Make a metric from its name and options, which may be strings ("step": "448").

    Args:
        name: as `torchsaliency metrics` lists it.
        options: options by name; the others keep their defaults.

    Raises:
        OptionError: unknown metric or option, or a value that does not fit.

    Example:
        >>> create_metric("deletion", {"step": "448"}).step
        448
    """
    created: SaliencyMetric = METRICS.create(name, options)
    return created


@final
@dataclass(frozen=True)
class Summary(Result):
    """A metric over many images.

    Attributes:
        metric: its name.
        value: the aggregate, in the metric's unit; None if no image defines it.
        low: lower end of the bootstrap interval; None for fewer than two images.
        high: upper end.
        confidence: of the interval, 0.95 by default.
        count: images that define the metric.
        undefined: images that do not; they are not in the aggregate.
        unit: of the value.
        direction: whether "higher" or "lower" is better.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    confidence: float
    count: int
    undefined: int
    unit: str
    direction: str


class SaliencyMetric(Metric, abc.ABC):
    """A metric whose state is one row of numbers an image, so that nothing is lost by averaging.

    The name of the state holds the metric's name and options: torchmetrics' automatic compute
    groups merge metrics of equal states, and two metrics often agree on the first batch.

    Attributes:
        entry: name, direction, unit, citation and required measure, set by `@metric`.
        width: numbers in an image's row.

    Args:
        options: those of `torchmetrics.Metric`, such as dist_sync_on_step.

    Example:
        >>> metric = create_metric("miou", {"threshold": 0.5})
        >>> maps = torch.tensor([[[0.9, 0.8], [0.1, 0.0]]])
        >>> metric.update(maps, torch.tensor([[[1, 0], [0, 0]]]))
        >>> metric.summary().value, metric.per_image.tolist()
        (50.0, [50.0])
    """

    entry: ClassVar[MetricEntry]
    width = 1
    full_state_update = False
    is_differentiable = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Leave the properties to Python where `torch.jit.script` compiles the metric.

        TorchScript compiles the properties of a class, of its base classes too, and ours read lists
        and registries; like torchmetrics' own they are named here, and `forward` is unused there.
        """
        super().__init_subclass__(**options)
        cls.__jit_unused_properties__ = [
            name
            for kind in cls.__mro__
            for name, value in vars(kind).items()
            if isinstance(value, property)
        ]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        known = "_".join(f"{key}_{value}" for key, value in self.settings.items())
        self._state = f"rows_{type(self).__name__}_{known}".replace(".", "_")
        self.add_state(self._state, default=[], dist_reduce_fx="cat")

    @property
    def name(self) -> str:
        """The registered name."""
        return self.entry.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """All options that decide the number, those of the measure included."""
        return {name: getattr(self, name) for name in self.entry.options}

    def terms(self, rows: Tensor) -> Tensor:
        """Return the numbers (N, W) that are averaged over images, of rows (N, width)."""
        return self.image_values(rows)[:, None]

    def of_mean(self, mean: Tensor) -> Tensor:
        """Return the metric (...) of the mean (..., W) of `terms` over images."""
        return mean[..., 0]

    @final
    def aggregate(self, rows: Tensor) -> Tensor:
        """Return the metric of rows (N, width) that are all defined."""
        return self.of_mean(self.terms(rows).mean(0))

    def image_values(self, rows: Tensor) -> Tensor:
        """Return one number an image (N,), in the metric's unit, from rows (N, width)."""
        return rows[:, 0]

    @final
    def compute(self) -> Tensor:
        """Return the metric over all images that define it; NaN, with a warning, if none does."""
        rows = self.defined_rows
        if len(rows) == 0:
            warnings.warn(
                f"{self.name} is undefined: of {len(self.rows)} images none defines it.",
                stacklevel=2,
            )
            return torch.tensor(torch.nan, dtype=torch.float64, device="cpu")
        return self.aggregate(rows)

    @property
    def per_image(self) -> Tensor:
        """One number an image (N,), in the order of the updates; NaN where undefined."""
        rows = self.rows
        return torch.where(rows.isnan().any(1), torch.nan, self.image_values(rows))

    @property
    def rows(self) -> Tensor:
        """What is kept of each image (N, width), float64, in the order of the updates.

        NaN where undefined; `restore` takes rows back, so that they can be stored.
        """
        kept = getattr(self, self._state)
        if isinstance(kept, Tensor):  # as torchmetrics leaves it after a synchronisation
            return kept
        empty = torch.empty(0, self.width, dtype=torch.float64, device=self.device)
        return torch.cat(kept or [empty])

    @property
    def defined_rows(self) -> Tensor:
        """The rows of the images that define the metric."""
        return self.rows[~self.rows.isnan().any(1)]

    def restore(self, rows: Tensor) -> None:
        """Add images whose rows (N, width) were kept earlier.

        Raises:
            InputError: rows of another metric's width.
        """
        self._record(rows)
        # what torchmetrics does around `update`; `compute` would return what it found before
        self._update_count += 1
        self._computed = None

    def summary(
        self, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
    ) -> Summary:
        """Return the metric with its bootstrap interval and the number of images."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=True
        ):
            rows = self.rows
        return self.summarise(rows, confidence=confidence, resamples=resamples, seed=seed)

    @final
    def summarise(
        self,
        rows: Tensor,
        *,
        confidence: float = CONFIDENCE,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Summary:
        """Return the summary of rows (N, width) that were kept elsewhere, NaN where undefined."""
        defined = rows[~rows.isnan().any(1)]
        low = high = None
        if len(defined) > 1:
            low, high = bootstrap(
                self.terms(defined),
                self.of_mean,
                confidence=confidence,
                resamples=resamples,
                seed=seed,
            )
        return Summary(
            metric=self.name,
            value=float(self.aggregate(defined)) if len(defined) else None,
            low=low,
            high=high,
            confidence=confidence,
            count=len(defined),
            undefined=len(rows) - len(defined),
            unit=self.entry.unit,
            direction=self.entry.direction,
        )

    def _record(self, rows: Tensor) -> None:
        """Keep one row an image, (n,) or (n, width), NaN where the metric is undefined."""
        rows = rows.detach().double().to(self.device)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.shape[1] != self.width:
            raise InputError(f"{self.name} keeps {self.width} numbers an image, not {rows.shape}.")
        getattr(self, self._state).append(rows)

    def _sync_dist(
        self,
        dist_sync_fn: Callable[..., Any] = gather_all_tensors,
        process_group: Any | None = None,
    ) -> None:
        if not getattr(self, self._state):  # a process without images must send the right shape
            setattr(self, self._state, [self.rows])
        super()._sync_dist(dist_sync_fn, process_group)


MetricLike = str | SaliencyMetric | Mapping[str, Any]
MetricsLike = MetricLike | Sequence[MetricLike]


def resolve_metrics(metrics: MetricsLike) -> dict[str, SaliencyMetric]:
    """Return metrics by name or label, made of names, of options by name, or of a plan's choices.

    Args:
        metrics: one or a sequence of names, metrics and {"ssim": {"mode": "labels"}}; or a mapping
            of several names to their options.

    Raises:
        OptionError: an unknown name or option, none at all, or one twice.

    Example:
        >>> resolve_metrics({"deletion": {"step": 448}, "ad": {}})["deletion"].step
        448
    """
    several: list[MetricLike]
    if isinstance(metrics, Mapping):
        several = [{name: options} for name, options in metrics.items()]
    elif isinstance(metrics, str | SaliencyMetric):
        several = [metrics]
    else:
        several = [*metrics]
    pairs = [_create_one(item) for item in several]
    found = dict(pairs)
    if not found or len(found) != len(pairs):
        raise OptionError(
            f"{len(pairs)} metrics with {len(found)} different names were given; give at least "
            "one, each once."
        )
    return found


def _create_one(given: Any) -> tuple[str, SaliencyMetric]:
    """Return a metric and its label."""
    if isinstance(given, SaliencyMetric):
        return given.name, given
    choice = read_choice("metric", given)
    return choice.label, create_metric(choice.name, choice.options)


def collection(metrics: MetricsLike) -> MetricCollection:
    """Return a torchmetrics collection, each metric a compute group of its own.

    Args:
        metrics: as of `score`, each once.

    Raises:
        OptionError: an unknown name or option, none was given, or one twice.

    Example:
        >>> list(collection(["ad", "ag"]))
        ['ad', 'ag']
    """
    by_name: dict[str, Metric | MetricCollection] = {**resolve_metrics(metrics)}
    # explicit groups: automatic ones merge metrics that happen to agree on the first batch
    return MetricCollection(by_name, compute_groups=[[name] for name in by_name])

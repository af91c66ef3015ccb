"""The one list of metrics, filled by `@metric` when this package is imported."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torchsaliency.registry import Entry, Registry

if TYPE_CHECKING:
    from torchsaliency.metrics.base import SaliencyMetric

Direction = Literal["higher", "lower", "neither"]

_SECTION = r"^{name}: (.+?)(?=\n\n|\Z)"


@dataclass(frozen=True)
class MetricEntry(Entry):
    """A registered metric.

    Attributes:
        group: "classification", "perturbation", "robustness", "localisation", "segmentation",
            "self-supervised", "sanity" or "complexity".
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
    annotations: Literal["", "boxes", "masks"]
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
        found = re.search(_SECTION.format(name=name), text, re.DOTALL | re.MULTILINE)
        return " ".join(found.group(1).split()) if found else ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything about the metric in JSON types."""
        facts = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "factory"
        }
        told = {
            key.lower(): self.section(key)
            for key in ("Formula", "Rewards", "Misleads", "Undefined", "Differs", "Source")
        }
        return {
            **facts,
            "summary": self.summary,
            **told,
            "inputs": list(self.inputs),
            "options": {key: _plain(value) for key, value in self.options.items()},
        }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else str(value)


M = TypeVar("M", bound="type[SaliencyMetric]")

METRICS: Registry[MetricEntry] = Registry("metric", "torchsaliency.metrics")


def metric(  # noqa: PLR0913 (a metric's facts, all by name)
    name: str,
    *,
    group: str,
    cite: str,
    direction: Direction,
    requires: str | tuple[str, ...] = "maps",
    annotations: Literal["", "boxes", "masks"] = "",
    unit: str = "%",
    best: float | None = None,
    worst: float | None = None,
) -> Callable[[M], M]:
    """Add a metric to the registry under `name`; every option of it must have a default.

    Raises:
        OptionError: the name is taken, or an option has no default.
    """

    def add(factory: M) -> M:
        needed = (requires,) if isinstance(requires, str) else requires
        entry = MetricEntry(
            name, factory, group, cite, needed, annotations, direction, unit, best, worst
        )
        factory.entry = entry
        factory.higher_is_better = {"higher": True, "lower": False, "neither": None}[direction]
        METRICS.register(entry)
        return factory

    return add


def metrics() -> Mapping[str, MetricEntry]:
    """Return every registered metric by name, read-only."""
    return METRICS.entries()


def metric_entry(name: str) -> MetricEntry:
    """Return the metric registered under `name`.

    Raises:
        OptionError: there is none; close names are listed.
    """
    return METRICS.get(name)


def create_metric(name: str, options: Mapping[str, Any] | None = None) -> SaliencyMetric:
    """Make a metric from its name and options, which may be strings ("step": "448").

    Raises:
        OptionError: unknown metric or option, or a value that does not fit.
    """
    made: SaliencyMetric = METRICS.create(name, options)
    return made

"""What a metric is: per-image numbers that are collected, and one number made of them.

A metric never runs a network. It says which measure does (`entry.requires`) and with which settings
(`settings`); a measure's results have the names of the arguments of `update`.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.distributed import gather_all_tensors

from torchsaliency.errors import InputError
from torchsaliency.metrics.registry import MetricEntry, create_metric
from torchsaliency.metrics.statistics import CONFIDENCE, RESAMPLES, bootstrap


@final
@dataclass(frozen=True)
class Summary:
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in JSON types."""
        return asdict(self)


class SaliencyMetric(Metric, abc.ABC):
    """A metric whose state is one row of numbers an image, so that nothing is lost by averaging.

    The state bears the metric's name and options: torchmetrics' automatic compute groups merge
    metrics of equal states, and two metrics often agree on the first batch.

    Attributes:
        entry: name, direction, unit, citation and required measure, set by `@metric`.
        width: numbers in an image's row.
    """

    entry: ClassVar[MetricEntry]
    width: int = 1
    full_state_update = False
    is_differentiable = False

    def __init__(self, **options: Any) -> None:
        """Collect nothing yet; `options` are torchmetrics' own (dist_sync_on_step, …)."""
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
        """What the measure must be told, and all else that decides the number: the options."""
        return {name: getattr(self, name) for name in self.entry.options}

    def terms(self, rows: Tensor) -> Tensor:
        """Return the numbers (N, W) that are averaged over images, of rows (N, width)."""
        return rows[:, :1]

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
        rows, undefined = self._defined()
        if len(rows) == 0:
            warnings.warn(
                f"{self.name} is undefined: of {undefined} images none defines it.", stacklevel=2
            )
            return torch.tensor(torch.nan, dtype=torch.float64, device="cpu")
        return self.aggregate(rows)

    @property
    def per_image(self) -> Tensor:
        """One number an image (N,), in the order of the updates; NaN where undefined."""
        rows = self._rows()
        values = self.image_values(rows)
        return torch.where(rows.isnan().any(1), torch.nan, values)

    @property
    def rows(self) -> Tensor:
        """What is kept of each image (N, width), float64, in the order of the updates.

        NaN where undefined; `restore` takes rows back, so that they can be stored.
        """
        return self._rows()

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
            rows = self._rows()
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
        value = low = high = None
        if len(defined):
            value = float(self.aggregate(defined))
        if len(defined) > 1:
            low, high = bootstrap(
                self.terms(defined),
                self.of_mean,
                confidence=confidence,
                resamples=resamples,
                seed=seed,
            )
        entry = self.entry
        return Summary(
            self.name,
            value,
            low,
            high,
            confidence,
            len(defined),
            len(rows) - len(defined),
            entry.unit,
            entry.direction,
        )

    def _record(self, rows: Tensor) -> None:
        """Keep one row an image, (n,) or (n, width), NaN where the metric is undefined."""
        rows = rows.detach().double().to(self.device)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.shape[1] != self.width:
            raise InputError(f"{self.name} keeps {self.width} numbers an image, not {rows.shape}.")
        getattr(self, self._state).append(rows)

    def _rows(self) -> Tensor:
        kept = getattr(self, self._state)
        if isinstance(kept, Tensor):  # as torchmetrics leaves it after a synchronisation
            return kept
        return (
            torch.cat(kept)
            if kept
            else torch.empty(0, self.width, dtype=torch.float64, device="cpu")
        )

    def _defined(self) -> tuple[Tensor, int]:
        rows = self._rows()
        defined = ~rows.isnan().any(1)
        return rows[defined], int((~defined).sum())

    def _sync_dist(
        self,
        dist_sync_fn: Callable[..., Any] = gather_all_tensors,
        process_group: Any | None = None,
    ) -> None:
        if not getattr(self, self._state):  # a process without images must send the right shape
            empty = torch.empty(0, self.width, dtype=torch.float64, device=self.device)
            setattr(self, self._state, [empty])
        super()._sync_dist(dist_sync_fn, process_group)


def collection(metrics: Sequence[str | SaliencyMetric]) -> MetricCollection:
    """Return a torchmetrics collection, each metric a compute group of its own.

    Args:
        metrics: names or metrics, each name once.

    Raises:
        OptionError: an unknown name.
        InputError: none was given, or one twice.
    """
    made = [create_metric(one) if isinstance(one, str) else one for one in metrics]
    named: dict[str, Metric | MetricCollection] = {one.name: one for one in made}
    if not named or len(named) != len(made):
        raise InputError(
            f"{len(made)} metrics with {len(named)} different names were given; give at least one, "
            "each once."
        )
    # explicit groups: automatic ones merge metrics that happen to agree on the first batch
    return MetricCollection(named, compute_groups=[[name] for name in named])

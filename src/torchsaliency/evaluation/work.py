"""The work of an evaluation: units of images and methods, and what computes one of them.

An engine says where and in which order units are computed; what a unit gives depends on nothing
but the setting and the unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from torchsaliency.core.acceleration import accelerated
from torchsaliency.core.isolation import Isolation, describe_failure
from torchsaliency.evaluation.batches import Batch, Unreadable, batches
from torchsaliency.evaluation.bench import Bench
from torchsaliency.evaluation.callbacks import ExplainedImage
from torchsaliency.evaluation.plan import Plan
from torchsaliency.evaluation.scoring import explain_batch, score_batch
from torchsaliency.evaluation.setting import Setting, make_setting, require_permuted
from torchsaliency.zoo import Network, ScanPreprocessing


@final
@dataclass(frozen=True)
class Unit:
    """Images that share their passes, and the methods that explain them.

    Attributes:
        number: of the batch that the images are of, counted over the whole data.
        methods: labels.
        places: of the images in the data.
        shown: so many of its images are kept with their maps, for callbacks.
        attempts: how often it was begun by a process that died of it, or of something else.
    """

    number: int
    methods: tuple[str, ...]
    places: tuple[int, ...]
    shown: int = 0
    attempts: int = 0

    def __len__(self) -> int:
        return len(self.places)

    def halve(self) -> tuple[Unit, Unit]:
        """Return the two halves of a unit of two or more images, to be begun anew."""
        middle, shown = len(self) // 2, self.shown
        return (
            replace(self, places=self.places[:middle], shown=min(shown, middle), attempts=0),
            replace(self, places=self.places[middle:], shown=max(0, shown - middle), attempts=0),
        )


@final
@dataclass(eq=False)
class Outcome:
    """What a unit gave: all that leaves the process that computed it.

    Attributes:
        images: how many are finished, skipped ones among them.
        rows: in the store's columns.
        skipped: why an image has no rows, by its id.
        odd: labels of the methods whose map of an image is not finite, by its id.
        scores: what the numbers mean; None if nothing was computed.
        maps: sample, method and map, if maps are kept.
        scans: sample, method and NIfTI file of the map, if maps of scans are kept.
        shown: the first images with the maps of all methods.
        elsewhere: images that sessions that share the store have finished meanwhile.
        commit: whether all that was found so far is to be written at once, as others wait for it.
    """

    images: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=dict)
    scores: str | None = None
    maps: list[tuple[str, str, NDArray[Any]]] = field(default_factory=list)
    scans: list[tuple[str, str, bytes]] = field(default_factory=list)
    shown: list[ExplainedImage] = field(default_factory=list)
    elsewhere: int = 0
    commit: bool = False


@final
@dataclass(frozen=True, eq=False)
class Recipe:
    """From what another process makes the setting.

    Attributes:
        plan: what is evaluated.
        model: the network, where it was given from Python.
        judge: the judge, where it was given from Python.
        permuted: the network of permuted labels, where it was given from Python.
        data: the images, where they were given from Python.
        samples: ids of the images that are evaluated, in their order; None for all.
    """

    plan: Plan
    model: Network | None = None
    judge: Network | None = None
    permuted: Network | None = None
    data: Any = None
    samples: tuple[str, ...] | None = None

    def make_setting(self, device: str | None = None) -> Setting:
        """Load and find everything, for a device in place of the plan's."""
        plan = self.plan
        if device is not None:
            plan = plan.model_copy(update={"device": device})
        made = make_setting(
            plan, model=self.model, judge=self.judge, permuted=self.permuted, data=self.data
        )
        require_permuted(made)
        known = tuple(sample.id for sample in made.data.samples)
        if self.samples is None or known == self.samples:
            return made
        return replace(made, data=made.data.subset(ids=self.samples))


@final
class Worker:
    """Computes units in this process."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._isolation = Isolation()

    def work(self, units: Sequence[Unit], readers: int | None = None) -> Iterator[Outcome]:
        """Compute units in their order; images are read ahead by processes.

        Args:
            units: what is computed.
            readers: processes that read; None is what the plan says, 0 reads in this one.
        """
        groups = [unit.places for unit in units]
        read = batches(self.setting, groups, readers)
        for unit, (batch, failed) in zip(units, read, strict=True):
            yield self.compute(unit, batch, failed)

    def compute(
        self, unit: Unit, batch: Batch | None, failed: Sequence[Unreadable] = ()
    ) -> Outcome:
        """Compute a unit whose images were read.

        An image that fails, or for which memory ends, is skipped alone.
        """
        outcome = Outcome(len(unit), skipped={sample.id: sample.reason for sample in failed})
        if batch is None:
            return outcome
        with accelerated(self.setting.plan.accelerate):
            for rows, result in self._isolation.run(
                lambda rows: self._score(batch.part(rows), unit), len(batch)
            ):
                if isinstance(result, Exception):
                    reason = describe_failure(result)
                    outcome.skipped |= dict.fromkeys(batch.ids[rows], reason)
                else:
                    _add(outcome, result)
        outcome.shown = outcome.shown[: unit.shown]
        return outcome

    def _score(self, batch: Batch, unit: Unit) -> Outcome:
        """Return a row an image, method and metric."""
        benches = explain_batch(self.setting, batch, unit.methods)
        count, outcome = len(batch), Outcome(0, shown=self._gather(batch, unit, benches))
        for label, values in score_batch(self.setting, benches).items():
            explanation = benches[label].explanation
            outcome.scores = explanation.scores.name
            odd = [status == "not finite" for status in explanation.status]
            for name in itertools.compress(batch.ids, odd):
                outcome.odd.setdefault(name, []).append(label)
            for metric in values:
                outcome.rows += [
                    {
                        "sample": name,
                        "method": label,
                        "metric": metric.metric,
                        "value": math.nan if is_odd else value,
                        "row": [math.nan] * len(row) if is_odd else row,
                        "seconds": explanation.seconds / count,
                        "passes": explanation.passes / count,
                        "judge_passes": metric.passes / count,
                    }
                    for name, value, row, is_odd in zip(
                        batch.ids, metric.values.tolist(), metric.rows.tolist(), odd, strict=True
                    )
                ]
            if self.setting.plan.maps:
                self._keep_maps(outcome, batch, label, explanation.map)
        return outcome

    def _keep_maps(self, outcome: Outcome, batch: Batch, method: str, maps: Tensor) -> None:
        """Keep the maps of a method; of scans in the scan's own order, size and affine, too."""
        data, preprocessing = self.setting.data, self.setting.preprocessing
        for name, saliency in zip(batch.ids, maps, strict=True):
            # a copy, or every map would hold its batch's memory
            outcome.maps.append((name, method, np.array(saliency.half().cpu().numpy())))
            if isinstance(preprocessing, ScanPreprocessing):
                scan = data.picture(self._places[name]).image
                volume = preprocessing.place_map(saliency).float().cpu()
                outcome.scans.append((name, method, scan.nifti(volume)))

    def _gather(
        self, batch: Batch, unit: Unit, benches: Mapping[str, Bench]
    ) -> list[ExplainedImage]:
        """Return the first images with the maps of all methods."""
        known = {name: getattr(self.setting.preprocessing, name, None) for name in ("mean", "std")}
        found = []
        for place, name in enumerate(batch.ids[: unit.shown]):
            maps = {label: bench.explanation.map[place].cpu() for label, bench in benches.items()}
            found.append(ExplainedImage(name, batch.images[place], maps, **known))
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        return {sample.id: place for place, sample in enumerate(self.setting.data.samples)}


def _add(outcome: Outcome, part: Outcome) -> None:
    """Add what some images of a unit gave."""
    outcome.rows += part.rows
    outcome.odd |= part.odd
    outcome.scores = part.scores or outcome.scores
    outcome.maps += part.maps
    outcome.scans += part.scans
    outcome.shown += part.shown

"""What is asked of a batch's maps: the plan's metrics, and the studies of Opti-CAM's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.evaluation.batches import Batch
from torchsaliency.evaluation.scoring import Bench
from torchsaliency.evaluation.setting import Setting
from torchsaliency.evaluation.studies import (
    ALPHAS,
    BOX_ONLY,
    CLASSES,
    WITH_MAP,
    Row,
    Study,
    bounding_boxes,
    selectivity,
)
from torchsaliency.measures import masked_scores
from torchsaliency.metrics import SaliencyMetric


@final
@dataclass(frozen=True, eq=False)
class Scored:
    """One metric of a batch.

    Attributes:
        metric: its label.
        values: (N,) one number an image, NaN where undefined.
        rows: (N, width) what the metric is aggregated from.
        passes: images that the judge saw for it.
    """

    metric: str
    values: Tensor
    rows: Tensor
    passes: int = 0

    @classmethod
    def of(cls, label: str, metric: SaliencyMetric, passes: int = 0) -> Scored:
        """Return what a metric has collected of one batch."""
        return cls(label, metric.per_image, metric.rows, passes)


@final
@dataclass(frozen=True, eq=False)
class Scene:
    """A batch and its maps, ready to be scored.

    Attributes:
        setting: of the evaluation.
        batch: the images and what is known of them.
        images: on the device, as the explained network saw them.
        judged: on the device, as the judge sees them; None if it is the explained network.
        clean: the judge's logits on them; None if it is the explained network.
        target: the classes that are judged, as `score` takes them.
        made: the maps, by method.
        chunk: images in one pass; None finds it.
    """

    setting: Setting
    batch: Batch
    images: Tensor
    judged: Tensor | None
    clean: Tensor | None
    target: Tensor | list[int] | int | None
    made: Mapping[str, Explanation]
    chunk: int | None

    def metrics(self) -> dict[str, list[Scored]]:
        """Return the plan's metrics of every method."""
        return {label: self._metrics(one) for label, one in self.made.items()}

    def _metrics(self, explanation: Explanation) -> list[Scored]:
        metrics = self.setting.metrics
        if not metrics:
            return []
        for metric in metrics.values():
            metric.reset()
        masks = self.batch.masks
        bench = Bench(
            self.setting.network,
            explanation,
            target=self.target,
            judge=self.setting.judge,
            images=self.judged,
            boxes=self.batch.boxes,
            masks=None if masks is None else masks.to(explanation.map.device),
            masking=self.setting.judge_masking,
            clean=self.clean,
            seed=self.setting.plan.seed,
            chunk=self.chunk,
        )
        costs = bench.feed(list(metrics.values()))
        return [
            Scored.of(label, metric, cost)
            for (label, metric), cost in zip(metrics.items(), costs, strict=True)
        ]

    def study(self) -> dict[str, list[Scored]]:
        """Return the plan's study of every method; nothing if it has none."""
        name = self.setting.plan.study
        return {label: [] for label in self.made} if name is None else _STUDIES[name].run(self)

    # --- the judge, as studies need it ---------------------------------------------------------

    @property
    def judge(self) -> dict[str, Any]:
        """What a study passes on to the judge's measures."""
        first = next(iter(self.made.values()))
        own = self.setting.judge is None
        output = first.output if isinstance(first.output, Tensor) else None
        return {
            "masking": self.setting.masking if own else self.setting.judge_masking,
            "clean": output if own else self.clean,
            "chunk": self.chunk,
        }

    @property
    def seen(self) -> tuple[Any, Tensor]:
        """The judge and what it looks at."""
        if self.setting.judge is None or self.judged is None:
            return self.setting.network, self.images
        return self.setting.judge, self.judged

    @property
    def labels(self) -> Any:
        """The classes that are judged."""
        if self.target is not None:
            return self.target
        return getattr(next(iter(self.made.values())).target, "labels", None)


@final
@dataclass(frozen=True)
class _StudyKind:
    variants: tuple[str, ...]
    run: Callable[[Scene], dict[str, list[Scored]]]


def _boxes(scene: Scene, *, published: bool) -> dict[str, list[Scored]]:
    network, images = scene.seen
    assert scene.batch.boxes is not None
    found = {}
    for label, one in scene.made.items():
        study = bounding_boxes(
            network,
            images,
            one.map,
            list(scene.batch.boxes),
            scene.labels,
            published=published,
            **scene.judge,
        )
        found[label] = _scored(study)
    return found


def _selectivity(scene: Scene) -> dict[str, list[Scored]]:
    network, images = scene.seen
    return {
        label: _scored(selectivity(network, images, one.map, scene.labels, **scene.judge))
        for label, one in scene.made.items()
    }


def _classes(scene: Scene) -> dict[str, list[Scored]]:
    """Explain the second, the least and the most probable class, and judge the true one."""
    first = next(iter(scene.made.values()))
    order = first.output.argsort(dim=1, descending=True)
    setting = scene.setting
    methods = {label: setting.methods[label] for label in scene.made}
    others = [
        explain(
            setting.network,
            scene.images,
            methods,
            classes,
            list(setting.layers) or None,
            masking=setting.masking,
            chunk=scene.chunk,
        )
        for classes in (order[:, 0], order[:, 1], order[:, -1])
    ]
    labels = torch.as_tensor(scene.labels, device=order.device)
    right = order[:, 0] == labels
    network, images = scene.seen
    found = {}
    for label, one in scene.made.items():
        maps = torch.stack([one.map, *(other[label].map for other in others)], 1)
        scores = masked_scores(network, images, maps, labels, **scene.judge)
        study = Study.of(CLASSES[:-1])
        study.add(CLASSES[:-1], scores)
        listed = _scored(study)
        most = listed[3:6]
        found[label] = listed + [
            Scored(
                one.metric.replace(CLASSES[1], CLASSES[-1]),
                one.values.masked_fill(right.cpu(), torch.nan),
                one.rows.masked_fill(right.cpu()[:, None], torch.nan),
            )
            for one in most
        ]
    return found


def _scored(study: Study) -> list[Scored]:
    return [
        Scored.of(study_label(metric.name, variant), metric)
        for variant, row in study.rows.items()
        for metric in row.metrics
    ]


def study_label(metric: str, variant: str) -> str:
    """Return what a metric of one variant is called: "ad, B∩S"."""
    return f"{metric}, {variant}"


_STUDIES: Mapping[str, _StudyKind] = {
    "boxes": _StudyKind((*WITH_MAP, *BOX_ONLY), lambda scene: _boxes(scene, published=False)),
    "boxes-published": _StudyKind(
        (*WITH_MAP, *BOX_ONLY), lambda scene: _boxes(scene, published=True)
    ),
    "classes": _StudyKind(CLASSES, _classes),
    "selectivity": _StudyKind(tuple(f"α = {a:g}" for a in ALPHAS), _selectivity),
}

STUDIES = tuple(_STUDIES)
"""Names of the studies."""


def study_variants(name: str) -> tuple[str, ...]:
    """Return the lines of a study."""
    return _STUDIES[name].variants


def study_metrics(name: str | None) -> dict[str, SaliencyMetric]:
    """Return a study's metrics by label, without images."""
    if name is None:
        return {}
    return {
        study_label(metric.name, variant): metric
        for variant in study_variants(name)
        for metric in Row.of(variant).metrics
    }

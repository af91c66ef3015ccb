"""From maps to metrics and studies: of one explanation, or of a plan's batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from torchsaliency.core.acceleration import accelerated
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.isolation import require_numbers
from torchsaliency.core.masking import Masking
from torchsaliency.evaluation.batches import Batch
from torchsaliency.evaluation.bench import Bench
from torchsaliency.evaluation.setting import PREDICTED, Setting
from torchsaliency.evaluation.studies import (
    box_variants,
    class_variants,
    find_misclassified,
    power_variants,
    score_variants,
)
from torchsaliency.measures import judging
from torchsaliency.measures.judge import Labels
from torchsaliency.metrics.base import MetricsLike, SaliencyMetric, resolve_metrics


def score(  # noqa: PLR0913 (all but the first three by name)
    model: nn.Module,
    explanation: Explanation,
    metrics: MetricsLike,
    *,
    target: Labels = None,
    judge: nn.Module | None = None,
    permuted: nn.Module | None = None,
    images: InputsLike | None = None,
    boxes: Sequence[Tensor] | None = None,
    masks: Tensor | None = None,
    masking: Masking | None = None,
    seed: int = 0,
    chunk: int | None = None,
    accelerate: str | None = None,
) -> dict[str, SaliencyMetric]:
    """Score the maps of one explanation by several metrics.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it.
        metrics: names, metrics, or {"ssim": {"mode": "labels"}} with options as in a plan; one, a
            list, or a mapping of several with options. Metrics given are updated, so that batches
            add up.
        target: classes that are judged; by default those that were explained, or, if the
            explanation has no classes, those the judge predicts.
        judge: the network that scores, if it is not the explained one.
        permuted: the same network trained on permuted labels, for sanity metrics with
            mode="labels".
        images: the images as the judge wants them, if its preprocessing differs.
        boxes: (B, 4) an image, x0 y0 x1 y1 in the map's pixels, for localisation metrics.
        masks: (N, H, W) object masks, 0 background, 255 void, for segmentation metrics.
        masking: baseline of masked images; the explanation's own by default. Insertion begins with
            RISE's blur all the same, and AOPC replaces regions by the image's minimum; for other
            baselines call `perturbation_curve` and `region_curve`.
        seed: of the measures that draw.
        chunk: images in one pass; None finds it.
        accelerate: how passes run, see `accelerated`; None leaves it as it is.

    Returns:
        The metrics by name or label, updated.

    Raises:
        OptionError: an unknown metric or option, or none, or one twice.
        InputError: annotations are missing, or something does not fit.
        TargetError: the target does not fit the judge.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> made = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")
        >>> found = score(net, made["gradcam"], ["ad", "ag"])
        >>> found["ad"].summary().count
        2
    """
    chosen = resolve_metrics(metrics)
    bench = Bench(
        model,
        explanation,
        target=target,
        judge=judge,
        permuted=permuted,
        images=images,
        boxes=boxes,
        masks=masks,
        masking=masking,
        seed=seed,
        chunk=chunk,
    )
    with nullcontext() if accelerate is None else accelerated(accelerate):
        bench.feed([*chosen.values()])
    return chosen


# --- a plan's batches -----------------------------------------------------------------------------


@final
@dataclass(eq=False)
class MetricValues:
    """One metric of a batch."""

    metric: str  # its label
    values: Tensor  # (N,) one number an image, NaN where undefined
    rows: Tensor  # (N, width) what the metric is aggregated from
    passes: int = 0  # images that the judge saw for it


def explain_batch(
    setting: Setting, batch: Batch, methods: Collection[str] | None = None
) -> dict[str, Bench]:
    """Explain a batch, and return each method's explanation, ready to be scored.

    The classes that are explained are also judged wherever both networks have them.
    """
    device, network, judge = setting.plan.device, setting.network, setting.judge
    target: Labels = setting.target_of(batch.labels)
    explanations = setting.explain(
        setting.inputs(batch.images.to(device, non_blocking=True), batch.ids),
        None if network.encoder else target,
        methods=methods,
        ids=batch.ids,
    )
    first = next(iter(explanations.values()))
    require_numbers(network.name, first.output)
    judged = clean = None
    passes = 0
    if judge is not None and batch.judged is not None:
        judged = setting.judge_inputs(batch.judged.to(device, non_blocking=True), batch.ids)
        with judging(judge, judged, chunk=setting.plan.chunk) as judgement:
            clean = judgement.clean_logits(None)
            passes = judgement.passes
        if setting.target == PREDICTED and judge.class_count != network.class_count:
            target = clean.argmax(1)
    benches = {
        label: Bench(
            network,
            explanation,
            target=target,
            judge=judge,
            permuted=setting.permuted,
            images=judged,
            boxes=batch.boxes,
            masks=None if batch.masks is None else batch.masks.to(first.map.device),
            masking=setting.judge_masking,
            clean=clean,
            seed=setting.plan.seed,
            chunk=setting.plan.chunk,
        )
        for label, explanation in explanations.items()
    }
    # one pass on the clean images serves all methods, and is counted with the first
    next(iter(benches.values())).passes = passes
    return benches


def score_batch(setting: Setting, benches: Mapping[str, Bench]) -> dict[str, list[MetricValues]]:
    """Return the plan's metrics and the variants of its study, by method."""
    clean_passes = next(iter(benches.values())).passes
    scores = {label: score_metrics(setting, bench) for label, bench in benches.items()}
    if setting.plan.study is not None:
        for label, study in _score_study(setting.plan.study, setting, benches).items():
            scores[label] += [
                MetricValues(name, metric.per_image, metric.rows) for name, metric in study.items()
            ]
    next(iter(scores.values()))[0].passes += clean_passes
    return scores


def score_metrics(setting: Setting, bench: Bench) -> list[MetricValues]:
    """Return the plan's metrics of one method."""
    for metric in setting.metrics.values():
        metric.reset()
    costs = bench.feed([*setting.metrics.values()])
    bench.measured.clear()  # other methods of the batch need the memory
    return [
        MetricValues(label, metric.per_image, metric.rows, cost)
        for (label, metric), cost in zip(setting.metrics.items(), costs, strict=True)
    ]


def _score_study(
    name: str, setting: Setting, benches: Mapping[str, Bench]
) -> dict[str, dict[str, SaliencyMetric]]:
    explanations = {label: bench.explanation for label, bench in benches.items()}
    first = next(iter(benches.values()))

    def explain_classes(classes: Tensor) -> dict[str, Explanation]:
        return setting.explain(first.explanation.given, classes, methods=benches)

    if name == "classes":
        variants = class_variants(explanations, explain_classes)
    elif name == "selectivity":
        variants = {label: power_variants(one.map) for label, one in explanations.items()}
    else:
        published = name == "boxes-published"
        variants = {
            label: box_variants(bench.explanation.map, bench.boxes or (), published=published)
            for label, bench in benches.items()
        }
    studies = {}
    for label, bench in benches.items():
        found = studies[label] = score_variants(
            bench.judge,
            bench.given,
            variants[label],
            bench.labels,
            masking=bench.masking,
            clean=bench.logits,
            chunk=bench.chunk,
        )
        if name == "classes":
            found |= find_misclassified(found, first.explanation.output, bench.labels)
    return studies

"""Which method can be defended for which question, on a network and images of one's own.

A panel of metrics that disagree by nature asks five questions. To each, every two methods are
compared on the same images; a question speaks for one of two methods if at least one of its metrics
tells them apart (the bootstrap interval of the paired difference leaves out 0) and none says the
opposite. Nothing is added up over questions but these voices: the metrics have no common unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from torchsaliency.core.explain import MethodsLike, explain, resolve_methods
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.method import METHODS, Method
from torchsaliency.core.scores import ScoreKind
from torchsaliency.core.target import TargetLike
from torchsaliency.errors import InputError, OptionError, TorchSaliencyError, describe_error
from torchsaliency.evaluation.bench import Bench, find_class_measure
from torchsaliency.evaluation.verdicts import FEWEST, Cost, Question, Recommendation, weigh
from torchsaliency.measures import network_stages
from torchsaliency.metrics.base import SaliencyMetric, create_metric
from torchsaliency.metrics.statistics import CONFIDENCE

CANDIDATES = (
    *("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam"),
    *("eigencam", "multivec-eigencam", "mtsm", "opticam"),
    *("integrated-gradients", "smoothgrad", "lrp"),
    *("attention-rollout", "generic-attention"),
)
"""Methods that are tried where none are named, those that fit: of every family the well known, but
for masking methods, which take thousands of passes an image."""

CONTROLS = ("randomcam", "edges")
"""What any method must beat: maps that read nothing of the class."""

PANEL: Mapping[str, Question] = {
    "enough": Question(
        "Is what the map shows enough for the network?", {"ad": {}, "ag": {}}, controlled=True
    ),
    "order": Question(
        "Are its strongest pixels those that decide?",
        {"insertion": {"budget": 28}, "deletion": {"budget": 28}},
        controlled=True,
    ),
    "steady": Question(
        "Does it stay when the image hardly changes?", {"avg-sensitivity": {"samples": 4}}
    ),
    "learned": Question(
        "Does it go when the network forgets what it learned?", {"spearman": {"stages": 3}}
    ),
    "clear": Question("Does it point at little?", {"sparseness": {}}),
}
"""The panel of `recommend`: five questions, seven metrics."""

OF_EMBEDDINGS: Mapping[str, Question] = {
    "enough": Question(
        "Is what the map shows enough for the embedding?", {"mse": {}}, controlled=True
    ),
    **{name: PANEL[name] for name in ("steady", "learned", "clear")},
}
"""The panel of networks without classes."""

Watch = Callable[[int, int], None]
"""Called with the steps done and all steps."""


def recommend(  # noqa: PLR0913 (all but the first three by name)
    model: nn.Module,
    images: Tensor,
    target: TargetLike = None,
    *,
    methods: MethodsLike | None = None,
    panel: Mapping[str, Question] | None = None,
    batch_size: int = 8,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    chunk: int | None = None,
    watch: Watch | None = None,
) -> Recommendation:
    """Try methods on a network and images, and say which can be defended for which question.

    Every method explains every image once, and is scored by the panel; a method costs about 60
    passes an image beside its own, and its own eight times (four noisy copies, three networks whose
    weights become random).

    Args:
        model: the network.
        images: (N, C, H, W) as the network wants them; at least eight to learn anything.
        target: as of `explain`; the predicted class by default.
        methods: as of `explain`; by default `CANDIDATES`, of which those that do not fit the
            network are left out. `CONTROLS` run beside them.
        panel: questions by name; `PANEL` by default, `OF_EMBEDDINGS` for networks without classes.
        batch_size: images that share a pass.
        confidence: of the intervals.
        seed: of what metrics and intervals draw.
        chunk: as of `explain`.
        watch: called with the batches that are done, and all of them.

    Raises:
        OptionError: no method fits.
        InputError: fewer than two images, or what `explain` raises.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = recommend(net, torch.rand(2, 3, 64, 64), methods=["gradcam", "tsm"])
        >>> found.verdict  # eight images at least, better 20 to 40
        'too little evidence'
    """
    if len(images) < 2:  # noqa: PLR2004
        raise InputError(
            f"{len(images)} image was given; methods are compared image by image: give at least "
            f"{FEWEST}."
        )
    chosen, left_out = _choose(model, images[:1], target, methods, chunk)
    first = next(iter(chosen.values()))[1]
    questions = dict(panel or (PANEL if first.scores.classes else OF_EMBEDDINGS))
    metrics = _metrics(model, questions, first.scores)
    controls = tuple(name for name in chosen if name in CONTROLS)
    values: dict[str, dict[str, list[Tensor]]] = {name: {} for name in metrics}
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    explanations: dict[str, list[Explanation]] = {name: [] for name in chosen}
    starts, done = range(0, len(images), batch_size), 0
    for start in starts:
        classes = _part(target, slice(start, start + batch_size), len(images))
        part = images[start : start + batch_size]
        for name, (method, _) in chosen.items():  # apart, so that each one's cost is its own
            made = explain(model, part, {name: method}, classes, chunk=chunk)[name]
            bench = Bench(model, made, seed=seed, chunk=chunk)
            for metric in metrics.values():
                metric.reset()
            bench.feed([*metrics.values()])
            for label, metric in metrics.items():
                values[label].setdefault(name, []).append(metric.per_image.cpu())
            costs[name].append((made.passes, made.seconds))
            explanations[name].append(made)
            done += 1
            if watch is not None:
                watch(done, len(starts) * len(chosen))
    return weigh(
        {label: {m: torch.cat(parts) for m, parts in of.items()} for label, of in values.items()},
        questions,
        {name: metric.entry.direction == "higher" for name, metric in metrics.items()},
        controls=controls,
        costs={
            name: Cost(*(sum(column) / len(images) for column in zip(*parts, strict=True)))
            for name, parts in costs.items()
        },
        left_out=left_out,
        explanations=explanations,
        confidence=confidence,
        seed=seed,
    )


def _choose(
    model: nn.Module,
    image: Tensor,
    target: TargetLike,
    methods: MethodsLike | None,
    chunk: int | None,
) -> tuple[dict[str, tuple[Method, Explanation]], dict[str, str]]:
    """Return the methods that explain an image, with its explanation, and why others do not."""
    tolerant = methods is None
    wanted = resolve_methods([*CANDIDATES] if methods is None else methods)
    wanted |= {name: METHODS.create(name) for name in CONTROLS if name not in wanted}
    found, left_out = {}, {}
    first = _part(target, slice(0, 1), 1)
    for name, method in wanted.items():
        try:
            made = explain(model, image, {name: method}, first, chunk=chunk)[name]
        except TorchSaliencyError as error:
            if not tolerant and name not in CONTROLS:
                raise
            left_out[name] = describe_error(error)
        else:
            found[name] = (method, made)
    if not set(found) - {*CONTROLS}:
        raise OptionError(f"No method fits: {next(iter(left_out.values()), 'none was given')}")
    return found, left_out


def _metrics(
    model: nn.Module, questions: Mapping[str, Question], scores: ScoreKind
) -> dict[str, SaliencyMetric]:
    found = {}
    for question in questions.values():
        for name, options in question.metrics.items():
            given = dict(options)
            if "stages" in given:
                given["stages"] = min(given["stages"], len(network_stages(model)))
            found[name] = create_metric(name, given)
            if find_class_measure(found[name]) and not scores.classes:
                raise OptionError(
                    f"{name} reads class probabilities, and the network's numbers are "
                    f"{scores.name}; ask a panel without it, such as OF_EMBEDDINGS."
                )
    return found


def _part(target: TargetLike, rows: slice, count: int) -> TargetLike:
    """Return the target of some images: lists and tensors of classes have one each."""
    if isinstance(target, Tensor) and target.ndim == 1 and len(target) >= count:
        return target[rows]
    if isinstance(target, list | tuple) and len(target) >= count:
        return list(target)[rows]
    return target

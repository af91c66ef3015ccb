"""Which method can be defended for which question, on a network and images of one's own.

A panel of metrics that disagree by nature asks five questions. To each, every two methods are
compared on the same images; a question speaks for one of two methods if at least one of its metrics
tells them apart (the bootstrap interval of the paired difference leaves out 0) and none says the
opposite. Nothing is added up over questions but these voices: the metrics have no common unit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.explain import MethodsLike, explain, resolve_methods
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.method import METHODS, Method
from torchsaliency.core.scores import ScoreKind
from torchsaliency.core.target import TargetLike
from torchsaliency.errors import InputError, OptionError, TorchSaliencyError, describe_error
from torchsaliency.evaluation.bench import Bench, find_class_measure
from torchsaliency.measures import network_stages
from torchsaliency.metrics.base import SaliencyMetric, create_metric
from torchsaliency.metrics.statistics import CONFIDENCE, bootstrap, compare

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

FEWEST = 8
"""Images below which intervals are too wide to say anything."""


@final
@dataclass(frozen=True)
class Question:
    """A question of the panel.

    Attributes:
        words: the question.
        metrics: that answer it, with their options.
        controlled: whether a method must do better than a control before it is worth anything.
    """

    words: str
    metrics: Mapping[str, Mapping[str, Any]]
    controlled: bool = False


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

Verdict = Literal["recommended", "contradictory", "too little evidence"]


@final
@dataclass(frozen=True)
class Standing:
    """How a method stands in one question.

    Attributes:
        wins: rivals over which the question prefers it.
        losses: rivals that it prefers.
        beats_controls: whether it does better than every control; None if none was asked.
    """

    wins: tuple[str, ...]
    losses: tuple[str, ...]
    beats_controls: bool | None

    @property
    def defensible(self) -> bool:
        """Whether no rival does better, and no control as well."""
        return not self.losses and self.beats_controls is not False


@final
@dataclass(frozen=True)
class Cost:
    """What a map of one image costs.

    Attributes:
        passes: images through the network.
        seconds: on this machine, measured on the images of the panel.
    """

    passes: float
    seconds: float


@final
@dataclass(frozen=True, eq=False)
class Recommendation:
    """What the panel says of methods; `print` shows it as text.

    Attributes:
        verdict: "recommended" if one method alone is beaten by none; "contradictory" if several are
            and as many questions speak for one of two as for the other; "too little evidence" if no
            question tells them apart, or there are fewer than eight images.
        shortlist: the methods beaten by no other, one if the verdict is "recommended".
        reason: the verdict in one sentence.
        standings: by question and method.
        scores: by metric and method: mean over images, and its interval.
        costs: by method.
        questions: the panel, in words.
        left_out: methods that do not fit the network, and metrics that do not fit, with why.
        count: images.
        values: by metric and method, (N,) one number an image, NaN where undefined.
        explanations: by method, of all images.
    """

    verdict: Verdict
    shortlist: tuple[str, ...]
    reason: str
    standings: Mapping[str, Mapping[str, Standing]]
    scores: Mapping[str, Mapping[str, tuple[float, float, float]]]
    costs: Mapping[str, Cost]
    questions: Mapping[str, str]
    left_out: Mapping[str, str]
    count: int
    values: Mapping[str, Mapping[str, Float[Tensor, " n"]]]
    explanations: Mapping[str, Sequence[Explanation]] = field(default_factory=dict)

    @property
    def recommended(self) -> str | None:
        """The method that the panel recommends, or None."""
        return self.shortlist[0] if self.verdict == "recommended" else None

    def defensible(self, question: str) -> tuple[str, ...]:
        """Return the methods that can be defended for a question.

        Raises:
            OptionError: no such question.
        """
        if question not in self.standings:
            raise OptionError(
                f"The question {question!r} was not asked; these were: {', '.join(self.standings)}."
            )
        of_methods = self.standings[question].items()
        return tuple(name for name, standing in of_methods if standing.defensible)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the maps in JSON types."""
        return {
            "verdict": self.verdict,
            "recommended": self.recommended,
            "shortlist": [*self.shortlist],
            "reason": self.reason,
            "images": self.count,
            "questions": {
                name: {
                    "question": words,
                    "defensible": [*self.defensible(name)],
                    "methods": {m: asdict(one) for m, one in self.standings[name].items()},
                }
                for name, words in self.questions.items()
            },
            "scores": {
                metric: {m: dict(zip(("mean", "low", "high"), row, strict=True)) for m, row in of}
                for metric, of in ((k, v.items()) for k, v in self.scores.items())
            },
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "left out": dict(self.left_out),
        }

    def __str__(self) -> str:
        lines = [self.reason, ""]
        for name, words in self.questions.items():
            found = ", ".join(self.defensible(name)) or "none: too little evidence to say"
            lines.append(f"{words} {found}.")
        lines += ["", "Cost of a map (passes, seconds an image):"]
        lines += [
            f"  {name}: {cost.passes:.0f}, {cost.seconds:.2g}" for name, cost in self.costs.items()
        ]
        lines += [f"Left out {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)


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
        >>> found = recommend(net, x)  # doctest: +SKIP
        >>> found.recommended, found.defensible("order")  # doctest: +SKIP
        ('opticam', ('opticam', 'layercam'))
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


# --- from numbers to a verdict --------------------------------------------------------------------


def weigh(  # noqa: PLR0913 (all but the first three by name)
    values: Mapping[str, Mapping[str, Float[Tensor, " n"]]],
    questions: Mapping[str, Question],
    higher_is_better: Mapping[str, bool],
    *,
    controls: Sequence[str] = (),
    costs: Mapping[str, Cost] | None = None,
    left_out: Mapping[str, str] | None = None,
    explanations: Mapping[str, Sequence[Explanation]] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Recommendation:
    """Weigh the metrics of methods, image by image; pure, for numbers from wherever they come.

    Args:
        values: by metric and method, (N,) one number an image, NaN where undefined.
        questions: of the panel, whose metrics are all in `values`.
        higher_is_better: by metric.
        controls: methods that are no contenders.
        costs: by method.
        left_out: what was not tried, and why.
        explanations: what is kept in the result.
        confidence: of the intervals of paired differences.
        seed: of the bootstrap.

    Returns:
        The recommendation. A method beats another if more questions speak for it than against it.

    Example:
        >>> better, worse = torch.linspace(1, 2, 20), torch.linspace(0, 1, 20)
        >>> values = {"ag": {"a": better, "b": worse}}
        >>> asked = {"enough": Question("Is it enough?", {"ag": {}})}
        >>> weigh(values, asked, {"ag": True}).recommended
        'a'
    """
    everyone = list(next(iter(values.values())))
    names = [name for name in everyone if name not in controls]
    count = len(next(iter(next(iter(values.values())).values())))

    def prefers(question: Question, a: str, b: str) -> int:
        signs = set()
        for metric in question.metrics:
            sign = _sign(values[metric][a], values[metric][b], confidence, seed)
            signs.add(sign if higher_is_better[metric] else -sign)
        return sum(signs)  # two metrics that contradict each other say nothing

    votes = {
        name: {
            pair: prefers(question, *pair)
            for pair in itertools.combinations(everyone, 2)
            if not {*pair} <= {*controls}
        }
        for name, question in questions.items()
    }

    def vote(question: str, a: str, b: str) -> int:
        known = votes[question]
        return known[a, b] if (a, b) in known else -known[b, a]

    standings = {
        question: {
            name: Standing(
                tuple(b for b in names if b != name and vote(question, name, b) > 0),
                tuple(b for b in names if b != name and vote(question, name, b) < 0),
                all(vote(question, name, control) > 0 for control in controls)
                if asked.controlled and controls
                else None,
            )
            for name in names
        }
        for question, asked in questions.items()
    }
    verdict, shortlist, reason = _decide(
        names, [*questions], vote, count, {n: [s[n] for s in standings.values()] for n in names}
    )
    return Recommendation(
        verdict,
        shortlist,
        reason,
        standings,
        {
            metric: {name: _mean(of[name], confidence, seed) for name in everyone}
            for metric, of in values.items()
        },
        dict(costs or {}),
        {name: question.words for name, question in questions.items()},
        dict(left_out or {}),
        count,
        values,
        dict(explanations or {}),
    )


def _decide(
    names: Sequence[str],
    questions: Sequence[str],
    vote: Callable[[str, str, str], int],
    count: int,
    standings: Mapping[str, Sequence[Standing]],
) -> tuple[Verdict, tuple[str, ...], str]:
    def total(a: str, b: str) -> int:
        return sum(vote(question, a, b) for question in questions)

    able = [
        name for name in names if all(one.beats_controls is not False for one in standings[name])
    ]
    if not able:
        reason = (
            f"Undecided: on these {count} images no method does better than the controls in every "
            "question that asks for it; give more images, or other methods."
        )
        return "too little evidence", (), reason
    best = tuple(a for a in able if all(total(a, b) >= 0 for b in able if b != a))
    if count < FEWEST:
        reason = (
            f"Undecided: {count} images are too few to tell methods apart; give at least {FEWEST}, "
            "better 20."
        )
        return "too little evidence", best, reason
    if len(best) == 1:
        rivals = [b for b in able if b != best[0]]
        beaten = [b for b in rivals if total(best[0], b) > 0]
        reason = f"Recommended: {best[0]}."
        if len(able) < len(names):
            reason += (
                f" {len(able)} of {len(names)} methods do better than the controls wherever that "
                "is asked."
            )
        if rivals:
            reason += (
                f" More questions speak for it than against it in comparison with {len(beaten)} of "
                f"the {len(rivals)} others, and none of them has that over it."
            )
        return "recommended", best, reason
    if not best:
        return (
            "contradictory",
            (),
            "Undecided: every method is beaten by another, in a circle; the questions contradict "
            "each other, so choose by the one that matters to you.",
        )
    pairs = [*itertools.combinations(best, 2)]
    contradictions = [pair for pair in pairs if any(vote(q, *pair) for q in questions)]
    listed = ", ".join(best)
    if contradictions:
        a, b = contradictions[0]
        fors = [q for q in questions if vote(q, a, b) > 0]
        against = [q for q in questions if vote(q, a, b) < 0]
        reason = (
            f"Undecided between {listed}: half of the panel contradicts the other half "
            f"({', '.join(fors)} for {a}, {', '.join(against)} for {b}); choose by the question "
            "that matters to you."
        )
        return "contradictory", best, reason
    reason = (
        f"Undecided between {listed}: no question tells them apart on {count} images; each of them "
        "can be defended, and more images may tell."
    )
    return "too little evidence", best, reason


def _sign(a: Tensor, b: Tensor, confidence: float, seed: int) -> int:
    """Return 1 if a is surely larger than b on the same images, -1 if smaller, 0 if unsure."""
    defined = ~(a - b).isnan()
    if int(defined.sum()) < 2:  # noqa: PLR2004
        return 0
    found = compare(a[defined], b[defined], confidence=confidence, resamples=1000, seed=seed)
    return int(found.low > 0) - int(found.high < 0)


def _mean(values: Tensor, confidence: float, seed: int) -> tuple[float, float, float]:
    defined = values[~values.isnan()].double()
    if len(defined) < 2:  # noqa: PLR2004
        only = float(defined.mean()) if len(defined) else float("nan")
        return only, float("nan"), float("nan")
    ends = bootstrap(defined[:, None], confidence=confidence, resamples=1000, seed=seed)
    return float(defined.mean()), *ends


# --- where methods agree --------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Consensus:
    """What several maps of the same images say together.

    Attributes:
        map: (N, H, W) in [0, 1], the mean over methods of each pixel's rank.
        doubt: (N, H, W) in [0, 1], twice the standard deviation of these ranks: 1 where half of the
            methods rank a pixel first and the others last.
        agreement: (M, M) mean over images of Spearman's correlation of two methods.
        methods: names, in the order of `agreement`.
    """

    map: Float[Tensor, "n h w"]
    doubt: Float[Tensor, "n h w"]
    agreement: Float[Tensor, "m m"]
    methods: tuple[str, ...]


def consensus(maps: Mapping[str, Float[Tensor, "n h w"]]) -> Consensus:
    """Return where methods agree, pixel by pixel, and where they contradict each other.

    r_m(u) ∈ [0, 1] is the rank of pixel u in the map of method m, ties by their mean;
    map = mean_m r_m, doubt = 2 · std_m r_m (of the population). Ranks, because methods scale their
    maps in their own ways.

    Args:
        maps: by method, at least two, all of the same shape.

    Raises:
        InputError: fewer than two maps, or different shapes.

    Example:
        >>> found = consensus({"a": torch.rand(1, 4, 4), "b": torch.rand(1, 4, 4)})
        >>> found.map.shape, found.agreement.shape
        (torch.Size([1, 4, 4]), torch.Size([2, 2]))
    """
    shapes = {tuple(one.shape) for one in maps.values()}
    if len(maps) < 2 or len(shapes) != 1:  # noqa: PLR2004
        raise InputError(
            f"{len(maps)} maps of the shapes {sorted(shapes)} were given; a consensus needs at "
            "least two of one shape."
        )
    ranks = torch.stack([_rank(one) for one in maps.values()])
    flat = ranks.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    unit = nn.functional.normalize(centred, dim=2)
    agreement = torch.einsum("anp,bnp->abn", unit, unit).mean(2)
    doubt = 2 * ranks.std(0, unbiased=False)
    return Consensus(ranks.mean(0).float(), doubt.float(), agreement.float(), tuple(maps))


def _rank(maps: Tensor) -> Tensor:
    """Return each pixel's rank among those of its image, from 0 to 1, ties by their mean."""
    flat = maps.double().flatten(1).contiguous()
    ordered = flat.sort(1).values.contiguous()
    below = torch.searchsorted(ordered, flat)
    upto = torch.searchsorted(ordered, flat, right=True)
    return ((below + upto - 1) / (2 * max(1, flat.shape[1] - 1))).reshape(maps.shape)

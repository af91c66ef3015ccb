"""From the scores of methods on the same images to what can be said of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.explanation import Explanation
from torchsaliency.errors import OptionError
from torchsaliency.metrics.statistics import CONFIDENCE, bootstrap, compare

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

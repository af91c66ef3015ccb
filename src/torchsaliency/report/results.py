"""From results to tables: all methods by all metrics, and two methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from torchsaliency.errors import InputError
from torchsaliency.evaluation.results import Results
from torchsaliency.metrics.statistics import CONFIDENCE, RESAMPLES, Comparison, compare
from torchsaliency.report.tables import ALPHA, Cell, Column, Line, Table

TIME = "T"
BATCH = 8
"""Images whose time the papers print."""


def table(
    results: Results,
    *,
    confidence: float = CONFIDENCE,
    timing: bool = True,
    published: Mapping[str, Mapping[str, float | int]] | None = None,
    caption: str = "",
    resamples: int = RESAMPLES,
) -> Table:
    """Return all methods by all metrics, with intervals, bests and tests against the best.

    Every contender is compared with the best of its column, image by image: Wilcoxon's signed-rank
    test, two-sided, Holm-corrected over the methods of the column. `Cell.worse` says whether p is
    below 0.05 and the images speak for the best; where two images do not define both, there is no
    p-value and nothing is shown to be worse. The best is chosen on the images it is tested on, so
    the tests favour it slightly.

    Args:
        results: what an evaluation found.
        confidence: of the intervals.
        timing: whether to add T, the seconds for a batch of 8: 8 × the median time of an image.
        published: a paper's numbers, by method and column; those of other methods are left out.
        caption: what the table shows.
        resamples: of the bootstrap.
    """
    scores: dict[str, dict[str, Cell]] = {method: {} for method in results.methods}
    columns = []
    for label, metric in results.metrics.items():
        columns.append(Column(label, metric.entry.unit, metric.entry.direction))
        for method in results.methods:
            summary = results.summary(method, label, confidence=confidence, resamples=resamples)
            scores[method][label] = Cell.of(summary)
        column = {method: scores[method][label].value for method in results.methods}
        for method, verdict in _verdicts(results, label, column).items():
            scores[method][label] = replace(
                scores[method][label], p_value=verdict.p_value, worse=verdict.worse
            )
    notes = _missing(results)
    if timing:
        columns.append(Column(TIME, "s"))
        for method in results.methods:
            scores[method][TIME] = _time(results, method)
        notes.append(f"{TIME}: seconds for {BATCH} images, {BATCH} times the median of one.")
    _add_published(scores, published or {})
    return Table.of(scores, columns, references=results.references, caption=caption, notes=notes)


def comparison(
    results: Results, a: str, b: str, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Table:
    """Return two methods side by side: a line a metric.

    The columns are both methods, the mean difference A − B of an image with its interval, the
    p-value of Wilcoxon's signed-rank test, Holm-corrected over the metrics, the matched-pairs
    rank-biserial correlation as effect, and the images compared. The better method is bold where p
    is below 0.05.

    Raises:
        OptionError: no such method.
        InputError: no metric has two images that define it for both.
    """
    found = results.compare(a, b, confidence=confidence, resamples=resamples)
    if not found:
        raise InputError(
            f"No metric is defined for both {a} and {b} on two images; evaluate both on the same "
            "images first."
        )
    names = (a, b, f"{a} − {b}", "p", "effect", "images")
    columns = tuple(Column(name, decimals=0 if name == "images" else None) for name in names)
    corrected = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
    lines = []
    for label, one in found.items():
        entry = results.metrics[label].entry
        heading = Column(label, entry.unit, entry.direction).heading
        cells = [
            Cell.of(results.summary(method, label, confidence=confidence, resamples=resamples))
            for method in (a, b)
        ]
        if entry.direction != "neither" and corrected[label] < ALPHA:
            better = _favours_first(one, entry.direction)
            place = 0 if better else 1
            cells[place] = replace(cells[place], rank="best")
        cells += [
            Cell(one.difference, one.low, one.high, confidence, one.count),
            Cell(corrected[label]),
            Cell(one.effect),
            Cell(float(one.count)),
        ]
        lines.append(Line(heading, tuple(cells)))
    notes = (
        "p: Wilcoxon's signed-rank test, Holm-corrected over the metrics.",
        f"effect: matched-pairs rank-biserial correlation, above 0 where {a} is larger.",
    )
    return Table(columns, tuple(lines), f"{a} against {b}", "metric", notes, "better, p < 0.05")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order (Holm, 1979).

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) · p_(j)) for the ascending p_(1), …, p_(m).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


@final
@dataclass(frozen=True)
class _Verdict:
    """Of a contender against the best of its column."""

    p_value: float | None
    worse: bool


def _verdicts(
    results: Results, metric: str, column: Mapping[str, float | None]
) -> dict[str, _Verdict]:
    direction = results.metrics[metric].entry.direction
    values = {
        method: value
        for method, value in column.items()
        if value is not None and method not in results.references
    }
    if len(values) < 2 or direction == "neither":  # noqa: PLR2004
        return {}
    best = (max if direction == "higher" else min)(values, key=lambda method: values[method])
    others = [method for method in values if method != best]
    top = results.per_image(best, metric)
    tests: dict[str, Comparison] = {}
    for method in others:
        own = results.per_image(method, metric)
        if int((~(own - top).isnan()).sum()) > 1:
            # the interval of the difference is not asked for: one resample
            tests[method] = compare(own, top, resamples=1)
    corrected = dict(zip(tests, holm([one.p_value for one in tests.values()]), strict=True))
    found = dict.fromkeys(others, _Verdict(None, worse=False))
    for method, test in tests.items():
        worse = corrected[method] < ALPHA and not _favours_first(test, direction)
        found[method] = _Verdict(corrected[method], worse)
    return found


def _favours_first(test: Comparison, direction: str) -> bool:
    """Say whether the images speak for the first method; the mean alone may say otherwise."""
    return test.effect > 0 if direction == "higher" else test.effect < 0


def _time(results: Results, method: str) -> Cell:
    seconds = results.seconds(method)
    if not len(seconds):
        return Cell()
    # torch's median is the lower of the two in the middle
    return Cell(BATCH * float(seconds.quantile(0.5)), count=len(seconds))


def _missing(results: Results) -> list[str]:
    """Say which methods were not run on all images: their numbers are about other images."""
    total = len(results.samples)
    counts = {method: results.images(method) for method in results.methods}
    short = [f"{method} on {count}" for method, count in counts.items() if count < total]
    if not short:
        return []
    return [f"Of {total} images not all were evaluated: {', '.join(short)}."]


def _add_published(
    scores: dict[str, dict[str, Cell]], published: Mapping[str, Mapping[str, float | int]]
) -> None:
    for method, numbers in published.items():
        for label, number in numbers.items():
            if label in scores.get(method, {}):
                scores[method][label] = replace(scores[method][label], published=float(number))


__all__ = ["BATCH", "TIME", "comparison", "holm", "table"]

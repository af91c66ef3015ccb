"""From results to tables: all methods by all metrics, and two methods side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from torchsaliency.errors import InputError
from torchsaliency.evaluation.comparing import RunComparison
from torchsaliency.evaluation.results import Results
from torchsaliency.metrics.base import Summary
from torchsaliency.metrics.refined import RefinedMetric
from torchsaliency.metrics.statistics import CONFIDENCE, RESAMPLES, Comparison, compare
from torchsaliency.report.tables import ALPHA, Column, Table

TIME = "T"
BATCH = 8
"""Images whose time the papers print."""

Published = Mapping[str, Mapping[str, float | int]]
"""A paper's numbers, by method and column."""


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
    test, two-sided, Holm-corrected over the methods of the column. A cell is `worse` if p is below
    0.05 and the images speak for the best; where two images do not define both, there is no
    p-value and nothing is shown to be worse. The best is chosen on the images it is tested on, so
    the tests favour it slightly.

    Args:
        results: what an evaluation found.
        confidence: of the intervals.
        timing: whether to add T, the seconds for a batch of 8: 8 × the median time of an image.
        published: a paper's numbers, by method and column; those of other methods are left out.
        caption: what the table shows.
        resamples: of the bootstrap.

    Example:
        >>> from torchsaliency.evaluation import evaluate, make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> plan = make_plan({**facts, "methods": ["gradcam", "tsm"]})
        >>> len(table(evaluate(plan, "run")).columns)
        2
    """
    cells = []
    for label in results.metrics:
        summaries = {
            method: results.summary(method, label, confidence=confidence, resamples=resamples)
            for method in results.methods
        }
        tests = _test_against_best(results, label, summaries)
        cells += [
            summary_cell(summary, method, label, **tests.get(method, {}))
            for method, summary in summaries.items()
        ]
    notes = [*_list_missing(results), *_list_evaluations(results)]
    if timing:
        cells += [_time_cell(results, method) for method in results.methods]
        notes.append(f"{TIME}: seconds for {BATCH} images, {BATCH} times the median of one.")
    return Table.of(
        add_published(cells, published or {}),
        references=results.references,
        caption=caption,
        notes=notes,
    )


def summary_cell(
    summary: Summary, row: str, column: str, group: str = "", **facts: Any
) -> dict[str, Any]:
    """Return a summary as a cell of a `Table`, with further facts."""
    known = {key: value for key, value in asdict(summary).items() if key != "metric"}
    return {"row": row, "group": group, "column": column, **known, **facts}


def add_published(cells: Iterable[dict[str, Any]], published: Published) -> list[dict[str, Any]]:
    """Return cells with a paper's numbers of their row and column."""
    return [
        {**cell, "published": published.get(cell["row"], {}).get(cell["column"])} for cell in cells
    ]


def comparison(
    results: Results, a: str, b: str, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Table:
    """Return two methods side by side: a line a metric.

    The columns are both methods, the mean difference A − B of an image with its interval, the
    p-value of Wilcoxon's signed-rank test, Holm-corrected over the metrics, the matched-pairs
    rank-biserial correlation as effect, and the images compared. The better method is bold where p
    is below 0.05.

    Args:
        results: of an evaluation.
        a: the label of a method.
        b: that of another one.
        confidence: of the intervals, in (0, 1).
        resamples: of the bootstrap.

    Raises:
        OptionError: no such method.
        InputError: one method twice, or no metric has two images that define it for both.

    Example:
        >>> from torchsaliency.evaluation import evaluate, make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> plan = make_plan({**facts, "methods": ["gradcam", "tsm"]})
        >>> found = evaluate(plan, "run")
        >>> comparison(found, "gradcam", "tsm").corner
        'metric'
    """
    if a == b:
        raise InputError(f"{a} was given to be compared with itself; give two methods.")
    found = results.compare(a, b, confidence=confidence, resamples=resamples)
    if not found:
        raise InputError(
            f"No metric is defined for both {a} and {b} on two images; evaluate both on the same "
            "images first."
        )
    corrected = dict(zip(found, holm([test.p_value for test in found.values()]), strict=True))
    cells: list[dict[str, Any]] = []
    for label, test in found.items():
        summaries = [
            results.summary(method, label, confidence=confidence, resamples=resamples)
            for method in (a, b)
        ]
        entry = results.metrics[label].entry
        row = Column(label, entry.unit, entry.direction).heading
        cells += _pair_cells(row, (a, b), summaries, test, corrected[label], entry.direction)
    return Table.of(
        cells,
        caption=f"{a} against {b}",
        corner="metric",
        notes=("p: Wilcoxon's signed-rank test, Holm-corrected over the metrics.", _effect(a)),
        best=_BETTER,
    )


def tabulate_runs(found: RunComparison) -> Table:
    """Return two runs side by side: a line for each method and metric, columns as `comparison`.

    Holm's correction is over all lines. The notes say what was paired, what differs between the
    runs, and what is left out.

    Example:
        >>> from torchsaliency.evaluation import evaluate, make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> from torchsaliency.evaluation import compare_runs
        >>> for name in ("builtin/shapes_cnn", "builtin/shapes_vit"):
        ...     plan = make_plan({**facts, "model": name, "methods": ["tsm"]})
        ...     found = evaluate(plan, name.rpartition("/")[2])
        >>> len(tabulate_runs(compare_runs("shapes_cnn", "shapes_vit")).columns) > 0
        True
    """
    a, b = found.names
    lines = [(method, label) for method, tests in found.tests.items() for label in tests]
    tests = [found.tests[method][label] for method, label in lines]
    cells: list[dict[str, Any]] = []
    for (method, label), test, p_value in zip(
        lines, tests, holm([test.p_value for test in tests]), strict=True
    ):
        entry = found.metrics[label]
        row = f"{method}: {Column(label, entry.unit, entry.direction).heading}"
        summaries = found.summaries[method][label]
        cells += _pair_cells(row, (a, b), summaries, test, p_value, entry.direction)
    p = f"p: Wilcoxon's signed-rank test, Holm-corrected over the {len(lines)} lines."
    return Table.of(
        cells,
        caption=f"{a} against {b}",
        corner="method: metric",
        notes=(p, _effect(a), *found.describe()),
        best=_BETTER,
    )


_BETTER = "better, p < 0.05"


def _effect(first: str) -> str:
    return f"effect: matched-pairs rank-biserial correlation, above 0 where {first} is larger."


def _pair_cells(
    row: str,
    names: tuple[str, str],
    summaries: Sequence[Summary],
    test: Comparison,
    p_value: float,
    direction: str,
) -> list[dict[str, Any]]:
    """Return a line of two contenders: both, the difference with its interval, and its test."""
    better = None
    if direction != "neither" and p_value < ALPHA:
        better = names[0] if _favours_first(test, direction) else names[1]
    plain = {"unit": "", "direction": "neither"}  # the row's heading has them
    cells = [
        summary_cell(summary, row, name, rank=("best" if name == better else None), **plain)
        for name, summary in zip(names, summaries, strict=True)
    ]
    ends = {"low": test.low, "high": test.high, "confidence": summaries[0].confidence}
    ends |= {"count": test.count}
    columns: dict[str, dict[str, Any]] = {
        f"{names[0]} − {names[1]}": {"value": test.difference, **ends},
        "p": {"value": p_value},
        "effect": {"value": test.effect},
        "images": {"value": test.count, "decimals": 0},
    }
    return cells + [{"row": row, "column": name, **cell} for name, cell in columns.items()]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order (Holm, 1979).

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) · p_(j)) for the ascending p_(1), …, p_(m).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    order = values.argsort(kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.minimum(1, factors * values[order]))
    found: list[float] = corrected.tolist()
    return found


def _test_against_best(
    results: Results, metric: str, summaries: Mapping[str, Summary]
) -> dict[str, dict[str, Any]]:
    """Return `p_value` and `worse` of every contender but the best."""
    direction = results.metrics[metric].entry.direction
    values = {
        method: summary.value
        for method, summary in summaries.items()
        if summary.value is not None and method not in results.references
    }
    if len(values) < 2 or direction == "neither":  # noqa: PLR2004
        return {}
    best = (max if direction == "higher" else min)(values, key=lambda method: values[method])
    others = [method for method in values if method != best]
    top = results.per_image(best, metric)
    tests: dict[str, Comparison] = {}
    for method in others:
        images = results.per_image(method, metric)
        if int((~(images - top).isnan()).sum()) > 1:
            # the interval of the difference is not needed: one resample
            tests[method] = compare(images, top, resamples=1)
    corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    return {
        method: {
            "p_value": corrected.get(method),
            "worse": method in tests
            and corrected[method] < ALPHA
            and not _favours_first(tests[method], direction),
        }
        for method in others
    }


def _favours_first(test: Comparison, direction: str) -> bool:
    """Say whether the images speak for the first method; the mean alone may say otherwise."""
    return test.effect > 0 if direction == "higher" else test.effect < 0


def _time_cell(results: Results, method: str) -> dict[str, Any]:
    seconds = results.seconds(method)
    # torch's median is the lower of the two in the middle
    median = BATCH * float(seconds.quantile(0.5)) if len(seconds) else None
    count = len(seconds) or None
    return {"row": method, "column": TIME, "unit": "s", "value": median, "count": count}


def _list_missing(results: Results) -> list[str]:
    """Say which methods were not run on all images: their numbers are about other images."""
    total = len(results.samples)
    counts = {method: results.images(method) for method in results.methods}
    short = [f"{method} on {count}" for method, count in counts.items() if count < total]
    if not short:
        return []
    return [f"Of {total} images not all were evaluated: {', '.join(short)}."]


def _list_evaluations(results: Results) -> list[str]:
    """Say of metrics whose curves are not exact how far they were evaluated."""
    found = []
    for label, metric in results.metrics.items():
        if isinstance(metric, RefinedMetric) and metric.error is not None:
            parts = [metric.evaluations(results.rows(name, label)) for name in results.methods]
            found.append(metric.describe(torch.cat(parts)))
    return [words for words in found if words]

"""Whether metrics, or one metric's maskings, rank methods alike: Kendall's τ and its interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.evaluation.results import Results
from torchsaliency.metrics.statistics import bootstrap

GROUPS: Mapping[str, Sequence[str]] = {
    "masked score": ("ad", "ag", "ai"),
    "masked embedding": ("mse", "cosine"),
    "curves": (
        *("insertion", "deletion", "aopc", "abpc", "road", "selectivity", "irof"),
        *("aic", "sic"),
    ),
    "removals": (
        *("faithfulness-correlation", "faithfulness-estimate", "monotonicity"),
        *("monotonicity-correlation", "sensitivity-n", "infidelity", "saco"),
    ),
    "localisation": (
        *("ba", "ep", "sp", "f1", "precision", "recall", "le", "om", "auc", "miou", "miou-sweep"),
        *("relevance-rank", "relevance-mass", "top-k", "attribution-localisation"),
    ),
    "concentration": (
        *("complexity", "sparseness", "entropy", "effective-area", "effective-complexity"),
        "mst-c",
    ),
    "robustness": (
        *("max-sensitivity", "avg-sensitivity", "local-lipschitz", "ris", "ros", "rrs"),
        "continuity",
    ),
    "randomisation": (
        *("mprt", "smprt", "emprt", "spearman", "spearman-abs", "ssim", "hog", "random-logit"),
    ),
}
"""Metrics that ask one question in the findings; others are compared, and in no group."""

ALIKE = 0.8
"""Kendall's τ from which two metrics are called redundant."""

ENOUGH = 0.5
"""Share of the methods and images that a metric must have a number for, to be compared."""

SPLITS = 200
"""Random halves of the images."""

_TIE = 1e-6
"""Two scores that differ by a smaller share are equal: methods whose maps are the same."""


@final
@dataclass(frozen=True, eq=False)
class Scores:
    """What is compared, by image and method.

    Attributes:
        values: (N, K, M) of images, rankings and methods, more is better; NaN where undefined.
        labels: of the K rankings.
        methods: of the M.
    """

    values: Tensor
    labels: tuple[str, ...]
    methods: tuple[str, ...]

    def take(self, labels: Sequence[str]) -> Scores:
        """Return some of the rankings."""
        places = [self.labels.index(label) for label in labels]
        return Scores(self.values[:, places], tuple(labels), self.methods)

    @property
    def rows(self) -> Tensor:
        """Of each image all values, 0 where undefined, and behind them whether they are there."""
        flat = self.values.double().flatten(1)
        return torch.cat([flat.nan_to_num(0.0), (~flat.isnan()).double()], 1)

    def average(self, mean: Tensor) -> Tensor:
        """Return the methods' scores (..., K, M) of mean rows, over images that have them."""
        total, share = mean.chunk(2, -1)
        return (total / share).unflatten(-1, self.values.shape[1:])


def order_pairs(scores: Tensor) -> Tensor:
    """Return which of two methods is better, -1, 0 or 1, for all pairs: (..., M) -> (..., pairs).

    Scores that differ by less than a millionth, and undefined ones, are ties.
    """
    first, second = torch.triu_indices(scores.shape[-1], scores.shape[-1], 1)
    a, b = scores[..., first], scores[..., second]
    signs = (a - b).sign()
    alike = (a - b).abs() <= _TIE * torch.maximum(a.abs(), b.abs())
    return torch.where(alike | signs.isnan(), 0.0, signs)


def kendall(scores: Tensor, others: Tensor | None = None) -> Tensor:
    """Return τ_b of rankings (..., K, M) with one another, or with others: (..., K, K')."""
    a = order_pairs(scores)
    b = a if others is None else order_pairs(others)
    norms = [one.square().sum(-1).sqrt() for one in (a, b)]
    return (a @ b.mT) / (norms[0][..., :, None] * norms[1][..., None, :])


def measure_tau(scores: Scores, statistic: Callable[[Tensor], Tensor]) -> list[float | None]:
    """Return a statistic of the matrix of τ, (..., K, K) -> (...), and its interval over images.

    The interval is the library's bootstrap of images, so that all rankings see the same draws. A
    draw in which all methods tie counts as 0; all three are None where all images have such a tie.
    """
    rows = scores.rows

    def of_mean(mean: Tensor) -> Tensor:
        return statistic(kendall(scores.average(mean)))

    value = float(of_mean(rows.mean(0)))
    if math.isnan(value):
        return [None] * 3
    low, high = bootstrap(rows, lambda mean: of_mean(mean).nan_to_num(0.0))
    return [round_number(number) for number in (value, low, high)]


def round_number(number: float) -> float | None:
    """Return two decimals, None for NaN."""
    return None if math.isnan(number) else round(number, 2)


def split_halves(scores: Scores) -> dict[str, float | None]:
    """Return each ranking's mean τ between two random halves of the images: what noise leaves."""
    rows = scores.rows
    count = len(rows)
    draw = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(count, generator=draw) for _ in range(SPLITS)])
    parts = [order[:, : count // 2], order[:, count // 2 : 2 * (count // 2)]]
    halves = [scores.average(rows[part].mean(1)) for part in parts]
    found = kendall(*halves).diagonal(dim1=-2, dim2=-1).nanmean(0)
    return {
        label: round_number(value)
        for label, value in zip(scores.labels, found.tolist(), strict=True)
    }


def read_scores(results: Results) -> tuple[Scores, list[str]]:
    """Return a run's scores, and the metrics left out: too often undefined, or all methods tie."""
    names: list[str] = []
    columns, left_out = [], []
    methods = [name for name in results.methods if name not in results.references]
    for label, metric in results.metrics.items():
        values = torch.stack([results.per_image(name, label) for name in methods], 1)
        sign = 1 if metric.entry.direction == "higher" else -1
        enough = float(values.isfinite().double().mean()) >= ENOUGH
        if enough and bool(order_pairs(values.nanmean(0)).any()):
            names.append(label)
            columns.append(sign * torch.where(values.isfinite(), values, torch.nan))
        else:
            left_out.append(label)
    return Scores(torch.stack(columns, 1), tuple(names), tuple(methods)), left_out


def find_groups(results: Results) -> dict[str, Any]:
    """Return mean τ within and between groups of metrics, with intervals, and all single τ."""
    scores, left_out = read_scores(results)
    groups: dict[str, dict[str, Any]] = {}
    for a, b in itertools.combinations_with_replacement(GROUPS, 2):
        first, second = ([one for one in GROUPS[name] if one in scores.labels] for name in (a, b))
        if len(first) < 1 + (a == b) or not second:
            continue
        labels = list(dict.fromkeys([*first, *second]))
        pairs = torch.zeros(len(labels), len(labels), dtype=torch.bool)
        for one, other in itertools.product(first, second):
            pairs[labels.index(one), labels.index(other)] = one != other
        groups.setdefault(b, {})[a] = measure_tau(
            scores.take(labels), lambda tau, pairs=pairs: tau[..., pairs].nanmean(-1)
        )
    tau = kendall(scores.average(scores.rows.mean(0)))
    pairs_by_name = {
        f"{a}, {b}": round(float(tau[i, j]), 2)
        for (i, a), (j, b) in itertools.combinations(enumerate(scores.labels), 2)
        if tau[i, j] == tau[i, j]
    }
    return {
        "images": len(scores.values),
        "methods": list(scores.methods),
        "metrics": list(scores.labels),
        "left out": left_out,
        "halves": split_halves(scores),
        "groups": groups,
        "tau": pairs_by_name,
    }


def find_redundant(runs: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Return the pairs of metrics with τ of at least `ALIKE` in every run, with intervals."""
    scores = {name: read_scores(results)[0] for name, results in runs.items()}
    shared = [one for one in next(iter(scores.values())).labels if all_have(scores, one)]
    found = []
    for pair in itertools.combinations(shared, 2):
        taken = {name: one.take(pair) for name, one in scores.items()}
        values = [kendall(one.average(one.rows.mean(0)))[0, 1] for one in taken.values()]
        if all(float(value) >= ALIKE for value in values):
            found.append(
                {"pair": list(pair)}
                | {
                    name: measure_tau(one, lambda tau: tau[..., 0, 1])
                    for name, one in taken.items()
                }
            )
    return found


def all_have(scores: Mapping[str, Scores], label: str) -> bool:
    """Whether all runs have a metric."""
    return all(label in one.labels for one in scores.values())

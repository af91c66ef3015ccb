"""What a paper says of its numbers, checked on the measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torchsaliency.evaluation.results import Results
from torchsaliency.metrics.base import Summary
from torchsaliency.papers.recipes import Claim
from torchsaliency.report.results import summary_cell
from torchsaliency.report.tables import Table


@final
@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, and by which numbers.

    Attributes:
        says: the claim, with the part that it is about where there are several.
        holds: None where it cannot be told: something was not measured, or all contenders tie.
        measured: what the claim is about; None if it was not measured.
        rival: what that had to be better than: the best of the others, or the other one that the
            claim names; None where there is none.
        bound: the number that it had to be below or above.
    """

    says: str
    holds: bool | None = None
    measured: Summary | None = None
    rival: Summary | None = None
    bound: float | None = None


def check_claim(claim: Claim, results: Mapping[str, Results]) -> list[Verdict]:
    """Return whether a claim holds, for every part that it is about."""
    found = {
        label: one
        for label, one in results.items()
        if claim.method in one.methods and claim.metric in one.metrics
    }
    if not found:
        return [Verdict(claim.says)]
    several = len(found) > 1
    return [
        _judge(claim, f"{label}: {claim.says}" if several else claim.says, one)
        for label, one in found.items()
    ]


def _judge(claim: Claim, says: str, results: Results) -> Verdict:
    own = results.summary(claim.method, claim.metric)
    if claim.kind in ("below", "above"):
        holds = None
        if own.value is not None:
            holds = own.value < claim.value if claim.kind == "below" else own.value > claim.value
        return Verdict(says, holds, own, bound=claim.value)
    sign = 1 if results.metrics[claim.metric].entry.direction == "higher" else -1
    if claim.kind == "before":
        other, than = claim.other or claim.method, claim.than or claim.metric
        if other not in results.methods or than not in results.metrics:
            return Verdict(says, None, own)
        rival = results.summary(other, than)
        if own.value is None or rival.value is None:
            return Verdict(says, None, own, rival)
        return Verdict(says, sign * own.value > sign * rival.value, own, rival)
    others = [
        results.summary(method, claim.metric)
        for method in results.methods
        if method not in results.references and method != claim.method
    ]
    known = [(sign * other.value, other) for other in others if other.value is not None]
    if own.value is None or not known:
        return Verdict(says, None, own)
    best = max(known, key=lambda pair: pair[0])[1]
    leads = [sign * own.value - value for value, _ in known]
    return Verdict(says, _is_best(leads), own, best)


def _is_best(leads: Sequence[float]) -> bool | None:
    """Whether none of the leads over the rivals is negative; None where all tie, or without any."""
    return all(lead >= 0 for lead in leads) if any(leads) else None


def tabulate_claims(verdicts: Mapping[str, Sequence[Verdict]], notes: Sequence[str] = ()) -> Table:
    """Return claims as a table: what was measured, and what it had to be better than.

    Args:
        verdicts: of each recipe.
        notes: of the table.
    """
    cells: list[dict[str, Any]] = []
    plain: dict[str, Any] = {"unit": "", "direction": "neither"}
    for recipe, found in verdicts.items():
        for one in found:
            row = f"{recipe}: {one.says}"
            rank = "best" if one.holds else None
            if one.measured is not None:
                cells.append(summary_cell(one.measured, row, "measured", rank=rank, **plain))
            if one.rival is not None:
                cells.append(summary_cell(one.rival, row, "rival or bound", **plain))
            elif one.bound is not None:
                cells.append({"row": row, "column": "rival or bound", "value": one.bound})
            if one.measured is None:
                cells.append({"row": row, "column": "measured", "value": None})
    return Table.of(
        cells,
        caption="What the papers say of their numbers, on built-in data",
        corner="recipe: claim",
        notes=notes,
        best="the claim holds",
        order=("measured", "rival or bound"),
    )

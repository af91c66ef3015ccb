"""From a recipe to its table or figure: the plans are run, the paper's numbers put beside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from matplotlib.figure import Figure

from torchsaliency.core.files import OutputFolder, json_bytes
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import Watch
from torchsaliency.papers.plans import BUILT_IN, Job, Part, plan_job
from torchsaliency.papers.recipes import Claim, Recipe, recipe
from torchsaliency.report.formats import render
from torchsaliency.report.tables import Table
from torchsaliency.viz.curves import encoded


@final
@dataclass(frozen=True, eq=False)
class Reproduction:
    """What came out.

    Attributes:
        recipe: what was reproduced.
        tables: by name; the first is the paper's.
        figures: by name.
        pages: files that were written beside them, such as a survey's sheet.
        claims: what the paper says, and whether it holds here (None: cannot be told).
        differs: what is not as in the paper, one sentence each.
        folder: where it all is.
    """

    recipe: Recipe
    tables: Mapping[str, Table]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    pages: tuple[Path, ...] = ()
    claims: tuple[tuple[str, bool | None], ...] = ()
    differs: tuple[str, ...] = ()
    folder: Path = Path()


@final
@dataclass(frozen=True, eq=False)
class Made:
    """What a kind of recipe gives.

    Attributes:
        tables: by name.
        figures: by name.
        pages: files written.
        results: by part, for the claims.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    pages: tuple[Path, ...] = ()
    results: Mapping[str, Results] = field(default_factory=dict)


Maker = Callable[[Job], Made]

_MAKERS: dict[str, Maker] = {}


def maker(kind: str) -> Callable[[Maker], Maker]:
    """Let a function make the recipes of a kind."""

    def add(function: Maker) -> Maker:
        _MAKERS[kind] = function
        return function

    return add


def reproduce(
    name: str,
    folder: str | Path,
    *,
    data: str | Sequence[str] | None = None,
    models: Sequence[str] = (),
    limit: int | None = None,
    changes: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Reproduction:
    """Make a table or figure of the papers again, and write it in every format.

    Args:
        name: of the recipe.
        folder: where everything goes; a run that was stopped goes on.
        data: a folder with the paper's data, or other data as a plan names it; built-in data by
            default. Several, each as "kind:FOLDER", where a recipe needs several kinds; parts whose
            data is not given are left out.
        models: networks instead of the recipe's, each a name or "NAME=WEIGHTS".
        limit: at most so many images.
        changes: plan fields, such as device or batch_size.
        watch: told of every batch.

    Raises:
        TorchSaliencyError: what was asked cannot be done, in a sentence.
    """
    from torchsaliency.papers import makers, pictures  # noqa: F401, PLC0415 (they register)

    job = plan_job(recipe(name), Path(folder), data, models, limit, changes or {}, watch)
    with job.output.held():
        return _made(job)


def _made(job: Job) -> Reproduction:
    job.output.know(_recorded(job.folder))
    # before hours of work: these names every recipe, or most of them, will need
    job.output.insist_on_own([_FACTS, *(f"table.{suffix}" for suffix in _SUFFIXES.values())])
    made = _MAKERS[job.recipe.kind](job)
    tables = {key: _with_notes(one, job) for key, one in made.tables.items()}
    found = Reproduction(
        job.recipe,
        tables,
        made.figures,
        made.pages,
        tuple(checked for one in job.recipe.claims for checked in _checked(one, made.results)),
        job.differs,
        job.output.path,
    )
    _write(found, job.output)
    return found


def _with_notes(table: Table, job: Job) -> Table:
    notes = [*table.notes, *job.differs, *job.recipe.notes]
    if any(cell.published is not None for _, _, cell in table.cells):
        notes += _whose(job.parts)
    return replace(table, notes=tuple(notes), caption=table.caption or job.caption)


def _whose(parts: Sequence[Part]) -> list[str]:
    """Say whose the published numbers are, where they are another network's."""
    others = [part for part in parts if part.beside not in ("", part.label, part.row)]
    whose = ", ".join(dict.fromkeys(part.beside for part in others))
    beside = ", ".join(dict.fromkeys(part.row for part in others))
    return [f"The published numbers beside {beside} are those of {whose}."] if others else []


def _checked(claim: Claim, results: Mapping[str, Results]) -> list[tuple[str, bool | None]]:
    """Tell whether a claim holds, for every part that it is about."""
    told = {
        label: _holds(claim, one)
        for label, one in results.items()
        if claim.method in one.methods and claim.metric in one.metrics
    }
    if len(told) < 2:  # noqa: PLR2004
        return [(claim.says, next(iter(told.values()), None))]
    return [(f"{label}: {claim.says}", holds) for label, holds in told.items()]


def _holds(claim: Claim, results: Results) -> bool | None:
    own = results.summary(claim.method, claim.metric).value
    if own is None:
        return None
    if claim.kind in ("below", "above"):
        return own < claim.value if claim.kind == "below" else own > claim.value
    sign = 1 if results.metrics[claim.metric].entry.direction == "higher" else -1
    if claim.kind == "before":
        other, than = claim.other or claim.method, claim.than or claim.metric
        if other not in results.methods or than not in results.metrics:
            return None
        value = results.summary(other, than).value
        return None if value is None else sign * own > sign * value
    rivals = [
        one for one in results.methods if one not in results.references and one != claim.method
    ]
    values = [results.summary(one, claim.metric).value for one in rivals]
    return all(value is None or sign * own >= sign * value for value in values)


_FACTS = "reproduction.json"
_SUFFIXES = {"text": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "html": "html"}


def _recorded(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that an earlier run wrote; of none if there is none."""
    try:
        told = (folder / _FACTS).read_bytes()
        files = dict(json.loads(told)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {**files, _FACTS: hashlib.sha256(told).hexdigest()}


def _write(found: Reproduction, output: OutputFolder) -> None:
    written = [path.relative_to(output.path).as_posix() for path in found.pages]
    for name, table in found.tables.items():
        for form, suffix in _SUFFIXES.items():
            written.append(f"{name}.{suffix}")
            output.write(written[-1], render(table, form).encode("utf-8", "replace"))
    for name, figure in found.figures.items():
        for suffix in (".png", ".svg"):
            written.append(name + suffix)
            output.write(written[-1], encoded(figure, suffix))
    facts = {
        "recipe": found.recipe.name,
        "paper": found.recipe.paper,
        "item": found.recipe.item,
        "title": found.recipe.title,
        "differs": list(found.differs),
        "claims": [{"says": says, "holds": holds} for says, holds in found.claims],
        "tables": {name: table.to_dict() for name, table in found.tables.items()},
        "figures": list(found.figures),
        "pages": [path.name for path in found.pages],
        "files": {name: output.digest(name) for name in written},
    }
    output.write(_FACTS, json_bytes(facts))
    output.dissolve()


__all__ = [
    "BUILT_IN",
    "Job",
    "Made",
    "Maker",
    "Part",
    "Reproduction",
    "maker",
    "plan_job",
    "reproduce",
]

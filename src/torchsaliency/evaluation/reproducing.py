"""From a recipe to its table or figure: the plans are run, the paper's numbers put beside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from matplotlib.figure import Figure

from torchsaliency.core.registry import load_all
from torchsaliency.evaluation.formats import render
from torchsaliency.evaluation.plan import Choice, Plan, make_plan
from torchsaliency.evaluation.recipes import Claim, Recipe, recipe
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import Watch, evaluate
from torchsaliency.evaluation.setting import Setting, make_setting
from torchsaliency.evaluation.tables import Table
from torchsaliency.viz.curves import save

BUILT_IN = ("samples", "shapes")
"""Data that needs no folder."""


@final
@dataclass(frozen=True, eq=False)
class Part:
    """One part of a table, such as one network.

    Attributes:
        label: its heading.
        plan: what is evaluated.
        folder: where its rows go.
        published: the paper's numbers by row and column; empty if there are none.
    """

    label: str
    plan: Plan
    folder: Path
    published: Mapping[str, Mapping[str, float]]


@final
@dataclass(frozen=True, eq=False)
class Job:
    """A recipe, ready to be run.

    Attributes:
        recipe: what is reproduced.
        parts: the plans.
        folder: where everything goes.
        differs: what is not as in the paper, one sentence each.
        watch: told of every batch.
    """

    recipe: Recipe
    parts: tuple[Part, ...]
    folder: Path
    differs: tuple[str, ...]
    watch: Watch | None = None

    @property
    def options(self) -> Mapping[str, Any]:
        """Of the recipe's kind."""
        return self.recipe.options

    @property
    def caption(self) -> str:
        """What tables and figures say of themselves."""
        return f"{self.recipe.paper}, {self.recipe.item}: {self.recipe.title}"

    def results(self, part: Part) -> Results:
        """Evaluate a part."""
        return evaluate(part.plan, part.folder, watch=self.watch)

    def setting(self, part: Part) -> Setting:
        """Return a part's networks and data."""
        return make_setting(part.plan)


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
    data: str | None = None,
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
            default.
        models: networks instead of the recipe's.
        limit: at most so many images.
        changes: plan fields, such as device or batch_size.
        watch: told of every batch.

    Raises:
        TorchSaliencyError: what was asked cannot be done, in a sentence.
    """
    from torchsaliency.evaluation import makers  # noqa: F401, PLC0415 (they register themselves)

    job = plan_job(recipe(name), Path(folder), data, models, limit, changes or {}, watch)
    made = _MAKERS[job.recipe.kind](job)
    tables = {key: _with_notes(one, job) for key, one in made.tables.items()}
    found = Reproduction(
        job.recipe,
        tables,
        made.figures,
        made.pages,
        tuple(checked for one in job.recipe.claims for checked in _checked(one, made.results)),
        job.differs,
        job.folder,
    )
    _write(found)
    return found


def plan_job(
    chosen: Recipe,
    folder: Path,
    data: str | None,
    models: Sequence[str],
    limit: int | None,
    changes: Mapping[str, Any],
    watch: Watch | None = None,
) -> Job:
    """Return a recipe's plans for the data and networks that were asked for.

    Raises:
        OptionError: a plan that does not work.
    """
    load_all()
    at_home = data is None or data.partition(":")[0] in BUILT_IN
    version = chosen.builtin if at_home else chosen.paper_version
    parts = version.parts
    if at_home and data is not None and data.startswith("shapes"):
        parts = {label: _on_shapes(one) for label, one in parts.items()}
    if models:
        parts = {model: {**_shared(parts), "model": model} for model in models}
    source = version.data if data is None else data
    made = []
    for label, own in parts.items():
        facts = {"data": source, **chosen.plan, **version.plan, **own}
        if data is not None:
            facts["data"] = data
        facts["methods"] = _with_options(facts["methods"], version.options)
        facts |= {"count": _least(facts.get("count"), limit), **changes}
        plan = make_plan({key: value for key, value in facts.items() if value is not None})
        published = chosen.published.get(label) or _beside(chosen)
        made.append(Part(label, plan, folder / _slug(label), published))
    differs = [] if not at_home else [f"The paper: {chosen.paper_version.said}.", version.said]
    differs += [f"Here instead: {', '.join(models)}."] if models else []
    differs += [*version.notes] if at_home else []
    differs += [f"At most {limit} images."] if limit else []
    differs += [f"The data is {data}."] if data is not None else []
    return Job(chosen, tuple(made), folder, tuple(differs), watch)


def _on_shapes(part: dict[str, Any]) -> dict[str, Any]:
    own = part.get("model", "")
    known = own if own.startswith("builtin/shapes") else "builtin/shapes_cnn"
    return {**part, "model": known}


def _shared(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the fields that all parts have in common: they belong to no network."""
    first, *rest = parts.values()
    return {key: value for key, value in first.items() if all(r.get(key) == value for r in rest)}


def _with_options(methods: Any, options: Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    listed = make_plan({"methods": methods, "metrics": "ad"}).methods
    return [
        one.model_copy(update={"options": {**one.options, **options.get(one.label, {})}})
        for one in listed
    ]


def _least(*numbers: int | None) -> int | None:
    given = [one for one in numbers if one is not None]
    return min(given) if given else None


def _beside(chosen: Recipe) -> Mapping[str, Mapping[str, float]]:
    """Return the paper's first network's numbers, to stand beside another one's."""
    return next(iter(chosen.published.values()), {})


def _slug(label: str) -> str:
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in label).strip("-.")


def _with_notes(table: Table, job: Job) -> Table:
    printed = any(cell.published is not None for _, _, cell in table.cells)
    notes = [*table.notes, *job.differs, *job.recipe.notes]
    if printed and not all(part.label in job.recipe.published for part in job.parts):
        first = next(iter(job.recipe.published))
        notes.append(f"The paper's numbers are those of {first}: another network, other data.")
    return replace(table, notes=tuple(notes), caption=table.caption or job.caption)


def _checked(claim: Claim, results: Mapping[str, Results]) -> list[tuple[str, bool | None]]:
    found = []
    for label, one in results.items():
        where = f"{label}: {claim.says}" if len(results) > 1 else claim.says
        found.append((where, _holds(claim, one)))
    return found


def _holds(claim: Claim, results: Results) -> bool | None:
    if claim.method not in results.methods or claim.metric not in results.metrics:
        return None
    own = results.summary(claim.method, claim.metric).value
    if own is None:
        return None
    if claim.kind in ("below", "above"):
        return own < claim.value if claim.kind == "below" else own > claim.value
    rivals = [
        one for one in results.methods if one not in results.references and one != claim.method
    ]
    if claim.kind == "before":
        if claim.other not in results.methods:
            return None
        rivals = [claim.other]
    sign = 1 if results.metrics[claim.metric].entry.direction == "higher" else -1
    values = [results.summary(one, claim.metric).value for one in rivals]
    return all(value is None or sign * own >= sign * value for value in values)


def _write(found: Reproduction) -> None:
    found.folder.mkdir(parents=True, exist_ok=True)
    suffixes = {"text": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "html": "html"}
    for name, table in found.tables.items():
        for form, suffix in suffixes.items():
            path = found.folder / f"{name}.{suffix}"
            path.write_text(render(table, form), encoding="utf-8")
    for name, figure in found.figures.items():
        save(figure, found.folder / name)
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
    }
    path = found.folder / "reproduction.json"
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

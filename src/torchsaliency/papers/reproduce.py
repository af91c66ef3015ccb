"""From a recipe to its table or figure: the plans are run, the paper's numbers put beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchsaliency.evaluation.callbacks import Watch
from torchsaliency.evaluation.results import Results
from torchsaliency.papers import makers, pictures
from torchsaliency.papers.plans import Planner, Reproduction
from torchsaliency.papers.recipes import Claim, get_recipe
from torchsaliency.report import FORMATS, Table, render
from torchsaliency.viz.curves import encode_figure

MAKERS: Mapping[str, Callable[[Reproduction], None]] = {
    "table": makers.make_table,
    "parts": makers.make_parts,
    "study": makers.make_study,
    "sweep": makers.make_sweep,
    "sanity": makers.make_sanity,
    "timing": makers.make_timing,
    "variance": makers.make_variance,
    "grid": pictures.make_grid,
    "survey": pictures.make_survey_page,
}
"""What fills in a reproduction, by the recipe's kind."""

_FACTS = "reproduction.json"


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
        folder: where everything goes; a run that was stopped is continued.
        data: a folder with the paper's data, or other data as a plan names it; built-in data by
            default. Several, each as "kind:FOLDER", where a recipe needs several kinds; parts whose
            data is not given are left out.
        models: networks instead of the recipe's, each a name or "NAME=WEIGHTS".
        limit: at most so many images.
        changes: plan fields, such as device or batch_size.
        watch: called after every batch.

    Raises:
        TorchSaliencyError: the request cannot be fulfilled; the message is one sentence.
    """
    chosen, folder = get_recipe(name), Path(folder)
    sources = (data,) if isinstance(data, str) else tuple(data or ())
    run = Planner(chosen, sources, tuple(models), limit, changes or {}).plan(folder, watch)
    with run.output.lock():
        run.output.read_manifest(_FACTS, lambda facts: "recipe" in facts)
        # before hours of work: these names every recipe, or most of them, will need
        run.output.require_own([_FACTS, *(f"table.{suffix}" for suffix in _suffixes().values())])
        MAKERS[chosen.kind](run)
        run.tables = {name: _complete(table, run) for name, table in run.tables.items()}
        run.claims = [checked for claim in chosen.claims for checked in _check(claim, run.results)]
        _write(run)
    return run


def _suffixes() -> dict[str, str]:
    """Return the formats of tables and their files' suffixes; JSON is in the record of the run."""
    return {name: form.factory.suffix for name, form in FORMATS.entries().items() if name != "json"}


def _complete(table: Table, run: Reproduction) -> Table:
    """Add caption and notes, and the name of the network whose published numbers these are."""
    notes = [*table.notes, *run.differs, *run.recipe.notes]
    others = [
        part for part in run.experiments if part.published_label not in ("", part.label, part.row)
    ]
    if others and table.frame["published"].notna().any():
        whose = ", ".join(dict.fromkeys(part.published_label for part in others))
        beside = ", ".join(dict.fromkeys(part.row for part in others))
        notes.append(f"The published numbers beside {beside} are those of {whose}.")
    return replace(table, notes=tuple(notes), caption=table.caption or run.caption)


def _check(claim: Claim, results: Mapping[str, Results]) -> list[tuple[str, bool | None]]:
    """Return whether a claim holds, for every part that it is about."""
    verdicts = {
        label: _holds(claim, found)
        for label, found in results.items()
        if claim.method in found.methods and claim.metric in found.metrics
    }
    if len(verdicts) < 2:  # noqa: PLR2004
        return [(claim.says, next(iter(verdicts.values()), None))]
    return [(f"{label}: {claim.says}", holds) for label, holds in verdicts.items()]


def _holds(claim: Claim, results: Results) -> bool | None:
    value = results.summary(claim.method, claim.metric).value
    if value is None:
        return None
    if claim.kind in ("below", "above"):
        return value < claim.value if claim.kind == "below" else value > claim.value
    sign = 1 if results.metrics[claim.metric].entry.direction == "higher" else -1
    if claim.kind == "before":
        other, than = claim.other or claim.method, claim.than or claim.metric
        if other not in results.methods or than not in results.metrics:
            return None
        rival = results.summary(other, than).value
        return None if rival is None else sign * value > sign * rival
    rivals = [
        results.summary(method, claim.metric).value
        for method in results.methods
        if method not in results.references and method != claim.method
    ]
    return _is_best([sign * (value - rival) for rival in rivals if rival is not None])


def _is_best(leads: Sequence[float]) -> bool | None:
    """Whether none of the leads over the rivals is negative; None where all tie, or without any."""
    return all(lead >= 0 for lead in leads) if any(leads) else None


def _write(run: Reproduction) -> None:
    output, chosen = run.output, run.recipe
    written = [path.relative_to(output.path).as_posix() for path in run.pages]
    files = {
        f"{name}.{suffix}": render(table, form).encode("utf-8", "replace")
        for name, table in run.tables.items()
        for form, suffix in _suffixes().items()
    }
    for name, figure in run.figures.items():
        files |= {name + suffix: encode_figure(figure, suffix) for suffix in (".png", ".svg")}
    for name, content in files.items():
        output.write(name, content)
    facts = {
        "recipe": chosen.name,
        "paper": chosen.paper,
        "item": chosen.item,
        "title": chosen.title,
        "differs": list(run.differs),
        "claims": [{"says": says, "holds": holds} for says, holds in run.claims],
        "tables": {name: table.to_dict() for name, table in run.tables.items()},
        "figures": list(run.figures),
        "pages": [path.name for path in run.pages],
    }
    output.write_manifest(_FACTS, facts, [*written, *files])
    output.dissolve()

"""From a recipe to its table or figure: the plans are run, the paper's numbers put beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchsaliency.errors import OptionError, TorchSaliencyError
from torchsaliency.evaluation.callbacks import Watch
from torchsaliency.papers import makers, pictures
from torchsaliency.papers.claims import Verdict, check_claim, tabulate_claims
from torchsaliency.papers.drawn import read_notes
from torchsaliency.papers.plans import Planner, Reproduction
from torchsaliency.papers.recipes import get_recipe, load_recipes
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
        folder: where everything goes; a run that was stopped is continued, and pictures that are
            whole and would be the same are kept.
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
        found = run.output.read_manifest(_FACTS, lambda facts: "recipe" in facts)
        run.drawn |= found.get("drawn", {})
        read_notes(run)
        # before hours of work: these names every recipe, or most of them, will need
        run.output.require_own([_FACTS, *(f"table.{suffix}" for suffix in _suffixes().values())])
        MAKERS[chosen.kind](run)
        run.tables = {name: _complete(table, run) for name, table in run.tables.items()}
        run.claims = [one for claim in chosen.claims for one in check_claim(claim, run.results)]
        _write(run)
    return run


def reproduce_all(
    folder: str | Path,
    *,
    limit: int | None = None,
    changes: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    announce: Callable[[str], None] = lambda name: None,  # noqa: ARG005
) -> Table:
    """Make every recipe on built-in data, each in a folder of its own, and check all claims.

    A recipe that cannot be made here is told in a note of the table, and the others go on.

    Args:
        folder: where everything goes; a run that was stopped is continued.
        limit: at most so many images a recipe.
        changes: plan fields, such as device or batch_size.
        watch: called after every batch.
        announce: called with the name of each recipe before it is made.

    Raises:
        OptionError: no recipe that makes claims could be made.
    """
    verdicts: dict[str, list[Verdict]] = {}
    notes: list[str] = []
    silent: list[str] = []
    for name in load_recipes():
        announce(name)
        try:
            run = reproduce(name, Path(folder) / name, limit=limit, changes=changes, watch=watch)
        except TorchSaliencyError as error:
            notes.append(f"{name} was not made: {error}")
            continue
        verdicts[name] = run.claims
        if not run.claims:
            silent.append(name)
    if silent:
        notes.append(f"Made, and without claims about numbers: {', '.join(silent)}.")
    if not any(verdicts.values()):
        raise OptionError(" ".join(["No recipe that makes claims could be made.", *notes]))
    return tabulate_claims(verdicts, notes)


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
        "claims": [{"says": claim.says, "holds": claim.holds} for claim in run.claims],
        "tables": {name: table.to_dict() for name, table in run.tables.items()},
        "figures": list(run.figures),
        "pages": [path.name for path in run.pages],
        "drawn": {name: run.drawn[name] for name in written if name in run.drawn},
    }
    output.write_manifest(_FACTS, facts, [*written, *files])
    output.dissolve()

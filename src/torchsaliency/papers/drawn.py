"""Pictures of a recipe that are whole and would be drawn the same again are kept on a rerun."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from torchsaliency.core.explanation import versions
from torchsaliency.core.files import json_bytes
from torchsaliency.evaluation.setting import Setting
from torchsaliency.papers.plans import Reproduction

_NOTES = "drawn.jsonl"
"""What is drawn in this session, for who goes on after a kill; the rest is in the manifest."""


def read_notes(run: Reproduction) -> None:
    """Read which pages a session that was stopped has drawn."""
    run.drawn |= {note["name"]: note["drawn"] for note in run.output.notes(_NOTES)}


def draw_once(
    run: Reproduction, names: Sequence[str], settings: Sequence[Setting], draw: Callable[[], None]
) -> bool:
    """Let `draw` write pages, unless they are there, whole, and drawn of the same; return whether.

    The same are the recipe, its plans and what they find (weights, code, data …), the notes
    for the reader, and the library's version. Pages for which images were skipped are drawn anew:
    the images may be readable now.

    Args:
        run: whose pages they are.
        names: of the pages.
        settings: of what they show.
        draw: writes the pages and adds them to `run.pages`.
    """
    identity = _identify(run, settings)
    if all(run.drawn.get(name) == _sign(run, name, identity) for name in names):
        run.pages += [run.output.path / name for name in names]
        return False
    run.skipped = 0
    draw()
    if not run.skipped:
        for name in names:
            run.drawn[name] = _sign(run, name, identity)
            run.output.note(_NOTES, {"name": name, "drawn": run.drawn[name]})
    return True


def _sign(run: Reproduction, name: str, identity: str) -> str:
    """Return what decides a page and what is in it as one digest; of a changed page it is new."""
    return hashlib.sha256(f"{identity} {run.output.digest(name)}".encode()).hexdigest()


def _identify(run: Reproduction, settings: Sequence[Setting]) -> str:
    plans = [part.plan for part in run.experiments]
    facts = {
        "recipe": run.recipe.model_dump(mode="json"),
        "plans": [{**plan.identity(), "methods": plan.method_identity()} for plan in plans],
        "settings": [
            {**setting.identity(), "methods": setting.plan.method_identity()}
            for setting in settings
        ],
        "differs": run.differs,
        "version": versions()["torchsaliency"],
    }
    return hashlib.sha256(json_bytes(facts, indent=None)).hexdigest()

"""From a recipe to plans: data, network and published numbers of every part of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from torch import nn

from torchsaliency.core.files import OutputFolder
from torchsaliency.core.method import METHODS
from torchsaliency.data import open_data
from torchsaliency.errors import OptionError
from torchsaliency.evaluation.plan import Choice, Plan, make_plan
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import Watch, evaluate
from torchsaliency.evaluation.setting import Setting, make_setting
from torchsaliency.measures import network_stages
from torchsaliency.papers.recipes import Recipe, Version
from torchsaliency.registry import load_all
from torchsaliency.zoo import load_model

BUILT_IN = ("samples", "shapes")
"""Data that needs no folder."""

FINETUNED = "finetuned"
"""Stands in a recipe for weights that the user has made."""

_PIECE = " / "
_SMALL, _CNN, _PHOTOS = "builtin/shapes", "builtin/shapes_cnn", "builtin/efficientnet_lite0"

Facts = dict[str, Any]
"""Fields of a plan."""


@final
@dataclass(frozen=True)
class Asked:
    """What a user asks of a recipe.

    Attributes:
        data: folders with the paper's data, or other data as a plan names it; none for what is
            built in. Where a recipe needs several kinds, each as kind:FOLDER.
        models: networks instead of the recipe's, each a name or NAME=WEIGHTS.
        limit: at most so many images.
        changes: plan fields, such as device or batch_size.
    """

    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    limit: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def at_home(self) -> bool:
        """Whether only what is built in is asked for."""
        return all(one.partition("?")[0].partition(":")[0] in BUILT_IN for one in self.data)


@final
@dataclass(frozen=True, eq=False)
class Part:
    """One part of a table, such as one network.

    Attributes:
        label: its heading.
        plan: what is evaluated.
        folder: where its rows go.
        published: the paper's numbers by row and column; empty if there are none.
        beside: the paper's part that they belong to.
    """

    label: str
    plan: Plan
    folder: Path
    published: Mapping[str, Mapping[str, float]]
    beside: str = ""

    @property
    def row(self) -> str:
        """What it shares with other parts: "Moco V2" of "Moco V2 / masks"."""
        return self.label.partition(_PIECE)[0]

    @property
    def piece(self) -> str:
        """What it has for itself: "masks"; empty if nothing."""
        return self.label.partition(_PIECE)[2]


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

    @cached_property
    def output(self) -> OutputFolder:
        """What writes into the folder."""
        return OutputFolder(self.folder)

    @property
    def options(self) -> Mapping[str, Any]:
        """Of the recipe's kind."""
        return self.recipe.options

    @property
    def caption(self) -> str:
        """What tables and figures say of themselves."""
        return f"{self.recipe.paper}, {self.recipe.item}: {self.recipe.title}"

    def name(self, stem: str, part: Part | str) -> str:
        """Return what a file of a part is called: the stem alone if there is one part only."""
        label = part if isinstance(part, str) else part.label
        return stem if len(self.parts) == 1 or not label else f"{stem}-{slug(label)}"

    def results(self, part: Part) -> Results:
        """Evaluate a part."""
        return evaluate(part.plan, part.folder, watch=self.watch)

    def setting(self, part: Part) -> Setting:
        """Return a part's networks and data."""
        return make_setting(part.plan)


def plan_job(
    chosen: Recipe,
    folder: Path,
    data: str | Sequence[str] | None,
    models: Sequence[str],
    limit: int | None,
    changes: Mapping[str, Any],
    watch: Watch | None = None,
) -> Job:
    """Return a recipe's plans for the data and networks that were asked for.

    Args:
        chosen: the recipe.
        folder: where everything goes.
        data: as `Asked`.
        models: as `Asked`.
        limit: as `Asked`.
        changes: as `Asked`.
        watch: told of every batch.

    Raises:
        OptionError: a plan that does not work, or no part whose data was given.
    """
    load_all()
    sources = () if data is None else (data,) if isinstance(data, str) else tuple(data)
    asked = Asked(sources, tuple(models), limit, changes)
    return _job(chosen, folder, asked, watch)


def _job(chosen: Recipe, folder: Path, asked: Asked, watch: Watch | None) -> Job:
    version = chosen.builtin if asked.at_home else chosen.paper_version
    parts = _parts(chosen, version, asked)
    sources = _sources(version, parts, asked)
    plans: dict[str, Plan] = {}
    left_out: dict[str, str] = {}
    for label, own in parts.items():
        kind = own.get("data", version.data)
        source = sources.get(kind, sources.get(""))
        if source is None:
            left_out[label] = f"no {kind} data was given"
        else:
            plans[label] = _plan(chosen, version, {**own, "data": source}, asked)
    if "" in sources:
        left_out |= _unannotated(plans, sources[""])
        plans = {label: plan for label, plan in plans.items() if label not in left_out}
    if not plans:
        kinds = " and ".join(sorted({own.get("data", version.data) for own in parts.values()}))
        raise OptionError(
            f"{chosen.name} needs {kinds} data, and {', '.join(asked.data)} was given; give each "
            "as --data KIND:FOLDER."
        )
    made = []
    for label, plan in plans.items():
        beside = _beside(chosen, version, label)
        published = chosen.published.get(beside, {})
        made.append(Part(label, plan, folder / slug(label), published, beside if published else ""))
    told = [*_differs(chosen, version, asked, plans)]
    told += [f"{label} is left out, for {why}." for label, why in left_out.items()]
    return Job(chosen, tuple(made), folder, tuple(told), watch)


def slug(label: str) -> str:
    """Return a label as it may stand in the name of a file."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.")


# --- networks ------------------------------------------------------------------------------------


def _parts(chosen: Recipe, version: Version, asked: Asked) -> dict[str, Facts]:
    """Return the parts' own plan fields, by label."""
    if not asked.models:
        return _known(version.parts, asked)
    found: dict[str, Facts] = {}
    for one in asked.models:
        model, _, weights = one.partition("=")
        own = {"model": model, "weights": weights} if weights else {"model": model}
        for label, part in _parts_of(model, weights, chosen, version).items():
            kept = _at_home(part) if asked.at_home else part
            found[label] = {**kept, **own}
    return found


def _parts_of(model: str, weights: str, chosen: Recipe, version: Version) -> Mapping[str, Facts]:
    """Return the paper's parts of a network if it has any, else the version's with this network."""
    paper = chosen.paper_version.parts.items()
    if own := {label: part for label, part in paper if _same(part.get("model", ""), model)}:
        return own
    if chosen.kind == "parts":
        return {name: {"layers": [name]} for name in _layers(model, weights)}
    pieces: dict[str, list[Facts]] = {}
    for label, part in version.parts.items():
        pieces.setdefault(label.partition(_PIECE)[2], []).append(part)
    return {
        f"{model}{_PIECE}{piece}" if piece else model: {
            **_without_placeholder(_shared(parts)),
            **_methods(parts, model, weights),
        }
        for piece, parts in pieces.items()
    }


def _methods(parts: Sequence[Facts], model: str, weights: str) -> Facts:
    """Return the methods for a network where parts differ in them: of attention, or without."""
    lists = [part["methods"] for part in parts if "methods" in part]
    if all(one == lists[0] for one in lists):
        return {}
    net = load_model(model, weights=weights or None).module
    attends = any("attention" in type(module).__name__.lower() for module in net.modules())
    for listed in lists:
        chosen = make_plan({"methods": listed, "metrics": "ad"}).methods
        if attends == any(METHODS.get(one.name).family == "attention" for one in chosen):
            return {"methods": listed}
    return {}


def _same(known: str, model: str) -> bool:
    """Whether it is the same architecture, weights apart: torchvision/resnet50.imagenet1k_v1."""
    return known.partition(".")[0] == model.partition(".")[0]


def _layers(model: str, weights: str) -> list[str]:
    """Return the stages of a network where it still has maps, from the output downwards."""
    net = load_model(model, weights=weights or None).module
    return [name for name in network_stages(net) if not _is_head(net.get_submodule(name))]


def _is_head(module: nn.Module) -> bool:
    weighted = [one for one in module.modules() if hasattr(one, "weight")]
    plain = isinstance(module, nn.Linear | nn.Sequential)
    return plain and all(isinstance(one, nn.Linear) for one in weighted)


def _shared(parts: Sequence[Facts]) -> Facts:
    """Return the fields that all parts have in common: they belong to no network."""
    first, *rest = parts
    return {key: value for key, value in first.items() if all(r.get(key) == value for r in rest)}


def _at_home(part: Facts) -> Facts:
    """Return a part of the paper's as it runs on built-in data."""
    return {key: value for key, value in _without_placeholder(part).items() if key != "data"}


def _without_placeholder(part: Facts) -> Facts:
    return {key: value for key, value in part.items() if (key, value) != ("weights", FINETUNED)}


def _known(parts: Mapping[str, Facts], asked: Asked) -> dict[str, Facts]:
    """Put networks that know the built-in data in the place of those that do not."""
    if not asked.at_home or not asked.data:
        return dict(parts)
    shapes = asked.data[0].startswith("shapes")
    found = {}
    for label, part in parts.items():
        model = part.get("model", "")
        other = model
        if shapes and not model.startswith(_SMALL):
            other = _CNN
        elif not shapes and model == _CNN:
            other = _PHOTOS
        elif not shapes and model.startswith(_SMALL):
            raise OptionError(
                f"{label} is {model}, which knows drawn shapes and no photographs; give "
                "--data shapes:COUNT, or --model with a network that does."
            )
        changed = label if other == model else _renamed(label, other)
        found[changed] = {**part, "model": other}
    return found


def _renamed(label: str, model: str) -> str:
    _, apart, piece = label.partition(_PIECE)
    return f"{model}{apart}{piece}"


# --- data ----------------------------------------------------------------------------------------


def _sources(version: Version, parts: Mapping[str, Facts], asked: Asked) -> dict[str, str]:
    """Return the data by the kind that parts ask for; under "" what serves all others."""
    kinds = {own.get("data", version.data) for own in parts.values()}
    if not asked.data:
        return {kind: kind for kind in kinds}
    found: dict[str, str] = {}
    for one in asked.data:
        kind = one.partition(":")[0]
        if kind not in kinds and len(kinds) > 1 and not asked.at_home:
            kind = open_data(one).name  # a folder tells by its layout what it is
        kind = kind if kind in kinds and not asked.at_home else ""
        if kind in found:
            raise OptionError(
                f"--data {found[kind]} and --data {one} were given for the same part; give one, "
                f"or each as KIND:FOLDER with the kinds {', '.join(sorted(kinds))}."
            )
        found[kind] = one
    return found


def _unannotated(plans: Mapping[str, Plan], source: str) -> dict[str, str]:
    """Return why parts that read what other data does not have are left out, if others do not."""
    needs = {label: set(plan.needs) for label, plan in plans.items() if plan.data == source}
    if len({frozenset(needed) for needed in needs.values()}) < 2:  # noqa: PLR2004
        return {}
    known = open_data(source).annotations
    return {
        label: f"{source} has no {' and no '.join(sorted(needed - known))} of the objects"
        for label, needed in needs.items()
        if needed - known
    }


# --- plans ---------------------------------------------------------------------------------------


def _plan(chosen: Recipe, version: Version, own: Facts, asked: Asked) -> Plan:
    shared = dict(version.plan)
    if asked.at_home and asked.data:
        # chosen for the recipe's own data; of other data the label is the target where it is known
        shared.pop("target", None)
    facts = {**chosen.plan, **shared, **own}
    if facts.get("weights") == FINETUNED:
        architecture = facts["model"].rpartition("/")[2]
        raise OptionError(
            f"{chosen.name} explains networks that were fine-tuned on this data; make one by "
            f"`torchsaliency finetune --data {own['data']} --arch {architecture}`, and give "
            f"--model {facts['model']}=finetuned/model.safetensors."
        )
    facts["methods"] = _with_options(facts["methods"], version.options)
    facts |= {"count": _least(facts.get("count"), asked.limit), **asked.changes}
    return make_plan({key: value for key, value in facts.items() if value is not None})


def _with_options(methods: Any, options: Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    listed = make_plan({"methods": methods, "metrics": "ad"}).methods
    return [
        one.model_copy(update={"options": {**one.options, **options.get(one.label, {})}})
        for one in listed
    ]


def _least(*numbers: int | None) -> int | None:
    given = [one for one in numbers if one is not None]
    return min(given) if given else None


def _beside(chosen: Recipe, version: Version, label: str) -> str:
    """Return the paper's part whose numbers stand beside a part; empty for none."""
    row = label.partition(_PIECE)[0]
    for known in (label, row):
        if known in chosen.published:
            return known
    if version.beside:
        return version.beside.get(label, version.beside.get(row, ""))
    return next(iter(chosen.published), "")


def _differs(
    chosen: Recipe, version: Version, asked: Asked, plans: Mapping[str, Plan]
) -> list[str]:
    told = [f"The paper: {chosen.paper_version.said}."] if asked.at_home or asked.models else []
    if asked.at_home and not asked.data and not asked.models:
        told.append(version.said)
    else:
        networks = ", ".join(dict.fromkeys(plan.model for plan in plans.values()))
        sources = ", ".join(dict.fromkeys(plan.data for plan in plans.values()))
        told.append(f"Here: {networks} on {sources}.")
    if "masking" in asked.changes:
        told.append(f"What is hidden becomes {asked.changes['masking']}.")
    told += version.notes
    told += [f"At most {asked.limit} images."] if asked.limit else []
    return told

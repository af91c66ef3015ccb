"""From a recipe to its experiments: the network, data and published numbers of every part."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from matplotlib.figure import Figure
from torch import nn

from torchsaliency.core.files import OutputFolder
from torchsaliency.core.method import METHODS
from torchsaliency.data import open_data
from torchsaliency.errors import OptionError
from torchsaliency.evaluation.callbacks import Progress, Watch
from torchsaliency.evaluation.plan import Plan, make_plan
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import evaluate
from torchsaliency.measures import network_stages
from torchsaliency.options import Choice
from torchsaliency.papers.claims import Verdict
from torchsaliency.papers.recipes import Recipe, Version
from torchsaliency.registry import load_all
from torchsaliency.report import Table
from torchsaliency.zoo import load_model

BUILT_IN = ("samples", "shapes")
"""Data that needs no folder."""

FINETUNED = "finetuned"
"""Stands in a recipe for weights that the user has made."""

_PIECE = " / "
_SMALL, _CNN, _PHOTOS = "builtin/shapes", "builtin/shapes_cnn", "builtin/efficientnet_lite0"

Fields = dict[str, Any]
"""Fields of a plan."""


@final
@dataclass(frozen=True, eq=False)
class Experiment:
    """One part of a recipe, such as one network."""

    label: str
    plan: Plan
    folder: Path  # where its rows go
    published: Mapping[str, Mapping[str, float]]  # the paper's numbers by row and column
    published_label: str = ""  # the paper's part that they belong to

    @property
    def row(self) -> str:
        """What it shares with other experiments: "Moco V2" of "Moco V2 / masks"."""
        return self.label.partition(_PIECE)[0]

    @property
    def piece(self) -> str:
        """What it has for itself: "masks"; empty if nothing."""
        return self.label.partition(_PIECE)[2]


@final
@dataclass(eq=False)
class Reproduction:
    """A recipe that is made again: its experiments, and what comes out of them.

    Attributes:
        recipe: what is reproduced.
        experiments: the plans.
        folder: where everything goes.
        differs: what is not as in the paper, one sentence each.
        watch: called after every batch.
        tables: by name; the first is the paper's.
        figures: by name.
        pages: files that are written beside them, such as a survey's sheet.
        drawn: a digest of what decides each page, by the page's name; see `draw_once`.
        skipped: images that the page that is drawn lacks.
        results: of the experiments, by label.
        claims: what the paper says, and whether it holds here.
    """

    recipe: Recipe
    experiments: tuple[Experiment, ...]
    folder: Path
    differs: tuple[str, ...] = ()
    watch: Watch | None = None
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    pages: list[Path] = field(default_factory=list)
    drawn: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    results: dict[str, Results] = field(default_factory=dict)
    claims: list[Verdict] = field(default_factory=list)

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

    def name_file(self, stem: str, label: str) -> str:
        """Return the name of an experiment's file: the stem alone if there is one experiment."""
        return stem if len(self.experiments) == 1 or not label else f"{stem}-{slug(label)}"

    def evaluate(self, experiment: Experiment) -> Results:
        """Evaluate an experiment, and keep its results."""
        results = evaluate(experiment.plan, experiment.folder, watch=self.watch)
        self.results[experiment.label] = results
        return results

    def write_page(self, name: str, content: bytes) -> None:
        """Write a file beside the tables and figures."""
        self.output.write(name, content)
        self.pages.append(self.output.path / name)

    def report_progress(self, progress: Progress) -> None:
        """Tell the watcher how far it is."""
        self.skipped = progress.skipped
        if self.watch is not None:
            self.watch(progress)


def slug(label: str) -> str:
    """Return a label as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.")


@final
@dataclass(frozen=True)
class Planner:
    """Makes the plans of a recipe; the attributes are the arguments of `reproduce`."""

    recipe: Recipe
    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    limit: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def offline(self) -> bool:
        """Whether all data is built in."""
        return all(name.partition("?")[0].partition(":")[0] in BUILT_IN for name in self.data)

    @property
    def version(self) -> Version:
        """The recipe's version for built-in data, or the paper's."""
        return self.recipe.builtin if self.offline else self.recipe.paper_version

    def plan(self, folder: Path, watch: Watch | None = None) -> Reproduction:
        """Return the recipe's experiments on the given data and networks."""
        load_all()
        parts = self._find_parts()
        kinds = {label: part.get("data", self.version.data) for label, part in parts.items()}
        sources = self._match_data(set(kinds.values()))
        found: dict[str, Fields] = {}
        left_out: dict[str, str] = {}
        for label, part in parts.items():
            source = sources.get(kinds[label], sources.get(""))
            if source is None:
                left_out[label] = f"no {kinds[label]} data was given"
            else:
                found[label] = {**part, "data": source}
        merged = _merge_parts(found)
        plans = {
            label: self._make_plan(found[same[0]], own=len(same) > 1)
            for label, same in merged.items()
        }
        if "" in sources:
            left_out |= _find_unannotated(plans, sources[""])
            plans = {label: plan for label, plan in plans.items() if label not in left_out}
        if not plans:
            raise OptionError(
                f"{self.recipe.name} needs {' and '.join(sorted({*kinds.values()}))} data, and "
                f"{', '.join(self.data)} was given; give each as --data KIND:FOLDER."
            )
        experiments = []
        for label, plan in plans.items():
            known = self._find_published(merged[label][0])
            numbers = self.recipe.published.get(known, {})
            experiments.append(
                Experiment(label, plan, folder / slug(label), numbers, known if numbers else "")
            )
        differs = self._list_differences(plans)
        differs += [f"{label} is left out, for {why}." for label, why in left_out.items()]
        differs += [
            f"{label} stands for {', '.join(same)}, whose data would be the same; "
            "explained are its labels where the network knows them, else predictions."
            for label, same in merged.items()
            if len(same) > 1 and label in plans
        ]
        return Reproduction(self.recipe, tuple(experiments), folder, tuple(differs), watch)

    # --- networks ---------------------------------------------------------------------------------

    def _find_parts(self) -> dict[str, Fields]:
        """Return the plan fields of each part, by label."""
        if not self.models:
            return self._fit_networks() if self.offline and self.data else self.version.parts
        found: dict[str, Fields] = {}
        for given in self.models:
            model, _, weights = given.partition("=")
            fields = {"model": model, "weights": weights} if weights else {"model": model}
            for label, part in self._find_parts_of(model, weights).items():
                kept = (
                    _drop(part, weights=FINETUNED, data=part.get("data")) if self.offline else part
                )
                if weights or part.get("model") != model:
                    kept = _drop_permuted(kept)
                found[label] = {**kept, **fields}
        return found

    def _find_parts_of(self, model: str, weights: str) -> Mapping[str, Fields]:
        """Return the paper's parts of a network if it has any, else the version's with it."""
        paper = self.recipe.paper_version.parts.items()
        # the same architecture, weights apart: torchvision/resnet50.imagenet1k_v1
        name = model.partition(".")[0]
        if same := {
            k: part for k, part in paper if part.get("model", "").partition(".")[0] == name
        }:
            return same
        if self.recipe.options.get("corner") == "layer":
            return {layer: {"layers": [layer]} for layer in _find_layers(model, weights)}
        pieces: dict[str, list[Fields]] = {}
        for label, part in self.version.parts.items():
            pieces.setdefault(label.partition(_PIECE)[2], []).append(part)
        return {
            f"{model}{_PIECE}{piece}" if piece else model: {
                **_drop(_intersect(parts), weights=FINETUNED),
                **_choose_methods(parts, model, weights),
            }
            for piece, parts in pieces.items()
        }

    def _fit_networks(self) -> dict[str, Fields]:
        """Put networks that know the built-in data in the place of those that do not."""
        shapes = self.data[0].startswith("shapes")
        found = {}
        for label, part in self.version.parts.items():
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
            _, separator, piece = label.partition(_PIECE)
            changed = label if other == model else f"{other}{separator}{piece}"
            found[changed] = part if other == model else {**_drop_permuted(part), "model": other}
        return found

    # --- data -------------------------------------------------------------------------------------

    def _match_data(self, kinds: set[str]) -> dict[str, str]:
        """Return the data by the kind that parts need; under "" what serves all others."""
        if not self.data:
            return {kind: kind for kind in kinds}
        found: dict[str, str] = {}
        for name in self.data:
            kind = name.partition(":")[0]
            if kind not in kinds and len(kinds) > 1 and not self.offline:
                kind = open_data(name).name  # a folder's layout says what it is
            kind = kind if kind in kinds and not self.offline else ""
            if kind in found:
                raise OptionError(
                    f"--data {found[kind]} and --data {name} were given for the same part; give "
                    f"one, or each as KIND:FOLDER with the kinds {', '.join(sorted(kinds))}."
                )
            found[kind] = name
        return found

    # --- plans ------------------------------------------------------------------------------------

    def _make_plan(self, part: Fields, *, own: bool) -> Plan:
        """Return the plan of a part; `own` data is of no kind that the recipe knows."""
        shared = dict(self.version.plan)
        if own or (self.offline and self.data):
            # chosen for the recipe's data; other data's label is the target where it is known
            shared.pop("target", None)
        fields = {**self.recipe.plan, **shared, **part}
        if fields.get("weights") == FINETUNED:
            architecture = fields["model"].rpartition("/")[2]
            raise OptionError(
                f"{self.recipe.name} explains networks that were fine-tuned on this data; make one "
                f"by `torchsaliency finetune --data {part['data']} --arch {architecture}`, and "
                f"give --model {fields['model']}=finetuned/model.safetensors."
            )
        fields["methods"] = _add_options(fields["methods"], _PUBLISHED)
        fields["methods"] = _add_options(fields["methods"], self.version.options)
        counts = [count for count in (fields.get("count"), self.limit) if count is not None]
        fields |= {"count": min(counts, default=None), **self.changes}
        return make_plan({key: value for key, value in fields.items() if value is not None})

    def _find_published(self, label: str) -> str:
        """Return the paper's part whose numbers stand beside a part; empty for none."""
        row = label.partition(_PIECE)[0]
        published, beside = self.recipe.published, self.version.beside
        for known in (label, row):
            if known in published:
                return known
        return beside.get(label, beside.get(row, "")) if beside else next(iter(published), "")

    def _list_differences(self, plans: Mapping[str, Plan]) -> list[str]:
        paper = f"The paper: {self.recipe.paper_version.summary}."
        differs = [paper] if self.offline or self.models else []
        if self.offline and not self.data and not self.models:
            differs.append(self.version.summary)
        else:
            pairs = [(plan.model, plan.permuted) for plan in plans.values()]
            networks = ", ".join(dict.fromkeys(name for pair in pairs for name in pair if name))
            sources = ", ".join(dict.fromkeys(plan.data for plan in plans.values()))
            differs.append(f"Here: {networks} on {sources}.")
        if "masking" in self.changes:
            differs.append(f"What is hidden becomes {self.changes['masking']}.")
        return [
            *differs,
            *self.version.notes,
            *([f"At most {self.limit} image{'s' * (self.limit != 1)}."] if self.limit else []),
        ]


def _choose_methods(parts: Sequence[Fields], model: str, weights: str) -> Fields:
    """Return the methods for a network where parts differ in them: of attention, or without."""
    lists = [part["methods"] for part in parts if "methods" in part]
    if all(listed == lists[0] for listed in lists):
        return {}
    net = load_model(model, weights=weights or None).module
    attends = any("attention" in type(module).__name__.lower() for module in net.modules())
    for listed in lists:
        choices = read_methods(listed)
        if attends == any(METHODS.get(choice.name).family == "attention" for choice in choices):
            return {"methods": listed}
    return {}


def _find_layers(model: str, weights: str) -> list[str]:
    """Return the stages of a network where it still has maps, from the output downwards."""
    net = load_model(model, weights=weights or None).module
    return [name for name in network_stages(net) if not _is_head(net.get_submodule(name))]


def _is_head(module: nn.Module) -> bool:
    weighted = [layer for layer in module.modules() if hasattr(layer, "weight")]
    plain = isinstance(module, nn.Linear | nn.Sequential)
    return plain and all(isinstance(layer, nn.Linear) for layer in weighted)


def _merge_parts(parts: Mapping[str, Fields]) -> dict[str, list[str]]:
    """Return the labels of the parts that are made, with those that each stands for.

    Parts of a row that differ by their data alone are one, named after it, where that is the same.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for label, part in parts.items():
        fields = sorted(_drop(part, weights=FINETUNED, count=part.get("count")).items())
        groups.setdefault((label.partition(_PIECE)[0], repr(fields)), []).append(label)
    return {
        f"{row}{_PIECE}{_name_data(parts[same[0]]['data'])}" if len(same) > 1 else same[0]: same
        for (row, _), same in groups.items()
    }


def _name_data(source: str) -> str:
    """Return built-in data as it was given, and the last name of a path."""
    if source.partition(":")[0] in BUILT_IN:
        return source
    return Path(os.path.abspath(source.rpartition(":")[2])).name or source


def _intersect(parts: Sequence[Fields]) -> Fields:
    """Return the fields that all parts have in common: they belong to no network."""
    first, *rest = parts
    return {key: value for key, value in first.items() if all(r.get(key) == value for r in rest)}


def _drop(part: Fields, **unwanted: Any) -> Fields:
    """Return a part without fields of these values."""
    return {key: value for key, value in part.items() if (key, value) not in unwanted.items()}


def _drop_permuted(part: Fields) -> Fields:
    """Return a part without the network of permuted labels, which belongs to its own network."""
    return {key: value for key, value in part.items() if not key.startswith("permuted")}


def _find_unannotated(plans: Mapping[str, Plan], source: str) -> dict[str, str]:
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


def read_methods(methods: Any) -> tuple[Choice, ...]:
    """Return methods as a plan reads them."""
    return make_plan({"methods": methods, "metrics": "ad"}).methods


_PUBLISHED = {"gradcam++": {"eps_scale": "absolute"}}
"""Options by method that differ from the defaults: pytorch-grad-cam's, which made the tables."""


def _add_options(methods: Any, options: Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    return [
        choice.model_copy(update={"options": {**choice.options, **options.get(choice.label, {})}})
        for choice in read_methods(methods)
    ]

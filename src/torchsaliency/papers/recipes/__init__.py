"""The papers' tables and figures as plans: one YAML file each, beside this module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from torchsaliency.errors import OptionError, describe_unknown


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Claim(_Record):
    """Something that the paper says of its numbers, checked on the measured ones."""

    says: str
    metric: str
    method: str
    # whether no contender is better and one is worse (nobody is best where all tie), or the method
    # is below or above `value`, or better by `metric` than the method `other` by the metric `than`
    # (each the same one by default)
    kind: Literal["best", "below", "above", "before"] = "best"
    value: float = 0.0
    other: str = ""
    than: str = ""


class Version(_Record):
    """One way to run a recipe: the paper's, or on what is built in."""

    summary: str  # data and networks in words
    # of the paper's, the kind of data that is needed ("imagenet", "voc", …); of the built-in one as
    # a plan names it; a part may have another one
    data: str
    # plan fields of each part of the table, by its heading: what stands before " / " is shared by
    # several parts; `weights: finetuned` asks for weights that the user has made
    parts: dict[str, dict[str, Any]] = Field(min_length=1)
    plan: dict[str, Any] = Field(default_factory=dict)  # of all parts
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)  # by method, to be cheaper
    # the paper's part whose numbers stand beside a part of another name; the first one's if empty
    beside: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what else differs from the paper, one sentence each


class Recipe(_Record):
    """One table or figure."""

    name: str  # as on the command line, "opticam-table1"
    paper: Literal["Opti-CAM", "TMLR"]
    item: str  # as the paper calls it, "Table 1"
    title: str
    kind: str  # how it is made, one of `reproduce.MAKERS`
    plan: dict[str, Any]  # of every version
    paper_version: Version
    builtin: Version  # what runs offline
    options: dict[str, Any] = Field(default_factory=dict)  # of the kind
    published: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()  # errata and choices, one sentence each


@cache
def load_recipes() -> Mapping[str, Recipe]:
    """Return every recipe by name, the Opti-CAM paper's first, in the papers' order."""
    recipes = [
        Recipe(name=file.name.removesuffix(".yaml"), **yaml.safe_load(file.read_text("utf-8")))
        for file in resources.files(__package__).iterdir()
        if file.name.endswith(".yaml")
    ]
    recipes.sort(key=lambda recipe: (recipe.paper != "Opti-CAM", _order(recipe.name)))
    return MappingProxyType({recipe.name: recipe for recipe in recipes})


def get_recipe(name: str) -> Recipe:
    """Return a recipe; an `OptionError` lists close names."""
    recipes = load_recipes()
    if name not in recipes:
        raise OptionError(describe_unknown("recipe", name, recipes))
    return recipes[name]


_ITEMS = ("table", "tableA", "fig", "figA")


def _order(name: str) -> tuple[int, int, str]:
    """Order table1 … table6 before tableA7 …, and these before figures; numbers by value."""
    item = re.fullmatch(r"[^-]+-([a-z]+A?)(\d*)(.*)", name)
    if item is None or item[1] not in _ITEMS:
        return len(_ITEMS), 0, name
    return _ITEMS.index(item[1]), int(item[2] or 0), item[3]

"""The papers' tables and figures as plans: one YAML file each, beside this module."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from torchsaliency.core.errors import OptionError

Kind = Literal[
    "table",
    "parts",
    "boxes",
    "classes",
    "selectivity",
    "sweep",
    "sanity",
    "timing",
    "variance",
    "grid",
    "survey",
]


class Claim(BaseModel):
    """Something that the paper says of its numbers, checked on the measured ones.

    Attributes:
        says: in words.
        metric: its label.
        method: whose number it is about; of "best" the method that should lead.
        kind: "best" among contenders, "below" or "above" a number, or "before" another method.
        value: of "below" and "above".
        other: of "before", the method that should be worse.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    metric: str
    method: str
    kind: Literal["best", "below", "above", "before"] = "best"
    value: float = 0.0
    other: str = ""


class Version(BaseModel):
    """One way to run a recipe: the paper's, or on what is built in.

    Attributes:
        said: data and networks in words.
        data: of the paper's, the kind of data that is needed ("imagenet", "voc", …); of the
            built-in one as a plan names it.
        parts: plan fields of each part of the table, by its heading.
        plan: plan fields of all parts.
        options: options of methods, by label, that make them cheaper.
        notes: what else differs from the paper, one sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    said: str
    data: str
    parts: dict[str, dict[str, Any]] = Field(min_length=1)
    plan: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Recipe(BaseModel):
    """One table or figure.

    Attributes:
        name: as on the command line, "opticam-table1".
        paper: "Opti-CAM" or "TMLR".
        item: as the paper calls it, "Table 1".
        title: what it shows.
        kind: how it is made.
        plan: plan fields of every version.
        paper_version: the paper's data and networks.
        builtin: what runs offline.
        options: of the kind.
        published: the paper's numbers, by part, row and column.
        claims: what the paper says of them.
        notes: errata and choices, one sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    paper: Literal["Opti-CAM", "TMLR"]
    item: str
    title: str
    kind: Kind
    plan: dict[str, Any]
    paper_version: Version
    builtin: Version
    options: dict[str, Any] = Field(default_factory=dict)
    published: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()


@cache
def recipes() -> Mapping[str, Recipe]:
    """Return every recipe by name, the Opti-CAM paper's first, in the papers' order."""
    found = [
        Recipe.model_validate({"name": one.name.removesuffix(".yaml"), **_read(one)})
        for one in resources.files(__package__).iterdir()
        if one.name.endswith(".yaml")
    ]
    found.sort(key=lambda one: (one.paper != "Opti-CAM", _place(one.name)))
    return MappingProxyType({one.name: one for one in found})


def recipe(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        OptionError: there is none of this name; close ones are listed.
    """
    known = recipes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or list(known)
        raise OptionError(f"There is no recipe {name!r}; known are {', '.join(close)}.")
    return known[name]


def _read(file: Any) -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return facts


def _place(name: str) -> tuple[bool, str, int, str]:
    """Order table1 … table6 before tableA7 …, and these before figures; numbers by value."""
    item = name.partition("-")[2]
    digits = "".join(one for one in item if one.isdigit())
    letters = "".join(one for one in item if not one.isdigit())
    order = {"table": "0", "tableA": "1", "fig": "2", "figA": "3"}
    return "table" not in item, order.get(letters, f"4{letters}"), int(digits or 0), item

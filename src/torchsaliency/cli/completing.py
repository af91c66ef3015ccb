"""What shells complete after an option: names from the registries, without loading torch.

An option names what it takes by `values` of `torchsaliency.options.option`; the names are those of
the catalogue, and for networks also those in the files of timm and torchvision.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torchsaliency.cli.catalogue import read_facts

Candidates = list[tuple[str, str]]
"""Values, each with what shells show beside it; empty for nothing."""

_ENTRY = re.compile(r"^@register_model\b.*\n(?:(?!def ).*\n)*?def (\w+)", re.MULTILINE)
_TORCHVISION = ("", "detection", "segmentation", "video")
"""Folders of torchvision's models of which `torchsaliency models` lists the networks."""


def make_completer(kind: str, metavar: str) -> Callable[[str], Candidates]:
    """Return a function that gives Typer the values which may follow.

    Args:
        kind: one of `FINDERS`.
        metavar: of the option: with "NAME,NAME" it takes several, of which the last is completed;
            with "|all" it takes `all`, too.
    """
    several, more = "NAME,NAME" in metavar, [("all", "")] * ("|all" in metavar)

    def complete(incomplete: str) -> Candidates:
        before, comma, _ = incomplete.rpartition(",") if several else ("", "", "")
        given = before.split(",")
        return [
            (before + comma + name, about)
            for name, about in FINDERS[kind]() + more
            if name not in given and (before + comma + name).startswith(incomplete)
        ]

    return complete


def _find_named(kind: str) -> Candidates:
    return [(row["name"], row.get("summary") or row["title"]) for row in read_facts(kind)]


def _find_datasets() -> Candidates:
    rows = read_facts("datasets")
    return [(row["name"] + ":" * bool(row["layout"]), row["summary"]) for row in rows]


def _find_settings() -> Candidates:
    """Return every option of a method or metric with its default, which is there to be changed."""
    rows: Iterable[dict[str, Any]] = [*read_facts("methods"), *read_facts("metrics")]
    return [
        (f"{row['name']}.{key}={value}", row["summary"])
        for row in rows
        for key, value in row["options"].items()
        if isinstance(value, bool | int | float | str)
    ]


def _find_networks() -> Candidates:
    """Return what `torchsaliency models` lists, read from the files of packages that need torch."""
    found = [row["name"] for row in read_facts("networks")]
    found += sorted(f"timm/{name}" for name in _read_entries("timm", ("",)))
    found += sorted(f"torchvision/{name}" for name in _read_entries("torchvision", _TORCHVISION))
    return [(name, "") for name in found]


def _read_entries(package: str, folders: Iterable[str]) -> Iterable[str]:
    """Return the names of a package's networks: its functions under `@register_model`."""
    spec = importlib.util.find_spec(package)
    roots = (spec and spec.submodule_search_locations) or ()
    for root in roots:
        for folder in folders:
            for file in Path(root, "models", folder).glob("*.py"):
                yield from _ENTRY.findall(file.read_text(encoding="utf-8", errors="replace"))


FINDERS: dict[str, Callable[[], Candidates]] = {
    "methods": lambda: _find_named("methods"),
    "metrics": lambda: _find_named("metrics"),
    "targets": lambda: _find_named("targets"),
    "datasets": _find_datasets,
    "networks": _find_networks,
    "recipes": lambda: _find_named("recipes"),
    "settings": _find_settings,
}
"""What finds the values of each kind."""

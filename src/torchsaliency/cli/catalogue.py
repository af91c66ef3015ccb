"""What the lists say of methods, metrics and their like: facts in JSON types, by name.

They are kept in `catalogue.json`, so that a list is shown without loading torch; the script
`scripts/catalogue.py` writes the file. Where a plug-in adds to a registry, all are found anew.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata, resources
from typing import Any

Facts = list[dict[str, Any]]

_FILE = "catalogue.json"
_SOURCE = re.compile(r"Source: (.+?)\.(?:\s|$)", re.DOTALL)


def read_facts(kind: str) -> Facts:
    """Return the facts of all methods, metrics, targets, datasets, networks or recipes.

    The networks are those that come with the library, or that it knows where to fetch: timm and
    torchvision have their own lists, which differ by version.
    """
    group = f"torchsaliency.{kind}"
    added = kind in _WITH_PLUGINS and metadata.entry_points(group=group)
    if added or "torch" in sys.modules:  # then it costs nothing, and a program may have added some
        return FINDERS[kind]()
    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    facts: Facts = json.loads(text)[kind]
    return facts


def find_methods() -> Facts:
    """Return what the registry of methods says."""
    from torchsaliency.core.method import METHODS, Needs

    found = []
    for entry in METHODS.entries().values():
        source = _SOURCE.search(inspect.cleandoc(entry.factory.__doc__ or ""))
        found.append(
            {
                "name": entry.name,
                "family": entry.family,
                "summary": entry.summary,
                "paper": " ".join(source.group(1).split()) if source else entry.cite,
                "cite": entry.cite,
                "label_free": Needs.TARGET not in entry.needs,
                "gradients": Needs.GRADIENTS in entry.needs,
                "passes": Needs.PASSES in entry.needs,
                "signed": entry.signed,
                "options": {
                    key: value if isinstance(value, bool | int | float | str | None) else str(value)
                    for key, value in entry.options.items()
                },
            }
        )
    return found


def find_metrics() -> Facts:
    """Return what the registry of metrics says."""
    from torchsaliency.metrics import metrics

    return [entry.to_dict() for entry in metrics().values()]


def find_targets() -> Facts:
    """Return what the registry of targets says."""
    from torchsaliency.core.target import TARGETS

    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "words": list(entry.words),
            "class": entry.names_class,
            "options": {} if entry.names_class else dict(entry.options),
        }
        for entry in TARGETS.entries().values()
    ]


def find_datasets() -> Facts:
    """Return what the registry of data sets says."""
    from torchsaliency.data.opening import DATASETS

    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "layout": entry.layout.strip(),
            "options": dict(entry.options),
        }
        for entry in DATASETS.entries().values()
    ]


def find_networks() -> Facts:
    """Return what the library's own sources of networks say."""
    from torchsaliency.zoo.sources.source import SOURCES

    return [
        {"name": f"{source}/{name}", "family": family}
        for source in ("builtin", "ssl")
        for name, family in SOURCES.get(source).networks().items()
    ]


def find_recipes() -> Facts:
    """Return what the files of the recipes say."""
    from torchsaliency.papers.recipes import load_recipes

    return [
        {
            "name": recipe.name,
            "paper": recipe.paper,
            "item": recipe.item,
            "title": recipe.title,
            "data": recipe.paper_version.summary,
            "builtin": recipe.builtin.summary,
            "published": bool(recipe.published),
        }
        for recipe in load_recipes().values()
    ]


FINDERS: Mapping[str, Callable[[], Facts]] = {
    "methods": find_methods,
    "metrics": find_metrics,
    "targets": find_targets,
    "datasets": find_datasets,
    "networks": find_networks,
    "recipes": find_recipes,
}
"""What finds the facts of each kind where they are defined."""

_WITH_PLUGINS = ("methods", "metrics", "targets", "datasets")


def write_catalogue() -> str:
    """Return the content of `catalogue.json`, of the library's own entries."""
    found = {kind: find() for kind, find in FINDERS.items()}
    return json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n"

"""Imports go one way: no circle between modules, and no name of an upper layer in a string.

import-linter checks the layers. It does not see a circle inside a layer, nor a module that is
imported by its name. This test reads all import statements: those inside functions count, since a
circle that is hidden in a function is still a circle, and those under TYPE_CHECKING count, since
two modules that need each other's types are one module or need a third.
"""

from __future__ import annotations

import ast
import graphlib
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "torchsaliency"
FACADE = {"torchsaliency", "torchsaliency._public", "torchsaliency.__main__"}
"""Above all layers: they import everything by design, and nothing imports them."""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_bytes()) for path in PACKAGE.rglob("*.py")}
PACKAGES = {module_name(path) for path in PACKAGE.rglob("__init__.py")}


def list_imports(module: str, tree: ast.Module) -> Iterator[str]:
    """Yield the modules of the package that a module imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from {alias.name} & TREES.keys()
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + (module in PACKAGES)]
                source = ".".join([*above, *source.split(".")]).strip(".")
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield from {name if name in TREES else source} & TREES.keys()


def layers() -> list[str]:
    """Return the layers of pyproject.toml, the uppermost first; a layer may be several packages."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    return contract["layers"]


def layer_of(module: str) -> int:
    """Return how low a module's layer is."""
    for depth, layer in enumerate(layers()):
        for name in layer.split(" | "):
            if module == name or module.startswith(f"{name}."):
                return depth
    return -1


def strings(tree: ast.Module) -> Iterator[str]:
    """Yield all strings but docstrings and the groups of registries, which are not imported."""
    ignored = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            ignored.add(node.value)
        if isinstance(node, ast.Call):
            function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            if isinstance(function, ast.Name) and function.id == "Registry":
                ignored.update(node.args)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in ignored:
            yield node.value


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: set(list_imports(module, tree)) - {module} for module, tree in TREES.items()}
    assert len(list(itertools.chain(*graph.values()))) > len(graph), "no imports were found"
    circle: list[str] = []
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
    assert not circle, " imports ".join(reversed(circle))


def test_nothing_imports_the_facade() -> None:
    found = {
        (module, target)
        for module, tree in TREES.items()
        for target in list_imports(module, tree)
        if target in FACADE and module not in FACADE
    }
    assert not found


def test_no_string_names_a_module_of_an_upper_layer() -> None:
    found = {
        (module, name)
        for module, tree in TREES.items()
        if module not in FACADE
        for text in strings(tree)
        for name in re.findall(r"torchsaliency(?:\.\w+)*", text)
        if name in TREES and name != "torchsaliency" and layer_of(name) < layer_of(module)
    }
    assert not found


def test_every_module_is_in_a_layer() -> None:
    assert {module for module in TREES if layer_of(module) < 0} - FACADE == set()

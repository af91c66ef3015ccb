"""What a public function's docstring has: arguments, shapes, errors, an example that runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchsaliency

PACKAGES = ["torchsaliency", *(f"torchsaliency.{name}" for name in torchsaliency._PACKAGES)]
SHORT = {"default_layer", "register_default_layer"}
"""Functions of core/discovery.py, whose change remakes docs/architectures.md; may only shrink."""


def list_functions() -> dict[str, Callable[..., Any]]:
    """Return every public function once, by the first name that it has."""
    found: dict[str, Callable[..., Any]] = {}
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(getattr(module, "__all__", ())):
            thing = getattr(module, name)
            if inspect.isfunction(inspect.unwrap(thing)) and id(thing) not in seen:
                seen.add(id(thing))
                found[f"{package}.{name}"] = thing
    return found


FUNCTIONS = {name: thing for name, thing in list_functions().items() if thing.__name__ not in SHORT}


def test_what_does_not_speak_for_itself_is_described():
    missing = []
    for name, function in FUNCTIONS.items():
        text, parameters = inspect.getdoc(function) or "", inspect.signature(function).parameters
        if len(parameters) > 1:
            told = re.findall(r"^ +\*{0,2}(\w+):", text, re.MULTILINE)
            missing += [f"{name}({part})" for part in parameters if part not in told]
    assert missing == []


def test_errors_are_listed():
    missing = []
    for name, function in FUNCTIONS.items():
        text = inspect.getdoc(function) or ""
        if "TorchSaliencyError" not in text:
            raised = set(
                re.findall(r"raise (\w+Error)\(", inspect.getsource(inspect.unwrap(function)))
            )
            missing += [f"{name}: {error}" for error in raised if error not in text]
    assert missing == []


def test_tensors_have_shapes():
    shape = re.compile(r"\([^)]*\b[A-Z]\b[^)]*\)|scalar|shape|number")
    missing = [
        name
        for name, function in FUNCTIONS.items()
        if "Tensor" in str(inspect.signature(function)) and not shape.search(function.__doc__ or "")
    ]
    assert missing == []


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if re.fullmatch(r"torchsaliency\.\w+", name)]
)
def test_the_example_of_a_function_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    function = inspect.unwrap(FUNCTIONS[name])
    scope = {**vars(sys.modules[function.__module__]), "torch": torch}
    examples = doctest.DocTestFinder().find(function, name, globs=scope)
    assert any(test.examples for test in examples), "it has no example"
    for test in examples:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0

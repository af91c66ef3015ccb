"""What public docstrings have: arguments, shapes, errors, examples that run, sources of results.

A public function has an example; two do not run here. A public class is one of three kinds. Errors
are listed by what raises them. Results are annotated on what gives them. All others are made by
users, and have an example, of their own or in that of another public thing; a class that needs no
argument may have the one of its base.
"""

from __future__ import annotations

import dataclasses
import doctest
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import pytest
import torch

import torchsaliency
from torchsaliency import registry
from torchsaliency.core import discovery

PACKAGES = [
    "torchsaliency",
    *(f"torchsaliency.{name}" for name in torchsaliency._PACKAGES),
    "torchsaliency.metrics.functional",
]


def list_public() -> Iterator[tuple[str, Any]]:
    """Yield every public thing once, by the first name that it has."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(getattr(module, "__all__", ())):
            thing = getattr(module, name)
            if id(thing) not in seen:
                seen.add(id(thing))
                yield f"{package}.{name}", thing


PUBLIC = dict(list_public())
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: thing for name, thing in PUBLIC.items() if inspect.isfunction(inspect.unwrap(thing))
}
CLASSES: dict[str, type] = {
    name: thing for name, thing in PUBLIC.items() if isinstance(thing, type)
}
ERRORS = {name: thing for name, thing in CLASSES.items() if issubclass(thing, BaseException)}
MADE = {
    name: thing
    for name, thing in CLASSES.items()
    if not issubclass(thing, BaseException | enum.Enum) and not getattr(thing, "_is_protocol", 0)
}

SKIPPED = {
    "torchsaliency.zoo.similarity_to_text": "fetches CLIP; zoo/test_clip.py has a tiny one",
    "torchsaliency.tune_allocator": "changes how this process allocates",
}
"""Functions whose example does not run here, and why; may only become fewer."""


def list_described(thing: Any) -> set[str]:
    return set(re.findall(r"^ +\*{0,2}(\w+):", inspect.getdoc(thing) or "", re.MULTILINE))


def list_parts(kind: type) -> dict[str, FunctionType]:
    """Return the public methods and properties of a class, by name."""
    found = {}
    for name, value in vars(kind).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if isinstance(function, FunctionType) and not name.startswith("_"):
            found[name] = function
    return found


def read_examples(thing: Any) -> str:
    """Return the source of what runs of a docstring's examples, those of a class's methods too."""
    of = [thing, *list_parts(thing).values()] if isinstance(thing, type) else [thing]
    found = [doctest.DocTestParser().get_examples(one.__doc__ or "") for one in of]
    return "".join(
        one.source for examples in found for one in examples if doctest.SKIP not in one.options
    )


def describe_results() -> str:
    """Return the annotations of what public things give: values, attributes and properties."""
    found = []
    for thing in PUBLIC.values():
        functions = list_parts(thing).values() if isinstance(thing, type) else [thing]
        found += [getattr(one, "__annotations__", {}).get("return", "") for one in functions]
        if isinstance(thing, type):
            found += vars(thing).get("__annotations__", {}).values()
    return " ".join(map(str, found))


def takes_nothing(kind: type) -> bool:
    """Whether it can be made without an argument."""
    parameters = inspect.signature(kind).parameters.values()
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(one.default is not one.empty or one.kind in free for one in parameters)


def test_what_does_not_speak_for_itself_is_described():
    missing = []
    for name, function in FUNCTIONS.items():
        parameters = inspect.signature(function).parameters
        if len(parameters) > 1:
            told = list_described(function)
            missing += [f"{name}({part})" for part in parameters if part not in told]
    assert missing == []


def test_what_a_class_takes_and_keeps_is_described():
    missing = []
    for name, kind in MADE.items():
        own = [base for base in kind.__mro__ if base is not object]
        told = {"place"}.union(*map(list_described, own), list_parts(kind))
        fields = getattr(kind, "model_fields", {})
        told |= {key for key, field in fields.items() if field.description}
        kept = {*inspect.signature(kind).parameters}
        if "__init__" in vars(kind) and not fields and not dataclasses.is_dataclass(kind):
            text = inspect.getsource(kind.__init__)
            kept |= set(re.findall(r"\bself\.([a-z]\w*)(?:: [^=]+)?(?:, self\.\w+)* = ", text))
        missing += [f"{name}.{part}" for part in sorted(kept - told)]
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


def test_every_error_is_listed_somewhere():
    texts = [inspect.getdoc(one) or "" for one in FUNCTIONS.values()]
    for name, error in ERRORS.items():
        bases = {torchsaliency.TorchSaliencyError}
        assert error in bases or any(f"{error.__name__}:" in text for text in texts), name


def test_tensors_have_shapes():
    shape = re.compile(r"\([^)]*\b[A-Z]\b[^)]*\)|scalar|shape|number")
    missing = [
        name
        for name, function in FUNCTIONS.items()
        if "Tensor" in str(inspect.signature(function)) and not shape.search(function.__doc__ or "")
    ]
    assert missing == []


def test_classes_have_an_example_or_say_where_they_come_from():
    shown = " ".join(map(read_examples, [*FUNCTIONS.values(), *CLASSES.values()]))
    given, missing = describe_results(), []
    sources = {name.rpartition(".")[2] for name in PUBLIC}
    for name, kind in CLASSES.items():
        word, text = rf"\b{kind.__name__}\b", inspect.getdoc(kind) or ""
        bases = kind.__mro__[1:] if name in MADE and takes_nothing(kind) else ()
        if not (
            name in ERRORS
            or read_examples(kind)
            or re.search(word, shown)
            or re.search(word, given)
            or any(read_examples(base) for base in bases if "torchsaliency" in base.__module__)
            or any(said in sources for said in re.findall(r"`(\w+)[\w.]*`", text))
        ):
            missing.append(name)
    assert missing == []


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Work in an empty folder; forget what an example registers."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    registry.load_all()
    for one in registry._registries:
        monkeypatch.setattr(one, "_table", dict(one._table))
    monkeypatch.setattr(discovery, "_resolvers", [*discovery._resolvers])


def run_examples(name: str, thing: Any) -> int:
    """Run the examples of a docstring, and of a class's methods; return how many there are."""
    scope = {**vars(sys.modules[thing.__module__]), "torch": torch}
    tests = doctest.DocTestFinder().find(thing, name, globs=scope)
    for one in tests:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(one).failed == 0
    return sum(doctest.SKIP not in one.options for test in tests for one in test.examples)


@pytest.mark.usefixtures("scratch")
@pytest.mark.filterwarnings("ignore:.*SwigPy:DeprecationWarning")  # of nibabel's or av's wrappers
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in SKIPPED])
def test_the_example_of_a_function_runs(name):
    assert run_examples(name, inspect.unwrap(FUNCTIONS[name])), "it has no example that runs"


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("name", [name for name in CLASSES if read_examples(CLASSES[name])])
def test_the_examples_of_a_class_run(name):
    run_examples(name, CLASSES[name])

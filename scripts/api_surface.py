"""Write api.txt: every public name of the library, with what it takes.

A name is public if the `__all__` of a package below `torchsaliency` has it. A function has its
parameters, a class those of its constructor and its public members; annotations are left out. A
test compares the file, so that a change of it is seen where it is made (docs/versions.md).
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torchsaliency

FILE = Path(__file__).parents[1] / "api.txt"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def show_parameters(thing: Any, *, bound: bool = False) -> str:
    """Return the parameters of a function or class as they are called; "(…)" if it hides them."""
    try:
        found = [*inspect.signature(thing).parameters.values()][bound:]
    except (TypeError, ValueError):
        return "(…)"
    bare = inspect.Signature(
        [part.replace(annotation=inspect.Parameter.empty) for part in found]
    )  # annotations differ between versions of Python
    return _ADDRESS.sub("", str(bare))


def list_members(kind: type, public: set[type]) -> Iterator[str]:
    """Yield the public members that a class adds to those of its public bases."""
    ours = [
        base
        for base in kind.__mro__
        if base.__module__.partition(".")[0] == "torchsaliency"
        and (base is kind or base not in public)
    ]
    members: dict[str, Any] = {}
    for base in reversed(ours):
        members |= {name: part for name, part in vars(base).items() if not name.startswith("_")}
    for name, part in sorted(members.items()):
        if isinstance(part, property) or type(part).__name__ == "cached_property":
            yield name
        elif isinstance(part, classmethod | staticmethod):
            yield name + show_parameters(part.__func__, bound=isinstance(part, classmethod))
        elif inspect.isfunction(part):
            yield name + show_parameters(part, bound=True)


def describe(name: str, thing: Any, public: set[type]) -> Iterator[str]:
    """Yield the lines of one name."""
    if inspect.isclass(thing):
        error = issubclass(thing, BaseException)  # whose parameters are Python's
        yield f"class {name}{'' if error else show_parameters(thing)}"
        yield from (f"    .{member}" for member in list_members(thing, public))
    elif callable(thing):
        yield name + show_parameters(thing)
    else:
        yield f"{name}: {type(thing).__name__}"


def surface() -> str:
    """Return the whole file."""
    packages = ["torchsaliency", *(f"torchsaliency.{name}" for name in torchsaliency._PACKAGES)]
    modules = [importlib.import_module(package) for package in packages]
    things = {
        module.__name__: {
            name: getattr(module, name) for name in sorted(getattr(module, "__all__", ()))
        }
        for module in modules
    }
    public = {
        thing for found in things.values() for thing in found.values() if inspect.isclass(thing)
    }
    lines = ["Made by scripts/api_surface.py. docs/versions.md says what a change means."]
    for package, found in things.items():
        lines += ["", package]
        for name, thing in found.items():
            lines += [f"  {line}" for line in describe(name, thing, public)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(surface(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")

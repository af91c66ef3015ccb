"""Write docs/reference/: a page for each public package, which mkdocstrings fills from docstrings.

The names are those of api.txt. One that several packages have is described once, on the first page
that has it, and the others point there.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import torchsaliency

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
_MODULES = re.compile(r"\b(?:\w+\.)+(?=\w)")


def list_packages() -> list[str]:
    """Return the packages whose `__all__` is public, as api.txt has them."""
    return ["torchsaliency", *(f"torchsaliency.{name}" for name in torchsaliency._PACKAGES)]


def file_name(package: str) -> str:
    """Return the name of a package's page; the first one is the folder's index."""
    return f"{package.partition('.')[2] or 'index'}.md"


def defined_at(thing: Any) -> str | None:
    """Return the dotted path of a function or class; None if it is another kind of thing."""
    thing = inspect.unwrap(thing)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    return None


def describe_value(value: Any) -> str:
    """Return what a name that is no function and no class stands for, in a cell of a table."""
    if inspect.ismodule(value):
        return (inspect.getdoc(value) or "").partition("\n")[0].replace("|", "\\|")
    if (names := getattr(value, "names", None)) is not None:
        listed = names() if callable(names) else names
        return "a registry: " + ", ".join(f"`{name}`" for name in listed)
    words = sorted(value) if isinstance(value, frozenset) else value
    plain = isinstance(words, str | int | list | tuple)
    shown = repr(words) if plain else _MODULES.sub("", repr(words))  # a type: by its last name
    return f"`{shown}`".replace("|", "\\|")


def pages() -> dict[str, str]:
    """Return the text of every page by its file's name."""
    described: dict[str, str] = {}
    written: dict[str, str] = {}
    packages = list_packages()
    for package in packages:
        module = importlib.import_module(package)
        things = {name: getattr(module, name) for name in sorted(getattr(module, "__all__", ()))}
        entries, others, values = [], [], []
        for name, thing in things.items():
            path = defined_at(thing)
            other_name = path is not None and not path.endswith(f".{name}")
            if other_name or path in described:
                others.append((name, path))
            elif path is None:
                values.append(f"| `{name}` | {describe_value(thing)} |")
            else:
                described[path] = file_name(package)
                entries.append(f"::: {path}")
        about = (inspect.getdoc(module) or "").partition("\n")[0]
        parts = [f"# {package}", about]
        if package == "torchsaliency":
            rest = ", ".join(f"[`{each}`]({file_name(each)})" for each in packages[1:])
            parts[1] = (
                "What `import torchsaliency` has; `scripts/reference_pages.py` makes the pages of "
                "Python from the code. What is on them is "
                f"[public](../versions.md#what-is-public). The other packages: {rest}."
            )
        parts += entries
        if values:
            rows = "\n".join(values)
            parts += ["## Constants and modules", f"| name | what it is |\n| --- | --- |\n{rows}"]
        if others:
            links = [f"[`{name}`]({described[path]}#{path})" for name, path in others]
            parts += ["## Described elsewhere", ", ".join(links)]
        written[file_name(package)] = "\n\n".join(parts) + "\n"
    return written


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{FOLDER}\n")

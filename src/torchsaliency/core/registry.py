"""The one list of methods: the command line, the documentation and the tests all read it.

Entries are made by `@register` when a method's module is imported; other packages add theirs
through the entry-point group "torchsaliency.methods".
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from torchsaliency.core.errors import OptionError, describe_unknown
from torchsaliency.core.options import parsed_option

if TYPE_CHECKING:
    from torchsaliency.core.method import Method

ENTRY_POINTS = "torchsaliency.methods"


class Needs(enum.Flag):
    """What a method asks of the network beyond the shared forward pass."""

    NOTHING = 0
    ACTIVATIONS = enum.auto()
    """Feature maps of a layer."""
    TARGET = enum.auto()
    """A class or another target: without it the method is label-independent."""
    GRADIENTS = enum.auto()
    """One backward pass through the tail."""
    PASSES = enum.auto()
    """Further forward passes."""
    ATTENTION = enum.auto()
    """The attention of a transformer's blocks."""


ACTIVATIONS = Needs.ACTIVATIONS
GRADIENTS = Needs.ACTIVATIONS | Needs.TARGET | Needs.GRADIENTS
PASSES = Needs.ACTIVATIONS | Needs.TARGET | Needs.PASSES


@dataclass(frozen=True)
class MethodEntry:
    """A registered method.

    Attributes:
        name: as on the command line.
        family: "cam", "decomposition", "masking", …
        cite: key of the paper.
        needs: what it asks of the network.
        factory: the method's class.
    """

    name: str
    family: str
    cite: str
    needs: Needs
    factory: type[Method]

    @property
    def summary(self) -> str:
        """The first line of the method's documentation."""
        return (self.factory.__doc__ or "").strip().splitlines()[0]

    @property
    def options(self) -> Mapping[str, Any]:
        """Hyper-parameters and their defaults."""
        found = {}
        for field in dataclasses.fields(self.factory):
            if field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory()
            elif field.default is not dataclasses.MISSING:
                found[field.name] = field.default
            else:
                raise OptionError(
                    f"{self.name}.{field.name} has no default; every option needs one."
                )
        return found


M = TypeVar("M", bound="type[Method]")

_table: dict[str, MethodEntry] = {}
_loaded: list[bool] = []


def register(name: str, *, family: str, cite: str, needs: Needs) -> Callable[[M], M]:
    """Add a method to the registry under `name`; every hyper-parameter must have a default.

    Raises:
        OptionError: the name is taken.
    """

    def add(factory: M) -> M:
        if name in _table:
            raise OptionError(f"A method {name!r} is registered already; choose another name.")
        entry = MethodEntry(name, family, cite, needs, factory)
        entry.options  # noqa: B018 (fails here, not at first use, if an option has no default)
        factory.entry = entry
        _table[name] = entry
        return factory

    return add


def methods() -> Mapping[str, MethodEntry]:
    """Return every registered method by name, plug-ins included, read-only."""
    load_all()
    return MappingProxyType(_table)


def load_all() -> None:
    """Import all that registers something: the library's own methods and layers, and plug-ins.

    The core is below them and imports none of them by itself. A plug-in that cannot be loaded is
    named in a warning and left out.
    """
    if _loaded:
        return
    _loaded.append(True)
    try:
        importlib.import_module("torchsaliency._public")
        points = metadata.entry_points(group=ENTRY_POINTS)
        faults = [(point, _load_plugin(point)) for point in points]
    except BaseException:  # interrupted: the next call begins anew
        _loaded.clear()
        _forget(lambda entry: entry.factory.__module__ not in sys.modules)
        raise
    for point, fault in faults:  # after all are loaded, because warnings may be errors
        if fault:
            warnings.warn(
                f"The plug-in {point.name} = {point.value} was left out ({fault}); update it, or "
                "uninstall it.",
                stacklevel=2,
            )


def _load_plugin(point: metadata.EntryPoint) -> str:
    """Import a plug-in and return why it cannot be used, "" if it can."""
    before = set(_table)
    try:
        _check_plugin(point.load(), [_table[name] for name in _table if name not in before])
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too, must not end the caller's process
        package = re.split("[.:]", point.value)[0]
        _forget(
            lambda entry: (
                entry.name not in before and entry.factory.__module__.split(".")[0] == package
            )
        )
        return " ".join(traceback.format_exception_only(error)[-1].split())
    return ""


def _check_plugin(found: object, entries: Iterable[MethodEntry]) -> None:
    from torchsaliency.core.method import Method  # noqa: PLC0415 (it imports this module)

    if not isinstance(found, ModuleType) and not _is_kind(found, Method):
        raise TypeError(f"it is a {type(found).__name__}, and neither a module nor a Method")
    for entry in entries:
        if not _is_kind(entry.factory, Method):
            raise TypeError(f"it registers {entry.name}, which is no Method")


def _is_kind(found: object, kind: type) -> bool:
    return isinstance(found, type) and issubclass(found, kind)


def _forget(unwanted: Callable[[MethodEntry], bool]) -> None:
    for entry in [*_table.values()]:
        if unwanted(entry):
            del _table[entry.name]


def entry(name: str) -> MethodEntry:
    """Return the method registered under `name`.

    Raises:
        OptionError: there is none; close names are listed.
    """
    known = methods()
    if name not in known:
        raise OptionError(describe_unknown("method", name, sorted(known)))
    return known[name]


def create(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Make a method from its name and hyper-parameters, which may be strings ("iterations": "50").

    Raises:
        OptionError: unknown method or hyper-parameter, or a value that does not fit.
    """
    factory = entry(name).factory
    hints = get_type_hints(factory)
    fields = {field.name: field for field in dataclasses.fields(factory)}
    values: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if key not in fields:
            raise OptionError(
                f"{name} has no option {key!r}; it has {', '.join(sorted(fields)) or 'none'}."
            )
        values[key] = parsed_option(name, key, value, hints[key])
    return factory(**values)

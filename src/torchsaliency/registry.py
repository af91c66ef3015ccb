"""Registries: named things of one kind, which other packages may add to.

Methods, metrics, targets, networks, data sets and formats are each a `Registry`. An entry is made
where the thing is defined; other packages add theirs through the entry-point group of the registry.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar, get_type_hints

from torchsaliency.errors import OptionError, describe_unknown, shorten

_loaders: list[Callable[[], object]] = []
_moved: dict[str, Mapping[str, str]] = {}
_registries: list[Registry[Any]] = []


def register_loader(loader: Callable[[], object]) -> None:
    """Let every registry call `loader` before its first answer; it imports what registers itself.

    The package's facade does so: the core is below it and does not import it.
    """
    _loaders.append(loader)


def register_moved(package: str, places: Mapping[str, str]) -> None:
    """Let a package give names that lie elsewhere now, with a warning; for one version.

    The package's facade does so, which may name every module; the package itself may not.

    Args:
        package: where the names were, such as "torchsaliency.evaluation".
        places: the module where each lies now, by name.
    """
    _moved[package] = places


def make_moved_getattr(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names have moved, see `register_moved`."""

    def find(name: str) -> Any:
        place = _moved.get(package, {}).get(name)
        if place is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(
            f"{package}.{name} is {place}.{name} now; the old name goes with the next version.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(place), name)

    return find


def load_all() -> None:
    """Import all that registers anything, plug-ins included."""
    for registry in [*_registries]:
        registry.load()


@dataclass(frozen=True)
class Entry:
    """A registered thing.

    Attributes:
        name: as on the command line.
        factory: the class or function that makes it.
    """

    name: str
    factory: Any

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return (self.factory.__doc__ or "").strip().partition("\n")[0]

    @property
    def options(self) -> Mapping[str, Any]:
        """The options and their defaults.

        Raises:
            OptionError: an option has no default.
        """
        found = {}
        for field in inspect.signature(self.factory).parameters.values():
            if field.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            if field.default is inspect.Parameter.empty:
                raise OptionError(
                    f"{self.name}.{field.name} has no default; every option needs one."
                )
            found[field.name] = field.default
        if dataclasses.is_dataclass(self.factory):
            for item in dataclasses.fields(self.factory):
                if item.default_factory is not dataclasses.MISSING:
                    found[item.name] = item.default_factory()
        return found

    def create(self, options: Mapping[str, Any] | None = None) -> Any:
        """Make the thing from its options, which may be strings ("iterations": "50").

        Raises:
            OptionError: an unknown option, or a value that does not fit.
        """
        if not options:
            return self.factory()
        known = sorted(self.options)
        hints = self._hints()
        values: dict[str, Any] = {}
        for key, value in options.items():
            if key not in known:
                raise OptionError(
                    f"{self.name} has no option {key!r}; it has {', '.join(known) or 'none'}."
                )
            values[key] = parse_option(self.name, key, value, hints[key])
        return self.factory(**values)

    def _hints(self) -> dict[str, Any]:
        if dataclasses.is_dataclass(self.factory):
            return get_type_hints(self.factory)
        parameters = inspect.signature(self.factory, eval_str=True).parameters
        return {name: field.annotation for name, field in parameters.items()}


E = TypeVar("E", bound=Entry)
F = TypeVar("F")


class Registry(Generic[E]):
    """Named things of one kind, in the order in which they were registered.

    Args:
        kind: what an entry is, such as "method"; used in messages.
        group: the entry-point group of plug-ins, such as "torchsaliency.methods".
        base: the class that every factory of a plug-in must extend; None if any will do.
        error: the error for an unknown name.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        *,
        base: type | None = None,
        error: type[Exception] = OptionError,
    ) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self.error = error
        self._table: dict[str, E] = {}
        self._loaded = False
        _registries.append(self)

    def register(self, entry: E) -> E:
        """Add an entry.

        Raises:
            OptionError: the name is taken, or an option of it has no default.
        """
        if entry.name in self._table:
            raise OptionError(
                f"A {self.kind} {entry.name!r} is registered already; choose another name."
            )
        entry.options  # noqa: B018 (fails here, not at first use, if an option has no default)
        self._table[entry.name] = entry
        return entry

    def decorate(self, build: Callable[[F], E]) -> Callable[[F], F]:
        """Return a decorator that registers the entry that `build` makes of what it decorates."""

        def add(factory: F) -> F:
            self.register(build(factory))
            return factory

        return add

    def get(self, name: str) -> E:
        """Return the entry of a name.

        Raises:
            OptionError: there is none (or the registry's own error); close names are listed.
        """
        self.load()
        if name not in self._table:
            raise self.error(describe_unknown(self.kind, name, self.names()))
        return self._table[name]

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """Make the thing that is registered under a name; see `Entry.create`."""
        return self.get(name).create(options)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self.entries())

    def entries(self) -> Mapping[str, E]:
        """Return all entries by name, plug-ins included, read-only."""
        self.load()
        return MappingProxyType(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self.entries()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries())

    def load(self) -> None:
        """Import all that registers an entry: the library's own modules, and plug-ins.

        A plug-in that cannot be loaded is named in a warning and left out.
        """
        if self._loaded:
            return
        self._loaded = True
        try:
            for loader in _loaders:
                loader()
            points = metadata.entry_points(group=self.group)
            faults = [(point, self._load_plugin(point)) for point in points]
        except BaseException:  # interrupted: the next call begins anew
            self._loaded = False
            self._drop(lambda entry: entry.factory.__module__ not in sys.modules)
            raise
        for point, fault in faults:  # after all are loaded, because warnings may be errors
            if fault:
                warnings.warn(
                    f"The plug-in {point.name} = {point.value} was left out ({fault}); update it, "
                    "or uninstall it.",
                    stacklevel=2,
                )

    def _load_plugin(self, point: metadata.EntryPoint) -> str:
        """Import a plug-in and return why it cannot be used, "" if it can."""
        before = set(self._table)
        try:
            self._check_plugin(point.load(), before)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too, must not end the caller's process
            package = re.split("[.:]", point.value)[0]
            self._drop(
                lambda entry: (
                    entry.name not in before and entry.factory.__module__.split(".")[0] == package
                )
            )
            return " ".join(traceback.format_exception_only(error)[-1].split())
        return ""

    def _check_plugin(self, found: object, before: set[str]) -> None:
        kind = self.kind.capitalize()
        if not isinstance(found, ModuleType) and not self._fits(found):
            raise TypeError(f"it is a {type(found).__name__}, and neither a module nor a {kind}")
        for name, entry in self._table.items():
            if name not in before and not self._fits(entry.factory):
                raise TypeError(f"it registers {name}, which is no {kind}")

    def _fits(self, factory: object) -> bool:
        if self.base is None:
            return callable(factory)
        return isinstance(factory, type) and issubclass(factory, self.base)

    def _drop(self, unwanted: Callable[[E], bool]) -> None:
        for entry in [*self._table.values()]:
            if unwanted(entry):
                del self._table[entry.name]


def parse_option(name: str, key: str, value: Any, hint: Any) -> Any:
    """Return an option's value of the hinted type, from a value or from its words.

    Words may be JSON, or several with commas ("0.1,0.2").

    Raises:
        OptionError: the value does not fit.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 (slow, and seldom needed)

    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(value, str):
            try:
                return adapter.validate_json(value)
            except ValidationError:
                pass
            if "," in value:
                return parse_option(name, key, value.split(","), hint)
        reason = error.errors()[0]["msg"]
        raise OptionError(f"{name}.{key}={shorten(repr(value))} does not fit: {reason}.") from None

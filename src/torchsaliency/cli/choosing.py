"""From words on the command line to the objects they stand for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torchsaliency.core.method import METHODS, Method, create, methods
from torchsaliency.data import find_photos, sample_photo, sample_photos
from torchsaliency.errors import DataError, OptionError
from torchsaliency.methods.smoothing import Augmented, EigenSmoothed
from torchsaliency.zoo import Network

ALL = "all"
_SAMPLE = "sample:"


def chosen_methods(words: Sequence[str], settings: Sequence[str]) -> dict[str, Method]:
    """Return the methods by name.

    Args:
        words: names, also several with commas, or "all".
        settings: "method.option=value" each.

    Raises:
        OptionError: an unknown method or option, a value that does not fit, or a setting for a
            method that was not chosen.
    """
    names = listed(words)
    if ALL in names:
        names = list(methods())
    if not names:
        raise OptionError("No method was named; give --method NAME, or --method all.")
    options: dict[str, dict[str, str]] = {METHODS.get(name).name: {} for name in names}
    for setting in settings:
        method, option, value = parted(setting)
        if method not in options:
            if _is_metric(method):
                continue
            raise OptionError(
                f"--set {setting!r} was given and {METHODS.get(method).name} is not among the "
                f"methods; add --method {method}."
            )
        options[method][option] = value
    return {name: create(name, given) for name, given in options.items()}


def listed(words: Sequence[str]) -> list[str]:
    """Return the names in words that may hold several with commas."""
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def parted(setting: str) -> tuple[str, str, str]:
    """Return name, option and value of "NAME.OPTION=VALUE".

    Raises:
        OptionError: it is something else.
    """
    place, equals, value = setting.partition("=")
    name, dot, option = place.rpartition(".")
    if not equals or not dot:
        raise OptionError(
            f"--set {setting!r} was given; accepted is NAME.OPTION=VALUE, such as "
            "opticam.iterations=50."
        )
    return name, option, value


def smoothed(chosen: dict[str, Method], *, eigen: bool, augmented: bool) -> dict[str, Method]:
    """Wrap every method as asked, under the longer name that says so."""
    made = list(chosen.values())
    if eigen:
        made = [EigenSmoothed(method) for method in made]
    if augmented:
        made = [Augmented(method) for method in made]
    return {method.name: method for method in made}


def chosen_photos(words: Sequence[str], output: Path) -> list[Path]:
    """Return the photographs that files, folders and sample names stand for, each once.

    Of a folder, what an earlier run wrote (all below `output`) is left out, or the library would
    explain its own pictures.

    Raises:
        DataError: a path does not exist, or there is no photograph at all.
    """
    found: dict[str, Path] = {}
    for word in words:
        path = _sample(word) or Path(word).expanduser()
        if not path.exists():
            raise DataError(
                f"{word} does not exist; give image files, folders of them, or samples "
                f"({', '.join(sample_photos())})."
            )
        inside = find_photos(path)
        if path.is_dir():
            inside = [one for one in inside if not _below(one, output)]
        for one in inside:
            # not Path.resolve, which raises for a link to itself
            found.setdefault(os.path.realpath(one), one)
    if not found:
        raise DataError(
            f"There are no photographs in {', '.join(words)} but those below {output}; give others."
        )
    return list(found.values())


def chosen_targets(words: Sequence[str], network: Network) -> tuple[int | None, ...]:
    """Return the classes, each once; None is the predicted class.

    Raises:
        TargetError: the network has no such class.
    """
    return tuple(dict.fromkeys(network.class_index(word) for word in words)) or (None,)


def _sample(word: str) -> Path | None:
    """Return the sample that a word names; a file of that name comes first."""
    if word.startswith(_SAMPLE):
        return sample_photo(word.removeprefix(_SAMPLE)).path
    return sample_photo(word).path if word in sample_photos() and not Path(word).exists() else None


def _is_metric(name: str) -> bool:
    from torchsaliency.metrics import metrics  # noqa: PLC0415 (takes seconds)

    return name in metrics()


def _below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.expanduser()))

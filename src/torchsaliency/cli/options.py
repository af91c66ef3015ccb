"""Commands whose options are the fields of pydantic models."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from torchsaliency.cli.completing import make_completer
from torchsaliency.errors import OptionError
from torchsaliency.options import (
    BATCH_SIZE,
    CHUNK,
    DEVICE,
    EXPLAINED,
    FIT,
    GROUPS,
    PRECISION,
    SEED,
    SETTINGS,
    WRITTEN,
    ExplainOptions,
    Framing,
    NetworkOptions,
    Options,
    Precision,
    option,
    validate_options,
)

Command = Callable[[Any], int | None]
"""Takes a model of options and returns the exit code; None is 0."""

JSON = option(
    False, WRITTEN, "Write the result as JSON to stdout, and nothing else there.", spelling="--json"
)
FORMAT = option(
    "text",
    WRITTEN,
    "How a table is written to stdout, such as text, markdown, latex or csv; a name that does not "
    "exist is answered with the list.",
    metavar="NAME",
    spelling="--format",
)
CONFIDENCE = option(0.95, WRITTEN, "Of the intervals.", ge=0.5, le=0.999)


class ExplainCommandOptions(ExplainOptions):
    """How photographs are explained, and where the maps are written."""

    photos: tuple[str, ...] = option(
        ...,
        "",
        "Photographs, folders of them, or samples: chelsea, coffee, camera, rocket, china, flower "
        "(sample:NAME where a file has that name); scans (.nii, .nii.gz, a folder of DICOM files) "
        "or videos.",
        metavar="PHOTO...",
    )
    output: Path = option(Path("saliency"), WRITTEN, "Made if it does not exist.", metavar="FOLDER")
    as_json: bool = JSON


class ChooseOptions(NetworkOptions):
    """What is tried, and on what."""

    photos: tuple[str, ...] = option(
        ...,
        "",
        "Photographs, folders of them, or samples as of `explain`; 20 to 40 of the kind that "
        "matters, at least 8.",
        metavar="PHOTO...",
    )
    method: tuple[str, ...] = option(
        (),
        EXPLAINED,
        "Methods that are tried; by default well-known ones of every family that fit the network, "
        "but for masking methods, which take thousands of passes an image.",
        metavar="NAME,NAME",
        values="methods",
    )
    settings: tuple[str, ...] = SETTINGS
    target: str | None = option(
        None,
        EXPLAINED,
        "A class by number or name, or a target; the predicted class by default.",
        metavar="CLASS|NAME",
        values="targets",
    )
    fit: Framing | None = FIT
    device: str = DEVICE
    precision: Precision = PRECISION
    batch_size: int = BATCH_SIZE
    chunk: int | None = CHUNK
    seed: int = SEED
    output: Path = option(Path("choice"), WRITTEN, "Made if it does not exist.", metavar="FOLDER")
    as_json: bool = JSON


class ConceptOptions(NetworkOptions):
    """Which concepts, of what."""

    photos: tuple[str, ...] = option(
        ...,
        "",
        "Photographs, folders of them, or samples as of `explain`; for craft and tcav some tens of "
        "one class.",
        metavar="PHOTO...",
    )
    method: Literal["dff", "craft", "tcav"] = option(
        "dff",
        EXPLAINED,
        "dff: what the photos' features are made of, and which classes that speaks for. craft: how "
        "much each part matters for a class. tcav: whether a concept that you show in photos moves "
        "a class's score.",
    )
    concepts: int | None = option(
        None, EXPLAINED, "How many are found; 4 by dff and 10 by craft.", ge=1, spelling="--count"
    )
    concept: tuple[Path, ...] = option(
        (), EXPLAINED, "tcav: a folder of photos that show it. Repeatable.", metavar="FOLDER"
    )
    random: Path | None = option(
        None, EXPLAINED, "tcav: a folder of photos of anything, some hundred.", metavar="FOLDER"
    )
    runs: int | None = option(
        None, EXPLAINED, "tcav: sets that the random photos are parted into; 10.", ge=3
    )
    samples: int | None = option(
        None, EXPLAINED, "craft: draws of masks for the importances; 64.", ge=2
    )
    target: str | None = option(
        None,
        EXPLAINED,
        "craft and tcav: a class by number or name, or a target; the predicted class by default.",
        metavar="CLASS|NAME",
        values="targets",
    )
    layer: str | None = option(
        None, EXPLAINED, "Whose features; the network's default layer.", metavar="NAME"
    )
    fit: Framing | None = FIT
    device: str = DEVICE
    precision: Precision = PRECISION
    chunk: int | None = CHUNK
    seed: int = SEED
    output: Path = option(Path("concepts"), WRITTEN, "Made if it does not exist.", metavar="FOLDER")
    as_json: bool = JSON


def add_command(app: typer.Typer, command: Command, **settings: Any) -> None:
    """Add a function of one model of options to an app, with settings of `Typer.command`."""
    model = options_of(command)

    @functools.wraps(command)
    def run(**given: Any) -> int | None:
        values = {name: value for name, value in given.items() if value not in (None, [])}
        return command(validate_options(model, values, spell=lambda name: spelling(model, name)))

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(model, name, info) for name, info in fields_of(model)]
    )
    run.__annotations__ = {}
    app.command(command.__name__.replace("_", "-"), **settings)(run)


def options_of(command: Command) -> type[Options]:
    """Return the model that a command takes."""
    model: type[Options] = get_type_hints(command)["options"]
    return model


def fields_of(model: type[Options]) -> list[tuple[str, FieldInfo]]:
    """Return the fields of a model by their groups, in the order in which they are shown."""
    return sorted(
        model.model_fields.items(), key=lambda item: GROUPS.index(_extra(item[1])["group"])
    )


def spelling(model: type[Options], name: str) -> str:
    """Return how a field is spelled on the command line; a positional argument by its metavar."""
    extra = _extra(model.model_fields[name])
    if not extra["group"]:
        return extra["metavar"]
    return extra["spelling"] or "--" + name.replace("_", "-")


def default_of(info: FieldInfo) -> str:
    """Return the default of a field in words; "" if there is none."""
    if info.is_required() or info.default in (None, (), ""):
        return ""
    if isinstance(info.default, bool):
        return "on" if info.default else "off"
    return str(info.default)


_SIXTY_FOUR_BITS = 2**63
"""A limit as large as this is one of the machine, which help does not mention."""


def limits_of(info: FieldInfo) -> str:
    """Return the limits of a field's value, such as "0 <= x <= 1"; "" if there are none."""
    limits = [
        (sign, bound)
        for rule in info.metadata
        for sign, name in ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt"))
        if (bound := getattr(rule, name, None)) is not None and abs(bound) < _SIXTY_FOUR_BITS
    ]
    if len(limits) == 2:  # noqa: PLR2004
        (low_sign, low), (high_sign, high) = limits
        return f"{low} {low_sign.replace('>', '<')} x {high_sign} {high}"
    return "".join(f"x {sign} {bound}" for sign, bound in limits)


def parse_settings(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the options of each method or metric by its name, of "NAME.OPTION=VALUE" each."""
    found: dict[str, dict[str, str]] = {}
    for setting in settings:
        place, equals, value = setting.partition("=")
        name, dot, key = place.rpartition(".")
        if not equals or not dot:
            raise OptionError(
                f"--set {setting!r} was given; accepted is NAME.OPTION=VALUE, such as "
                "opticam.iterations=50."
            )
        found.setdefault(name, {})[key] = value
    return found


def require_chosen(settings: Mapping[str, Mapping[str, Any]], chosen: Collection[str]) -> None:
    """Refuse options of a method or metric that was not chosen."""
    for name, options in settings.items():
        if name not in chosen:
            raise OptionError(
                f"--set {name}.{next(iter(options))} was given and {name} is neither among the "
                f"methods nor the metrics ({', '.join(dict.fromkeys(chosen))}); add it."
            )


def _parameter(model: type[Options], name: str, info: FieldInfo) -> inspect.Parameter:
    extra = _extra(info)
    facts = [f"default: {default_of(info)}" if default_of(info) else "", limits_of(info)]
    more = "; ".join(fact for fact in facts if fact)
    shown: dict[str, Any] = {
        "help": f"{info.description} ({more})" if more else info.description,
        "metavar": extra["metavar"] or None,
        "show_default": False,
    }
    if extra["values"]:
        shown["autocompletion"] = make_completer(extra["values"], extra["metavar"])
    if not extra["group"]:
        parameter = typer.Argument(**shown)
    else:
        spelled = spelling(model, name)
        flag = info.annotation is bool and not extra["spelling"]
        declared = f"{spelled}/--no-{spelled[2:]}" if flag else spelled
        parameter = typer.Option(declared, rich_help_panel=extra["group"], **shown)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if info.is_required() else None,
        annotation=Annotated[_read_as(info.annotation), parameter],
    )


def _read_as(annotation: Any) -> Any:
    """Return the type that Typer reads for the type of a field: what it cannot read is a word."""
    if get_origin(annotation) is tuple:
        return list[Path] if Path in get_args(annotation) else list[str]
    kinds = {kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)}
    if get_origin(annotation) is Literal:
        return annotation | None
    kind = kinds.pop()
    plain = not kinds and (get_origin(kind) is Literal or kind in (bool, int, float, Path))
    return (kind if plain else str) | None


def _extra(info: FieldInfo) -> dict[str, str]:
    return cast("dict[str, str]", info.json_schema_extra)

"""A user's own network: `path/to/file.py:factory`, a function of theirs that returns a module.

This runs the user's file, as giving its path asks for. The factory, the module it returns, or the
file itself may carry `preprocessing` (a `Preprocessing`, or a dictionary with size, mean, std and
channels), timm's `pretrained_cfg`, `classes` (names), `scores` ("sigmoid", say), and, for scans or
videos, `volumes` (a `ScanPreprocessing` or a `ClipPreprocessing`). What the user gives comes first,
then what the weights file says, then what is carried; the rest is assumed, and `source` says so.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from torchsaliency.core.network import unwrap
from torchsaliency.errors import CheckpointError, describe_error, shorten
from torchsaliency.zoo.inputs import InputFacts
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import Preprocessing
from torchsaliency.zoo.sources.source import UNKNOWN, Request, build_and_fill, facts
from torchsaliency.zoo.sources.timm import from_timm
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing
from torchsaliency.zoo.weights import list_names

_lock = threading.RLock()


def is_user_file(name: str) -> bool:
    """Whether a name reads `file.py:factory` or `file.py:factory(option=value)`."""
    return split_options(name)[0].rpartition(":")[0].endswith(".py")


def split_options(name: str) -> tuple[str, str]:
    """Return a network's name and what stands in brackets behind it, "" for nothing."""
    place, bracket, options = name.partition("(")
    return (place, options[:-1]) if bracket and options.endswith(")") else (name, "")


def parse_options(name: str) -> tuple[str, dict[str, Any]]:
    """Return a network's name and the options in brackets behind it.

    Raises:
        CheckpointError: the brackets hold something else than names and plain values.

    Example:
        >>> parse_options("net.py:make(depth=3, wide=True)")
        ('net.py:make', {'depth': 3, 'wide': True})
    """
    place, text = split_options(name)
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
        named = isinstance(call, ast.Call) and not call.args and all(k.arg for k in call.keywords)
        found = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if named else None  # type: ignore[attr-defined]
        reason = "each needs a name"
    except (ValueError, SyntaxError) as error:
        found, reason = None, describe_error(error)
    if found is None:
        raise CheckpointError(
            f"The options ({text}) behind {place} cannot be understood ({reason}); give names and "
            "plain values, such as (depth=3, norm='batch')."
        )
    return place, found


def load(request: Request) -> Network:
    """Load the network that a user's factory makes."""
    factory, module = _factory(request.name)
    checkpoint = request.checkpoint()
    options = dict(request.options)
    if checkpoint is not None:  # what it was trained with, where the factory has such parameters
        named = _parameters(factory)
        kept = {key: value for key, value in checkpoint.options.items() if key in named}
        options = {**kept, **options}
    build = functools.partial(_call, factory, request.name, options)
    if checkpoint is not None and "num_classes" not in options and _takes_num_classes(factory):
        model, _ = build_and_fill(build, checkpoint, request.num_classes)
    else:
        model = build(request.num_classes)
        if checkpoint is not None:
            checkpoint.fill(model)
    inner = unwrap(model)
    with _run_user_code(
        f"{request.name} carries classes or a preprocessing that cannot be read",
        "let classes be a list of names, preprocessing a Preprocessing or a dictionary, volumes a "
        "ScanPreprocessing or a ClipPreprocessing",
    ):
        owners = (factory, inner, module)
        known, facts_of_file = _read_carried(owners)
        volumes = _first("volumes", owners, ScanPreprocessing | ClipPreprocessing)
    said = request.given
    if checkpoint is not None:
        said = said.or_else(checkpoint.facts)
    said = said.or_else(facts_of_file)
    preprocessing = said.apply(known, inner)
    assumed = said.describe_assumptions(preprocessing) if known is None else ""
    return Network(
        model,
        name=request.name,
        preprocessing=preprocessing,
        classes=said.classes,
        scores=said.scores,
        output=said.output,
        layer=paper_layer(inner),
        volumes=volumes,
        source={
            **facts("user file", inner, checkpoint or UNKNOWN),
            **({"options": options} if options else {}),
            **({"assumed": assumed} if assumed else {}),
        },
    )


def _factory(name: str) -> tuple[Callable[..., Any], types.ModuleType]:
    """Return the factory and the module of its file."""
    file, _, attribute = name.rpartition(":")
    path = Path(os.path.expanduser(file))  # Path's raises for unknown users
    module_name = f"torchsaliency_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if not os.path.isfile(path) or spec is None or spec.loader is None:
        raise CheckpointError(
            f"The model file {path} does not exist; give path/to/file.py:factory with a file that "
            "does."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickling look the module up
    with _run_user_code(f"{path} cannot be imported", "make it run by itself first"):
        try:
            spec.loader.exec_module(module)
            factory: Callable[..., Any] | None = getattr(module, attribute, None)
        except BaseException:
            sys.modules.pop(module_name, None)
            raise
    if not callable(factory):
        found = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise CheckpointError(
            f"{path} has no function {shorten(attribute)!r}; give one that returns the network, "
            f"such as {', '.join(found[:6]) or 'def model(): …'}."
        )
    return factory, module


@contextlib.contextmanager
def _run_user_code(failure: str, remedy: str) -> Iterator[None]:
    """Run a user's code: whatever it raises is one error, and what it prints goes to stderr.

    One thread at a time, because `sys.stdout` belongs to the whole process.
    """
    with _lock, contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too, must not end the caller's process
            kind, reason = type(error).__name__, describe_error(error)
            raise CheckpointError(
                f"{failure} ({kind if reason == kind else f'{kind}: {reason}'}); {remedy}."
            ) from error


def _call(
    factory: Callable[..., Any], name: str, given: Mapping[str, Any], num_classes: int | None
) -> nn.Module:
    """Call the factory with its options, and num_classes where it is asked for and taken."""
    if num_classes is not None and not _takes_num_classes(factory):
        raise CheckpointError(
            f"num_classes={num_classes} was given, which {name} does not take; "
            "let the factory have a parameter num_classes."
        )
    options = {**given, **({} if num_classes is None else {"num_classes": num_classes})}
    with _run_user_code(
        f"{name} failed",
        "make the factory run without arguments first, or give those it needs in brackets, such as "
        "file.py:factory(depth=3)",
    ):
        model = factory(**options)
    if inspect.iscoroutine(model):
        model.close()  # or Python warns later that nobody awaited it
    if not isinstance(model, nn.Module):
        raise CheckpointError(
            f"{name} returned a {type(model).__name__}; let it return a torch.nn.Module."
        )
    empty = [
        key
        for key, tensor in (*model.named_parameters(), *model.named_buffers())
        if is_lazy(tensor) or tensor.is_meta
    ]
    if empty:
        raise CheckpointError(
            f"{name} returned a network without values in {list_names(empty)}; let it run once on "
            "an image, or make it on the CPU."
        )
    return model


def _parameters(factory: Callable[..., Any]) -> set[str]:
    """Return the names of a factory's parameters; "**" where it takes any."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some of C's functions do not say
        return set()
    return {
        "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else parameter.name
        for parameter in parameters
    }


def _takes_num_classes(factory: Callable[..., Any]) -> bool:
    return not {"num_classes", "**"}.isdisjoint(_parameters(factory))


def _read_carried(owners: Sequence[Any]) -> tuple[Preprocessing | None, InputFacts]:
    """Return the preprocessing and the facts that the first of some objects carries."""
    classes = _first("classes", owners, list | tuple | Mapping)
    kinds = (getattr(owner, "scores", None) for owner in owners)
    scores = next((kind for kind in kinds if isinstance(kind, str)), None)
    named = InputFacts.parse(classes=classes, scores=scores)
    carried = _first("preprocessing", owners, Preprocessing | Mapping)
    if isinstance(carried, Preprocessing):
        return carried, named
    if carried is not None:
        return None, InputFacts.parse(**carried).or_else(named)
    config = _first("pretrained_cfg", owners, Mapping)
    return None if config is None else from_timm(config), named


def _first(attribute: str, owners: Sequence[Any], kinds: Any) -> Any:
    """Return what the first owner carries under a name; modules and functions carry nothing."""
    for owner in owners:
        found = getattr(owner, attribute, None)
        if isinstance(found, nn.Module | types.ModuleType | types.FunctionType | type):
            continue
        if found is not None:
            if not isinstance(found, kinds):
                raise TypeError(f"{attribute} is a {type(found).__name__}")
            return found
    return None

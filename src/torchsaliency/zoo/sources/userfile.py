"""A user's own network: `path/to/file.py:factory`, a function of theirs that returns a module.

This runs the user's file, as giving its path asks for. The factory, or the module it returns, may
carry `preprocessing` (a `Preprocessing`), timm's `pretrained_cfg`, and `classes` (names).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from torchsaliency.core.network import unwrap
from torchsaliency.errors import CheckpointError, describe_error, shorten
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import Preprocessing, imagenet
from torchsaliency.zoo.sources.source import UNKNOWN, Request, build_and_fill, facts
from torchsaliency.zoo.sources.timm import from_timm
from torchsaliency.zoo.weights import list_names

_lock = threading.RLock()


def is_user_file(name: str) -> bool:
    """Whether a name reads `file.py:factory`."""
    return name.rpartition(":")[0].endswith(".py")


def load(request: Request) -> Network:
    """Load the network that a user's factory makes."""
    factory = _factory(request.name)
    build = functools.partial(_call, factory, request.name)
    checkpoint = request.checkpoint()
    if checkpoint is not None and _takes_num_classes(factory):
        model, _ = build_and_fill(build, checkpoint, request.num_classes)
    else:
        model = build(request.num_classes)
        if checkpoint is not None:
            checkpoint.fill(model)
    inner = unwrap(model)
    with _run_user_code(
        f"{request.name} carries classes or a preprocessing that cannot be read",
        "let classes be a list of names, and preprocessing a Preprocessing",
    ):
        classes, preprocessing = _classes(factory, inner), _preprocessing(factory, inner)
    return Network(
        model,
        name=request.name,
        preprocessing=preprocessing,
        classes=classes,
        layer=paper_layer(inner),
        source=facts("user file", inner, checkpoint or UNKNOWN),
    )


def _factory(name: str) -> Callable[..., Any]:
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
    return factory


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


def _call(factory: Callable[..., Any], name: str, num_classes: int | None) -> nn.Module:
    """Call the factory, with num_classes where it is asked for and taken."""
    if num_classes is not None and not _takes_num_classes(factory):
        raise CheckpointError(
            f"num_classes={num_classes} was given, which {name} does not take; "
            "let the factory have a parameter num_classes."
        )
    options = {} if num_classes is None else {"num_classes": num_classes}
    with _run_user_code(f"{name} failed", "make the factory run without arguments first"):
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


def _takes_num_classes(factory: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some of C's functions do not say
        return False
    return any(
        parameter.name == "num_classes" or parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in parameters
    )


def _classes(factory: Callable[..., Any], model: nn.Module) -> tuple[str, ...] | None:
    carried = _read_attribute("classes", factory, model)
    if isinstance(carried, str):
        raise TypeError("classes is one text")
    return None if carried is None else tuple(map(str, carried))


def _preprocessing(factory: Callable[..., Any], model: nn.Module) -> Preprocessing:
    if isinstance(carried := _read_attribute("preprocessing", factory, model), Preprocessing):
        return carried
    config = _read_attribute("pretrained_cfg", factory, model)
    return imagenet() if config is None else from_timm(config)


def _read_attribute(attribute: str, factory: Callable[..., Any], model: nn.Module) -> Any:
    """Return what the factory, or else the module, carries under a name."""
    found = getattr(factory, attribute, None)
    return getattr(model, attribute, None) if found is None else found

"""A user's own network: `path/to/file.py:factory`, a function of theirs that returns a module.

This runs the user's file, as giving its path asks for. The factory, or the module it returns, may
carry `preprocessing` (a `Preprocessing`), timm's `pretrained_cfg`, and `classes` (names).
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from torchsaliency.core.errors import CheckpointError
from torchsaliency.core.wrapper import unwrap
from torchsaliency.zoo.checkpoints import Checkpoint
from torchsaliency.zoo.layers import paper_layer
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import Preprocessing, imagenet
from torchsaliency.zoo.readers import from_timm
from torchsaliency.zoo.sources.request import UNKNOWN, Request, build_and_fill, facts


def is_user_file(name: str) -> bool:
    """Whether a name reads `file.py:factory`."""
    return name.rpartition(":")[0].endswith(".py")


def load(request: Request) -> Network:
    """Load the network that a user's factory makes."""
    factory = _factory(request.name)
    build = functools.partial(_call, factory, request.name)
    checkpoint = request.checkpoint()
    weights: Checkpoint | str = UNKNOWN
    if checkpoint is not None:
        model, _ = _fill(build, checkpoint, factory, request)
        weights = checkpoint
    else:
        model = build(request.num_classes)
    inner = unwrap(model)
    classes = _carried("classes", factory, inner)
    return Network(
        model,
        name=request.name,
        preprocessing=_preprocessing(factory, inner),
        classes=None if classes is None else tuple(map(str, classes)),
        layer=paper_layer(inner),
        source=facts("user file", inner, weights),
    )


def _factory(name: str) -> Callable[..., Any]:
    """Import the file and return its factory."""
    file, _, attribute = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"The model file {path} does not exist; give path/to/file.py:factory with a file that "
            "does."
        )
    module_name = f"torchsaliency_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise CheckpointError(f"{path} is no Python file; give path/to/file.py:factory.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickling look the module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise CheckpointError(
            f"{path} cannot be imported ({type(error).__name__}: {error}); make it run by itself "
            "first."
        ) from error
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        found = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise CheckpointError(
            f"{path} has no function {attribute!r}; give one that returns the network, such as "
            f"{', '.join(found[:6]) or 'def model(): …'}."
        )
    return factory


def _call(factory: Callable[..., Any], name: str, num_classes: int | None) -> nn.Module:
    """Call the factory, with num_classes where it is asked for and taken."""
    if num_classes is not None and not _takes_num_classes(factory):
        raise CheckpointError(
            f"num_classes={num_classes} was given, which {name} does not take; "
            "let the factory have a parameter num_classes."
        )
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model = factory(**options)
    except Exception as error:
        raise CheckpointError(
            f"{name} failed ({type(error).__name__}: {error}); make the factory run without "
            "arguments first."
        ) from error
    if not isinstance(model, nn.Module):
        raise CheckpointError(
            f"{name} returned a {type(model).__name__}; let it return a torch.nn.Module."
        )
    return model


def _fill(
    build: Callable[[int | None], nn.Module],
    checkpoint: Checkpoint,
    factory: Callable[..., Any],
    request: Request,
) -> tuple[nn.Module, int | None]:
    """Build and load; the number of classes is inferred only where the factory can be told it."""
    if _takes_num_classes(factory):
        return build_and_fill(build, checkpoint, request.num_classes)
    model = build(request.num_classes)
    checkpoint.fill(model)
    return model, None


def _takes_num_classes(factory: Callable[..., Any]) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(
        parameter.name == "num_classes" or parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in parameters
    )


def _preprocessing(factory: Callable[..., Any], model: nn.Module) -> Preprocessing:
    if isinstance(carried := _carried("preprocessing", factory, model), Preprocessing):
        return carried
    config = _carried("pretrained_cfg", factory, model)
    return imagenet() if config is None else from_timm(config)


def _carried(attribute: str, factory: Callable[..., Any], model: nn.Module) -> Any:
    """Return what the factory, or else the module, carries under a name."""
    found = getattr(factory, attribute, None)
    return getattr(model, attribute, None) if found is None else found

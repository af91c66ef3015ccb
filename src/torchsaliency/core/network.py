"""Networks as users bring them: their wrappers, their images, the scores inside their output."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from torchsaliency.core.space import MOST_SIDES
from torchsaliency.errors import InputError, TargetError

_SCORES = (
    *("logits", "out", "output", "outputs", "cls_logits", "class_logits", "pred", "preds"),
    *("prediction", "predictions", "pred_logits", "scores", "score", "y_hat", "y_pred", "y"),
    *("logits_per_image", "image_embeds", "embeds", "pooler_output"),
)
"""What networks call their scores, or else the embedding that stands for them."""

_FEATURES = ("feature", "embed", "hidden", "loss", "aux", "attention")
"""Parts of the names of what is not a score."""


class NetworkWrapper(nn.Module):
    """A module that only carries another one, `module`, and facts about it.

    Attributes:
        module: the network that is explained; layer names are relative to it.
        scores: what its numbers mean, see `core.scores.ScoresLike`; None if that is not said.
        output: where in its output they are: an index, a key or a path such as "heads.main"; None
            to find them.
        forward_kwargs: keyword arguments with which it is always called.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        *,
        scores: Any = None,
        output: int | str | None = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if module is not None:  # or a subclass sets it
            self.module = module
        self.scores = scores
        self.output = output
        self.forward_kwargs = forward_kwargs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the carried network."""
        return self.module(*args, **{**(self.forward_kwargs or {}), **kwargs})


class Program(nn.Module):
    """A network that runs as a whole, and whose layers cannot be watched.

    Attributes:
        kind: what it is, for messages.
    """

    def __init__(self, run: Callable[[Tensor], Any], kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._run = run

    def forward(self, images: Tensor) -> Any:
        """Run the program."""
        return self._run(images)


def kind_of_program(net: nn.Module) -> str:
    """Return what a network that runs as a whole is, for messages."""
    return net.kind if isinstance(net, Program) else "TorchScript program"


_modules: weakref.WeakKeyDictionary[Any, nn.Module] = weakref.WeakKeyDictionary()


def as_module(model: Any, *, texts: bool = False) -> nn.Module:
    """Return what a user gives for a network as a module.

    A program of `torch.export` gets its layers back; one of TorchScript is a module.

    Args:
        model: the network.
        texts: whether other inputs than images are given to it.

    Raises:
        InputError: it is no network; the message says what to type.
    """
    if isinstance(model, nn.Module):
        if not texts and (text := _find_text_input(model)) is not None:
            raise InputError(
                f"{type(model).__name__} reads {text} beside images; give x={{'pixel_values': …}} "
                f"and forward_kwargs={{'{text}': …}}, or explain its image encoder, "
                "load_model('hf/…'), and the similarity to a text, similarity_to_text."
            )
        return model
    if isinstance(model, torch.export.ExportedProgram):
        if model not in _modules:
            _modules[model] = _unflatten(model)
        return _modules[model]
    kind = type(model).__name__
    hint = "give a torch.nn.Module, a TorchScript program or what torch.export.export returned"
    if isinstance(model, str | os.PathLike):
        hint = f"load it with torchsaliency.load_model({os.fspath(model)!r})"
    elif kind in {"InferenceSession", "ModelProto"}:
        hint = "give its file to torchsaliency.load_model('network.onnx')"
    elif kind.endswith("Pipeline"):
        hint = "give its network, pipeline.model"
    elif isinstance(model, Mapping):
        hint = "give the network with these weights in it, or load_model(NAME, weights=FILE)"
    raise InputError(f"A {kind} was given for the network; {hint}.")


def _unflatten(program: torch.export.ExportedProgram) -> nn.Module:
    """Return the module of an exported program, with its layers.

    Raises:
        InputError: it was exported for a fixed number of images above one.
    """
    inputs = program.graph_signature.user_inputs
    first = next((node for node in program.graph.nodes if node.name in inputs), None)
    value = first.meta.get("val") if first is not None else None
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    if shape and isinstance(shape[0], int) and shape[0] > 1:
        raise InputError(
            f"This program takes batches of {shape[0]} images and no others; export the network "
            "with one image, or with dynamic_shapes=({0: torch.export.Dim('batch')},)."
        )
    return torch.export.unflatten(program)


def _find_text_input(model: nn.Module) -> str | None:
    """Return the name of a text that a Hugging Face network reads beside images, None for none."""
    if not hasattr(model, "text_model") or not hasattr(model, "vision_model"):
        return None
    named = inspect.signature(model.forward).parameters
    return "input_ids" if {"input_ids", "pixel_values"} <= set(named) else None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside data-parallel, compiled and torchsaliency wrappers.

    A compiled network shares its parameters with the original, whose hooks are reliable; a
    data-parallel one would run its hooks on short-lived replicas.
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | NetworkWrapper):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def find_fact(model: nn.Module, name: str) -> Any:
    """Return what the outermost wrapper that has an attribute says; None if none does."""
    while isinstance(model, DataParallel | DistributedDataParallel | NetworkWrapper):
        if (found := getattr(model, name, None)) is not None:
            return found
        model = model.module
    return None


def prepare_images(net: nn.Module, x: Tensor) -> Tensor:
    """Return the images on the network's device and in its precision, free of any graph.

    Raises:
        InputError: they are not a batch of finite floating-point images.
    """
    sides = x.ndim - 2
    if not 1 <= sides <= MOST_SIDES or 0 in x.shape or _lacks_batch(net, sides):
        hint = "; add the batch dimension with x[None]" if 0 not in x.shape and sides == 1 else ""
        raise InputError(
            "Images must be (N, C, H, W), or (N, C, D, H, W) for volumes, (N, C, T, H, W) for "
            f"videos, (N, C, T) for signals, not empty, not {tuple(x.shape)}{hint}."
        )
    if not x.is_floating_point():
        raise InputError(
            f"Images must be preprocessed floats, and {x.dtype} was given; use "
            "torchsaliency.preprocess, or divide by 255 and normalise."
        )
    # a finite sum proves all finite in one look; another sum may only have been too large
    if not bool(x.sum().isfinite()) and not bool(x.isfinite().all()):
        raise InputError("The images hold NaN or infinite values; check the preprocessing.")
    parameter = next((p for p in net.parameters() if p.is_floating_point()), None)
    x = x.clone() if x.is_inference() else x.detach()
    return x if parameter is None else x.to(parameter.device, parameter.dtype)


def _lacks_batch(net: nn.Module, sides: int) -> bool:
    """Whether the network convolves pictures and no signals, and a single picture was given.

    A volume without its batch, or its channel, cannot be told from pictures of many channels.
    """
    if sides != 1:
        return False
    kinds = {type(module) for module in net.modules()}
    pictures = any(issubclass(kind, nn.Conv2d) for kind in kinds)
    return pictures and not any(issubclass(kind, nn.Conv1d) for kind in kinds)


def unwrap_output(output: Any, where: int | str | None = None) -> Any:
    """Return the tensor of scores inside a network's output.

    The output itself; the entry of a dict, object or named tuple that is called `logits`, `out`,
    `scores` …; the only tensor with one row an image; or the only one of shape (N, K) beside
    feature maps. Dicts, tuples and objects inside are looked into, too. A detector's list of dicts
    is returned unchanged, for targets that read it.

    Args:
        output: what the network gave.
        where: the index, key, attribute or path ("heads.main", "aux.0") of the scores; None finds
            them.

    Raises:
        TargetError: there is no tensor in it, or several that may be the scores; or nothing is at
            `where`.
    """
    if where is not None:
        return _as_strided(_select(output, where))
    if isinstance(output, Tensor):
        return _as_strided(output)
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return output
    entries = dict(_entries(output))
    for name in _SCORES:
        if (part := entries.get(name)) is not None and dict(_walk(part)):
            return unwrap_output(part)
    found = {name: part for name, part in entries.items() if isinstance(part, Tensor)}
    if all(map(_is_feature, found)):
        found = dict(_walk(output))
    rows = {name: part for name, part in found.items() if part.ndim and part.is_floating_point()}
    scores = {name: part for name, part in rows.items() if not _is_feature(name)}
    named = {name: part for name, part in scores.items() if _last(name) in _SCORES}
    flat = {name: part for name, part in scores.items() if part.ndim == 2}  # noqa: PLR2004
    for candidates in (named, rows, scores, flat):
        if len(candidates) == 1:
            return next(iter(candidates.values()))
    if not found:
        raise TargetError(
            f"The network gave a {type(output).__name__} that holds no tensor; accepted are a "
            "tensor, or a dict, tuple, list or object with one in it."
        )
    raise TargetError(
        f"The network gave a {type(output).__name__} of several tensors ({_listed(found)}), and "
        "which one holds the scores cannot be known; say output= with its name or place."
    )


def _as_strided(found: Any) -> Any:
    dense = not isinstance(found, Tensor) or found.layout == torch.strided
    return found if dense else found.to_dense()


def _select(output: Any, where: int | str) -> Any:
    """Return the part of an output at an index, key, attribute or path of these.

    Raises:
        TargetError: there is none; what there is is listed.
    """
    entries = dict(_entries(output))
    if where in entries:  # a key may have dots in it
        return entries[where]
    found = output
    for step in str(where).split("."):
        entries = {str(name): part for name, part in _entries(found)}
        if isinstance(found, tuple | list):
            entries |= {str(place): part for place, part in enumerate(found)}
            entries |= {str(place - len(found)): part for place, part in enumerate(found)}
        if step not in entries:
            there = _listed(dict(_walk(output))) or "no tensor"
            raise TargetError(
                f"output={where!r} was given and the network gave a {type(output).__name__} with "
                f"{there}; give the name or place of one."
            )
        found = entries[step]
    return found


_DEEPEST = 4
"""Outputs are looked into down to this depth."""


def _walk(output: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Find all tensors in an output, each with its path."""
    if isinstance(output, Tensor):
        yield path or "the tensor itself", output
    elif depth < _DEEPEST:
        for name, part in _entries(output):
            yield from _walk(part, f"{path}.{name}" if path else str(name), depth + 1)


def _is_feature(name: Any) -> bool:
    return any(word in str(name).lower() for word in _FEATURES)


def _last(path: Any) -> str:
    return str(path).rpartition(".")[2]


def _listed(found: Mapping[Any, Tensor]) -> str:
    return ", ".join(f"{name!r} {tuple(part.shape)}" for name, part in found.items())


def _entries(output: Any) -> list[tuple[Any, Any]]:
    """Return what an output holds, each with its name or place."""
    if output is None or isinstance(output, bool | int | float | str | bytes | Tensor):
        return []
    if isinstance(output, Mapping):
        return list(output.items())
    names = getattr(output, "_fields", None) or getattr(output, "__dataclass_fields__", None)
    if names is not None:
        return [(name, getattr(output, name)) for name in names]
    if isinstance(output, tuple | list):
        return list(enumerate(output))
    return list(getattr(output, "__dict__", {}).items())

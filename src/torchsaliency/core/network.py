"""Networks as users bring them: their wrappers, their images, the scores inside their output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from torchsaliency.core.space import MOST_SIDES
from torchsaliency.errors import InputError, TargetError

_SCORES = (
    *("logits", "out", "output", "outputs", "cls_logits", "class_logits", "pred", "preds"),
    *("prediction", "predictions", "pred_logits", "scores", "score", "y_hat", "y_pred", "y"),
    *("image_embeds", "embeds", "pooler_output"),
)
"""What networks call their scores, or else the embedding that stands for them."""

_FEATURES = ("feature", "embed", "hidden", "loss", "aux", "attention")
"""Parts of the names of what is not a score."""


class NetworkWrapper(nn.Module):
    """A module that only carries another one, `module`, and facts about it.

    Attributes:
        module: the network that is explained; layer names are relative to it.
    """

    module: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the carried network."""
        return self.module(*args, **kwargs)


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


def unwrap_output(output: Any) -> Any:
    """Return the tensor of scores inside a network's output.

    The output itself; the entry of a dict, object or named tuple that is called `logits`, `out`,
    `scores` … ; the only tensor with one row an image; or the only one of shape (N, K) beside
    feature maps. A detector's list of dicts is returned unchanged, for targets that read it.

    Raises:
        TargetError: there is no tensor in it, or several that may be the scores.
    """
    if isinstance(output, Tensor):
        return output if output.layout == torch.strided else output.to_dense()
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return output
    found = {name: part for name, part in _entries(output) if isinstance(part, Tensor)}
    for name in _SCORES:
        if name in found:
            return found[name]
    rows = {name: part for name, part in found.items() if part.ndim and part.is_floating_point()}
    scores = {
        name: part
        for name, part in rows.items()
        if not any(word in str(name).lower() for word in _FEATURES)
    }
    flat = {name: part for name, part in scores.items() if part.ndim == 2}  # noqa: PLR2004
    for candidates in (rows, scores, flat):
        if len(candidates) == 1:
            return next(iter(candidates.values()))
    if not found:
        raise TargetError(
            f"The network gave a {type(output).__name__} that holds no tensor at its first level; "
            "accepted are a tensor, an object with .logits, or a dict, tuple or list of tensors."
        )
    shapes = ", ".join(f"{name!r} {tuple(part.shape)}" for name, part in found.items())
    raise TargetError(
        f"The network gave a {type(output).__name__} of several tensors ({shapes}), and which one "
        "holds the scores cannot be known; wrap it in a module that returns that one alone."
    )


def _entries(output: Any) -> list[tuple[Any, Any]]:
    """Return what an output holds, each with its name or place."""
    if isinstance(output, Mapping):
        return list(output.items())
    names = getattr(output, "_fields", None) or getattr(output, "__dataclass_fields__", None)
    if names is not None:
        return [(name, getattr(output, name)) for name in names]
    if isinstance(output, tuple | list):
        return list(enumerate(output))
    return list(getattr(output, "__dict__", {}).items())

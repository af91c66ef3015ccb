"""What the mode reads from and does to tensors on the way: activity, gates, work in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchsaliency.methods.attribution.backprop import steered

_GATE_DEPTH = 6
"""So many steps (views, dropout, a change of precision) may lie between a gate and its use."""


class Gate(Function):
    """A function whose relevance goes through unchanged, found again by its name in the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        del ctx, x
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None]:
        """Return the relevance as it came."""
        del ctx
        return relevance[0], None


def is_gate(x: Tensor) -> bool:
    """Whether a tensor is the output of a gate, give or take a view."""
    node = x.grad_fn
    for _ in range(_GATE_DEPTH):
        if node is None or node.name().startswith("_Steered"):
            return False
        if node.name().startswith(Gate.__name__ + "Backward"):
            return True
        before = [one for one, _ in node.next_functions if one is not None]
        if len(before) != 1 and not node.name().startswith("CopyBackwards"):
            return False
        node = before[-1] if before else None
    return False


def is_active(x: Any) -> bool:
    """Whether relevance flows to it: constants take none."""
    return isinstance(x, Tensor) and x.requires_grad


def detached(x: Any) -> Any:
    """Return a tensor out of the graph; anything else as it is."""
    return x.detach() if isinstance(x, Tensor) else x


def alike(x: Any, other: Tensor) -> Any:
    """Return a tensor of floats in the type and place of another; anything else as it is."""
    return x.to(other) if isinstance(x, Tensor) and x.is_floating_point() else x


def worked(
    func: Callable[..., Any], x: Any, rest: Sequence[Any], given: dict[str, Any]
) -> tuple[Any, bool]:
    """Return what a function gives, and whether it works in place; its input is spared."""
    work = x.detach().clone() if isinstance(x, Tensor) else x
    version = work._version if isinstance(work, Tensor) else 0
    with torch.no_grad():
        found = func(work, *rest, **given)
    return found, isinstance(work, Tensor) and work._version != version


def written_back(result: Tensor, x: Any, in_place: bool) -> Tensor:
    """Return the result, in `x` itself where the function works in place."""
    copied: Tensor = x.copy_(result) if in_place else result
    return copied


def passed(x: Tensor, value: Tensor, part: float = 1.0) -> Tensor:
    """Return a value whose relevance, or a part of it, goes to `x` unchanged."""
    shape = x.shape
    return steered(x, lambda: value, lambda g: (g * part).sum_to_size(shape))

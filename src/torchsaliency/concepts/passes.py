"""One layer of one pass, as all concepts read it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchsaliency.core.explain import choose_layers, read_inputs
from torchsaliency.core.layer import LayerLike
from torchsaliency.core.method import Needs
from torchsaliency.core.network import as_module
from torchsaliency.core.target import TargetLike
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import InputError
from torchsaliency.registry import load_all

T = TypeVar("T")

Watch = Callable[[str, str, int, int], object]
"""Told what is being done ("reading crops"), of what ("crops"), how many are done, and of how
many."""


def watch_nothing(what: str, unit: str, done: int, total: int) -> None:
    """Take what a `Watch` is told."""


def count_through(items: Collection[T], watch: Watch, what: str, unit: str) -> Iterator[T]:
    """Yield items, and tell how many of them are done."""
    for done, item in enumerate(items):
        watch(what, unit, done, len(items))
        yield item
    watch(what, unit, len(items), len(items))


@contextmanager
def open_layer(
    model: Any,
    x: Any,
    target: TargetLike = None,
    layer: LayerLike | None = None,
    *,
    gradients: bool = False,
    chunk: int | None = None,
) -> Iterator[View]:
    """Trace images as `explain` does and yield the view of one layer, the default one if None.

    Raises:
        InputError: as `explain`; or the network gave no numbers for an image.
        TargetError, LayerError, DataError: as `explain`.
    """
    load_all()
    net = as_module(model)
    inputs = read_inputs(net, x)
    layers = choose_layers(net, inputs, layer, Needs.ACTIVATIONS)
    with tracing(net, inputs, target, layers, gradients=gradients, chunk=chunk) as whole:
        view = whole[layers[0]]
        finite = view.finite & view.activations.flatten(1).isfinite().all(1).to(view.finite.device)
        if not bool(finite.all()):
            bad = (~finite).nonzero()[:, 0].tolist()
            raise InputError(
                f"The network gives NaN or infinite numbers for the images {bad[:5]}; concepts "
                "need finite features: check the images and the network's precision."
            )
        yield view


def at_cells(vectors: Tensor, like: Tensor) -> Tensor:
    """Return vectors (M, K) as feature maps (M, K, *grid) that have them at every cell."""
    sides = like.shape[2:]
    return vectors.reshape(*vectors.shape, *[1] * len(sides)).expand(*vectors.shape, *sides)


def to_rows(maps: Tensor) -> Tensor:
    """Return the cells of feature maps (N, K, *grid) as rows (N · cells, K)."""
    return maps.movedim(1, -1).flatten(0, -2)


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows (N · cells, R) as maps (N, R, *grid) of the grid of `like` (N, K, *grid)."""
    return rows.reshape(like.shape[0], *like.shape[2:], rows.shape[1]).movedim(-1, 1)


def as_float(tensor: Tensor) -> Tensor:
    """Return a tensor without its graph in float32 on the processor, for what is kept."""
    return tensor.detach().to("cpu", torch.float32)

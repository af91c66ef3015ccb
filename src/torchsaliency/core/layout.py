"""How a layer's output is laid out when its shape does not say it.

(N, 16, 16, 16) may be sixteen channels of 16 x 16 cells, or 16 x 16 cells of sixteen channels. An
image of another width tells which sides are cells; where a network takes no other width, its
modules or the order in memory do, and where they do not either, a warning says what was assumed.
The tokens of a volume or a video lie on the grid of one of the network's convolutions, or on the
one that a module hands on.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration.engine import Call
from torchsaliency.core.layer import (
    ChannelsLast,
    Grid,
    Reshape,
    first_tensor,
    is_ambiguous,
    said_grid,
)
from torchsaliency.core.maps import upsample
from torchsaliency.core.session import call_network
from torchsaliency.core.space import SIDE_NAMES, Size, cells_off, is_square, size_of
from torchsaliency.errors import LayerError

_decided: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Reshape]] = (
    weakref.WeakKeyDictionary()
)
_grids: weakref.WeakKeyDictionary[nn.Module, dict[Size, set[Size]]] = weakref.WeakKeyDictionary()

_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_LAST = (nn.Linear, nn.LayerNorm)


def decide_layout(
    net: nn.Module, name: str, output: Tensor, image: Tensor, call: Call = call_network
) -> Reshape | None:
    """Return the layout of an output that can be read in two ways, None for any other.

    Args:
        net: frozen.
        name: of the layer; the image itself is always (N, C, *size).
        output: of the layer.
        image: one image (1, C, *size) of the size that gave the output.
        call: runs the network.
    """
    size = size_of(image)
    modules = dict(net.named_modules())
    if name not in modules or not is_ambiguous(tuple(output.shape), size):
        return None
    known = _decided.setdefault(net, {})
    key = (name, tuple(output.shape[1:]), size)
    if key not in known:
        known[key] = (
            _by_another_width(partial(call, net), modules[name], name, output, image)
            or _by_modules(modules[name])
            or _by_strides(output)
            or _assume(name, output)
        )
    return known[key]


def find_grids(
    net: nn.Module, output: Tensor, image: Tensor, call: Call = call_network
) -> set[Size]:
    """Return the grids of the network's features, where the layout of an output needs them.

    Tokens do, and maps whose cells are not square (of spectrograms, or of lines of text) or less so
    than if their channels came last, as chance may have it: (N, 6, 5, 4) of 9 x 8 pixels.

    Args:
        net: frozen.
        output: of a layer.
        image: one image (1, C, *size) of the size that gave the output.
        call: runs the network.
    """
    size = size_of(image)
    square = len(size) == 2 and size[0] == size[1]  # noqa: PLR2004
    mapped = output.ndim == len(size) + 2
    if mapped:
        first, last = size_of(output), tuple(output.shape[1:-1])
        clear = is_square(first, size) and cells_off(first, size) <= cells_off(last, size)
    else:
        clear = square or output.ndim != 3  # noqa: PLR2004
    if clear:
        return set()
    known = _grids.setdefault(net, {})
    if size not in known:
        found: set[Size] = set()

        def look(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            found.update(grids_in(module, output, len(size)))

        with ExitStack() as stack, torch.no_grad():
            for module in net.modules():
                stack.callback(module.register_forward_hook(look).remove)
            call(net, image.clone())
        known[size] = found
    return known[size]


def grids_in(module: nn.Module, output: Any, sides: int) -> set[Size]:
    """Return the grids that one module's output tells of: a convolution's, or one handed on."""
    said = said_grid(output, sides)
    found = set() if said is None else {said}
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(output, Tensor):
        found |= {size_of(output)} if output.ndim == sides + 2 else set()
    return found


def _by_another_width(
    run: Callable[[Tensor], Any], module: nn.Module, name: str, output: Tensor, image: Tensor
) -> Reshape | None:
    """Return the layout in which an image of twice the width has more cells."""
    shapes: list[tuple[int, ...]] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001 (torch's signature)
        try:
            shapes.append(tuple(first_tensor(output, name).shape))
        except LayerError:
            return

    size = size_of(image)
    wider = upsample(image[0], (*size[:-1], 2 * size[-1]))[None]
    handle = module.register_forward_hook(look)
    try:
        with torch.no_grad():
            run(wider)
    except Exception:
        pass
    finally:
        handle.remove()
    if len(shapes) != 1 or len(shapes[0]) != output.ndim:
        return None
    grown = [now > then for now, then in zip(shapes[0][1:], output.shape[1:], strict=True)]
    if grown == [*[False] * len(size), True]:
        return Grid()
    return ChannelsLast() if grown == [*[False] * (len(size) - 1), True, False] else None


def _by_modules(module: nn.Module) -> Reshape | None:
    """Return the layout that all of a layer's modules work in."""
    first = any(isinstance(part, _FIRST) for part in module.modules())
    last = any(isinstance(part, _LAST) for part in module.modules())
    return None if first == last else Grid() if first else ChannelsLast()


def _by_strides(output: Tensor) -> Reshape | None:
    """Return the layout of a view of another order in memory."""
    _, first, *others, last = output.stride()
    if first < min(*others, last):
        return Grid()  # channels first, laid out channels last
    return ChannelsLast() if last > max(first, *others) else None


def _assume(name: str, output: Tensor) -> Reshape:
    sides = SIDE_NAMES[output.ndim - 2]
    warnings.warn(
        f"Layer {name!r} gives {tuple(output.shape)}, which can be read as (N, C, {sides}) or as "
        f"(N, {sides}, C); the first is taken. Say Layer(name, ChannelsLast()) for the other.",
        stacklevel=2,
    )
    return Grid()

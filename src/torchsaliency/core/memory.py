"""How many images one pass may hold: found from the largest layer, halved if memory runs out.

Results do not depend on it, but seconds and memory do: on a processor, tensors too large for the
allocator's pool are mapped and zeroed anew in each layer, so that large chunks are slower an image
than small ones; a GPU wants as many images as its memory holds.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchsaliency.allocator import kept_bytes, warn_of_allocator
from torchsaliency.core.runtime import empty_caches
from torchsaliency.errors import InputError, out_of_memory

T = TypeVar("T")

_LARGEST = 32 * 2**20
"""Bytes of a layer's output on a processor: by default glibc maps what is larger anew."""

_PROCESSOR, _GPU = 32, 256
"""The most images in a chunk found automatically."""

_LAYERS = 64
"""A pass with gradients may hold so many of its largest layer's outputs, in half of a GPU."""

_Sizes = weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], int]]
_measured: _Sizes = weakref.WeakKeyDictionary()
"""Bytes of the largest layer's output for one image, by the image's size."""

_limits: _Sizes = weakref.WeakKeyDictionary()
"""The chunks with which memory sufficed, after a larger one with which it did not."""


def require_chunk(chunk: int | None) -> None:
    """Raise `InputError` if a chunk is below 1."""
    if chunk is not None and chunk < 1:
        raise InputError(f"The chunk must be at least one image, and {chunk} was given.")


def is_measured(net: nn.Module, images: Tensor) -> bool:
    """Whether the network's layers were measured for images of this size."""
    return _key(images) in _measured.get(net, {})


@contextmanager
def measure_layers(net: nn.Module, images: Tensor) -> Iterator[None]:
    """Measure the largest output of the network's layers in the one pass inside, once a size."""
    if is_measured(net, images):
        yield
        return
    most, batch = images[:1].nbytes, 1

    def enter(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:  # noqa: ARG001
        nonlocal batch
        sizes = [len(part) for part in (*inputs, *named.values()) if _is_batch(part, images)]
        batch = sizes[0] if sizes else 1

    def look(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        nonlocal most
        if isinstance(output, Tensor) and output.ndim and len(output) == batch:
            most = max(most, output.numel() * output.element_size() // max(1, batch))

    with ExitStack() as stack:
        plain = [m for m in net.modules() if not isinstance(m, torch.jit.ScriptModule)]
        if net in plain:  # scripted modules take no hooks
            stack.callback(net.register_forward_pre_hook(enter, with_kwargs=True).remove)
            for module in plain:
                stack.callback(module.register_forward_hook(look).remove)
        yield
    _measured.setdefault(net, {})[_key(images)] = most


def check_allocator(net: nn.Module, images: Tensor) -> None:
    """Warn once if a pass of these images has layers that the allocator of a processor slows."""
    if images.device.type == "cpu" and is_measured(net, images):
        warn_of_allocator(_measured[net][_key(images)] * len(images))


def _is_batch(part: Any, images: Tensor) -> bool:
    return isinstance(part, Tensor) and part.shape[1:] == images.shape[1:]


def chunk_of(net: nn.Module, images: Tensor) -> int:
    """Return how many images of this size one pass of a measured network should hold: 2^n.

    Processor: as many as keep the largest layer's output within 32 MiB, or within what the process
    was told to keep (`tune_allocator`), at most 32. GPU: as many as
    half of its memory takes with gradients, at most 256; its size counts, not what is free at the
    moment, so that the next run takes the same. Less if memory ran out before.
    """
    key = _key(images)
    each = _measured[net][key]
    if images.is_cuda:
        memory = torch.cuda.get_device_properties(images.device).total_memory
        found = min(_GPU, memory // 2 // (_LAYERS * each))
    else:
        found = min(_PROCESSOR, max(_LARGEST, kept_bytes()) // each)
    found = 2 ** int(math.log2(max(1, found)))
    return min(found, _limits.get(net, {}).get(key, found))


def with_less_memory(
    work: Callable[[int], T], chunk: int, net: nn.Module, images: Tensor
) -> tuple[T, int]:
    """Do the work with a chunk that is halved until the memory suffices; return the chunk, too.

    Args:
        work: takes the chunk; begins anew where it failed.
        chunk: to begin with.
        net: whose later automatic chunks will not be larger than the one that went well.
        images: of the size that the network saw.

    Raises:
        torch.OutOfMemoryError: (or what says so on a processor) one image is too many.
    """
    while True:
        try:
            return work(chunk), chunk
        except Exception as error:  # each library has errors of its own
            if not out_of_memory(error) or chunk == 1:
                raise
        # outside the handler, whose error holds the frames and with them their tensors
        chunk //= 2
        _limits.setdefault(net, {})[_key(images)] = chunk
        empty_caches()


def _key(images: Tensor) -> tuple[Any, ...]:
    return images.device, images.dtype, tuple(images.shape[1:])

"""Where in the network a map is read, and how that output becomes feature maps (N, C, h, w).

A `Layer` names a submodule and says how its output is laid out: `Grid` for convolutional features,
`ChannelsLast` for Swin and ConvNeXt blocks, `Tokens` for transformers (the class, distillation and
register tokens come first).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.errors import LayerError, describe_unknown

INPUT = "input"
"""The name of the layer that is the image itself."""

_MOST_PREFIX_TOKENS = 16

_MOST_CELLS_OFF = 1.0
"""How many cells a grid may have more or fewer than square ones would make: rounding at a border.

An attention matrix or a head's (tokens, channels) has many more.
"""


class Reshape(abc.ABC):
    """How a layer's output is seen as feature maps, and back."""

    @abc.abstractmethod
    def to_maps(self, output: Tensor) -> Tensor:
        """Return the output as feature maps (N, C, h, w)."""

    @abc.abstractmethod
    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """Put maps (N, C, h, w) back into the layer's layout; `output` gives what the maps lack."""


@final
@dataclass(frozen=True)
class Grid(Reshape):
    """Convolutional features, already (N, C, h, w)."""

    def to_maps(self, output: Tensor) -> Tensor:
        """Return the output as it is."""
        return output

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002 (the layout needs nothing else)
        """Return the maps as they are."""
        return maps


@final
@dataclass(frozen=True)
class ChannelsLast(Reshape):
    """Features stored (N, h, w, C), as in Swin and in the blocks of ConvNeXt."""

    def to_maps(self, output: Tensor) -> Tensor:
        """Move the channels to dimension 1."""
        return output.permute(0, 3, 1, 2)

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002 (the layout needs nothing else)
        """Move the channels back to the last dimension."""
        return maps.permute(0, 2, 3, 1)


@final
@dataclass(frozen=True)
class Tokens(Reshape):
    """A sequence of tokens (N, prefix + h·w, C), as in ViT, DeiT and DINOv2.

    Attributes:
        prefix: how many tokens come before the patches (class, distillation, registers).
        grid: (h, w) of the patches; None means the square root of their number.
    """

    prefix: int = 1
    grid: tuple[int, int] | None = None

    def to_maps(self, output: Tensor) -> Tensor:
        """Drop the prefix and fold the patches into their grid."""
        patches = output[:, self.prefix :]
        height, width = self.grid or (math.isqrt(patches.shape[1]),) * 2
        if height * width != patches.shape[1]:
            raise LayerError(
                f"{patches.shape[1]} patch tokens (after {self.prefix} prefix tokens) do not fill "
                f"a {height}x{width} grid; say Layer(name, Tokens(prefix=…, grid=(h, w)))."
            )
        return patches.transpose(1, 2).unflatten(2, (height, width))

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """Unfold the grid into tokens and put the output's own prefix tokens before them."""
        tokens = maps.flatten(2).transpose(1, 2)
        prefix = output[:, : self.prefix].expand(len(tokens), -1, -1)
        return torch.cat([prefix, tokens], dim=1)


@final
@dataclass(frozen=True)
class Layer:
    """A place in the network: a submodule's dotted name, or "input", and the layout of its output.

    Attributes:
        name: as in `model.named_modules()`, for example "layer4.2"; "input" is the image itself.
        reshape: the layout; None means inferred from the output's shape.
    """

    name: str
    reshape: Reshape | None = None

    @classmethod
    def of(cls, spec: LayerLike, model: nn.Module) -> Layer:
        """Return the layer that a name, a submodule of `model` or a `Layer` stands for.

        Raises:
            LayerError: the network has no such submodule.
        """
        if isinstance(spec, nn.Module):
            names = [name for name, module in model.named_modules() if module is spec]
            if not names:
                raise LayerError(
                    f"The given {type(spec).__name__} is not a submodule of the network; "
                    "give one of its own modules or a name from model.named_modules()."
                )
            return cls(names[0])
        layer = spec if isinstance(spec, Layer) else cls(spec)
        layer.module_of(model)
        return layer

    def module_of(self, model: nn.Module) -> nn.Module | None:
        """Return the submodule, or None for "input".

        Raises:
            LayerError: the network has no such submodule; names close to it are listed.
        """
        if self.name == INPUT:
            return None
        try:
            # not through named_modules, which walks the whole network for each of many questions
            if self.name:
                return model.get_submodule(self.name)
        except AttributeError:
            pass
        names = [name for name, _ in model.named_modules() if name]
        unknown = describe_unknown("layer", self.name, names[::-1], where=" in the network")
        raise LayerError(f'{unknown[:-1]} ("input" is the image itself).')

    def fill_layout(self, output: Tensor, image_size: tuple[int, int]) -> Layer:
        """Return this layer with its layout filled in from the output it gave.

        Raises:
            LayerError: the output has no spatial map.
        """
        if self.reshape is not None:
            return self
        reshape = infer_reshape(tuple(output.shape), image_size)
        if reshape is None:
            raise LayerError(
                f"Layer {self.name!r} gives {tuple(output.shape)} for a {image_size[0]}x"
                f"{image_size[1]} image, which is no spatial map; choose one that gives (N,C,h,w), "
                "(N,h,w,C) or tokens (N,T,C), or say its layout with Layer(name, reshape)."
            )
        return replace(self, reshape=reshape)


LayerLike = str | nn.Module | Layer


def as_group(layers: LayerLike | Sequence[LayerLike]) -> list[LayerLike]:
    """Return one layer, or several, as a list."""
    return [layers] if isinstance(layers, str | nn.Module | Layer) else list(layers)


def infer_reshape(shape: tuple[int, ...], image_size: tuple[int, int]) -> Reshape | None:
    """Guess the layout of a layer's output from its shape; None when it has no spatial map.

    Of the layouts that fit, the one whose grid has the image's aspect ratio is taken: a stride or a
    patch is square. The smallest prefix that leaves a full grid is the number of prefix tokens.
    """
    if len(shape) == 4:  # noqa: PLR2004
        first, last = _cells_off(shape[2:], image_size), _cells_off(shape[1:3], image_size)
        # A square image has nothing to round: 65 tokens x 64 numbers of a head are no map of it.
        if min(first, last) > (0 if image_size[0] == image_size[1] else _MOST_CELLS_OFF):
            return None
        return ChannelsLast() if last < first else Grid()
    if len(shape) == 3:  # noqa: PLR2004
        return _infer_tokens(shape[1], image_size)
    return None


def is_ambiguous(shape: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Whether an output can be read as (N, C, h, w) and as (N, h, w, C) alike."""
    if len(shape) != 4:  # noqa: PLR2004
        return False
    off = _cells_off(shape[2:], image_size)
    return off < math.inf and off == _cells_off(shape[1:3], image_size)


def _infer_tokens(count: int, image_size: tuple[int, int]) -> Tokens | None:
    """Try every patch size, cut or padded at the border; the fewest prefix tokens win."""
    height, width = image_size
    found: list[tuple[int, tuple[int, int]]] = []
    for patch in range(1, max(height, width) + 1):
        for rows, columns in (
            (height // patch, width // patch),
            (-(-height // patch), -(-width // patch)),
        ):
            prefix = count - rows * columns
            if rows * columns > 1 and 0 <= prefix <= _MOST_PREFIX_TOKENS:
                found.append((prefix, (rows, columns)))
    return Tokens(*min(found)) if found else None


def _cells_off(grid: tuple[int, ...], image_size: tuple[int, int]) -> float:
    """How many cells the grid is off from square cells; inf if it is finer than the image."""
    (rows, columns), (height, width) = grid, image_size
    if not (0 < rows <= height and 0 < columns <= width):
        return math.inf
    return min(abs(rows - columns * height / width), abs(columns - rows * width / height))


def first_tensor(output: Any, name: str) -> Tensor:
    """Return the tensor of a layer's output, which may be a tuple, a list or a dict.

    Raises:
        LayerError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, dict) else output
    if isinstance(parts, tuple | list) or isinstance(output, dict):
        for part in parts:
            if isinstance(part, Tensor):
                return part
    raise LayerError(
        f"Layer {name!r} gives a {type(output).__name__} without a tensor in it; choose another."
    )


def replace_first(output: Any, tensor: Tensor) -> Any:
    """Return the layer's output with its first tensor replaced, the rest as it was."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, dict):
        key = next(key for key, part in output.items() if isinstance(part, Tensor))
        copy = type(output)(output)
        copy[key] = tensor
        return copy
    place = next(i for i, part in enumerate(output) if isinstance(part, Tensor))
    parts = [*output[:place], tensor, *output[place + 1 :]]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)

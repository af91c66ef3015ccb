"""Where in the network a map is read, and how that output becomes feature maps (N, C, *grid).

A `Layer` names a submodule and says how its output is laid out: `Grid` for convolutional features,
`ChannelsLast` for Swin and ConvNeXt blocks, `Tokens` for transformers (the class, distillation and
register tokens come first). A grid has as many sides as the image: (h, w) for a picture, (d, h, w)
for a volume or a video, (t,) for a signal.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.space import SIDE_NAMES, Size, cells_off, describe_size, is_square
from torchsaliency.errors import LayerError, describe_unknown

INPUT = "input"
"""The name of the layer that is the image itself."""

NO_LAYERS = (
    "choose a method that reads none, such as rise or occlusion, or give the network as a "
    "torch.nn.Module or as torch.export.export's program."
)
"""What to do where layers cannot be watched."""

_MOST_PREFIX_TOKENS = 16
_USUAL_PREFIXES = (0, 1, 2, 4, 5)
"""How many tokens networks put before the patches: class, distillation, four registers."""


class Reshape(abc.ABC):
    """How a layer's output is seen as feature maps, and back."""

    @abc.abstractmethod
    def to_maps(self, output: Tensor) -> Tensor:
        """Return the output as feature maps (N, C, *grid)."""

    @abc.abstractmethod
    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """Put maps (N, C, *grid) back into the layout; `output` gives what the maps lack."""


@final
@dataclass(frozen=True)
class Grid(Reshape):
    """Convolutional features, already (N, C, *grid).

    Example:
        >>> Grid().to_maps(torch.rand(1, 8, 7, 7)).shape
        torch.Size([1, 8, 7, 7])
    """

    def to_maps(self, output: Tensor) -> Tensor:
        """Return the output as it is."""
        return output

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002 (the layout needs nothing else)
        """Return the maps as they are."""
        return maps


@final
@dataclass(frozen=True)
class ChannelsLast(Reshape):
    """Features stored (N, *grid, C), as in Swin and in the blocks of ConvNeXt.

    Example:
        >>> ChannelsLast().to_maps(torch.rand(1, 7, 7, 8)).shape
        torch.Size([1, 8, 7, 7])
    """

    def to_maps(self, output: Tensor) -> Tensor:
        """Move the channels to dimension 1."""
        return output.movedim(-1, 1)

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002 (the layout needs nothing else)
        """Move the channels back to the last dimension."""
        return maps.movedim(1, -1)


@final
@dataclass(frozen=True)
class Tokens(Reshape):
    """A sequence of tokens (N, prefix + cells, C), as in ViT, DeiT, DINOv2 and MViT.

    Attributes:
        prefix: how many tokens come before the patches (class, distillation, registers).
        grid: (h, w) of the patches, (d, h, w) in a volume; None means the square root of their
            number.

    Example:
        >>> Tokens(prefix=1).to_maps(torch.rand(1, 1 + 49, 8)).shape
        torch.Size([1, 8, 7, 7])
    """

    prefix: int = 1
    grid: Size | None = None

    def to_maps(self, output: Tensor) -> Tensor:
        """Drop the prefix and fold the patches into their grid."""
        patches = output[:, self.prefix :]
        grid = self.grid or (math.isqrt(patches.shape[1]),) * 2
        if math.prod(grid) != patches.shape[1]:
            raise LayerError(
                f"{patches.shape[1]} patch tokens (after {self.prefix} prefix tokens) do not fill "
                f"a {describe_size(grid)} grid; say Layer(name, Tokens(prefix=…, grid=(h, w)))."
            )
        return patches.transpose(1, 2).unflatten(2, grid)

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

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(1, 3, 64, 64)
        >>> layer = torchsaliency.default_layer(net, x)
        >>> torchsaliency.explain(net, x, "gradcam", layer=Layer(layer.name))["gradcam"].map.shape
        torch.Size([1, 64, 64])
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
            LayerError: the network has no such submodule; names close to it are listed. Or it is a
                part of a TorchScript program.
        """
        if self.name == INPUT:
            return None
        module: nn.Module | None = model
        if not isinstance(model, torch.jit.ScriptModule):
            try:
                # not by named_modules, which walks the whole network for each of many questions
                module = model.get_submodule(self.name) if self.name else None
            except AttributeError:
                module = None
        if isinstance(module, torch.jit.ScriptModule):
            raise LayerError(
                f"Layer {self.name!r} is a part of a TorchScript program, which cannot be watched; "
                f"{NO_LAYERS}"
            )
        if module is not None:
            return module
        names = [name for name, _ in model.named_modules() if name]
        unknown = describe_unknown("layer", self.name, names[::-1], where=" in the network")
        raise LayerError(f'{unknown[:-1]} ("input" is the image itself).')

    def fill_layout(self, output: Tensor, image_size: Size, grids: Collection[Size] = ()) -> Layer:
        """Return this layer with its layout filled in from the output it gave.

        Args:
            output: of the layer.
            image_size: of the images that gave it.
            grids: as in `infer_reshape`.

        Raises:
            LayerError: the output has no spatial map.
        """
        if self.reshape is not None:
            return self
        reshape = infer_reshape(tuple(output.shape), image_size, grids)
        if reshape is None:
            sides = SIDE_NAMES[len(image_size)]
            raise LayerError(
                f"Layer {self.name!r} gives {tuple(output.shape)} for a "
                f"{describe_size(image_size)} image, which is no spatial map; choose one that "
                f"gives (N, C, {sides}), (N, {sides}, C) or tokens (N, T, C), or say its layout "
                "with Layer(name, reshape)."
            )
        return replace(self, reshape=reshape)


LayerLike = str | nn.Module | Layer


def as_group(layers: LayerLike | Sequence[LayerLike]) -> list[LayerLike]:
    """Return one layer, or several, as a list."""
    return [layers] if isinstance(layers, str | nn.Module | Layer) else list(layers)


def infer_reshape(
    shape: tuple[int, ...], image_size: Size, grids: Collection[Size] = ()
) -> Reshape | None:
    """Guess the layout of a layer's output from its shape; None when it has no spatial map.

    Of the layouts that fit, the one whose grid occurs in the network is taken, or else has the
    image's aspect ratio: a stride or a patch is square. The smallest prefix that leaves a full grid
    is the number of prefix tokens.

    Args:
        shape: of the output.
        image_size: of the images that gave it.
        grids: those that are known to occur in the network. A patch of a volume or a video is
            rarely a cube, so its tokens are laid out only on one of these.
    """
    if len(shape) == len(image_size) + 2:
        first, last = shape[2:], shape[1:-1]
        if (first in grids) != (last in grids):  # a convolution's grid is one whatever its stride
            return Grid() if first in grids else ChannelsLast()
        if not is_square(first, image_size) and not is_square(last, image_size):
            return None
        off = cells_off(last, image_size) < cells_off(first, image_size)
        return ChannelsLast() if off else Grid()
    if len(shape) != 3:  # noqa: PLR2004
        return None
    if len(image_size) == 2:  # noqa: PLR2004
        return _infer_tokens(shape[1], (image_size[0], image_size[1]), grids)
    known = [(shape[1] - math.prod(grid), grid) for grid in grids if len(grid) == len(image_size)]
    fitting = [(prefix, grid) for prefix, grid in known if 0 <= prefix <= _MOST_PREFIX_TOKENS]
    return Tokens(*min(fitting)) if fitting else None


def is_ambiguous(shape: tuple[int, ...], image_size: Size) -> bool:
    """Whether an output can be read as (N, C, *grid) and as (N, *grid, C) alike."""
    if len(shape) != len(image_size) + 2:
        return False
    off = cells_off(shape[2:], image_size)
    return off < math.inf and off == cells_off(shape[1:-1], image_size)


def said_grid(output: Any, sides: int) -> Size | None:
    """Return the grid that a module hands on beside its tokens, as MViT's blocks do."""
    parts = output if isinstance(output, tuple | list) else ()
    for part in parts:
        if isinstance(part, tuple | list | torch.Size) and len(part) == sides:
            grid = tuple(part)
            if all(isinstance(side, int) and side > 0 for side in grid):
                return grid
    return None


def _infer_tokens(
    count: int, image_size: tuple[int, int], grids: Collection[Size]
) -> Tokens | None:
    """Try every patch size, cut or padded at the border; the fewest prefix tokens win.

    Of an image that is not square, grids that occur in the network, or whose patch divides both
    sides, go before the others if the number of prefix tokens is a usual one: 3 x 5 cells and five
    tokens of 48 x 80 pixels are no 3 x 6 and two.
    """
    height, width = image_size
    found: list[tuple[bool, int, tuple[int, int]]] = []
    for patch in range(1, max(height, width) + 1):
        for rows, columns in (
            (height // patch, width // patch),
            (-(-height // patch), -(-width // patch)),
        ):
            prefix = count - rows * columns
            if rows * columns > 1 and 0 <= prefix <= _MOST_PREFIX_TOKENS:
                exact = not height % patch and not width % patch
                sure = prefix in _USUAL_PREFIXES and (exact or (rows, columns) in grids)
                found.append((height != width and not sure, prefix, (rows, columns)))
    return Tokens(*min(found)[1:]) if found else None


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

"""Layers that give a dict of feature maps, as feature pyramids do, read as one tensor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import ReshapeTransform, Transformed
from torchsaliency.core.layer import Layer, Reshape, first_tensor, replace_first
from torchsaliency.core.space import add_sides
from torchsaliency.errors import LayerError


@final
class JoinedLevels(nn.Module):
    """A network whose layers can be read whole, also where they give several feature maps.

    What a layer gives passes a module of its own on the way: a dict of levels as one row an image.

    Args:
        net: the network.
        names: its layers.
        transform: makes feature maps of what a layer gives.

    Attributes:
        layers: in the place of the network's.
    """

    def __init__(self, net: nn.Module, names: Sequence[str], transform: ReshapeTransform) -> None:
        super().__init__()
        self.net, self._names = net, names
        self.read = nn.ModuleList(nn.Identity() for _ in names)
        reshapes = [_Levels(Transformed(transform)) for _ in names]
        self._shapes = [reshape.shapes for reshape in reshapes]
        self.layers = [Layer(f"read.{place}", one) for place, one in enumerate(reshapes)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        handles = [
            self.net.get_submodule(name).register_forward_hook(partial(self._pass_on, place))
            for place, name in enumerate(self._names)
        ]
        try:
            return self.net(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def _pass_on(self, place: int, module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG002
        read, shapes = self.read[place], self._shapes[place]
        if not isinstance(output, Mapping):
            return replace_first(output, read(first_tensor(output, self._names[place])))
        shapes.clear()
        shapes.update({name: tuple(level.shape[1:]) for name, level in output.items()})
        joined = read(torch.cat([level.flatten(1) for level in output.values()], 1))
        return OrderedDict(_split(joined, shapes))


@final
@dataclass(frozen=True, eq=False)
class _Levels(Reshape):
    """A user's reshape_transform of a tensor, or of a dict of levels.

    Attributes:
        reshape: of the tensor, or of the dict.
        shapes: of the levels of the last pass, without the images; empty for a tensor.
    """

    reshape: Transformed
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def to_maps(self, output: Tensor) -> Tensor:
        """Return what the user's function makes of what the layer gave."""
        return self.reshape.to_maps(_split(output, self.shapes) if self.shapes else output)

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """Put maps back; of levels, whole channels can be taken away.

        Raises:
            LayerError: something else is done to them.
        """
        if not self.shapes:
            return self.reshape.from_maps(maps, output)
        clean = self.to_maps(output[:1])
        gone = (maps == 0).flatten(2).all(2)
        widths = [shape[0] for shape in self.shapes.values()]
        rest = torch.where(add_sides(gone, maps), 0, clean)
        # A batch rounds otherwise than one image, by its largest numbers.
        rounding = 1e-4 * float(clean.abs().amax())
        if sum(widths) != maps.shape[1] or float((rest - maps).abs().amax()) > rounding:
            raise LayerError(
                "The levels of a pyramid are joined by reshape_transform, and only whole channels "
                "can be taken away from them; use AblationCAM, EigenCAM or ScoreCAM."
            )
        levels = _split(output[:1], self.shapes).values()
        kept = [
            (level * ~add_sides(part, level)).flatten(1)
            for level, part in zip(levels, gone.split(widths, 1), strict=True)
        ]
        return torch.cat(kept, 1)


def _split(joined: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    parts = zip(shapes.items(), joined.split(sizes, 1), strict=True)
    return {name: part.unflatten(1, shape) for (name, shape), part in parts}

"""The layers of a network at which maps can be read, found in one traced pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchsaliency.cli.mishaps import running
from torchsaliency.core.discovery import default_layer
from torchsaliency.core.layer import first_tensor, infer_reshape
from torchsaliency.core.session import call, held_still
from torchsaliency.core.wrapper import unwrap
from torchsaliency.errors import LayerError
from torchsaliency.zoo import Network


@dataclass(frozen=True)
class SpatialLayer:
    """A layer with a spatial map.

    Attributes:
        name: for `--layer`.
        module: the class of the layer.
        output: the shape it gives for one photo.
        maps: (K, h, w), the feature maps in that output.
        layout: how they lie in it: "Grid", "ChannelsLast" or "Tokens".
        default: whether it is read when no layer is named.
    """

    name: str
    module: str
    output: tuple[int, ...]
    maps: tuple[int, ...]
    layout: str
    default: bool


def spatial_layers(network: Network) -> list[SpatialLayer]:
    """List the layers that run once and give a map larger than 1x1, in the order they run.

    Raises:
        InputError: the network cannot be run.
    """
    net = unwrap(network)
    size = network.preprocessing.size
    # noise, because a network may give nothing but zeros for a constant image
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    parameter = next(net.parameters(), image)
    image = image.to(parameter.device, parameter.dtype)
    with running(network.name):
        default = _default(network, image)
        shapes = _traced(net, image)
    found = []
    for name, output in shapes.items():
        reshape = infer_reshape(tuple(output.shape), size)
        if reshape is None:
            continue
        maps = tuple(reshape.to_maps(output).shape[1:])
        if min(maps[1:]) > 1:
            kind, layout = type(net.get_submodule(name)).__name__, type(reshape).__name__
            shape = tuple(output.shape)
            found.append(SpatialLayer(name, kind, shape, maps, layout, name == default))
    return found


def _default(network: Network, image: torch.Tensor) -> str | None:
    if network.layer is not None:
        return network.layer.name
    try:
        return default_layer(unwrap(network), image).name
    except LayerError:  # the others may still be worth listing
        return None


def _traced(net: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the shape of each layer's output, as tensors without memory, where it runs once."""
    shapes: dict[str, torch.Tensor] = {}
    runs: dict[str, int] = {}

    def remember(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            runs[name] = runs.get(name, 0) + 1
            try:
                shapes[name] = first_tensor(output, name).to("meta")
            except LayerError:
                return

        return hook

    with held_still(net, image.device):
        handles = [
            module.register_forward_hook(remember(name))
            for name, module in net.named_modules()
            if name
        ]
        try:
            call(net, image)
        finally:
            for handle in handles:
                handle.remove()
    return {name: output for name, output in shapes.items() if runs[name] == 1}

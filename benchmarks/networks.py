"""The networks that are timed, their images, and the layer that all sides read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torchvision
from torch import Tensor, nn

import torchsaliency as ts
from torchsaliency.data import sample_photos

NAMES = ("builtin/efficientnet_lite0", "resnet50", "vgg16_bn", "vit_b_16")


@dataclass(frozen=True)
class Bench:
    """One network and a batch for it.

    Attributes:
        name: of the network.
        net: in evaluation mode.
        x: images (N, 3, H, W).
        labels: (N,) the predicted classes.
        layer: the layer's name.
        reshape: makes feature maps of the layer's output where it gives tokens.
        black: what a black pixel is.
        quick: whether work is to be cut short.
    """

    name: str
    net: nn.Module
    x: Tensor
    labels: Tensor
    layer: str
    reshape: Callable[[Tensor], Tensor] | None
    black: ts.BlackPixel
    quick: bool

    @property
    def module(self) -> nn.Module:
        """The layer itself."""
        return self.net.get_submodule(self.layer)

    def first(self, count: int) -> Bench:
        """Return the same with the first images alone."""
        return replace(self, x=self.x[:count], labels=self.labels[:count])

    def at(self, layer: str) -> Bench:
        """Return the same, read at another layer."""
        return replace(self, layer=layer)


def bench(name: str, batch: int, device: torch.device, *, quick: bool) -> Bench:
    """Load a network: the built-in one with its weights and photographs, others at random."""
    torch.manual_seed(0)
    if name.startswith("builtin/"):
        found = ts.load_model(name)
        own = found.preprocessing
        photos = [own(photo.open()) for photo in sample_photos().values()]
        x = torch.stack([photos[i % len(photos)] for i in range(batch)])
        net, black = found.module, ts.BlackPixel(own.mean, own.std)
    else:
        net, black = getattr(torchvision.models, name)(weights=None), ts.BlackPixel()
        if name.startswith("vit"):  # whose head begins with zeros: every gradient would be zero
            nn.init.trunc_normal_(net.heads.head.weight, std=0.02)
        x = torch.randn(batch, 3, 224, 224)
    net, x = net.eval().to(device), x.to(device)
    with torch.no_grad():
        labels = net(x).argmax(1)
    layer = ts.default_layer(net, x)
    reshape = _patches if name.startswith("vit") else None
    return Bench(name, net, x, labels, layer.name, reshape, black, quick)


def _patches(tokens: Tensor) -> Tensor:
    """Fold a transformer's patch tokens into their square grid; the class token comes first."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))

"""A network that sleeps; in a module of its own, for actors import it by name."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from torchsaliency import Preprocessing
from torchsaliency.zoo import Network


class Sleeping(nn.Module):
    """Two layers, and a pause in each pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.features = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (B, 5) of images (B, 3, H, W)."""
        time.sleep(self.seconds)
        return self.head(self.features(x).mean((2, 3)))


def make_network(seconds: float) -> Network:
    """Return a network of 32 × 32 pixels that takes so many seconds a pass."""
    torch.manual_seed(0)
    return Network(
        Sleeping(seconds).eval(),
        name=f"sleeping {seconds * 1000:g} ms",
        preprocessing=Preprocessing(size=(32, 32), resize=(36, 36)),
    )

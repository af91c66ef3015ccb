"""Networks inside other objects: the network itself is explained, never its wrapper."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


class NetworkWrapper(nn.Module):
    """A module that only carries another one, `module`, and facts about it.

    Attributes:
        module: the network that is explained; layer names are relative to it.
    """

    module: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the carried network."""
        return self.module(*args, **kwargs)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside data-parallel, compiled and torchsaliency wrappers.

    A compiled network shares its parameters with the original, whose hooks are reliable; a
    data-parallel one would run its hooks on short-lived replicas.
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | NetworkWrapper):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model

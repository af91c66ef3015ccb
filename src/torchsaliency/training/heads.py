"""A network with a new classifier: the layers whose size follows the number of classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo import Network, load_model


def with_new_head(
    name: str,
    classes: tuple[str, ...],
    *,
    weights: Path | None = None,
    pretrained: bool = True,
    device: str = "cpu",
) -> tuple[Network, tuple[str, ...]]:
    """Load a network and replace its classifier by a random one of other classes.

    What belongs to the classifier is not looked up by name: it is what differs when the same
    network is built for another number of classes. Random values follow torch's generator.

    Args:
        name: as `load_model`.
        classes: of the new classifier.
        weights: that the rest begins with, instead of the network's own.
        pretrained: False, without `weights`, for random ones.
        device: where the network goes.

    Returns:
        The network in evaluation mode, and the names of the modules that are new.

    Raises:
        CheckpointError: the network or its weights cannot be had, or it has no such classifier.
    """
    network = load_model(
        name, weights=weights, pretrained=pretrained, device=device, dtype=torch.float32
    )
    fresh = load_model(name, pretrained=False, num_classes=len(classes)).module
    paths = _differing(network.module, fresh)
    if not paths:  # it had as many classes as the new one gets
        other = load_model(name, pretrained=False, num_classes=len(classes) + 1).module
        paths = _differing(fresh, other)
    if not paths or "" in paths:
        found = "a bare parameter" if paths else "not to be found"
        raise CheckpointError(
            f"The classifier of {name} is {found}, so it cannot be replaced; give a network whose "
            "last layer is a module with num_classes outputs."
        )
    for path in paths:
        parent, _, leaf = path.rpartition(".")
        setattr(network.module.get_submodule(parent), leaf, fresh.get_submodule(path))
    network.classes = classes
    return network.to(device).eval(), paths


def _differing(first: nn.Module, second: nn.Module) -> tuple[str, ...]:
    """Return the modules with a parameter or buffer of another shape, in order."""
    ours, theirs = first.state_dict(), second.state_dict()
    names = [name for name in ours if name in theirs and ours[name].shape != theirs[name].shape]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))

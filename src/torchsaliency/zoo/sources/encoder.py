"""Any classifier without its classifier: its pooled features, `encoder/NAME`.

What a supervised network's features say of an image, without its classes: the label-free methods
can be compared on it, judged by the whole network.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.sources.request import Request


def load(request: Request, load_model: Callable[..., Network]) -> Network:
    """Load a classifier by its own name and take its last linear layer off."""
    whole = load_model(
        request.name,
        weights=request.weights,
        pretrained=request.pretrained,
        num_classes=request.num_classes,
    )
    without_classifier(whole.module, request.name)
    return Network(
        whole.module,
        name=f"encoder/{request.name}",
        preprocessing=whole.preprocessing,
        classes=(),
        layer=whole.layer,
        judge=request.name if request.weights is None else None,
        source={**whole.source, "classifier": "taken off"},
    )


def without_classifier(model: nn.Module, name: str) -> None:
    """Replace the network's last linear layer by nothing, in place.

    Raises:
        CheckpointError: its last module with weights is no linear layer.
    """
    weighted = [
        (place, module)
        for place, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    if not weighted or not isinstance(weighted[-1][1], nn.Linear):
        kind = type(weighted[-1][1]).__name__ if weighted else "nothing"
        raise CheckpointError(
            f"The last layer with weights of {name} is a {kind} and no linear classifier; an "
            "encoder can be made of networks that end in one."
        )
    place, _, last = weighted[-1][0].rpartition(".")
    setattr(model.get_submodule(place), last, nn.Identity())

"""What axioms ask of a network: its score without the image, and its maps of shifted images."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration import copy_network
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.maps import to_float64
from torchsaliency.core.masking import Masking
from torchsaliency.core.network import unwrap
from torchsaliency.core.session import open_session
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures.again import Again, Layers
from torchsaliency.measures.judge import judging


@final
@dataclass(frozen=True, eq=False)
class AttributionSums:
    """What attributions add up to, and what they should.

    Attributes:
        attribution_sums: (N,), Σ of an image's attributions.
        rises: (N,), f(x) - f(b), the score of the image minus that of its baseline.
        passes: images that went through the network.
    """

    attribution_sums: Tensor
    rises: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"attribution_sums": self.attribution_sums, "rises": self.rises}


def attribution_sums(
    model: nn.Module,
    explanation: Explanation,
    *,
    masking: Masking | None = None,
    chunk: int | None = None,
) -> AttributionSums:
    """Compare the sum of each image's attributions with the rise of its score from the baseline.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it.
        masking: the baseline b; the explanation's own by default.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: the method gives maps without attributions.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(1, 3, 64, 64)
        >>> found = torchsaliency.explain(net, x, "integrated-gradients")["integrated-gradients"]
        >>> sums = attribution_sums(net, found)
        >>> bool((sums.attribution_sums - sums.rises).abs() < 1)
        True
    """
    if explanation.attributions is None:
        raise InputError(
            f"{explanation.method.name} gives maps without a unit and no attributions that could "
            "add up to the score; choose a method that has them, such as integrated-gradients."
        )
    fill = masking or explanation.masking
    hidden = torch.zeros_like(explanation.map)
    net = explanation.wrap(unwrap(model))
    with judging(net, explanation.given, chunk=chunk) as judge:
        masked = fill.over(judge.images)

        def build(image: Tensor, place: Tensor) -> Tensor:  # noqa: ARG001
            return masked(hidden[image].to(judge.images.dtype), image)

        without = judge.target_scores(explanation.target, 1, build)[:, 0]
        sums = to_float64(explanation.attributions).flatten(1).sum(1)
        rises = to_float64(explanation.score).to(without.device) - without
        return AttributionSums(sums, rises, judge.passes)


@final
@dataclass(frozen=True, eq=False)
class ShiftedMaps:
    """Maps of images, and of shifted images by a network that takes the shift back.

    Attributes:
        maps: (N, *size) of the images.
        shifted_maps: (N, *size) of the shifted images.
    """

    maps: Tensor
    shifted_maps: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return vars(self)


def shifted_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    shift: float | int = -1.0,
    layer: Layers = None,
    chunk: int | None = None,
) -> ShiftedMaps:
    """Explain x + m by the network f'(x) = f(x - m), whose first layer takes the constant m back.

    The first layer's bias becomes b - Σ W m, and it pads with m where it padded with 0, so that f'
    gives for x + m what f gives for x, at the edges, too.

    Args:
        model: the network that was explained; a copy is changed, never it.
        explanation: what `explain` made of it.
        shift: m, in the units of the tensor that was explained.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.

    Raises:
        OptionError: a shift that is 0 or not finite.
        InputError: the network does not begin with a layer that could take the shift back.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
        >>> shifted_maps(net, found).shifted_maps.shape
        torch.Size([2, 64, 64])
    """
    if not math.isfinite(shift) or shift == 0:
        raise OptionError(f"A shift of {shift} was given; give a finite number that is not 0.")
    network = _take_back(model, explanation, float(shift))
    again = Again(model, explanation, layer, chunk)
    found = [
        again.explain(explanation.images[i] + shift, i, network)
        for i in again.parts(len(explanation), substitute=False)
    ]
    score = torch.cat([made.score for made in found])
    room = 8 * torch.finfo(score.dtype).eps ** 0.5 * explanation.score.abs().clamp_min(1)
    if not bool(((score - explanation.score).abs() <= room).all()):
        raise _no_first_layer(model)  # something else reads the image, too
    return ShiftedMaps(explanation.map, torch.cat([made.map for made in found]))


_FIRST = (nn.modules.conv._ConvNd, nn.Linear)


def _take_back(model: nn.Module, explanation: Explanation, shift: float) -> nn.Module:
    """Return a copy of the network whose layers that read the image subtract the shift."""
    net = copy_network(unwrap(model))
    first: list[str] = []

    def watch(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001
        seen = inputs[0] if inputs else None
        if isinstance(seen, Tensor) and seen.shape == image.shape and torch.equal(seen, image):
            first.append(name)

    one = explanation[0]
    with open_session(explanation.wrap(net), one.given) as session:
        image = session.images
        handles = [
            module.register_forward_pre_hook(functools.partial(watch, name))
            for name, module in net.named_modules()
            if isinstance(module, _FIRST)
        ]
        try:
            with torch.no_grad():
                session.run(image, rows=torch.zeros(1, dtype=torch.long, device=image.device))
        finally:
            for handle in handles:
                handle.remove()
    if not first:
        raise _no_first_layer(model)
    for name in dict.fromkeys(first):
        _subtract(net, name, shift)
    return net


@torch.inference_mode(mode=False)
@torch.no_grad()
def _subtract(net: nn.Module, name: str, shift: float) -> None:
    """Let a layer give for x + m what it gave for x."""
    layer: Any = net.get_submodule(name)
    if isinstance(layer, nn.Linear):
        lost = shift * layer.weight.sum(1)
    else:
        lost = shift * layer.weight.flatten(1).sum(1)
        if any(layer._reversed_padding_repeated_twice) and layer.padding_mode == "zeros":
            pad = _PADS[layer.weight.ndim - 3](tuple(layer._reversed_padding_repeated_twice), shift)
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, nn.Sequential(pad, layer))
            layer.padding = (0,) * (layer.weight.ndim - 2)
    bias = -lost if layer.bias is None else layer.bias - lost
    layer.bias = nn.Parameter(bias, requires_grad=False)


_PADS: tuple[Any, ...] = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)


def _no_first_layer(model: nn.Module) -> InputError:
    return InputError(
        f"{type(unwrap(model)).__name__} does not begin with a convolution or linear layer that "
        "alone reads the image, and input invariance shifts the bias of such a layer; choose "
        "another metric."
    )

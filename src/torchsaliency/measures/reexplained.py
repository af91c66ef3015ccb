"""Maps made again: of noisy images, of masked images, and by randomised networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration import engine
from torchsaliency.core.draws import uniform
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.layer import Layer, LayerLike
from torchsaliency.core.maps import checked_maps, exact
from torchsaliency.core.masking import Masking
from torchsaliency.core.memory import checked_chunk, suited_chunk
from torchsaliency.core.method import Needs
from torchsaliency.core.session import held_still
from torchsaliency.core.trace import checked_images
from torchsaliency.core.wrapper import unwrap
from torchsaliency.errors import OptionError
from torchsaliency.measures.randomised import Cascade, randomised_networks

Layers = LayerLike | Sequence[LayerLike] | None


@final
@dataclass(frozen=True, eq=False)
class NoisyMaps:
    """Maps of images and of their noisy copies.

    Attributes:
        maps: (N, H, W) of the images.
        noisy_maps: (N, S, H, W) of S noisy copies each.
        distances: (N, S), largest change of a pixel value, ‖ε‖_∞.
        norms: (N,), Euclidean norm of the images, for the oldest form of Max-Sensitivity.
    """

    maps: Tensor
    noisy_maps: Tensor
    distances: Tensor
    norms: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"maps": self.maps, "noisy_maps": self.noisy_maps, "norms": self.norms}


def noisy_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    radius: float | int = 0.2,
    samples: int = 10,
    seed: int = 0,
    layer: Layers = None,
    chunk: int | None = None,
) -> NoisyMaps:
    """Explain noisy copies x + ε by the same method, ε uniform in [-radius, radius] at every value.

    The class is that of the clean image, and the noise is the same for every image, so that a
    result does not depend on the batch.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it.
        radius: of the noise, in the units of the tensor that was explained (normalised images).
        samples: noisy copies of each image.
        seed: of the noise.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: copies in one pass; None finds it.

    Raises:
        OptionError: no samples, or a radius that is not above 0.
    """
    if samples < 1 or not 0 < radius < math.inf:
        raise OptionError(
            f"{samples} samples of radius {radius} were given; accepted are at least one sample "
            "and a radius above 0."
        )
    images = explanation.images
    draw = torch.Generator().manual_seed(seed)
    noise = uniform(draw, samples, *images.shape[1:]).mul_(2).sub_(1).mul_(radius)
    noise = noise.to(images)
    maps = []
    layers = _layers(model, explanation, layer)
    net, parts = _parts(model, images, len(images) * samples, chunk, _read(explanation, layers))
    for index in parts:
        image = index // samples
        copies = images[image] + noise[index % samples]
        maps.append(_again(net, explanation, copies, image, layers, chunk).map)
    found = torch.cat(maps)
    return NoisyMaps(
        maps=explanation.map,
        noisy_maps=found.view(len(images), samples, *found.shape[1:]),
        distances=noise.flatten(1).abs().amax(1).expand(len(images), -1),
        norms=exact(images.flatten(1)).norm(dim=1),
    )


@final
@dataclass(frozen=True, eq=False)
class MaskedMaps:
    """Maps of images, and of what these maps keep of them.

    Attributes:
        maps: S (N, H, W) of the images.
        masked_maps: S' (N, H, W) of the images masked by S.
        output: the network's output on the masked images: their scores cost no further pass.
    """

    maps: Tensor
    masked_maps: Tensor
    output: Any

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"maps": self.maps, "masked_maps": self.masked_maps}


def masked_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    masking: Masking | None = None,
    layer: Layers = None,
    chunk: int | None = None,
) -> MaskedMaps:
    """Explain x ⊙ S + b ⊙ (1 - S) by the same method for the same class (ADCC's coherency).

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it; its maps are the masks S.
        masking: the baseline b; the explanation's own by default.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.
    """
    images = explanation.images
    kept = checked_maps(explanation.map)
    mask_out = masking or explanation.masking
    maps, outputs = [], []
    layers = _layers(model, explanation, layer)
    net, parts = _parts(model, images, len(images), chunk, _read(explanation, layers))
    for index in parts:
        shown = mask_out(images[index], kept[index])
        made = _again(net, explanation, shown, index, layers, chunk)
        maps.append(made.map)
        outputs.append(made.output)
    whole = torch.cat(outputs) if all(isinstance(one, Tensor) for one in outputs) else None
    return MaskedMaps(explanation.map, torch.cat(maps), whole)


@final
@dataclass(frozen=True, eq=False)
class RandomisedMaps:
    """Maps of networks with ever more random weights (or one random stage each).

    Attributes:
        stages: names of the stages, from the output downwards.
        maps: (N, H, W) of the trained network.
        random_maps: (N, L, H, W), one a stage.
        mode: "cascading" or "independent".
    """

    stages: tuple[str, ...]
    maps: Tensor
    random_maps: Tensor
    mode: Cascade

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"maps": self.maps, "random_maps": self.random_maps}


def randomised_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    mode: Cascade = "cascading",
    stages: Sequence[str] | None = None,
    seed: int = 0,
    layer: Layers = None,
    chunk: int | None = None,
) -> RandomisedMaps:
    """Explain the same images and classes with randomised copies of the network (sanity check).

    Args:
        model: the network that was explained; copies are changed, never it.
        explanation: what `explain` made of it.
        mode: "cascading": all stages from the output down to this one are random; "independent":
            this one alone.
        stages: names of submodules, from the output downwards; `network_stages` by default.
        seed: of the weights.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.

    Raises:
        OptionError: there is no such stage, or nothing in it to randomise.
    """
    names, maps = [], []
    images = explanation.images
    _, parts = _parts(model, images, len(images), chunk)
    layers = _layers(model, explanation, layer)
    for name, network in randomised_networks(model, mode=mode, stages=stages, seed=seed):
        names.append(name)
        made = [_again(network, explanation, images[i], i, layers, chunk).map for i in parts]
        maps.append(torch.cat(made))
    return RandomisedMaps(tuple(names), explanation.map, torch.stack(maps, 1), mode)


def _parts(
    model: nn.Module, images: Tensor, count: int, chunk: int | None, read: Sequence[Layer] = ()
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network that should run, and the numbers 0 … count-1 in chunks.

    Raises:
        InputError: a chunk below 1.
    """
    checked_chunk(chunk)
    net = unwrap(model)
    with held_still(net, images.device):
        checked = checked_images(net, images)
        size = chunk or suited_chunk(net, checked)
        parts: tuple[Tensor, ...] = torch.arange(count, device=images.device).split(size)
        return engine.stand_in(net, checked[:size], read), parts


def _read(explanation: Explanation, layers: list[Layer]) -> list[Layer]:
    """Return the layers, if the method reads nothing else of the network."""
    more = Needs.PASSES | Needs.ATTENTION
    return [] if explanation.method.entry.needs & more else layers


def _layers(model: nn.Module, explanation: Explanation, layer: Layers) -> list[Layer]:
    """Return the layers by name, so that a copy of the network has them, too."""
    if layer is None:
        pairs = zip(explanation.layers, explanation.reshapes, strict=True)
        return [Layer(name, reshape) for name, reshape in pairs]
    group = [layer] if isinstance(layer, str | nn.Module | Layer) else layer
    return [Layer.of(one, unwrap(model)) for one in group]


@torch.inference_mode(mode=False)
def _again(
    model: nn.Module,
    explanation: Explanation,
    images: Tensor,
    index: Tensor,
    layers: list[Layer],
    chunk: int | None,
) -> Explanation:
    """Explain variants of the images at `index` as these were explained."""
    method = explanation.method
    index = index.clone()  # outside inference mode: they are saved for the backward pass
    target = explanation.target.take(index)
    made = explain(
        model,
        images.clone(),
        {"again": method},
        target,
        layers,
        masking=explanation.masking,
        chunk=chunk,
    )
    return made["again"]

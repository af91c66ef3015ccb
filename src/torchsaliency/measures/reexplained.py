"""Maps made again: of noisy images, of masked images, and by randomised networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.layer import Layer, LayerLike, as_group
from torchsaliency.core.maps import require_maps, to_float64
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Method, Needs
from torchsaliency.core.network import unwrap
from torchsaliency.core.runtime import draw_uniform
from torchsaliency.core.session import open_session
from torchsaliency.errors import OptionError
from torchsaliency.measures.randomised import Cascade, randomised_networks

Layers = LayerLike | Sequence[LayerLike] | None


@final
@dataclass(frozen=True, eq=False)
class NoisyMaps:
    """Maps of images and of their noisy copies.

    Attributes:
        maps: (N, *size) of the images.
        noisy_maps: (N, S, *size) of S noisy copies each.
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
    noise = draw_uniform(draw, samples, *images.shape[1:]).mul_(2).sub_(1).mul_(radius)
    noise = noise.to(images)
    again = _Again(model, explanation, layer, chunk)
    maps = []
    for index in again.parts(len(images) * samples):
        image = index // samples
        maps.append(again.explain(images[image] + noise[index % samples], image).map)
    found = torch.cat(maps)
    return NoisyMaps(
        maps=explanation.map,
        noisy_maps=found.view(len(images), samples, *found.shape[1:]),
        distances=noise.flatten(1).abs().amax(1).expand(len(images), -1),
        norms=to_float64(images.flatten(1)).norm(dim=1),
    )


@final
@dataclass(frozen=True, eq=False)
class MaskedMaps:
    """Maps of images, and of what these maps keep of them.

    Attributes:
        maps: S (N, *size) of the images.
        masked_maps: S' (N, *size) of the images masked by S.
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
    kept = require_maps(explanation.map)
    mask_out = masking or explanation.masking
    again = _Again(model, explanation, layer, chunk)
    maps, outputs = [], []
    for index in again.parts(len(images)):
        found = again.explain(mask_out(images[index], kept[index]), index)
        maps.append(found.map)
        outputs.append(found.output)
    whole = torch.cat(outputs) if all(isinstance(output, Tensor) for output in outputs) else None
    return MaskedMaps(explanation.map, torch.cat(maps), whole)


@final
@dataclass(frozen=True, eq=False)
class RandomisedMaps:
    """Maps of networks with ever more random weights (or one random stage each).

    Attributes:
        stages: names of the stages, from the output downwards.
        maps: (N, *size) of the trained network.
        random_maps: (N, L, *size), one a stage.
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
    again = _Again(model, explanation, layer, chunk)
    parts = again.parts(len(explanation), substitute=False)
    for name, network in randomised_networks(model, mode=mode, stages=stages, seed=seed):
        names.append(name)
        found = [again.explain(explanation.images[i], i, network).map for i in parts]
        maps.append(torch.cat(found))
    return RandomisedMaps(tuple(names), explanation.map, torch.stack(maps, 1), mode)


@final
class _Again:
    """Explains variants of images as these were explained, in chunks."""

    def __init__(
        self, model: nn.Module, explanation: Explanation, layer: Layers, chunk: int | None
    ) -> None:
        self._model, self._explanation, self._chunk = model, explanation, chunk
        self._network = model
        if layer is None:
            pairs = zip(explanation.layers, explanation.reshapes, strict=True)
            self._layers = [Layer(name, reshape) for name, reshape in pairs]
        else:  # by name, so that a copy of the network has them, too
            self._layers = [Layer.of(spec, unwrap(model)) for spec in as_group(layer)]

    def parts(self, count: int, *, substitute: bool = True) -> tuple[Tensor, ...]:
        """Return the numbers 0 … count-1 in chunks, and choose the network that runs them.

        Args:
            count: of the variants.
            substitute: whether a faster copy of the network may run them.

        Raises:
            InputError: a chunk below 1.
        """
        more = Needs.PASSES | Needs.ATTENTION  # what else a method may read of the network
        layers = self._layers if not self._explanation.method.entry.needs & more else []
        images = self._explanation.images
        with open_session(self._model, self._explanation.given, chunk=self._chunk) as session:
            if substitute:
                self._network = session.stand_in(session.chunk, layers)
            parts: tuple[Tensor, ...] = torch.arange(count, device=images.device).split(
                session.chunk
            )
            return parts

    def _given(self, images: Tensor, index: Tensor) -> InputsLike:
        inputs = self._explanation.inputs
        return images if inputs is None else inputs.with_images(images, index)

    @torch.inference_mode(mode=False)
    def explain(
        self, images: Tensor, index: Tensor, network: nn.Module | None = None
    ) -> Explanation:
        """Explain variants of the images at `index`, of another network if one is given."""
        index = index.clone()  # outside inference mode: they are saved for the backward pass
        return explain(
            self._explanation.wrap(unwrap(network or self._network)),
            self._given(images.clone(), index),
            {"again": cast("Method", self._explanation.method)},
            self._explanation.target.take(index),
            self._layers,
            masking=self._explanation.masking,
            chunk=self._chunk,
        )["again"]

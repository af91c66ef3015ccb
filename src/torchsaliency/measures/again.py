"""Explains variants of images as these were explained: the same method, target and layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast, final

import torch
from torch import Tensor, nn

from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.given import require_repeatable
from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.layer import Layer, LayerLike, as_group
from torchsaliency.core.method import ACTIVATIONS, Method, Needs, Saliency, as_saliency
from torchsaliency.core.network import unwrap
from torchsaliency.core.session import open_session
from torchsaliency.core.target import Target
from torchsaliency.core.trace import View

Layers = LayerLike | Sequence[LayerLike] | None


@final
class Again:
    """Explains variants of images as these were explained, in chunks."""

    def __init__(
        self,
        model: nn.Module,
        explanation: Explanation,
        layer: Layers,
        chunk: int | None,
        *,
        features: bool = False,
    ) -> None:
        require_repeatable(explanation.method)
        self._model, self._explanation, self._chunk = model, explanation, chunk
        self._network = model
        method = cast("Method", explanation.method)
        self._method = _WithFeatures(method) if features else method
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

    def variants(
        self, each: int, build: Callable[[Tensor, Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, Explanation]]:
        """Explain as many variants of every image, chunk by chunk.

        Args:
            each: how many variants an image has.
            build: gives the variants (m, C, *size) of images (m,) and places 0 … each-1 (m,).

        Yields:
            The images and places of a chunk, and its explanation.
        """
        for index in self.parts(len(self._explanation) * each):
            image, place = index // each, index % each
            yield image, place, self.explain(build(image, place), image)

    def _given(self, images: Tensor, index: Tensor) -> InputsLike:
        inputs = self._explanation.inputs
        return images if inputs is None else inputs.with_images(images, index)

    @torch.inference_mode(mode=False)
    def explain(
        self,
        images: Tensor,
        index: Tensor,
        network: nn.Module | None = None,
        target: Target | None = None,
    ) -> Explanation:
        """Explain variants of the images at `index`, of another network or target if given."""
        index = index.clone()  # outside inference mode: they are saved for the backward pass
        return explain(
            self._explanation.wrap(unwrap(network or self._network)),
            self._given(images.clone(), index),
            {"again": self._method},
            (target or self._explanation.target).take(index),
            self._layers,
            masking=self._explanation.masking,
            chunk=self._chunk,
            fuse=self._explanation.fusion,
        )["again"]


@final
@dataclass(frozen=True)
class _WithFeatures(Method):
    """A method, and beside its map the feature maps of each layer that the pass gave."""

    method: Method

    def __post_init__(self) -> None:
        needs = self.method.entry.needs | ACTIVATIONS
        known = {
            "entry": replace(self.method.entry, needs=needs),
            "joint": self.method.joint,
            "normalisation": self.method.scaling,
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)  # frozen, and set once

    def saliency(self, view: View) -> Saliency:
        """Return what the method finds; the features are among the details, by layer."""
        found = as_saliency(self.method.saliency(view))
        features = {
            _FEATURES + layer.name: view[layer.name].activations.flatten(1) for layer in view.layers
        }
        return replace(found, details={**found.details, **features})


_FEATURES = "features of "


def features_of(explanation: Explanation) -> Tensor:
    """Return the feature maps of all layers, (N, numbers)."""
    details = explanation.details.items()
    return torch.cat([value for name, value in details if name.startswith(_FEATURES)], 1)

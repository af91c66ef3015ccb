"""The network from one layer on: the batch grows at the layer, so what comes before runs once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.layer import Layer, first_tensor, replace_first
from torchsaliency.core.maps import upcast
from torchsaliency.core.session import Session
from torchsaliency.core.space import repeat_image
from torchsaliency.core.target import Target, score
from torchsaliency.errors import out_of_memory


@final
@dataclass(frozen=True, eq=False)
class Tail:
    """What follows a layer, run on one image with the layer's output replaced.

    Attributes:
        session: the network and its images.
        layer: with its layout.
        target: of the images.
        features: (N, K, *grid), the layer's own.
        expected: (N,) the images' scores.
        tolerance: how far off a score may be.
        grows: whether the batch may grow at a layer, by its name; found on the first run.
    """

    session: Session
    layer: Layer
    target: Target
    features: Tensor
    expected: Tensor
    tolerance: float
    grows: dict[str, bool]

    def score(self, image: int, features: Tensor) -> Tensor:
        """Score image `image` with the layer's output replaced by each row of `features`."""
        return self._score(image, features, self._rows(image, len(features)))

    def output(self, image: int, features: Tensor) -> Any:
        """Return the network's numbers with the layer's output replaced, as `score`."""
        return self._run(image, features, self._rows(image, len(features)))

    def _rows(self, image: int, count: int) -> int:
        """Return how many copies of the image the network needs for so many replacements."""
        name = self.layer.name
        if name not in self.grows:
            self.grows[name] = self._may_grow(image)
        return 1 if self.grows[name] else count

    def _may_grow(self, image: int) -> bool:
        """Whether the batch may grow at the layer: two unchanged copies must score as before."""
        if self.layer.module_of(self.session.net) is None:
            return True
        try:
            scores = self._score(image, repeat_image(self.features[image], 2), 1)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            if out_of_memory(error):
                raise
            # A tail that joins earlier features, or that remembers the batch size, cannot grow.
            return False
        expected = self.expected[image].expand(2)
        return torch.allclose(scores, expected, rtol=self.tolerance, atol=self.tolerance)

    def _score(self, image: int, features: Tensor, rows: int) -> Tensor:
        index = torch.full((len(features),), image, device=self.session.images.device)
        output = self._run(image, features, rows)
        return upcast(score(self.target.take(index), output, len(features)))

    def _run(self, image: int, features: Tensor, rows: int) -> Any:
        """Run the network on so many copies of an image, and replace the layer's output."""
        session, reshape = self.session, self.layer.reshape
        module = self.layer.module_of(session.net)
        assert reshape is not None
        pixels = session.images[image : image + 1]
        if module is None:
            index = torch.full((len(features),), image, device=pixels.device)
            return session.run(features.to(pixels.dtype, copy=True), index)

        def replace(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
            own = first_tensor(output, self.layer.name)
            return replace_first(output, reshape.from_maps(features.to(own.dtype), own))

        handle = module.register_forward_hook(replace)
        try:
            index = torch.full((rows,), image, device=pixels.device)
            copies = pixels.repeat(rows, *[1] * (pixels.ndim - 1))
            return session.run(copies, index, count=len(features))
        finally:
            handle.remove()

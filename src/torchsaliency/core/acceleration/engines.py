"""The engines that need nothing beside torch."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.core.acceleration.engine import Engine, register_engine
from torchsaliency.core.space import format_of, repeat_image

_COMPILED = 16
"""The most images a compiled pass holds on a processor: more are no faster, and what is missing to
a full batch is run for nothing."""


@register_engine("off")
@final
class Off(Engine):
    """The network itself."""

    def run_copy(self, images: Tensor) -> Any:
        """Run the copy as it is."""
        return self.call(self.copy, images)


@register_engine("channels-last")
class ChannelsLast(Engine):
    """A copy whose convolutions read pixel by pixel.

    torch's own attention layers project all positions at once in passes with gradients.
    """

    def run_copy(self, images: Tensor) -> Any:
        """Run the copy on images laid out like its weights."""
        return self.call(self.copy, images.to(memory_format=format_of(images)))


@register_engine("compile")
@final
class Compiled(Engine):
    """A copy compiled by inductor with frozen weights, for one batch size.

    The first pass takes as long as the compilation, and a C++ compiler is needed on a processor. On
    a GPU the passes are replayed as a CUDA graph. Passes with gradients or hooks run channels-last.
    """

    with_graph = "channels-last"
    _size = 0

    def run_copy(self, images: Tensor) -> Any:
        """Run the compiled copy on batches of one size: another size would compile anew."""
        if self.compiled is None:
            graphs = {"triton.cudagraphs": True} if images.is_cuda else {}
            self.compiled = torch.compile(
                self.copy, dynamic=False, options={"freezing": True, **graphs}
            )
            most = max(len(images), self.batch)
            self._size = most if images.is_cuda else min(most, _COMPILED)
        if len(images) > self._size:
            return torch.cat([self.run_copy(part) for part in images.split(self._size)])
        missing = self._size - len(images)
        full = torch.cat([images, repeat_image(images[-1], missing)]) if missing else images
        with torch.no_grad():
            output = self.call(self.compiled, full.contiguous(memory_format=format_of(full)))
        # a copy, as the next replay of a CUDA graph writes its output into the same place
        return output[: len(images)].clone()


@register_engine("bf16")
@final
class BFloat16(ChannelsLast):
    """Channels-last under bfloat16 autocast, which rounds the numbers."""

    traceable = False  # autocast is not a property of a module
    exact = False
    tolerance = 0.5
    """Far off is a defect, near is rounding."""

    def run_copy(self, images: Tensor) -> Any:
        """Run the copy under autocast."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return super().run_copy(images)

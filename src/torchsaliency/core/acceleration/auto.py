"""The engine that measures which of the others is the fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration import onnx
from torchsaliency.core.acceleration.copies import Likeness
from torchsaliency.core.acceleration.engine import get_place, is_close, lay_out, register_engine
from torchsaliency.core.acceleration.engines import ChannelsLast
from torchsaliency.core.runtime import seconds_now

_PATIENCE = 15.0
"""Seconds of passes after which ONNX Runtime is tried, whose export takes about as long: work that
ends right after has lost no more than it took, and longer work gains."""


@register_engine("auto")
@final
class Auto(ChannelsLast):
    """The fastest of the others, measured on the passes themselves.

    First "off" and "channels-last". On a processor, ONNX Runtime too, if its packages are there and
    once passes without gradients took as long as an export may; where the network cannot be
    exported, or gains nothing, all stays as it is.
    """

    bakes = True
    _spent = 0.0

    def is_faster(self, net: nn.Module, images: Tensor) -> bool:
        """Whether the copy's pass takes less time; both were warmed up by their first pass."""
        _, slow = _time(lambda: self.call(net, images), images)
        _, fast = _time(lambda: self.run_copy(images), images)
        return fast < slow

    def __call__(self, net: nn.Module, images: Tensor) -> Any:
        """Run; after many passes without gradients in ONNX Runtime, if that is there and faster."""
        settled = self.faithful is not None and images.device.type == "cpu"
        if not settled or torch.is_grad_enabled():
            return super().__call__(net, images)
        if self.compiled is not None:
            return self.compiled(images)
        output, took = _time(lambda: ChannelsLast.__call__(self, net, images), images)
        before, self._spent = self._spent, self._spent + took
        late = before < _PATIENCE <= self._spent
        if late and isinstance(output, Tensor) and not onnx.missing_packages():
            self.compiled = self._export(net, images, output, took)
        return output

    def _export(
        self, net: nn.Module, images: Tensor, own: Tensor, slow: float
    ) -> onnx.ExportedNetwork | None:
        """Return the exported network if it gives the same output sooner."""
        try:
            copied = self.copy if self.faithful else lay_out(net)
            exported = onnx.ExportedNetwork(copied, images, None, get_place(self.call))
            exported(images)  # the first pass of a session is slow
            found, fast = _time(lambda: exported(images), images)
        except (RuntimeError, MemoryError):
            return None
        if fast >= slow or not is_close(own, found):
            return None
        if not self.faithful:  # the copy was dropped, and with it what it is compared by
            self.likeness = Likeness(net, copied)
        return exported


def _time(work: Callable[[], Any], images: Tensor) -> tuple[Any, float]:
    """Do the work; return its result and the seconds until the images' device is done."""
    begun = seconds_now(images.device)
    found = work()
    return found, seconds_now(images.device) - begun

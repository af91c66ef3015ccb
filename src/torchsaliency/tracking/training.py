"""Maps of the same images again and again while a network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from torchsaliency.core.explain import MethodsLike, explain, resolve_methods
from torchsaliency.core.target import TargetSpec
from torchsaliency.errors import OptionError
from torchsaliency.viz import draw_maps


@runtime_checkable
class PictureLog(Protocol):
    """What keeps pictures: a `Tracker`, or a `PictureFolder`."""

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Keep a picture."""


@final
class FixedImages:
    """Fixed images, whose maps are drawn whenever a network has learned some more.

    The network's mode, gradients and weights are left as they are, as by `explain`.

    Args:
        images: (N, C, H, W), as the network takes them; some four to eight.
        methods: what explains them, as in `explain`.
        target: what is explained, as in `explain`: labels make the maps comparable over time, the
            prediction changes while the network learns.
        layer: where maps are read; the network's default layer.
        every: so many epochs, or evaluations, pass between two drawings.
        mean: of the images' normalisation, one per channel, to draw them.
        std: of it, too.

    Raises:
        OptionError: `every` is below 1, or a method is unknown.

    Example:
        >>> fixed = FixedImages(torch.rand(2, 3, 64, 64), ["gradcam"], [0, 1])
    """

    def __init__(
        self,
        images: Tensor,
        methods: MethodsLike = "gradcam",
        target: int | Sequence[int] | TargetSpec | None = None,
        *,
        layer: str | None = None,
        every: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if every < 1:
            raise OptionError(f"every is {every}; maps are drawn after 1 epoch or more.")
        self.images, self.target, self.layer, self.every = images, target, layer, every
        self.methods = resolve_methods(methods)
        self._look = {"mean": mean, "std": std}
        self._waited = 0

    def draw(self, net: nn.Module, log: PictureLog, step: int) -> None:
        """Draw every image under its maps as saliency/NUMBER, if it is time."""
        self._waited += 1
        if self._waited < self.every:
            return
        self._waited = 0
        like = next(net.parameters(), self.images)
        x = self.images.to(like.device, like.dtype if like.is_floating_point() else None)
        with torch.inference_mode(mode=False), torch.enable_grad():
            found = explain(net, x, self.methods, self.target, self.layer)
        for number, image in enumerate(self.images):
            maps = {name: one.map[number] for name, one in found.items()}
            log.log_picture(f"saliency/{number}", draw_maps(image, maps, **self._look), step)

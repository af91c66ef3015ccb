"""RefineCAM: the product of several layers' maps: coarse ones for the class, fine for edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from torchsaliency.core.discovery import finer_layers
from torchsaliency.core.maps import fuse
from torchsaliency.core.method import (
    GRADIENTS,
    PASSES,
    Method,
    as_saliency,
    create,
    extend_needs,
    register,
)
from torchsaliency.core.trace import View


@register("refinecam", family="cam", cite="domeniconi2026", needs=GRADIENTS | PASSES)
@final
@dataclass(frozen=True)
class RefineCAM(Method):
    """RefineCAM: the product of a CAM's maps at several layers, each stretched to [0, 1].

    S = Π_l n(up(S_l)). Coarse maps say where the class is, fine ones where its parts end. Of one
    layer given (or found), the last layer of each finer grid before it is read too, from a quarter
    of the image's sides on; these cost two further passes. A network of one grid, a plain
    transformer, has no finer ones, and the map is the CAM's own. Where early layers pad, borders
    may shine in Grad-CAM++'s maps and so in the product; "layercam" is calmer.

    Source: Domeniconi et al., "How to evaluate and refine your CAM", 2026; the paper's text was not
    at hand, so this is its published code: the product, Grad-CAM++, and the last block of each
    stage. pytorch-grad-cam has the same.

    Attributes:
        base: the CAM, or any other method.
    """

    joint: ClassVar[bool] = True

    base: str = "gradcam++"

    def __post_init__(self) -> None:
        extend_needs(self, create(self.base).entry.needs)

    def saliency(self, view: View) -> Tensor:
        """Return the product at the image's own size, (N, *size)."""
        if len(view.layers) > 1:
            return self._multiply(view)
        session = view.session
        finer = finer_layers(session.wrapper, session.first_image, view.layer)
        session.passes += 1
        if not finer:
            return self._multiply(view)
        with view.trace_variants(view.images, layers=[*finer, *view.layers]) as other:
            return self._multiply(other)

    def _multiply(self, view: View) -> Tensor:
        method = create(self.base)
        raws = [as_saliency(method.saliency(view[layer.name])).raw for layer in view.layers]
        return fuse(raws, view.size, "product", method.scaling)

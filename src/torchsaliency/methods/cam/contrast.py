"""Finer-CAM: what tells a class from the classes that are nearest to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from torchsaliency.core.method import (
    GRADIENTS,
    PASSES,
    Method,
    Saliency,
    create,
    drop_signs,
    extend_needs,
    register,
)
from torchsaliency.core.target import ClassTarget, Finer
from torchsaliency.core.trace import View
from torchsaliency.errors import TargetError


@register("finercam", family="cam", cite="zhang2025", needs=GRADIENTS | PASSES, signed=True)
@final
@dataclass(frozen=True)
class FinerCAM(Method):
    """Finer-CAM: a CAM of how far the class leads the classes that are nearest to it.

    The CAM explains Σ_d q_d (y_c - α y_d) in place of y_c, d the classes whose logits are nearest
    to y_c on the clean image and q the softmax of their logits. It is the target `finer` as a
    method: `--target finer` gives it to any other. Costs one more pass than the CAM.

    Source: Zhang et al., CVPR 2025. See `finer` for a difference from the authors' code.

    Attributes:
        base: the CAM, or any other method.
        alpha: α, how much the others count: 0 is the CAM itself.
        nearest: how many classes are compared with.

    Raises:
        TargetError: what is explained is no class, or the only one.
    """

    base: str = "gradcam"
    alpha: float = 1.0
    nearest: int = 3

    def __post_init__(self) -> None:
        entry = create(self.base).entry
        Finer(None, self.alpha, self.nearest)
        extend_needs(self, entry.needs)
        if not entry.signed:
            drop_signs(self)

    def saliency(self, view: View) -> Tensor | Saliency:
        """Return the CAM of the contrast."""
        target = view.target
        if not isinstance(target, ClassTarget):
            raise TargetError(
                "finercam compares a class with others, and no class is explained; give one in "
                f"place of {type(target).__name__}, or use {self.base}."
            )
        contrast = Finer(target.labels, self.alpha, self.nearest).resolve(view.output)
        with view.trace_variants(view.images, target=contrast) as other:
            return create(self.base).saliency(other)

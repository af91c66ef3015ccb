"""Wrappers for any method: test-time augmentation and eigen-smoothing.

Users of pytorch-grad-cam know them as `aug_smooth` and `eigen_smooth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from torchsaliency.core.maps import minmax, normalise, upsample
from torchsaliency.core.method import (
    ACTIVATIONS,
    ChannelCAM,
    Method,
    Saliency,
    as_saliency,
    drop_signs,
    extend_needs,
)
from torchsaliency.core.space import size_of
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.tucker.spectrum import orient, spectrum


@final
@dataclass(frozen=True)
class Augmented(Method):
    """Test-time augmentation: the mean map over mirrored and brightened copies of the image.

    Every copy is explained for the same target, its map stretched to [0, 1] and mirrored back. By
    default six copies, as pytorch-grad-cam's `aug_smooth`.

    Attributes:
        method: the method that explains each copy.
        factors: the image, as the network sees it, is multiplied by each.
        mirrored: whether each copy is also mirrored left to right.
    """

    method: Method
    factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    mirrored: bool = True

    def __post_init__(self) -> None:
        if not self.factors:
            raise OptionError("Augmented needs at least one factor; give factors=(1.0,), say.")
        _stand_for(self, self.method, "+augmented")

    def saliency(self, view: View) -> Saliency:
        """Return the mean map at the image's size (N, *size).

        With the means of the signed values and of the attributions of the copies, not stretched.
        """
        maps: list[Tensor] = []
        signed: list[Tensor] = []
        attributions: list[Tensor] = []
        for factor in self.factors:
            for mirror in (False, True) if self.mirrored else (False,):
                copies = view.images * factor
                with view.trace_variants(copies.flip(-1) if mirror else copies) as other:
                    found = as_saliency(self.method.saliency(other))
                stretched = normalise(upsample(found.raw, view.size), self.method.scaling)
                maps.append(stretched.flip(-1) if mirror else stretched)
                for kept, part in ((signed, found.signed), (attributions, found.attributions)):
                    if part is not None:
                        kept.append(part.flip(-1) if mirror else part)
        return Saliency(
            torch.stack(maps).mean(0),
            signed=upsample(_mean(signed), view.size) if signed else None,
            attributions=_mean(attributions) if attributions else None,
        )


@final
@dataclass(frozen=True)
class EigenSmoothed(Method):
    """Eigen-smoothing: the first principal component of what each channel adds to the map.

    The contributions w_k ⊙ A_k of a class activation map are projected on their first singular
    vector instead of being summed, which removes what few channels add. A method without channel
    weights contributes n(S) ⊙ A_k. Centred and orient so that its largest absolute value is
    positive, then ReLU: the sign of a singular vector is arbitrary, so there are no signed values.

    Attributes:
        method: the method whose contributions are smoothed.
    """

    method: Method

    def __post_init__(self) -> None:
        _stand_for(self, self.method, "+eigen")
        drop_signs(self)

    def saliency(self, view: View) -> Tensor:
        """Return the first principal component (N, *grid)."""
        if isinstance(self.method, ChannelCAM):
            parts = self.method.contributions(view)
        else:
            features = view.activations
            raw = upsample(as_saliency(self.method.saliency(view)).raw, size_of(features))
            parts = minmax(raw)[:, None] * features
        return orient(spectrum(parts, centred=True, most=1).projections[:, 0]).relu()


def smooth(method: Method, *, eigen: bool, augmented: bool) -> Method:
    """Return a method in the wrappers that are wanted, eigen-smoothing innermost."""
    method = EigenSmoothed(method) if eigen else method
    return Augmented(method) if augmented else method


def _mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([*parts]).mean(0)


def _stand_for(wrapper: Method, method: Method, suffix: str) -> None:
    """Give a wrapper the entry of what it wraps, under a longer name."""
    object.__setattr__(wrapper, "entry", replace(method.entry, factory=type(wrapper)))
    extend_needs(wrapper, ACTIVATIONS, suffix)

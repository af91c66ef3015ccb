"""Wrappers for any method: test-time augmentation, eigen-smoothing and a noise tunnel.

Users of pytorch-grad-cam know the first two as `aug_smooth` and `eigen_smooth`, users of captum the
third as `NoiseTunnel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final, get_args

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
    require_positive,
)
from torchsaliency.core.space import size_of
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.attribution.gradient import draw_noise
from torchsaliency.methods.attribution.reduction import Attribution
from torchsaliency.methods.passes import images_of
from torchsaliency.methods.tucker.spectrum import orient, spectrum

NoiseKind = Literal["mean", "squares", "variance"]


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

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(1, 3, 64, 64)
        >>> calm = Augmented(torchsaliency.GradCAM())
        >>> torchsaliency.explain(net, x, {"calm": calm})["calm"].map.shape
        torch.Size([1, 64, 64])
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

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(1, 3, 64, 64)
        >>> calm = EigenSmoothed(torchsaliency.GradCAM())
        >>> torchsaliency.explain(net, x, {"calm": calm})["calm"].map.shape
        torch.Size([1, 64, 64])
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


@final
@dataclass(frozen=True)
class NoiseTunnel(Method):
    """Noise tunnel: what a method says of noisy copies of the image, averaged.

    With R_s what the method gives the copy x + ε_s, ε_s ~ N(0, σ²), σ = spread · (max x - min x) of
    the image: the "mean" of R_s, of its "squares", or its "variance". R are attributions, if the
    method gives them, joined to one map afterwards as it does; else its raw map. Squares and
    variances have no signs. Around `saliency` it is SmoothGrad, SmoothGrad² or VarGrad.

    Source: Smilkov et al., 2017, for gradients. Differs from captum's, whose σ is absolute and
    whose noise depends on the batch: here all images are given the same noise.

    Attributes:
        method: the method that explains each copy.
        samples: noisy copies; above 0.
        spread: the noise's σ as a share of the image's range; above 0.
        kind: "mean", "squares" or "variance".
        seed: of the noise.

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(1, 3, 64, 64)
        >>> calm = NoiseTunnel(torchsaliency.VanillaGradient(), samples=2)
        >>> torchsaliency.explain(net, x, {"calm": calm})["calm"].map.shape
        torch.Size([1, 64, 64])
    """

    method: Method
    samples: int = 10
    spread: float | int = 0.15
    kind: NoiseKind = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("noise tunnel", samples=self.samples, spread=self.spread)
        if self.kind not in get_args(NoiseKind):
            raise OptionError(
                f"The noise tunnel's kind is one of {', '.join(get_args(NoiseKind))}, and "
                f"{self.kind!r} was given."
            )
        _stand_for(self, self.method, "+noise" if self.kind == "mean" else f"+noise-{self.kind}")
        if self.kind != "mean":
            drop_signs(self)

    def saliency(self, view: View) -> Saliency:
        """Return the mean, or what `kind` says, of raw maps, signed values and attributions."""
        images = images_of(view)
        noise = draw_noise(images, self.samples, self.spread, self.seed)
        index = torch.arange(len(images), device=images.device)
        raws, signs, shares = (_Moments(self.kind) for _ in range(3))
        for draw in range(self.samples):
            copies = images + noise(torch.full_like(index, draw), index)
            with view.trace_variants(copies) as other:
                found = as_saliency(self.method.saliency(other))
            for moments, part in (
                (raws, found.raw),
                (signs, found.signed),
                (shares, found.attributions),
            ):
                moments.add(part)
        raw, attributions = raws.value, shares.value
        if attributions is not None and isinstance(self.method, Attribution):
            raw = self.method.reduce(attributions)
        assert raw is not None
        signed = signs.value if self.entry.signed else None
        return Saliency(raw, signed=signed, attributions=attributions)


class _Moments:
    """The mean, mean square or variance of tensors that come one by one, None if none do.

    Sums are of differences from the first, which keep the digits of a small variance.
    """

    def __init__(self, kind: NoiseKind) -> None:
        self._kind, self._count = kind, 0
        self._first: Tensor | None = None
        self._sums: list[Tensor] = []

    def add(self, part: Tensor | None) -> None:
        if part is None:
            return
        if self._first is None:
            self._first, self._sums = part, [torch.zeros_like(part) for _ in range(2)]
        self._count += 1
        off = part - self._first
        self._sums = [self._sums[0] + off, self._sums[1] + off.square()]

    @property
    def value(self) -> Tensor | None:
        if self._first is None:
            return None
        off, square = (total / self._count for total in self._sums)
        mean = self._first + off
        if self._kind == "mean":
            return mean
        variance = (square - off.square()).clamp_min(0)
        return variance if self._kind == "variance" else variance + mean.square()


def smooth(
    method: Method, *, eigen: bool, augmented: bool, noise: NoiseKind | None = None
) -> Method:
    """Return a method in the wrappers that are wanted, eigen-smoothing innermost."""
    method = EigenSmoothed(method) if eigen else method
    method = NoiseTunnel(method, kind=noise) if noise else method
    return Augmented(method) if augmented else method


def _mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([*parts]).mean(0)


def _stand_for(wrapper: Method, method: Method, suffix: str) -> None:
    """Give a wrapper the entry of what it wraps, under a longer name."""
    object.__setattr__(wrapper, "entry", replace(method.entry, factory=type(wrapper)))
    extend_needs(wrapper, ACTIVATIONS, suffix)

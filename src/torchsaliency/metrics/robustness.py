"""Is the map steady, and does it say by how much the score changes? Sensitivity and infidelity."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.core.scores import By
from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_copies, check_squares, check_values

Norm = Literal["map", "input"]


def sensitivities(
    maps: Float[Tensor, " n *size"],
    noisy_maps: Float[Tensor, "n s *size"],
    norms: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, "n s"]:
    """Return ‖a(x + ε_s) - a(x)‖ / D of every image and noisy copy.

    Args:
        maps: a(x) (N, *size) in [0, 1].
        noisy_maps: a(x + ε_s) (N, S, *size) in [0, 1].
        norms: D (N,); by default ‖a(x)‖. Where D is 0 the result is 0 if the noisy map is the same,
            and NaN (undefined) if not.

    Raises:
        InputError: maps outside [0, 1] or of different sizes, or no copies.

    Example:
        >>> maps = torch.ones(1, 2, 2)
        >>> sensitivities(maps, maps[:, None] / 2)
        tensor([[0.5000]], dtype=torch.float64)
    """
    values, noisy = check_copies(maps, noisy_maps)
    change = (noisy - values[:, None]).flatten(2).norm(dim=2)
    size = (
        values.flatten(1).norm(dim=1)
        if norms is None
        else check_values("norms", norms, len(values))
    )
    size = size.to(change.device)[:, None].expand_as(change)
    ratio = change / torch.where(size > 0, size, 1)
    return torch.where(size > 0, ratio, torch.where(change > 0, torch.nan, 0.0))


def infidelity(
    maps: Float[Tensor, " n *size"],
    squares: Int[Tensor, "s ends"],
    drops: Float[Tensor, "n s"],
    *,
    normalise: bool = True,
) -> Float[Tensor, " n"]:
    """Return mean_s (β Σ_{u in square s} a_u - drop_s)² of every image, at least 0.

    Args:
        maps: a (N, *size) in [0, 1].
        squares: (S, 4), x0 y0 x1 y1 in pixels, x1 and y1 exclusive; (S, 6) in a volume, x0 y0 z0
            x1 y1 z1.
        drops: (N, S), the score of the image minus that without the square.
        normalise: β is the least-squares scale of each image, because a saliency map has no unit;
            without, β = 1, as in captum's default. A map that is zero in all squares predicts no
            drop, whatever β.

    Raises:
        InputError: maps outside [0, 1], or numbers that do not fit together.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> squares = torch.tensor([[0, 0, 1, 1], [1, 1, 2, 2]])
        >>> infidelity(maps, squares, torch.tensor([[2.0, 0.0]]))
        tensor([0.], dtype=torch.float64)
    """
    values = require_maps(maps).double()
    corners, measured = check_squares(values, squares, drops)
    size = tuple(values.shape[1:])
    # sums over squares from the integral image
    integral = values
    for side in range(1, values.ndim):
        integral = integral.cumsum(side)
    integral = torch.nn.functional.pad(integral, (1, 0) * len(size))
    low, high = corners.chunk(2, 1)
    predicted = values.new_zeros(len(values), len(corners))
    for ends in product((1, 0), repeat=len(size)):
        place = [(high if end else low)[:, axis] for axis, end in enumerate(ends)]
        part = integral.movedim(0, -1)[tuple(place[::-1])].mT
        predicted = predicted + part if sum(ends) % 2 == len(size) % 2 else predicted - part
    scale = torch.ones_like(predicted[:, :1])
    if normalise:
        power = predicted.square().sum(1, keepdim=True)
        fitted = (predicted * measured).sum(1, keepdim=True) / torch.where(power > 0, power, 1)
        scale = torch.where(power > 0, fitted, 0)
    return (scale * predicted - measured).square().mean(1)


class SensitivityMetric(SaliencyMetric):
    """How far noise moves the map.

    Args:
        radius: of the uniform noise, in the units of the explained tensor; above 0.
        samples: noisy copies of each image; at least 1.
        norm: what the change is divided by: the norm of the "map" or of the "input".
    """

    def __init__(
        self,
        radius: float | int = 0.2,
        samples: int = 10,
        norm: Norm = "map",
        **options: Any,
    ) -> None:
        self.radius, self.samples, self.norm = radius, samples, norm
        super().__init__(**options)

    def _found(self, maps: Tensor, noisy_maps: Tensor, norms: Tensor | None) -> Tensor:
        if self.norm == "input" and norms is None:
            raise InputError("norm='input' needs the images' norms.")
        return sensitivities(maps, noisy_maps, norms if self.norm == "input" else None)


@final
@metric(
    "max-sensitivity",
    group="robustness",
    cite="yeh2019",
    requires="noisy_maps",
    direction="lower",
    unit="ratio",
    best=0.0,
)
class MaxSensitivity(SensitivityMetric):
    """Max-Sensitivity: how far the map moves under the worst of a few noises.

    Formula: 1/N · Σ_i max_s ‖a(x_i + ε_s) - a(x_i)‖ / ‖a(x_i)‖, ε uniform in [-0.2, 0.2] at every
    value of the normalised image, ten samples; the class stays that of the clean image.

    Rewards: methods whose maps do not change where the image hardly does.

    Misleads: a map that does not depend on the image is perfect. An all-zero noisy map gives
    exactly 1. More samples can only raise the number.

    Undefined: where the map is all zero and a noisy one is not.

    Differs: divided by ‖a(x)‖ as in Quantus since 0.4.2; norm="input" divides by ‖x‖ as before it.
    Opti-CAM's printed 1.03 to 1.25 are higher than this definition gives for smooth maps.

    Source: Yeh et al., NeurIPS 2019; settings of Opti-CAM's Table 4.
    """

    def update(self, maps: Tensor, noisy_maps: Tensor, norms: Tensor | None = None) -> None:
        """Add images: maps (N, H, W) and those of noisy copies (N, S, H, W)."""
        self._record(self._found(maps, noisy_maps, norms).amax(1))


@final
@metric(
    "avg-sensitivity",
    group="robustness",
    cite="bhatt2020",
    requires="noisy_maps",
    direction="lower",
    unit="ratio",
    best=0.0,
)
class AvgSensitivity(SensitivityMetric):
    """Avg-Sensitivity: how far the map moves under noise on average.

    Formula: 1/N · Σ_i mean_s ‖a(x_i + ε_s) - a(x_i)‖ / ‖a(x_i)‖, with the noise of Max-Sensitivity.

    Rewards: methods whose maps do not change where the image hardly does.

    Misleads: a map that does not depend on the image is perfect.

    Undefined: where the map is all zero and a noisy one is not.

    Source: Yeh et al., NeurIPS 2019; Bhatt et al., IJCAI 2020.
    """

    def update(self, maps: Tensor, noisy_maps: Tensor, norms: Tensor | None = None) -> None:
        """Add images: maps (N, H, W) and those of noisy copies (N, S, H, W)."""
        self._record(self._found(maps, noisy_maps, norms).mean(1))


@final
@metric(
    "infidelity",
    group="robustness",
    cite="yeh2019",
    requires="square_removals",
    direction="lower",
    unit="logit²",
    best=0.0,
)
class Infidelity(SaliencyMetric):
    """Infidelity: does the map's sum over a square tell how much the score drops without it?

    Formula: 1/N · Σ_i mean_s (β_i Σ_{u in square s} a_i(u) - (f(x_i) - f(x_i without square s)))²,
    f the class logit (or what `by` names), β_i the least-squares scale of image i, 100 random
    squares.

    Rewards: maps that are proportional to what removal costs.

    Misleads: it grows with the square of the logits' scale, so networks cannot be compared; a
    map of zeros scores the mean squared drop, which a bad map with β near 0 also gets.

    Undefined: never.

    Differs: removal of squares, Yeh's variant for images, where captum leaves the perturbation to
    the user; scaled by default (captum's normalize=True), because maps in [0, 1] have no unit.

    Source: Yeh et al., NeurIPS 2019.

    Args:
        samples: random squares; at least 1.
        side: of a square, as a share of the image's shorter side, in (0, 1].
        normalise: whether β scales the map; without it β is 1.
        by: the score that drops: "probability", "logit" or "target", the explained score itself.
    """

    def __init__(
        self,
        samples: int = 100,
        side: float | int = 0.15,
        normalise: bool = True,
        by: By = "logit",
        **options: Any,
    ) -> None:
        self.samples, self.side, self.normalise, self.by = samples, side, normalise, by
        super().__init__(**options)

    def update(self, maps: Tensor, squares: Tensor, drops: Tensor) -> None:
        """Add images: maps (N, H, W), squares (S, 4), and the score's drops (N, S)."""
        self._record(infidelity(maps, squares, drops, normalise=self.normalise))

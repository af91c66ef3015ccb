"""Does the map keep axioms? Completeness, non-sensitivity, input invariance."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_pair, check_squares, check_values
from torchsaliency.metrics.robustness import sensitivities


def completeness(
    attribution_sums: Float[Tensor, " n"], rises: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return |Σa - (f(x) - f(b))| / |f(x) - f(b)| of every image.

    Args:
        attribution_sums: Σa (N,).
        rises: f(x) - f(b) (N,); where it is 0 the result is 0 if the sum is, too, and NaN if not.

    Raises:
        InputError: other shapes, or values that are not finite.

    Example:
        >>> completeness(torch.tensor([1.5]), torch.tensor([2.0]))
        tensor([0.2500], dtype=torch.float64)
    """
    sums = check_values("attribution_sums", attribution_sums)
    wanted = check_values("rises", rises, len(sums)).to(sums.device)
    gap, size = (sums - wanted).abs(), wanted.abs()
    ratio = gap / torch.where(size > 0, size, 1)
    return torch.where(size > 0, ratio, torch.where(gap > 0, torch.nan, 0.0))


def non_sensitivity(
    maps: Float[Tensor, " n *size"],
    squares: Int[Tensor, "s ends"],
    drops: Float[Tensor, "n s"],
    *,
    least: float | int = 1e-5,
    least_drop: float | int = 1e-5,
) -> Float[Tensor, " n"]:
    """Return 100 · the share of squares of which map and network disagree whether they matter.

    Args:
        maps: S (N, *size) in [0, 1].
        squares: (S, 4), x0 y0 x1 y1 in pixels, x1 and y1 exclusive; (S, 6) in a volume.
        drops: (N, S), the score of the image minus that without the square.
        least: the map says that a square matters if its largest value is at least this.
        least_drop: the network says so if the score changes by at least this.

    Raises:
        InputError: maps outside [0, 1], or numbers that do not fit together.
        OptionError: a threshold that is not above 0.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> squares = torch.tensor([[0, 0, 1, 1], [1, 1, 2, 2]])
        >>> non_sensitivity(maps, squares, torch.tensor([[2.0, 0.5]]))
        tensor([50.], dtype=torch.float64)
    """
    _check_least(least, least_drop)
    values = require_maps(maps).double()
    corners, measured = check_squares(values, squares, drops)
    low, high = corners.chunk(2, 1)
    peaks = [
        values[(slice(None), *map(slice, start[::-1], end[::-1]))].flatten(1).amax(1)
        for start, end in zip(low.tolist(), high.tolist(), strict=True)
    ]
    disagree = (torch.stack(peaks, 1) >= least) != (measured.abs() >= least_drop)
    return 100 * disagree.double().mean(1)


def input_invariance(
    maps: Float[Tensor, " n *size"], shifted_maps: Float[Tensor, " n *size"]
) -> Float[Tensor, " n"]:
    """Return ‖a'(x + m) - a(x)‖ / ‖a(x)‖ of every image, f'(x + m) = f(x).

    Args:
        maps: a(x) (N, *size) in [0, 1].
        shifted_maps: a'(x + m) (N, *size) in [0, 1]; NaN where a(x) is all zero and this is not.

    Raises:
        InputError: maps outside [0, 1] or of different sizes.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> input_invariance(maps, maps)
        tensor([0.], dtype=torch.float64)
    """
    first, second = check_pair(maps, shifted_maps)
    return sensitivities(first, second[:, None])[:, 0]


@final
@metric(
    "completeness",
    group="axiomatic",
    cite="sundararajan2017",
    requires="attribution_sums",
    direction="lower",
    unit="ratio",
    best=0.0,
)
class Completeness(SaliencyMetric):
    """Completeness: by how much the attributions miss what they should add up to.

    Formula: 1/N · Σ_i |Σ_u a_i(u) - (f(x_i) - f(b_i))| / |f(x_i) - f(b_i)|, f the explained score
    and b the masking's baseline.

    Rewards: methods that hand out the score without a rest, such as integrated gradients.

    Misleads: a method that puts all of the score on one pixel is perfect. Methods that hand it out
    to another baseline, or down to the biases, miss by that, not by an error.

    Undefined: where the score does not rise above the baseline's and the sum is not 0.

    Differs: Quantus asks whether two floating-point numbers are equal, which rounding decides
    (erratum Q7). Maps in [0, 1] have no unit, so methods without attributions are refused.

    Source: Sundararajan, Taly and Yan, ICML 2017.
    """

    def update(self, attribution_sums: Tensor, rises: Tensor) -> None:
        """Add images: what the attributions add up to (N,), and should (N,)."""
        self._record(completeness(attribution_sums, rises))


@final
@metric(
    "non-sensitivity",
    group="axiomatic",
    cite="nguyen2020",
    requires="square_removals",
    direction="lower",
)
class NonSensitivity(SaliencyMetric):
    """Non-sensitivity: of how many regions do map and network disagree whether they matter at all?

    Formula: 100/N · Σ_i |{s : (max_s S_i ≥ 1e-5) ≠ (|f(x_i) - f(x_i without s)| ≥ 1e-5)}| / 100, s
    the 100 random squares of `infidelity`, f the class logit.

    Rewards: maps that are exactly 0 where the network looks at nothing, and there alone.

    Misleads: hardly any square leaves a logit as it was to 1e-5, so that a map without zeros is
    nearly perfect: only the exact zeros of a map count.

    Undefined: never.

    Differs: Quantus counts single values of the input, 150,528 passes for a picture of 224 × 224,
    and its larger steps cannot work; it takes negative attributions for none (erratum Q8).

    Source: Nguyen and Martínez, 2020.

    Args:
        samples: random squares; at least 1.
        side: of a square, as a share of the image's shorter side, in (0, 1].
        least: of the map from which a square matters to it; above 0.
        least_drop: change of the score from which a square matters to the network; above 0.
    """

    def __init__(
        self,
        samples: int = 100,
        side: float | int = 0.15,
        least: float | int = 1e-5,
        least_drop: float | int = 1e-5,
        **options: Any,
    ) -> None:
        _check_least(least, least_drop)
        self.samples, self.side, self.least, self.least_drop = samples, side, least, least_drop
        super().__init__(**options)

    def update(self, maps: Tensor, squares: Tensor, drops: Tensor) -> None:
        """Add images: maps (N, H, W), squares (S, 4), and the score's drops (N, S)."""
        self._record(
            non_sensitivity(maps, squares, drops, least=self.least, least_drop=self.least_drop)
        )


@final
@metric(
    "input-invariance",
    group="axiomatic",
    cite="kindermans2019",
    requires="shifted_maps",
    direction="lower",
    unit="ratio",
    best=0.0,
)
class InputInvariance(SaliencyMetric):
    """Input invariance: does the map change if image and network are shifted by the same constant?

    Formula: 1/N · Σ_i ‖a'(x_i + m) - a(x_i)‖ / ‖a(x_i)‖, a' of the network f'(x) = f(x - m) whose
    first layer takes m = -1 back.

    Rewards: methods that look at what the network computes and not at the numbers of the image.

    Misleads: methods with a fixed baseline change with the shift, because for them it is another
    question. A map that depends on nothing is perfect.

    Undefined: where the map is all zero and the shifted one is not.

    Differs: the change, where Quantus says whether it is below 1e-4 everywhere. Its shifted network
    is another function where the first layer pads (erratum Q9).

    Source: Kindermans et al., The (un)reliability of saliency methods, 2019.

    Args:
        shift: m, in the units of the explained tensor.
    """

    def __init__(self, shift: float | int = -1.0, **options: Any) -> None:
        self.shift = shift
        super().__init__(**options)

    def update(self, maps: Tensor, shifted_maps: Tensor) -> None:
        """Add images: maps (N, H, W), and those of the shifted images (N, H, W)."""
        self._record(input_invariance(maps, shifted_maps))


def _check_least(*values: float | int) -> None:
    if any(not 0 < value < torch.inf for value in values):
        raise OptionError(
            f"Thresholds of {' and '.join(map(str, values))} were given; they must be above 0."
        )

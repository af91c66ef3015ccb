"""Does the map change more than the image, the output or the features do? Ratios of changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchsaliency.core.maps import relative_change
from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_copies


def local_lipschitz(
    maps: Float[Tensor, " n *size"],
    noisy_maps: Float[Tensor, "n s *size"],
    image_distances: Float[Tensor, "n s"],
) -> Float[Tensor, " n"]:
    """Return max_s ‖a(x) - a(x_s)‖ / ‖x - x_s‖ of every image.

    Args:
        maps: a(x) (N, *size) in [0, 1].
        noisy_maps: a(x_s) (N, S, *size) in [0, 1].
        image_distances: ‖x - x_s‖ (N, S); where it is 0 the ratio is 0 if the maps are the same,
            and NaN (undefined) if not.

    Raises:
        InputError: maps outside [0, 1] or of different sizes, or distances that do not fit.

    Example:
        >>> maps = torch.zeros(1, 2, 2)
        >>> local_lipschitz(maps, torch.ones(1, 1, 2, 2), torch.tensor([[4.0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    first, others = check_copies(maps, noisy_maps)
    change = (others - first[:, None]).flatten(2).norm(dim=2)
    return _ratios(change, image_distances).amax(1)


def continuity(
    maps: Float[Tensor, " n *size"],
    translated_maps: Float[Tensor, "n s *size"],
    translation_distances: Float[Tensor, "n s"],
) -> Float[Tensor, " n"]:
    """Return max_s ‖a(x) - a(x_s)‖_1 / ‖x - x_s‖_2 of every image.

    Args:
        maps: a(x) (N, *size) in [0, 1].
        translated_maps: a(x_s) (N, S, *size) of the image moved by so many columns.
        translation_distances: ‖x - x_s‖_2 (N, S); see `local_lipschitz` for 0.

    Raises:
        InputError: as `local_lipschitz`.

    Example:
        >>> maps = torch.zeros(1, 2, 2)
        >>> continuity(maps, torch.ones(1, 1, 2, 2), torch.tensor([[2.0]]))
        tensor([2.], dtype=torch.float64)
    """
    first, others = check_copies(maps, translated_maps)
    change = (others - first[:, None]).abs().flatten(2).sum(2)
    return _ratios(change, translation_distances).amax(1)


def relative_stability(
    maps: Float[Tensor, " n *size"],
    noisy_maps: Float[Tensor, "n s *size"],
    changes: Float[Tensor, "n s"] | None,
    same_class: Bool[Tensor, "n s"] | None,
    least: float | int = 1e-6,
) -> Float[Tensor, " n"]:
    """Return max_s ‖(a(x) - a(x_s)) / a(x)‖ / max(D_s, least) over copies of the same prediction.

    NaN where the prediction changes for every copy.

    Args:
        maps: a(x) (N, *size) in [0, 1]; where it is 0, it counts as `least`.
        noisy_maps: a(x_s) (N, S, *size) in [0, 1].
        changes: D (N, S), how far the image, the output or the features changed.
        same_class: (N, S), whether the network predicts for the copy what it predicts for the
            image.
        least: the smallest denominator.

    Raises:
        InputError: maps outside [0, 1] or of different sizes, or changes that do not fit or are
            None: the network's output is no (N, K).
        OptionError: `least` is not above 0.

    Example:
        >>> maps, yes = torch.ones(1, 2, 2), torch.tensor([[True]])
        >>> relative_stability(maps, maps[:, None] / 2, torch.tensor([[0.5]]), yes)
        tensor([2.], dtype=torch.float64)
    """
    if least <= 0:
        raise OptionError(f"A smallest denominator of {least} was given; it must be above 0.")
    first, others = check_copies(maps, noisy_maps)
    if changes is None or same_class is None:
        raise InputError(
            "The network's output is not one row of numbers an image, so its changes have no size; "
            "relative stability needs a classifier, an encoder or a regression."
        )
    whole = first[:, None].expand_as(others).flatten(0, 1)
    moved = relative_change(whole, others.flatten(0, 1), least).view(others.shape[:2])
    size = _check_distances(changes, others).clamp_min(least)
    kept = same_class.to(moved.device)
    ratio = torch.where(kept, moved / size, -torch.inf).amax(1)
    return torch.where(kept.any(1), ratio, torch.nan)


def relative_input_stability(
    maps: Float[Tensor, " n *size"],
    noisy_maps: Float[Tensor, "n s *size"],
    image_changes: Float[Tensor, "n s"],
    same_class: Bool[Tensor, "n s"] | None,
    least: float | int = 1e-6,
) -> Float[Tensor, " n"]:
    """Return `relative_stability` with D = ‖(x - x_s) / x‖.

    Args:
        maps: S (N, *size) of the images.
        noisy_maps: (N, S, *size) of their copies.
        image_changes: (N, S), ‖(x - x_s) / x‖.
        same_class: (N, S), whether the prediction for the copy is that for the image.
        least: value of the denominator; above 0.

    Raises:
        InputError: they do not fit each other.
        OptionError: `least` is not above 0.

    Example:
        >>> maps, yes = torch.ones(1, 2, 2), torch.tensor([[True]])
        >>> relative_input_stability(maps, maps[:, None] / 2, torch.tensor([[0.5]]), yes)
        tensor([2.], dtype=torch.float64)
    """
    return relative_stability(maps, noisy_maps, image_changes, same_class, least)


def relative_output_stability(
    maps: Float[Tensor, " n *size"],
    noisy_maps: Float[Tensor, "n s *size"],
    output_distances: Float[Tensor, "n s"] | None,
    same_class: Bool[Tensor, "n s"] | None,
    least: float | int = 1e-6,
) -> Float[Tensor, " n"]:
    """Return `relative_stability` with D = ‖f(x) - f(x_s)‖ of the network's numbers.

    Args:
        maps: S (N, *size) of the images.
        noisy_maps: (N, S, *size) of their copies.
        output_distances: (N, S), ‖f(x) - f(x_s)‖; None if the network gives no numbers (N, K).
        same_class: (N, S), whether the prediction for the copy is that for the image.
        least: value of the denominator; above 0.

    Raises:
        InputError: they do not fit each other.
        OptionError: `least` is not above 0.

    Example:
        >>> maps, yes = torch.ones(1, 2, 2), torch.tensor([[True]])
        >>> relative_output_stability(maps, maps[:, None] / 2, torch.tensor([[0.5]]), yes)
        tensor([2.], dtype=torch.float64)
    """
    return relative_stability(maps, noisy_maps, output_distances, same_class, least)


def relative_representation_stability(
    maps: Float[Tensor, " n *size"],
    noisy_maps: Float[Tensor, "n s *size"],
    feature_changes: Float[Tensor, "n s"],
    same_class: Bool[Tensor, "n s"] | None,
    least: float | int = 1e-6,
) -> Float[Tensor, " n"]:
    """Return `relative_stability` with D = ‖(A - A_s) / A‖ of the layer's feature maps.

    Args:
        maps: S (N, *size) of the images.
        noisy_maps: (N, S, *size) of their copies.
        feature_changes: (N, S), ‖(A - A_s) / A‖.
        same_class: (N, S), whether the prediction for the copy is that for the image.
        least: value of the denominator; above 0.

    Raises:
        InputError: they do not fit each other.
        OptionError: `least` is not above 0.

    Example:
        >>> maps, yes = torch.ones(1, 2, 2), torch.tensor([[True]])
        >>> relative_representation_stability(maps, maps[:, None] / 2, torch.tensor([[0.5]]), yes)
        tensor([2.], dtype=torch.float64)
    """
    return relative_stability(maps, noisy_maps, feature_changes, same_class, least)


def _check_distances(distances: Tensor, copies: Tensor) -> Tensor:
    """Return distances (N, S), at least 0, in float64."""
    found = distances.detach().double().to(copies.device)
    sound = found.shape == copies.shape[:2] and bool((found.isfinite() & (found >= 0)).all())
    if not sound:
        raise InputError(
            f"Distances of {tuple(distances.shape)} were given for {copies.shape[1]} copies of "
            f"{copies.shape[0]} images; give one finite number of 0 or more a copy."
        )
    return found


def _ratios(change: Tensor, distances: Tensor) -> Tensor:
    size = _check_distances(distances, change)
    ratio = change / torch.where(size > 0, size, 1)
    return torch.where(size > 0, ratio, torch.where(change > 0, torch.nan, 0.0))


class _NoisyMetric(SaliencyMetric):
    """A metric of maps of noisy copies.

    Args:
        radius: of the uniform noise, in the units of the explained tensor; above 0.
        samples: noisy copies of each image; at least 1.
    """

    def __init__(self, radius: float | int = 0.2, samples: int = 10, **options: Any) -> None:
        self.radius, self.samples = radius, samples
        super().__init__(**options)


@final
@metric(
    "local-lipschitz",
    group="robustness",
    cite="alvarezmelis2018",
    requires="noisy_maps",
    direction="lower",
    unit="ratio",
    best=0.0,
)
class LocalLipschitz(_NoisyMetric):
    """Local Lipschitz estimate: how far the map moves for how far the image moves.

    Formula: 1/N · Σ_i max_s ‖a(x_i) - a(x_i + ε_s)‖ / ‖ε_s‖, with the noise of Max-Sensitivity.

    Rewards: methods whose maps do not change where the image hardly does.

    Misleads: a map that does not depend on the image is perfect. The ratio depends on the sizes of
    map and image and on the preprocessing, so compare it within one network only.

    Undefined: never.

    Differs: the noise is uniform and shared with Max-Sensitivity, ten samples; Quantus draws 200
    Gaussian ones of deviation 0.1. Both sample the neighbourhood of the paper, a ball.

    Source: Alvarez-Melis and Jaakkola, ICML workshop on human interpretability, 2018.
    """

    def update(self, maps: Tensor, noisy_maps: Tensor, image_distances: Tensor) -> None:
        """Add images: maps (N, H, W), those of noisy copies (N, S, H, W), and ‖ε‖ (N, S)."""
        self._record(local_lipschitz(maps, noisy_maps, image_distances))


class _RelativeStability(_NoisyMetric):
    """A relative change of the map over one of something else.

    Args:
        radius: of the uniform noise, in the units of the explained tensor; above 0.
        samples: noisy copies of each image; at least 1.
        least: value of the denominator; above 0.
    """

    def __init__(
        self,
        radius: float | int = 0.2,
        samples: int = 10,
        least: float | int = 1e-6,
        **options: Any,
    ) -> None:
        if least <= 0:
            raise OptionError(f"A smallest denominator of {least} was given; it must be above 0.")
        self.least = least
        super().__init__(radius, samples, **options)


def _stability(name: str, requires: str = "noisy_maps") -> Callable[..., Any]:
    return metric(
        name,
        group="robustness",
        cite="agarwal2022",
        requires=requires,
        direction="lower",
        unit="ratio",
        best=0.0,
    )


@final
@_stability("ris")
class RelativeInputStability(_RelativeStability):
    """Relative input stability: by what share the map changes, for the share the image changes by.

    Formula: 1/N · Σ_i max_s ‖(a - a_s) / a‖ / max(‖(x_i - x_s) / x_i‖, 1e-6), over noisy copies
    x_s for which the network predicts the same class; numbers that are 0 count as 1e-6.

    Rewards: methods whose maps do not change where the image hardly does.

    Misleads: where a map is 0, any change counts a million times, so a map with exact zeros (a
    ReLU's, or any that is stretched to [0, 1]) is judged by these pixels alone; `least` is that
    number, and 0.01, say, is steadier. Pixels of the normalised image that are near 0 do the same
    to the denominator.

    Undefined: where the prediction changes for every copy.

    Differs: Quantus drops an image if one copy changes the prediction, and its noise is above 0
    only (erratum Q1).

    Source: Agarwal et al., Rethinking stability for attribution-based explanations, 2022.
    """

    def update(
        self, maps: Tensor, noisy_maps: Tensor, image_changes: Tensor, same_class: Tensor | None
    ) -> None:
        """Add images: maps (N, H, W), those of S noisy copies, and what changed (N, S)."""
        self._record(
            relative_input_stability(maps, noisy_maps, image_changes, same_class, self.least)
        )


@final
@_stability("ros")
class RelativeOutputStability(_RelativeStability):
    """Relative output stability: by what share the map changes, for how far the output moves.

    Formula: 1/N · Σ_i max_s ‖(a - a_s) / a‖ / max(‖f(x_i) - f(x_s)‖, 1e-6), f the network's
    numbers, over noisy copies x_s for which it predicts the same class; a = 0 counts as 1e-6.

    Rewards: methods whose maps change only where the network's output does.

    Misleads: as `ris`, by the pixels in which the map is 0. It depends on the logits' scale, so
    networks cannot be compared.

    Undefined: where the prediction changes for every copy.

    Differs: as `ris` (erratum Q1).

    Source: Agarwal et al., Rethinking stability for attribution-based explanations, 2022.
    """

    def update(
        self,
        maps: Tensor,
        noisy_maps: Tensor,
        output_distances: Tensor | None,
        same_class: Tensor | None,
    ) -> None:
        """Add images: maps (N, H, W), those of S noisy copies, and what changed (N, S)."""
        self._record(
            relative_output_stability(maps, noisy_maps, output_distances, same_class, self.least)
        )


@final
@_stability("rrs", requires="noisy_features")
class RelativeRepresentationStability(_RelativeStability):
    """Relative representation stability: the map's relative change over the features'.

    Formula: 1/N · Σ_i max_s ‖(a - a_s) / a‖ / max(‖(A_i - A_s) / A_i‖, 1e-6), A the feature maps of
    the explained layer, over noisy copies x_s for which the network predicts the same class;
    numbers that are 0 count as 1e-6.

    Rewards: methods whose maps change only where the features do.

    Misleads: as `ris`, by the pixels in which the map is 0; after a ReLU the features have zeros,
    too, and a feature that awakes counts a million times in the denominator.

    Undefined: where the prediction changes for every copy.

    Differs: as `ris` (erratum Q1). The paper leaves the representation open, Quantus takes all
    layers; here it is the explained one.

    Source: Agarwal et al., Rethinking stability for attribution-based explanations, 2022.
    """

    def update(
        self,
        maps: Tensor,
        noisy_maps: Tensor,
        feature_changes: Tensor,
        same_class: Tensor | None,
    ) -> None:
        """Add images: maps (N, H, W), those of S noisy copies, and what changed (N, S)."""
        self._record(
            relative_representation_stability(
                maps, noisy_maps, feature_changes, same_class, self.least
            )
        )


@final
@metric(
    "continuity",
    group="robustness",
    cite="montavon2018",
    requires="translated_maps",
    direction="lower",
    unit="ratio",
    best=0.0,
)
class Continuity(SaliencyMetric):
    """Continuity: how far the map moves for how far the image moves, as it slides out of view.

    Formula: 1/N · Σ_i max_s ‖a(x_i) - a(x_s)‖_1 / ‖x_i - x_s‖_2, x_s the image moved by -W + k·⌊(2W
    + 1) / 28⌋ columns, k = 1…28; the image's smallest value fills what comes in.

    Rewards: maps that change little, whatever is shown.

    Misleads: a map that follows the object, as it should, changes and is punished; one that does
    not depend on the image is perfect. The number depends on the size of the image.

    Undefined: where a move changes the map and not the image.

    Differs: as Quantus, for images at least 14 columns wide (erratum Q2).

    Source: Montavon et al., Digital Signal Processing 73, 2018.

    Args:
        steps: copies of each image that are moved; at least 1.
    """

    def __init__(self, steps: int = 28, **options: Any) -> None:
        self.steps = steps
        super().__init__(**options)

    def update(self, maps: Tensor, translated_maps: Tensor, translation_distances: Tensor) -> None:
        """Add images: maps (N, H, W), those of S moved copies, and ‖x - x_s‖ (N, S)."""
        self._record(continuity(maps, translated_maps, translation_distances))

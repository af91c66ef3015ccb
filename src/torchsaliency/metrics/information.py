"""How much of the image must be known until the network says the class? SIC and AIC."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import check_curves


def softmax_information(
    information: Float[Tensor, "n t"], known: Float[Tensor, "n t"]
) -> Float[Tensor, " n"]:
    """Return 100 times the area under the softmax information curve (SIC), in [0, 100].

    Information and score both run from 0 at the first point to 1 at the last; the score is the
    largest so far. NaN (undefined) where the image holds no more information than its first point,
    or has no higher score.

    Args:
        information: (N, T) of each image, the first of random pixels alone, the last of the whole.
        known: (N, T) class probabilities of these images.

    Raises:
        InputError: different shapes, fewer than two points, or numbers out of range.

    Example:
        >>> sizes = torch.tensor([[10.0, 15, 20]])
        >>> softmax_information(sizes, torch.tensor([[0.0, 0.5, 1.0]]))
        tensor([50.], dtype=torch.float64)
    """
    if information.shape != known.shape or information.ndim != 2 or information.shape[1] < 2:  # noqa: PLR2004
        raise InputError(
            f"Information of {tuple(information.shape)} and scores of {tuple(known.shape)} were "
            "given; give (N, T) both, the first of the blurred image, the last of the whole."
        )
    scores = check_curves(known)
    amounts = information.detach().double().to(scores.device)
    if not bool(amounts.isfinite().all()):
        raise InputError("The information holds NaN or infinite values; give finite numbers.")
    places, heights = _to_unit(amounts), _to_unit(scores).cummax(1).values
    places, order = places.sort(dim=1, stable=True)
    area = torch.trapezoid(heights.gather(1, order), places, dim=1)
    defined = (amounts[:, -1] > amounts[:, 0]) & (scores[:, -1] > scores[:, 0])
    return torch.where(defined, 100 * area, torch.nan)


def accuracy_information(
    information: Float[Tensor, "n t"], known_predicted: Bool[Tensor, "n t"]
) -> Float[Tensor, " n"]:
    """Return 100 times the area under the accuracy information curve (AIC), in [0, 100].

    As `softmax_information`, of whether the class is predicted. NaN (undefined) where it is not
    predicted of the whole image, or already of its first point.

    Args:
        information: (N, T) of each image, the first of random pixels alone, the last of the whole.
        known_predicted: (N, T) whether the class is predicted of these images.

    Raises:
        InputError: different shapes, fewer than two points, or numbers out of range.

    Example:
        >>> sizes = torch.tensor([[10.0, 15, 20]])
        >>> accuracy_information(sizes, torch.tensor([[False, True, True]]))
        tensor([75.], dtype=torch.float64)
    """
    return softmax_information(information, known_predicted.double())


def _to_unit(curves: Tensor) -> Tensor:
    first, last = curves[:, :1], curves[:, -1:]
    span = last - first
    return ((curves - first) / torch.where(span > 0, span, 1)).clamp(0, 1)


class InformationMetric(SaliencyMetric):
    """What is known of the class, against what is known of the image.

    Args:
        known: share of random pixels that are always shown, in (0, 1).
    """

    def __init__(self, known: float = 0.01, **options: Any) -> None:
        self.known = known
        super().__init__(**options)


@final
@metric(
    "sic",
    group="perturbation",
    cite="kapishnikov2019",
    requires="information_curve",
    direction="higher",
)
class SoftmaxInformation(InformationMetric):
    """SIC: how soon the class probability is there, by the information that is shown.

    Formula: 100/N · Σ_i ∫_0^1 p_i(h) dh, p_i(h) the largest class probability so far, 0 of the
    image interpolated from 1 % random pixels and 1 of the whole image, once salient pixels bring
    the share h of the difference of their compressed sizes.

    Rewards: maps that show the class with few bytes: the telling pixels, and no texture.

    Misleads: bytes are those of one compressor; smooth objects cost nothing and textured ones much.
    The largest score so far hides where the network loses the class again.

    Undefined: where the whole image has no higher probability than the interpolated one, or no more
    bytes.

    Differs: pixels are interpolated by the mean of their neighbours (ROAD's), published linearly
    between triangles; bytes are deflate's, published WebP's; the mean of areas, published the area
    of the median curve; images of p < 0.8 are not left out.

    Source: Kapishnikov et al. (XRAI), ICCV 2019.
    """

    def update(self, information: Tensor, known: Tensor) -> None:
        """Add images: information and class probabilities, (N, T) each."""
        self._record(softmax_information(information, known))


@final
@metric(
    "aic",
    group="perturbation",
    cite="kapishnikov2019",
    requires="information_curve",
    direction="higher",
)
class AccuracyInformation(InformationMetric):
    """AIC: how soon the class is predicted, by the information that is shown.

    Formula: 100/N · Σ_i ∫_0^1 a_i(h) dh, a_i(h) whether the class has been predicted so far, once
    salient pixels bring the share h of the difference of compressed sizes, as in `sic`.

    Rewards: maps that let the network predict the class with few bytes.

    Misleads: as `sic`; a prediction by a hair counts in full, and one of three classes is predicted
    of nothing at all.

    Undefined: where the class is not predicted of the whole image, or already of the interpolated
    one.

    Differs: as `sic`, whose passes it shares.

    Source: Kapishnikov et al. (XRAI), ICCV 2019.
    """

    def update(self, information: Tensor, known_predicted: Tensor) -> None:
        """Add images: information, and whether the class is predicted, (N, T) each."""
        self._record(accuracy_information(information, known_predicted))

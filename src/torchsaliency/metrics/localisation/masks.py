"""Is the map on the object's pixels? Ranks, mass and area under the curve against masks."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric
from torchsaliency.metrics.checks import VOID, check_masks
from torchsaliency.metrics.similarity import average_ranks


class _Judged(NamedTuple):
    """Pixels (N, P) in float64."""

    saliency: Tensor  # 0 at void pixels
    inside: Tensor  # 1 on the object
    known: Tensor  # 1 where it is not void


def relevance_rank_accuracy(maps: Float[Tensor, " n *size"], masks: Tensor) -> Float[Tensor, " n"]:
    """Return 100 · the share of the object among the |O| most salient pixels; NaN without object.

    Equal values count with the share of them that is on the object, which is what a random order of
    them gives on average.

    Args:
        maps: S (N, H, W) in [0, 1].
        masks: O (N, H, W): 0 background, 255 void, all else object; void pixels are left out.

    Raises:
        InputError: maps outside [0, 1], or masks of another size or without labels.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> mask = torch.tensor([[[1, 0], [0, 0]]])
        >>> relevance_rank_accuracy(maps, mask)
        tensor([100.], dtype=torch.float64)
    """
    pixels = _judge(maps, masks)
    return 100 * _hits(pixels, pixels.inside.sum(1))  # 0 / 0 is NaN, as promised


def top_k_intersection(
    maps: Float[Tensor, " n *size"],
    masks: Tensor,
    k: float | int = 0.02,
    *,
    concept_influence: bool = False,
) -> Float[Tensor, " n"]:
    """Return 100 · the share of the object among the k most salient pixels; NaN without object.

    Args:
        maps: S (N, H, W) in [0, 1].
        masks: O (N, H, W): 0 background, 255 void, all else object; void pixels are left out.
        k: how many pixels, or their share of the image if below 1; equal values count as in
            `relevance_rank_accuracy`.
        concept_influence: whether the share is divided by the object's share of the image: how many
            times more often than by chance the most salient pixels are on it.

    Raises:
        InputError: maps outside [0, 1], or masks of another size or without labels.
        OptionError: a k that is not above 0, or more pixels than there are.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> mask = torch.tensor([[[1, 0], [0, 0]]])
        >>> top_k_intersection(maps, mask, 1)
        tensor([100.], dtype=torch.float64)
    """
    _check_k(k)
    pixels = _judge(maps, masks)
    count = pixels.known.sum(1)
    most = count.new_full((len(count),), k) if k >= 1 else (k * count).round().clamp_min(1)
    if bool((most > count).any()):
        raise OptionError(
            f"The {k:g} most salient pixels were asked for and a map has {int(count.min())}; give "
            "fewer, or a share below 1."
        )
    found = _hits(pixels, most)
    area = pixels.inside.sum(1)
    if concept_influence:
        found = found * count / torch.where(area > 0, area, 1)
    return torch.where(area > 0, 100 * found, torch.nan)


def relevance_mass_accuracy(maps: Float[Tensor, " n *size"], masks: Tensor) -> Float[Tensor, " n"]:
    """Return 100 · Σ_O S / ΣS of every image; NaN without object, and for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].
        masks: O (N, H, W): 0 background, 255 void, all else object; void pixels are left out.

    Raises:
        InputError: maps outside [0, 1], or masks of another size or without labels.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> mask = torch.tensor([[[1, 0], [0, 0]]])
        >>> relevance_mass_accuracy(maps, mask)
        tensor([58.8235], dtype=torch.float64)
    """
    pixels = _judge(maps, masks)
    mass = (pixels.saliency * pixels.inside).sum(1) / pixels.saliency.sum(1)
    return torch.where(pixels.inside.any(1), 100 * mass, torch.nan)


def attribution_localisation(
    maps: Float[Tensor, " n *size"],
    masks: Tensor,
    *,
    weighted: bool = False,
    max_size: float | int = 1.0,
) -> Float[Tensor, " n"]:
    """Return 100 μ of every image, μ = Σ_O S / ΣS; NaN without object, and for a map of zeros.

    Args:
        maps: S (N, H, W) in [0, 1].
        masks: O (N, H, W): 0 background, 255 void, all else object; void pixels are left out.
        weighted: whether μ is divided by the object's share of the image.
        max_size: NaN also where the object's share of the image is larger.

    Raises:
        InputError: maps outside [0, 1], or masks of another size or without labels.
        OptionError: a size outside (0, 1].

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> mask = torch.tensor([[[1, 0], [0, 0]]])
        >>> attribution_localisation(maps, mask)
        tensor([58.8235], dtype=torch.float64)
    """
    _check_size(max_size)
    pixels = _judge(maps, masks)
    share = pixels.inside.sum(1) / pixels.known.sum(1)
    found = relevance_mass_accuracy(maps, masks)
    found = found / share if weighted else found
    return torch.where(share <= max_size, found, torch.nan)


def area_under_roc(maps: Float[Tensor, " n *size"], masks: Tensor) -> Float[Tensor, " n"]:
    """Return 100 · the probability that a pixel of the object is above one of the background.

    Half of it where they are equal: the area under the receiver operating characteristic. NaN
    without object or background.

    Args:
        maps: S (N, H, W) in [0, 1].
        masks: O (N, H, W): 0 background, 255 void, all else object; void pixels are left out.

    Raises:
        InputError: maps outside [0, 1], or masks of another size or without labels.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> mask = torch.tensor([[[1, 0], [0, 0]]])
        >>> area_under_roc(maps, mask)
        tensor([100.], dtype=torch.float64)
    """
    pixels = _judge(maps, masks)
    # void pixels rank below all others, so that these are `void` ranks too high
    ranks = average_ranks(torch.where(pixels.known > 0, pixels.saliency, -1)).to(maps.device)
    inside, known = pixels.inside.sum(1), pixels.known.sum(1)
    void = pixels.known.shape[1] - known
    won = ((ranks - void[:, None]) * pixels.inside).sum(1) - inside * (inside + 1) / 2
    return 100 * won / (inside * (known - inside))  # 0 / 0 is NaN, as promised


@final
@metric(
    "relevance-rank",
    group="localisation",
    cite="arras2022",
    annotations="masks",
    direction="higher",
)
class RelevanceRankAccuracy(SaliencyMetric):
    """Relevance rank accuracy: how many of the map's first pixels are on the object.

    Formula: 100/N · Σ_i |P_i ∩ O_i| / |O_i|, O the object's pixels and P as many of the most
    salient ones.

    Rewards: maps whose most salient pixels are on the object, whatever their values.

    Misleads: the pixels after the first |O| may be anywhere. A map of ones scores the object's
    share of the image, and a network may rightly look at a part only.

    Undefined: where there is no object.

    Differs: equal values count with their share on the object; Quantus takes them in the order in
    which its sort leaves them (erratum Q4). Void pixels are left out.

    Source: Arras, Osman and Samek, Information Fusion 81, 2022.
    """

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1], and masks (N, H, W)."""
        self._record(relevance_rank_accuracy(maps, masks))


@final
@metric(
    "relevance-mass",
    group="localisation",
    cite="arras2022",
    annotations="masks",
    direction="higher",
)
class RelevanceMassAccuracy(SaliencyMetric):
    """Relevance mass accuracy: how much of the map's mass is on the object.

    Formula: 100/N · Σ_i Σ_O S / ΣS, O the object's pixels.

    Rewards: maps without mass outside the object.

    Misleads: a single pixel on the object is perfect, and a map of ones scores the object's share
    of the image. `ep` is the same for boxes.

    Undefined: where there is no object, and for a map of zeros.

    Source: Arras, Osman and Samek, Information Fusion 81, 2022.
    """

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1], and masks (N, H, W)."""
        self._record(relevance_mass_accuracy(maps, masks))


@final
@metric("top-k", group="localisation", cite="theiner2022", annotations="masks", direction="higher")
class TopKIntersection(SaliencyMetric):
    """Top-k intersection: how many of the k most salient pixels are on the object.

    Formula: 100/N · Σ_i |P_i ∩ O_i| / k, O the object's pixels and P the k most salient ones, by
    default 2 % of the image (1000 pixels of 224 × 224).

    Rewards: maps whose peak is on the object.

    Misleads: all but k pixels are free, and an object smaller than k cannot score 100.

    Undefined: where there is no object.

    Differs: k is a share of the image, so that sizes can be compared; numbers from 1 are pixels, as
    in Quantus. Equal values as for `relevance-rank` (erratum Q4).

    Source: Theiner, Müller-Budack and Ewerth, WACV 2022.

    Args:
        k: a share of the image below 1, or pixels from 1.
        concept_influence: whether the share is divided by the object's share of the image.
    """

    def __init__(
        self, k: float | int = 0.02, concept_influence: bool = False, **options: Any
    ) -> None:
        _check_k(k)
        self.k, self.concept_influence = k, concept_influence
        super().__init__(**options)

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1], and masks (N, H, W)."""
        self._record(
            top_k_intersection(maps, masks, self.k, concept_influence=self.concept_influence)
        )


@final
@metric(
    "attribution-localisation",
    group="localisation",
    cite="kohlbrenner2020",
    annotations="masks",
    direction="higher",
)
class AttributionLocalisation(SaliencyMetric):
    """Attribution localisation: the share of the map's mass on the object, for objects of a size.

    Formula: 100/N · Σ_i μ_i, μ = Σ_O S / ΣS; weighted=True takes μ · HW / |O|, 1 for a map of ones.

    Rewards: maps without mass outside the object.

    Misleads: as `relevance-mass`, which it is without its options; weighted, small objects decide.

    Undefined: where there is no object, where it is larger than `max_size` of the image, and for a
    map of zeros.

    Differs: Quantus multiplies by the object's size where the paper divides, relative to the size
    of all images but the first two of the batch (erratum Q5).

    Source: Kohlbrenner et al., IJCNN 2020.

    Args:
        weighted: whether μ is divided by the object's share of the image.
        max_size: largest share of the image that an object may take, in (0, 1].
    """

    def __init__(self, weighted: bool = False, max_size: float | int = 1.0, **options: Any) -> None:
        _check_size(max_size)
        self.weighted, self.max_size = weighted, max_size
        super().__init__(**options)

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1], and masks (N, H, W)."""
        found = attribution_localisation(
            maps, masks, weighted=self.weighted, max_size=self.max_size
        )
        self._record(found)


@final
@metric("auc", group="localisation", cite="fawcett2006", annotations="masks", direction="higher")
class AreaUnderROC(SaliencyMetric):
    """AUC: how well the map's values tell the object's pixels from the background's.

    Formula: 100/N · Σ_i (|{(u, v) : S_u > S_v}| + |{(u, v) : S_u = S_v}| / 2) / (|O| |B|), u of the
    object O and v of the background B: the area under the receiver operating characteristic.

    Rewards: maps that are higher on all of the object than beside it; scale does not count.

    Misleads: 50, not 0, is a map that says nothing. Where objects are small, a map that is wide
    around the object scores high.

    Undefined: where there is no object, or nothing else.

    Source: Fawcett, Pattern Recognition Letters 27, 2006.
    """

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: S (N, H, W) in [0, 1], and masks (N, H, W)."""
        self._record(area_under_roc(maps, masks))


def _judge(maps: Tensor, masks: Tensor) -> _Judged:
    saliency = require_maps(maps).double()
    labels = check_masks(masks, saliency).to(saliency.device).flatten(1)
    known = (labels != VOID).double()
    inside = known * (labels != 0)
    return _Judged(saliency.flatten(1) * known, inside, known)


def _hits(pixels: _Judged, most: Tensor) -> Tensor:
    """Return the share of the object among the `most` (N,) first pixels, at random among equals."""
    values = torch.where(pixels.known > 0, pixels.saliency, -1)
    ordered = values.sort(1, descending=True).values
    last = ordered.gather(1, (most.long() - 1).clamp_min(0)[:, None])
    before, equal = (values > last).double(), (values == last).double()
    room = most - before.sum(1)
    hits = (before * pixels.inside).sum(1)
    hits = hits + room * (equal * pixels.inside).sum(1) / equal.sum(1)
    return hits / most


def _check_k(k: float | int) -> None:
    if not 0 < k < torch.inf or (k > 1 and k != round(k)):
        raise OptionError(f"k is {k}; give a number of pixels, or a share of them below 1.")


def _check_size(share: float | int) -> None:
    if not 0 < share <= 1:
        raise OptionError(f"max_size is {share}; give a share of the image, in (0, 1].")

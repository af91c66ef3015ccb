"""Opti-CAM's studies: AD, AG and AI of variants of a map (selectivity, boxes, other classes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.explanation import Explanation
from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import require_maps
from torchsaliency.core.space import add_sides
from torchsaliency.errors import OptionError
from torchsaliency.measures import masked_scores
from torchsaliency.measures.judge import Labels
from torchsaliency.metrics import AverageDrop, AverageGain, AverageIncrease, SaliencyMetric
from torchsaliency.metrics.checks import check_boxes

ALPHAS = (0.01, 0.05, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Powers of Opti-CAM's Figure A4."""

POWER = "α = "
"""What the names of powers begin with."""

WITH_MAP, BOX_ONLY = ("S", "B∩S", "S∖B"), ("B", "I∖B")
CLASSES = ("ground truth", "most", "second", "least", "most, misclassified")

STUDIES: Mapping[str, tuple[str, ...]] = {
    "boxes": (*WITH_MAP, *BOX_ONLY),
    "boxes-published": (*WITH_MAP, *BOX_ONLY),
    "classes": CLASSES,
    "selectivity": tuple(f"{POWER}{alpha:g}" for alpha in ALPHAS),
}
"""The variants of each study that a plan may name."""


_KINDS = (AverageDrop, AverageGain, AverageIncrease)


def study_label(metric: str, variant: str) -> str:
    """Return what a metric of one variant is called: "ad, B∩S"."""
    return f"{metric}, {variant}"


def study_metrics(name: str | None) -> dict[str, SaliencyMetric]:
    """Return the metrics by label, without images, of the study that a plan names."""
    variants = STUDIES[name] if name else ()
    return {
        study_label(kind.entry.name, variant): kind() for variant in variants for kind in _KINDS
    }


def power_variants(
    maps: Float[Tensor, " n *size"], alphas: Sequence[float | int] = ALPHAS
) -> dict[str, Tensor]:
    """Return maps raised to powers: S ← S^α after normalisation (Opti-CAM, Figure A4).

    α below 1 shows more of the image, α above 1 less; 0 and 1 stay, so that the zeros of a map
    remain zeros for every α.

    Args:
        maps: (N, H, W) in [0, 1].
        alphas: powers, each above 0.

    Raises:
        OptionError: a power that is not above 0, a power twice, or none.
    """
    names = [f"{POWER}{alpha:g}" for alpha in alphas]
    if not alphas or not all(alpha > 0 for alpha in alphas) or len(set(names)) < len(names):
        raise OptionError(f"Powers must be above 0, each once, and {tuple(alphas)} were given.")
    powers = torch.tensor([float(alpha) for alpha in alphas], device=maps.device)
    raised = require_maps(maps)[:, None] ** add_sides(powers, maps)
    return dict(zip(names, raised.unbind(1), strict=True))


def box_variants(
    maps: Float[Tensor, " n *size"], boxes: Sequence[Tensor], *, published: bool = False
) -> dict[str, Tensor]:
    """Return the map inside and outside the objects' boxes (Opti-CAM, Table 5).

    The variants are S, B∩S, S∖B, and, without any map, B and I∖B; B is the union of the image's
    boxes, clipped to it. Maps are not normalised again after intersecting.

    Args:
        maps: (N, H, W) in [0, 1].
        boxes: (B, 4) an image, x0 y0 x1 y1 in pixels of the images.
        published: use the slices of the published helper, which swaps the axes and lets negative
            coordinates wrap around (erratum O7), to test what its table says.

    Raises:
        InputError: a box is invalid.
    """
    maps = require_maps(maps)
    inside = box_masks(boxes, maps, published=published)
    masks = (maps, maps * inside, maps * (1 - inside), inside, 1 - inside)
    return dict(zip(STUDIES["boxes"], masks, strict=True))


def class_variants(
    truth: Mapping[str, Explanation],
    explain_classes: Callable[[Tensor], Mapping[str, Explanation]],
) -> dict[str, dict[str, Tensor]]:
    """Return each method's maps of the true and of other classes (Opti-CAM, Table A.9).

    The variants are the class that is explained: the ground truth, and the most, the second and the
    least probable class of the image. The true one is judged. `find_misclassified` scores the most
    probable class of misclassified images alone.

    Args:
        truth: the explanations of the true classes, by method.
        explain_classes: explains other classes (N,) of the same images.
    """
    order = next(iter(truth.values())).output.argsort(dim=1, descending=True)
    others = [explain_classes(classes) for classes in (order[:, 0], order[:, 1], order[:, -1])]
    by_class = dict(zip(CLASSES[:-1], [truth, *others], strict=True))
    return {label: {name: found[label].map for name, found in by_class.items()} for label in truth}


def score_variants(
    model: nn.Module,
    x: InputsLike,
    variants: Mapping[str, Tensor],
    target: Labels = None,
    **options: Any,
) -> dict[str, SaliencyMetric]:
    """Score variants of maps by AD, AG and AI.

    Args:
        model: the judge.
        x: images (N, C, H, W).
        variants: maps (N, H, W) in [0, 1], by name.
        target: classes; None for those predicted.
        options: masking, clean and chunk, as for `masked_scores`.

    Returns:
        The metrics by label; `restore` adds the rows of another batch to one.

    Raises:
        InputError: the images or maps do not fit.
    """
    scores = masked_scores(model, x, torch.stack([*variants.values()], 1), target, **options)
    inputs = scores.inputs()
    found: dict[str, SaliencyMetric] = {}
    for place, name in enumerate(variants):
        masked = {key: inputs[key][:, place] for key in ("masked", "masked_rest")}
        for kind in _KINDS:
            metric = found[study_label(kind.entry.name, name)] = kind()
            metric.update(**{key: {**inputs, **masked}[key] for key in kind.entry.inputs})
    return found


def find_misclassified(
    scores: Mapping[str, SaliencyMetric], logits: Float[Tensor, "n k"], labels: Tensor
) -> dict[str, SaliencyMetric]:
    """Return the scores of the most probable class, undefined where it is the image's label."""
    top = logits.argsort(dim=1, descending=True)[:, 0]
    right = (top == labels.to(top.device)).cpu()
    found: dict[str, SaliencyMetric] = {}
    for kind in _KINDS:
        rows = scores[study_label(kind.entry.name, "most")].rows
        metric = found[study_label(kind.entry.name, CLASSES[-1])] = kind()
        metric.restore(rows.masked_fill(right[:, None], torch.nan))
    return found


def box_masks(
    boxes: Sequence[Tensor], maps: Float[Tensor, " n *size"], *, published: bool = False
) -> Float[Tensor, " n *size"]:
    """Return 1 inside the union of each image's boxes and 0 outside, like the maps.

    Corners are truncated to whole pixels; `published` is as in `box_variants`.
    """
    masks = torch.zeros_like(maps)
    for mask, corners in zip(masks, check_boxes(boxes, maps), strict=True):
        for ends in corners.long().tolist():
            half = len(ends) // 2
            if published:
                mask[tuple(map(slice, ends[:half], ends[half:]))] = 1
            else:
                low, high = ([max(end, 0) for end in part] for part in (ends[:half], ends[half:]))
                mask[tuple(map(slice, low[::-1], high[::-1]))] = 1
    return masks

"""Opti-CAM's studies: AD, AG and AI of variants of a map (selectivity, boxes, other classes)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.explanation import Explanation
from torchsaliency.core.maps import require_maps
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures import masked_scores
from torchsaliency.measures.judge import Labels
from torchsaliency.metrics import AverageDrop, AverageGain, AverageIncrease, SaliencyMetric
from torchsaliency.metrics.checks import check_boxes

ALPHAS = (0.01, 0.05, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Powers of Opti-CAM's Figure A4."""

WITH_MAP, BOX_ONLY = ("S", "B∩S", "S∖B"), ("B", "I∖B")
CLASSES = ("ground truth", "most", "second", "least", "most, misclassified")

STUDIES: Mapping[str, tuple[str, ...]] = {
    "boxes": (*WITH_MAP, *BOX_ONLY),
    "boxes-published": (*WITH_MAP, *BOX_ONLY),
    "classes": CLASSES,
    "selectivity": tuple(f"α = {alpha:g}" for alpha in ALPHAS),
}
"""The variants of each study that a plan may name."""


@final
@dataclass(frozen=True, eq=False)
class Study:
    """AD, AG and AI of several variants, which grow batch by batch.

    Attributes:
        rows: the metrics "ad", "ag" and "ai" of each variant.
    """

    rows: dict[str, dict[str, SaliencyMetric]]

    @classmethod
    def of(cls, variants: Iterable[str]) -> Study:
        """Return a study without images."""
        kinds = (AverageDrop, AverageGain, AverageIncrease)
        return cls({name: {kind.entry.name: kind() for kind in kinds} for name in variants})

    def add(self, variant: str, scores: Mapping[str, Tensor]) -> None:
        """Add images: p, o, 1 - p and 1 - o by the names of `MaskedScores.inputs`."""
        for metric in self.rows[variant].values():
            metric.update(**{name: scores[name] for name in metric.entry.inputs})

    def add_misclassified(self, wrong: Tensor, *, undefined: bool = False) -> None:
        """Add the last images' rows of "most" to "most, misclassified".

        Args:
            wrong: (N,) which of the last N images are misclassified.
            undefined: whether the others are added as undefined, or left out.
        """
        for name, metric in self.rows[CLASSES[-1]].items():
            rows = self.rows["most"][name].rows[-len(wrong) :]
            rows = rows.masked_fill(~wrong[:, None], torch.nan) if undefined else rows[wrong]
            metric.restore(rows)

    def by_label(self) -> dict[str, SaliencyMetric]:
        """Return every variant's metrics by the label that an evaluation gives them."""
        return {
            study_label(name, variant): metric
            for variant, row in self.rows.items()
            for name, metric in row.items()
        }


def study_label(metric: str, variant: str) -> str:
    """Return what a metric of one variant is called: "ad, B∩S"."""
    return f"{metric}, {variant}"


def study_metrics(name: str | None) -> dict[str, SaliencyMetric]:
    """Return the metrics by label, without images, of the study that a plan names."""
    return {} if name is None else Study.of(STUDIES[name]).by_label()


def power_variants(
    maps: Float[Tensor, "n H W"], alphas: Sequence[float | int] = ALPHAS
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
    names = [f"α = {alpha:g}" for alpha in alphas]
    if not alphas or not all(alpha > 0 for alpha in alphas) or len(set(names)) < len(names):
        raise OptionError(f"Powers must be above 0, each once, and {tuple(alphas)} were given.")
    powers = torch.tensor([float(alpha) for alpha in alphas], device=maps.device)
    raised = require_maps(maps)[:, None] ** powers[:, None, None]
    return dict(zip(names, raised.unbind(1), strict=True))


def box_variants(
    maps: Float[Tensor, "n H W"], boxes: Sequence[Tensor], *, published: bool = False
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
    least probable class of the image. The true one is judged. `Study.add_misclassified` adds the
    most probable class of misclassified images alone.

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
    x: Float[Tensor, "n c H W"],
    variants: Mapping[str, Tensor],
    target: Labels = None,
    *,
    study: Study | None = None,
    **options: Any,
) -> Study:
    """Score variants of maps by AD, AG and AI.

    Args:
        model: the judge.
        x: images (N, C, H, W).
        variants: maps (N, H, W) in [0, 1], by name.
        target: classes; None for those predicted.
        study: a study to be continued with these images.
        options: masking, clean and chunk, as for `masked_scores`.

    Raises:
        InputError: the images, maps or the study do not fit.
    """
    study = study or Study.of(variants)
    if missing := [name for name in variants if name not in study.rows]:
        raise InputError(
            f"The study to be continued has no line {missing[0]!r}; it has {', '.join(study.rows)}."
        )
    scores = masked_scores(model, x, torch.stack([*variants.values()], 1), target, **options)
    inputs = scores.inputs()
    for place, name in enumerate(variants):
        masked = {key: inputs[key][:, place] for key in ("masked", "masked_rest")}
        study.add(name, {**inputs, **masked})
    return study


def find_misclassified(logits: Float[Tensor, "n k"], labels: Tensor) -> Tensor:
    """Return whether each image's most probable class is not its label, (N,), on the CPU."""
    top = logits.argsort(dim=1, descending=True)[:, 0]
    return (top != labels.to(top.device)).cpu()


def box_masks(
    boxes: Sequence[Tensor], maps: Float[Tensor, "n h w"], *, published: bool = False
) -> Float[Tensor, "n h w"]:
    """Return 1 inside the union of each image's boxes and 0 outside, like the maps.

    Args:
        boxes: (B, 4) an image, x0 y0 x1 y1 in the maps' pixels, truncated to whole ones.
        maps: give size, number, type and device.
        published: the published helper's slices, axes swapped, negative coordinates wrapping.

    Raises:
        InputError: a box is invalid.
    """
    masks = torch.zeros_like(maps)
    for mask, corners in zip(masks, check_boxes(boxes, maps), strict=True):
        for left, top, right, bottom in corners.long().tolist():
            if published:
                mask[left:right, top:bottom] = 1
            else:
                mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    return masks

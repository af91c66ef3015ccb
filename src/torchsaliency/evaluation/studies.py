"""Opti-CAM's studies of masked scores: selectivity, boxes, other classes, normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchsaliency.core.explain import MethodsLike, explain
from torchsaliency.core.layer import LayerLike
from torchsaliency.core.maps import checked_maps
from torchsaliency.core.masking import Masking
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures import MaskedScores, masked_scores
from torchsaliency.measures.judge import Labels
from torchsaliency.metrics import AverageDrop, AverageGain, AverageIncrease, SaliencyMetric
from torchsaliency.metrics.checks import check_boxes

ALPHAS = (0.01, 0.05, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Powers of Opti-CAM's Figure A4."""

WITH_MAP, BOX_ONLY = ("S", "B∩S", "S∖B"), ("B", "I∖B")
CLASSES = ("ground truth", "most", "second", "least", "most, misclassified")


@final
@dataclass(frozen=True, eq=False)
class Row:
    """One line of a study: AD, AG and AI of one variant.

    Attributes:
        variant: what was varied, such as "α = 2" or "S∖B".
        ad: average drop.
        ag: average gain.
        ai: average increase.
    """

    variant: str
    ad: AverageDrop
    ag: AverageGain
    ai: AverageIncrease

    @classmethod
    def of(cls, variant: str) -> Row:
        """Return a line without images."""
        return cls(variant, AverageDrop(), AverageGain(), AverageIncrease())

    @property
    def metrics(self) -> tuple[SaliencyMetric, ...]:
        """The three metrics."""
        return self.ad, self.ag, self.ai

    def add(self, scores: Mapping[str, Tensor]) -> None:
        """Add images: p, o, 1 - p and 1 - o by the names of `MaskedScores.inputs`."""
        self.ad.update(scores["clean"], scores["masked"])
        names = ("clean", "masked", "clean_rest", "masked_rest")
        four = {name: scores[name] for name in names}
        self.ai.update(**four)
        self.ag.update(**four)

    def to_dict(self) -> dict[str, Any]:
        """Return the summaries in JSON types."""
        summaries = {one.name: one.summary().to_dict() for one in self.metrics}
        return {"variant": self.variant, **summaries}


@dataclass(frozen=True, eq=False)
class Study:
    """Lines of AD, AG and AI that grow batch by batch.

    Attributes:
        rows: by variant.
    """

    rows: dict[str, Row]

    @classmethod
    def of(cls, variants: Sequence[str]) -> Study:
        """Return a study without images."""
        return cls({name: Row.of(name) for name in variants})

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the summaries of every line in JSON types."""
        return [row.to_dict() for row in self.rows.values()]

    def add(self, variants: Sequence[str], found: MaskedScores) -> None:
        """Add images: the variants' scores (N, M), in the order of the names.

        Raises:
            InputError: the study has no such line.
        """
        if missing := [name for name in variants if name not in self.rows]:
            raise InputError(
                f"The study to be continued has no line {missing[0]!r}; it has "
                f"{', '.join(self.rows)}."
            )
        for place, name in enumerate(variants):
            scores = found.inputs()
            masked = {key: scores[key][:, place] for key in ("masked", "masked_rest")}
            self.rows[name].add({**scores, **masked})


def selectivity(  # noqa: PLR0913 (all but the first four by name)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    maps: Float[Tensor, "n H W"],
    target: Labels = None,
    *,
    alphas: Sequence[float | int] = ALPHAS,
    masking: Masking | None = None,
    clean: Tensor | None = None,
    chunk: int | None = None,
    study: Study | None = None,
) -> Study:
    """Score maps raised to powers: S ← S^α after normalisation (Opti-CAM, Figure A4).

    α below 1 lets more of the image through, α above 1 less; 0 and 1 stay, so that the zeros of a
    map remain zeros for every α.

    Args:
        model: the judge.
        x: images (N, C, H, W).
        maps: (N, H, W) in [0, 1].
        target: classes; None for those predicted.
        alphas: powers, each above 0.
        masking: the baseline; mean colour by default.
        clean: logits of the clean images, if known.
        chunk: images in one pass; None finds it.
        study: a study to be continued with these images.

    Raises:
        OptionError: a power that is not above 0, one twice, or none.
    """
    names = [f"α = {alpha:g}" for alpha in alphas]
    if not alphas or not all(alpha > 0 for alpha in alphas) or len(set(names)) < len(names):
        raise OptionError(f"Powers must be above 0, each once, and {tuple(alphas)} were given.")
    powers = torch.tensor([float(alpha) for alpha in alphas], device=maps.device)
    raised = checked_maps(maps)[:, None] ** powers[:, None, None]
    found = masked_scores(model, x, raised, target, masking=masking, clean=clean, chunk=chunk)
    made = study or Study.of(names)
    made.add(names, found)
    return made


def bounding_boxes(  # noqa: PLR0913 (all but the first five by name)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    maps: Float[Tensor, "n H W"],
    boxes: Sequence[Tensor],
    target: Labels = None,
    *,
    published: bool = False,
    masking: Masking | None = None,
    clean: Tensor | None = None,
    chunk: int | None = None,
    study: Study | None = None,
) -> Study:
    """Score the map inside and outside the objects' boxes (Opti-CAM, Table 5).

    The lines are S, B∩S, S∖B, and, without any map, B and I∖B; B is the union of the image's boxes,
    clipped to it. Maps are not normalised again after intersecting.

    Args:
        model: the judge.
        x: images (N, C, H, W).
        maps: (N, H, W) in [0, 1].
        boxes: (B, 4) an image, x0 y0 x1 y1 in pixels of the images.
        target: classes; None for those predicted.
        published: use the slices of the published helper, which swaps the axes and lets negative
            coordinates wrap around (erratum O7), to test what its table says.
        masking: the baseline; mean colour by default.
        clean: logits of the clean images, if known.
        chunk: images in one pass; None finds it.
        study: a study to be continued with these images.

    Raises:
        InputError: a box that is none.
    """
    own = checked_maps(maps)
    inside = box_masks(boxes, own, published=published)
    variants = [own, own * inside, own * (1 - inside), inside, 1 - inside]
    names = [*WITH_MAP, *BOX_ONLY]
    stack = torch.stack(variants, 1)
    found = masked_scores(model, x, stack, target, masking=masking, clean=clean, chunk=chunk)
    made = study or Study.of(names)
    made.add(names, found)
    return made


def other_classes(  # noqa: PLR0913 (all but the first five by name)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    methods: MethodsLike,
    labels: Int[Tensor, " n"],
    layer: LayerLike | Sequence[LayerLike] | None = None,
    *,
    masking: Masking | None = None,
    chunk: int | None = None,
    studies: Mapping[str, Study] | None = None,
) -> dict[str, Study]:
    """Explain other classes than the true one, and judge the true one (Opti-CAM, Table A.9).

    The lines are the class the map is made for: the ground truth, the most probable, the second,
    the least probable class of the image, and the most probable of misclassified images alone.

    Args:
        model: the network, explainer and judge.
        x: images (N, C, H, W).
        methods: as for `explain`.
        labels: (N,) the true classes.
        layer: as for `explain`.
        masking: the baseline; mean colour by default.
        chunk: images in one pass; None finds it.
        studies: by method, to be continued with these images.

    Returns:
        One study a method.

    Raises:
        InputError: another number of labels than images.
    """
    if labels.shape != (len(x),):
        raise InputError(f"{tuple(labels.shape)} labels were given for {len(x)} images.")
    how = {"masking": masking, "chunk": chunk}
    truth = explain(model, x, methods, labels, layer, **how)  # type: ignore[arg-type]
    logits = next(iter(truth.values())).output
    order = logits.argsort(dim=1, descending=True)
    chosen = {"most": order[:, 0], "second": order[:, 1], "least": order[:, -1]}
    made = {"ground truth": truth}
    for name, classes in chosen.items():
        made[name] = explain(model, x, methods, classes, layer, **how)  # type: ignore[arg-type]
    wrong = order[:, 0] != labels.to(order.device)
    found = dict(studies or {label: Study.of(CLASSES) for label in truth})
    for label, study in found.items():
        maps = torch.stack([one[label].map for one in made.values()], 1)
        scores = masked_scores(model, x, maps, labels, masking=masking, clean=logits, chunk=chunk)
        study.add(list(made), scores)
        if bool(wrong.any()):
            first = {**scores.inputs()}
            masked = {key: first[key][:, 1] for key in ("masked", "masked_rest")}
            rows = {
                key: value[wrong.to(value.device)] for key, value in {**first, **masked}.items()
            }
            study.rows[CLASSES[-1]].add(rows)
    return found


def without_normalisation(
    x: Float[Tensor, "n c H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "n c H W"]:
    """Return images in [0, 1], to be fed to the network as they are (Opti-CAM, Table A.14).

    Nothing else changes: maps are made and judged on these images, and with the default masking a
    hidden pixel is black, for zero is black now.

    Args:
        x: normalised images.
        mean: of the preprocessing, one a colour.
        std: of the preprocessing, one a colour.

    Raises:
        InputError: another number of colours.
    """
    if len(mean) != x.shape[1] or len(std) != x.shape[1]:
        raise InputError(f"{len(mean)} means were given for images of {x.shape[1]} colours.")
    deviations, means = x.new_tensor(list(std)), x.new_tensor(list(mean))
    return (x * deviations[:, None, None] + means[:, None, None]).clamp(0, 1)


def box_masks(
    boxes: Sequence[Tensor], maps: Float[Tensor, "n h w"], *, published: bool = False
) -> Float[Tensor, "n h w"]:
    """Return 1 inside the union of each image's boxes and 0 outside, like the maps.

    Args:
        boxes: (B, 4) an image, x0 y0 x1 y1 in the maps' pixels, truncated to whole ones.
        maps: give size, number, type and device.
        published: the published helper's slices, axes swapped, negative coordinates wrapping.

    Raises:
        InputError: a box that is none.
    """
    masks = torch.zeros_like(maps)
    for mask, own in zip(masks, check_boxes(boxes, maps), strict=True):
        for left, top, right, bottom in own.long().tolist():
            if published:
                mask[left:right, top:bottom] = 1
            else:
                mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    return masks


__all__ = [
    "ALPHAS",
    "Row",
    "Study",
    "bounding_boxes",
    "box_masks",
    "other_classes",
    "selectivity",
    "without_normalisation",
]

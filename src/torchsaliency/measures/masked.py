"""What a network still says of masked images: one pass for AD, AI, AG, ADCC and the box study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import require_maps
from torchsaliency.core.masking import Masking, MeanColour
from torchsaliency.core.scores import SOFTMAX, ScoreKind
from torchsaliency.core.space import describe_size
from torchsaliency.core.target import names_classes
from torchsaliency.errors import InputError
from torchsaliency.measures.judge import Labels, class_labels, class_scores, judging


@final
@dataclass(frozen=True, eq=False)
class MaskedScores:
    """Scores of one class an image, before and after masking, in float64.

    With several masks an image, the masked ones are (N, M); else all are (N,).

    Attributes:
        labels: the class of each image; None for a target that is no class, whose own score then
            stands for the probability.
        correct: whether the judge predicts it of the clean image: its top class, or a label that
            is true by itself with p at least 1/2; None for a target that is no class.
        clean: class probability p of the image.
        clean_rest: 1 - p, summed from the other classes.
        clean_logit: class logit of the image.
        masked: class probability o of the masked image.
        masked_rest: 1 - o, likewise.
        masked_logit: class logit of the masked image.
        passes: images that went through the judge.
    """

    labels: Tensor | None
    correct: Tensor | None
    clean: Tensor
    clean_rest: Tensor
    clean_logit: Tensor
    masked: Tensor
    masked_rest: Tensor
    masked_logit: Tensor
    passes: int

    @classmethod
    def of_logits(
        cls,
        clean: Float[Tensor, "n k"],
        masked: Float[Tensor, "n ... k"],
        labels: Tensor,
        passes: int = 0,
        scores: ScoreKind = SOFTMAX,
    ) -> MaskedScores:
        """Make scores of logits.

        Args:
            clean: logits of the images.
            masked: logits of the masked images, (N, K), or (N, M, K) for M masks an image.
            labels: (N,) classes.
            passes: what they cost.
            scores: what the logits mean.
        """
        was, now = class_scores(clean, labels, scores), class_scores(masked, labels, scores)
        return cls(
            labels=labels,
            correct=scores.predicts(clean, labels),
            clean=was.probability,
            clean_rest=was.rest,
            clean_logit=was.logit,
            masked=now.probability,
            masked_rest=now.rest,
            masked_logit=now.logit,
            passes=passes,
        )

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        names = ("clean", "clean_rest", "masked", "masked_rest", "correct")
        found = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}


def masked_scores(
    model: nn.Module,
    x: InputsLike,
    masks: Tensor,
    target: Labels = None,
    *,
    masking: Masking | None = None,
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> MaskedScores:
    """Score images and their masked versions x ⊙ m + b ⊙ (1 - m).

    Args:
        model: the judge.
        x: images (N, C, H, W), preprocessed for the judge.
        masks: (N, *size) or, several an image, (N, M, *size), in [0, 1].
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        masking: the baseline b; mean colour by default.
        clean: logits of the clean images if they are known (an `Explanation.output` of the same
            network); they then cost no pass.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: the images or masks do not fit.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> masked_scores(net, x, maps).masked.shape
        torch.Size([2])
    """
    with judging(model, x, chunk=chunk) as judge:
        masks = judge.maps(masks, several=True)
        several = masks.ndim == judge.images.ndim
        sets = masks if several else masks[:, None]
        kept = require_maps(sets.flatten(0, 1)).view_as(sets)
        masked = (masking or MeanColour()).over(judge.images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            return masked(kept[image, place], image)

        if not names_classes(target):
            read = judge.read_clean(target, clean, "target")
            scores = read.variants(kept.shape[1], build)
            scores = scores if several else scores[:, 0]
            return MaskedScores(
                labels=None,
                correct=None,
                clean=read.clean,
                clean_rest=1 - read.clean,
                clean_logit=read.clean,
                masked=scores,
                masked_rest=1 - scores,
                masked_logit=scores,
                passes=judge.passes,
            )
        before = judge.clean_logits(clean)
        labels = class_labels(target, before)
        after = judge.variants(kept.shape[1], build)
        found = after if several else after[:, 0]
        return MaskedScores.of_logits(before, found, labels, judge.passes, judge.scores)


@final
@dataclass(frozen=True, eq=False)
class CropScores:
    """Class probability of what lies in one box an image, enlarged to the whole.

    Attributes:
        labels: the class of each image; None for a target that is no class.
        crop: its probability (N,) on the crop, or the target's own score.
        passes: images that went through the judge.
    """

    labels: Tensor | None
    crop: Tensor
    passes: int

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"crop": self.crop}


def crop_scores(
    model: nn.Module,
    x: InputsLike,
    boxes: Float[Tensor, "n ends"],
    target: Labels = None,
    *,
    clean: Float[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> CropScores:
    """Score what lies in one box of each image, resized to the whole image (saliency metric SM).

    Args:
        model: the judge.
        x: images (N, C, H, W), preprocessed for the judge.
        boxes: (N, 4), x0 y0 x1 y1 in pixels inside the image, x1 and y1 exclusive; a box without
            area stands for nothing, and an image of zeros is scored.
        target: classes; None for those predicted on the clean images; or any target, which gives
            its own score.
        clean: logits of the clean images if they are known; with a target they are not needed.
        chunk: images in one pass; None finds it.

    Raises:
        InputError: the images are no pictures, or a box does not lie in the image.
        TargetError: the target or the network's output does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(1, 3, 64, 64)
        >>> crop_scores(net, x, torch.tensor([[8.0, 8, 40, 40]])).crop.shape
        torch.Size([1])
    """
    with judging(model, x, chunk=chunk) as judge:
        if len(judge.size) != 2:  # noqa: PLR2004
            raise InputError(
                f"Crops are cut from pictures (N, C, H, W), and images of "
                f"{describe_size(judge.size)} were given; use a metric that needs no crop."
            )
        corners = boxes.round().long().cpu()
        height, width = judge.size
        limits = torch.tensor([width, height, width, height], device="cpu")
        if len(boxes) != len(judge.images) or bool(((corners < 0) | (corners > limits)).any()):
            raise InputError(
                f"{len(boxes)} boxes were given for {len(judge.images)} images of "
                f"{height}x{width}; give one box an image, inside it."
            )

        def build(index: Tensor) -> Tensor:
            return torch.stack([_crop(judge.images[i], corners[i]) for i in index.tolist()])

        if not names_classes(target):
            read = judge.read_clean(target, clean, "target")
            found = read.variants(1, lambda image, _: build(image))[:, 0]
            return CropScores(None, found, judge.passes)
        before = judge.clean_logits(clean) if target is None else None
        after = judge.logits(len(judge.images), build)
        # the classes come from the crops' logits only in their number, never in their value
        labels = class_labels(target, after if before is None else before)
        return CropScores(labels, judge.class_scores(after, labels).probability, judge.passes)


def _crop(image: Tensor, box: Tensor) -> Tensor:
    left, top, right, bottom = box.tolist()
    if right <= left or bottom <= top:
        return torch.zeros_like(image)
    part = image[None, :, top:bottom, left:right]
    size = (image.shape[1], image.shape[2])
    return F.interpolate(part, size, mode="bicubic", align_corners=False)[0]

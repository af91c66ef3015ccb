"""What is explained of an output: each takes one image's part of it and gives a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from torchsaliency.compat._shared import Array


@dataclass(frozen=True)
class ClassifierOutputTarget:
    """The number of one class, y_c."""

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return y_c of one row (K,), or of each row (N, K)."""
        return model_output[..., self.category]


@dataclass(frozen=True)
class ClassifierOutputSoftmaxTarget:
    """The probability of one class, softmax(y)_c."""

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return softmax(y)_c of one row (K,), or of each row (N, K)."""
        return model_output.softmax(-1)[..., self.category]


@dataclass(frozen=True)
class ClassifierOutputReST:
    """The number of one class and its log-probability, y_c + log softmax(y)_c.

    Source: Cai, 2025 (ShapleyCAM's ReST).
    """

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return y_c + log softmax(y)_c of one row (K,), or of each row (N, K)."""
        return (model_output + model_output.log_softmax(-1))[..., self.category]


@dataclass(frozen=True)
class BinaryClassifierOutputTarget:
    """A single number, or its negative for category 0."""

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return z of category 1, -z of any other."""
        return model_output if self.category == 1 else -model_output


@dataclass(frozen=True)
class SoftmaxOutputTarget:
    """The softmax of the output, as it is: the output must be a single number."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return the softmax over the last dimension."""
        return model_output.softmax(-1)


@dataclass(frozen=True)
class RawScoresOutputTarget:
    """The output, as it is: it must be a single number."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return the output."""
        return model_output


@dataclass(frozen=True, eq=False)
class SemanticSegmentationTarget:
    """The sum of one class's numbers over a region.

    Attributes:
        category: the class.
        mask: the region (H, W), 1 inside and 0 outside.
    """

    category: int
    mask: Array | Tensor

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return the sum over the region of one output (K, H, W)."""
        region = torch.as_tensor(self.mask).to(model_output.device)
        return (model_output[self.category] * region).sum()


@dataclass(frozen=True, eq=False)
class FasterRCNNBoxScoreTarget:
    """How well given boxes are found again: Σ IoU + score of the best box of each.

    A box that is met by no more than the threshold, or whose best box is of another class, counts
    nothing.

    Attributes:
        labels: the class of each box.
        bounding_boxes: x0 y0 x1 y1.
        iou_threshold: the least overlap.
    """

    labels: Sequence[Any] | Array
    bounding_boxes: Sequence[Any] | Array
    iou_threshold: float = 0.5

    def __call__(self, model_outputs: dict[str, Tensor]) -> Tensor:
        """Return the sum, (1,), of one image's detections."""
        found = model_outputs["boxes"]
        total = found.new_zeros(1)
        if not len(found):
            return total
        for box, label in zip(self.bounding_boxes, self.labels, strict=False):
            overlaps = box_iou(torch.as_tensor(np.asarray(box)).to(found)[None], found)[0]
            best = int(overlaps.argmax())
            if overlaps[best] > self.iou_threshold and model_outputs["labels"][best] == label:
                total = total + overlaps[best] + model_outputs["scores"][best]
        return total


@dataclass(frozen=True)
class FinerWeightedTarget:
    """A class against others, Σ_j p_j (y_c - α y_j) / Σ_j p_j, with p the softmax of y.

    Source: Zhang et al., CVPR 2025 (Finer-CAM).

    Attributes:
        main_category: c.
        comparison_categories: the classes j.
        alpha: α.
    """

    main_category: int
    comparison_categories: Sequence[int]
    alpha: float | int

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return the weighted difference of one row (K,), or of each row (N, K)."""
        others = list(self.comparison_categories)
        weights = model_output.softmax(-1)[..., others]
        gaps = model_output[..., [self.main_category]] - self.alpha * model_output[..., others]
        return (weights * gaps).sum(-1) / (weights.sum(-1) + 1e-9)

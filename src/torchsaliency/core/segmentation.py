"""What a segmenter sees: targets for dense outputs (N, K, *size), one logit a class and cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.space import add_sides
from torchsaliency.core.target import Scores, Target, TargetSpec, register_target
from torchsaliency.errors import InputError, OptionError, TargetError


def is_dense(output: Any) -> bool:
    """Whether an output is one map of logits a class, (N, K, *size) of at least two cells."""
    return isinstance(output, Tensor) and output.ndim > 3 and output[0, 0].numel() > 1  # noqa: PLR2004


@register_target("segment")
@final
@dataclass(frozen=True)
class Segment(TargetSpec):
    """The mean logit of a class over its region: where the clean image is predicted as it.

    It becomes a `MaskScore` once the clean image has passed the segmenter.

    Attributes:
        category: the class; None takes the one predicted for most of each image.
        box: x0 y0 x1 y1 in shares of the image's width and height, in [0, 1]: the region is this
            box, whatever is predicted there.

    Example:
        >>> output = torch.zeros(1, 3, 2, 2)
        >>> output[0, 2, 0] = 4.0  # the upper half is of class 2
        >>> Segment(2).resolve(output)(output)
        tensor([4.])
    """

    words: ClassVar[tuple[str, ...]] = ("CLASS",)

    category: int | None = None
    box: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise OptionError(
                    f"segment.box is x0, y0, x1, y1 in shares of the image, from 0 to 1, not "
                    f"{self.box}."
                )

    @classmethod
    def read_word(cls, word: str, class_index: Callable[[str], int]) -> dict[str, Any]:
        """Return the options that a word stands for: a class."""
        return {"category": class_index(word)}

    def resolve(self, output: Any) -> MaskScore:
        """Return the target of images whose logits these are.

        Raises:
            TargetError: the output is not dense, or has no such class.
            InputError: nothing of an image is predicted as the class.
        """
        if not isinstance(output, Tensor) or output.ndim < 3:  # noqa: PLR2004
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TargetError(
                f"segment explains a dense output (N, K, *size), and the network gave {shape}; "
                "give a class, or a segmentation network."
            )
        if self.category is not None:
            _require_class(output, self.category)
        if output.shape[1] == 1:  # one logit or probability: is the object here or not?
            probabilities = bool(((output >= 0) & (output <= 1)).all())
            predicted = torch.where(output[:, 0] > (0.5 if probabilities else 0), 0, -1)
        else:
            predicted = output.argmax(1)
        categories = self._categories(predicted)
        masks = predicted == add_sides(categories, predicted)
        if self.box is not None:
            masks = self._box(output).expand_as(masks)
        for image, empty in enumerate((~masks.flatten(1).any(1)).tolist()):
            if empty:
                raise InputError(
                    f"No part of image {image} is predicted as class {int(categories[image])}; "
                    "give another class, or a region: box=0.2,0.2,0.8,0.8, or MaskScore."
                )
        return MaskScore(masks.to(output.dtype), categories)

    def _categories(self, predicted: Tensor) -> Tensor:
        if self.category is not None:
            return torch.full((len(predicted),), self.category, device=predicted.device)
        return torch.stack([row.flatten().clamp_min(0).mode().values for row in predicted])

    def _box(self, output: Tensor) -> Tensor:
        """Return which cells have their centre in the box, (h, w); the nearest if there is none."""
        assert self.box is not None
        if output.ndim != 4:  # noqa: PLR2004
            raise TargetError(
                "segment.box is of pictures, and the network gave "
                f"{tuple(output.shape)}; give the region as masks, MaskScore."
            )
        left, top, right, bottom = self.box
        inside = []
        for low, high, side in ((top, bottom, output.shape[2]), (left, right, output.shape[3])):
            centres = (torch.arange(side, device=output.device) + 0.5) / side
            line = (centres >= low) & (centres < high)
            if not bool(line.any()):
                line[int((low + high) / 2 * side)] = True
            inside.append(line)
        return inside[0][:, None] & inside[1]


@final
@dataclass(frozen=True, eq=False)
class MaskScore(Target):
    """The mean logit of a class inside a mask, for dense outputs (N, K, *size) of segmentation.

    Attributes:
        masks: (N, *size), weights in [0, 1]; resized to the output by nearest neighbour.
        category: the class explained, one for all images or (N,) one an image.

    Example:
        >>> output = torch.zeros(1, 3, 2, 2)
        >>> output[0, 2, 0] = 4.0
        >>> MaskScore(torch.tensor([[[1.0, 1], [1, 1]]]), 2)(output)
        tensor([2.])
    """

    masks: Tensor
    category: int | Tensor

    def __call__(self, output: Any) -> Scores:
        """Return Σ m·y_c / Σ m.

        Raises:
            TargetError: the output is not dense, of another number of images, or has no such class.
        """
        fits = isinstance(output, Tensor) and output.ndim == self.masks.ndim + 1
        if not fits or len(output) != len(self.masks):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TargetError(
                f"MaskScore needs a dense output (N, K, *size) for {len(self.masks)} images, "
                f"and the network gave {shape}."
            )
        _require_class(output, self.category)
        masks = F.interpolate(self.masks[:, None].to(output), output.shape[2:])[:, 0]
        if isinstance(self.category, Tensor):
            index = add_sides(self.category.to(output.device)[:, None], output)
            logits = output.gather(1, index.expand(-1, 1, *output.shape[2:]))[:, 0]
        else:
            logits = output[:, self.category]
        return (logits * masks).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp_min(1e-12)

    def describe(self) -> dict[str, Any]:
        """Return the class and the masks' areas."""
        areas = self.masks.float().flatten(1).mean(1)
        category = self.category
        return {
            "kind": "MaskScore",
            "category": category.tolist() if isinstance(category, Tensor) else category,
            "areas": areas.tolist(),
        }


def _require_class(output: Tensor, category: int | Tensor) -> None:
    classes, given = output.shape[1], torch.as_tensor(category)
    if bool(((given < 0) | (given >= classes)).any()):
        worst = int(given.max() if given.max() >= classes else given.min())
        raise TargetError(
            f"Class {worst} was given and the network has classes 0 to {classes - 1}."
        )

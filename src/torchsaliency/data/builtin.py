"""Data sets without downloads: the sample photographs, and the drawn shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from PIL import Image

from torchsaliency.data.limits import MAX_IMAGES
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.data.samples import sample_photos
from torchsaliency.data.sets import DataSet, Picture, Sample
from torchsaliency.data.shapes import CLASSES, SIDE, shape_labels, shapes
from torchsaliency.data.synsets import synset_names, synsets
from torchsaliency.errors import OptionError

COUNT = 1000
"""Drawn images unless another number is asked for."""

SEED = 2
"""Of the drawn images unless another is asked for: the built-in networks were trained on seed 1."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class ShapesSet(DataSet):
    """Drawn shapes; an image is drawn when it is opened.

    Attributes:
        seed: as in `shapes`.
        objects: as in `shapes`.
        context: as in `shapes`.
        side: as in `shapes`.
    """

    seed: int
    objects: int
    context: float | int
    side: int

    def picture(self, index: int) -> Picture:
        """Draw one image: the box is of the labelled object, the mask of all."""
        sample = self.samples[index]
        drawn = shapes(
            1,
            start=int(str(sample.source)),
            seed=self.seed,
            objects=self.objects,
            context=self.context,
            side=self.side,
        )
        pixels = (drawn.images[0] * 255).round().byte().permute(1, 2, 0)
        return Picture(
            sample,
            Image.fromarray(np.ascontiguousarray(pixels.numpy())),
            boxes=drawn.boxes[0, :1],
            mask=drawn.masks[0].to(torch.uint8),
        )

    def mark(self, sample: Sample) -> str:
        """Return the settings it is drawn with."""
        return f"{sample.source} {self.seed} {self.objects} {float(self.context)} {self.side}"


def shapes_set(
    count: int = COUNT,
    *,
    seed: int = SEED,
    objects: int = 1,
    context: float | int = 0.0,
    side: int = SIDE,
) -> ShapesSet:
    """Return drawn shapes as a data set; arguments are those of `shapes`.

    Raises:
        OptionError: a number out of range.
    """
    if not 1 <= count <= MAX_IMAGES:
        raise OptionError(f"{count} shapes were asked for; give 1 to {MAX_IMAGES}.")
    shapes(0, seed=seed, objects=objects, context=context, side=side)  # refuses what is wrong
    labels = shape_labels(count, seed=seed, objects=objects)
    return ShapesSet(
        name="shapes",
        samples=tuple(
            Sample(f"shapes/{number}", number, label) for number, label in enumerate(labels)
        ),
        classes=CLASSES,
        annotations=frozenset({"labels", "boxes", "masks"}),
        facts=(f"seed {seed}", f"objects {objects}", f"context {context}"),
        seed=seed,
        objects=objects,
        context=context,
        side=side,
    )


def sample_set() -> PhotoSet:
    """Return the six sample photographs with their ImageNet classes.

    Raises:
        DataError: a package came without its photographs.
    """
    return PhotoSet(
        name="samples",
        samples=tuple(
            Sample(f"samples/{photo.name}", photo.path, photo.class_index)
            for photo in sample_photos().values()
        ),
        classes=synset_names(),
        codes=synsets(),
        annotations=frozenset({"labels"}),
    )

"""Images that do not exist, for every registered metric: each argument of `update` by its name.

A metric whose argument has no generator here fails every test over the registry, with a sentence
that says so. A module of its own, without pytest, for `gloo` imports it in processes of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchsaliency.metrics import metric_entry, metrics

NAMES = sorted(metrics())
"""Every registered metric; tests over it pick up a new one by themselves."""

SIZE = (48, 50)
"""Of the maps: no square, and as small as HOG bears it."""

Inputs = Mapping[str, Any]
"""Arguments of `update` by name: a number, map or list entry an image, but for `SHARED`."""

SHARED = {"fractions", "squares"}
"""Arguments that are the same for all images."""


@dataclass(frozen=True)
class Draw:
    """Random numbers, for every argument others, and for an image the same whatever else is drawn.

    Attributes:
        count: images.
        seed: of everything.
    """

    count: int
    seed: int

    def numbers(self, name: str, *shape: int) -> Tensor:
        """Return numbers in [0, 1), (count, *shape)."""
        draw = torch.Generator().manual_seed(zlib.crc32(f"{name} {self.seed}".encode()))
        return torch.rand(self.count, *shape, generator=draw)

    def rarely(self, values: Tensor, other: float) -> Tensor:
        """Return the values, and something else in one image of four, but not in the first."""
        values[3::4] = other
        return values


def _maps(draw: Draw) -> Tensor:
    """A constant map has no rank, no gradient and no box."""
    return draw.rarely(draw.numbers("maps", *SIZE), 0.25)


def _boxes(draw: Draw) -> list[Tensor]:
    """One to three boxes an image, some of which reach outside, or lie there."""
    corner = draw.numbers("corner", 3, 2) * 60 - 10
    side = draw.numbers("side", 3, 2) * 30 + 4
    boxes = torch.cat([corner, corner + side], 2)
    return [one[: place % 3 + 1] for place, one in enumerate(boxes)]


def _masks(draw: Draw) -> Tensor:
    """A rectangle of object in a frame of void; one image has no object."""
    masks = torch.zeros(draw.count, *SIZE, dtype=torch.long)
    for mask, (top, left) in zip(masks, draw.numbers("masks", 2).tolist(), strict=True):
        row, column = int(top * 20), int(left * 20)
        mask[row : row + 24, column : column + 24] = 255
        mask[row + 2 : row + 22, column + 2 : column + 22] = 1
    masks[3::4] = 0
    return masks


def _segments(draw: Draw) -> Tensor:
    """Images of one class score have fewer segments than others; one has no score."""
    curves = draw.rarely(draw.numbers("segments", 6), 0)
    curves[1::2, -2:] = torch.nan
    return curves


def _known(draw: Draw) -> Tensor:
    """From nothing to all, but in one image of four the same throughout."""
    curves = draw.numbers("known", 6)
    curves[:, 0], curves[:, -1] = 0, 1
    return draw.rarely(curves, 0.5)


def _squares(_: Draw) -> Tensor:
    low = torch.arange(0, 35, 5)
    return torch.stack([low, low + 2, low + 7, low + 9], 1)


def _distances(name: str) -> Callable[[Draw], Tensor]:
    return lambda draw: draw.numbers(name, 3) + 0.1


GENERATORS: Mapping[str, Callable[[Draw], Any]] = {
    "attribution_sums": lambda draw: draw.numbers("attribution_sums") - 0.5,
    "boxes": _boxes,
    "cells": lambda draw: torch.tensor([[0, 0, 25, 24], [25, 0, 50, 24]])[
        draw.numbers("cells").ge(0.5).long()
    ],
    "clean": lambda draw: draw.numbers("clean"),
    "clean_rest": lambda draw: 1 - draw.numbers("clean"),
    "correct": lambda draw: draw.numbers("correct") > 0.3,
    "crop": lambda draw: draw.rarely(draw.numbers("crop"), 0),
    "deletion": lambda draw: draw.numbers("deletion", 9),
    "drops": lambda draw: 4 * draw.numbers("drops", len(_squares(draw))) - 1,
    "embeddings": lambda draw: draw.rarely(draw.numbers("embeddings", 7) - 0.5, 0),
    "feature_changes": _distances("feature_changes"),
    "focus_maps": lambda draw: draw.rarely(draw.numbers("focus_maps", *SIZE), 0),
    "fractions": lambda _: torch.linspace(0, 1, 9),
    "image_changes": _distances("image_changes"),
    "image_distances": _distances("image_distances"),
    "grid_maps": lambda draw: draw.rarely(draw.numbers("grid_maps", *SIZE), 0),
    "group_changes": lambda draw: draw.rarely(draw.numbers("group_changes", 5), 0),
    "group_drops": lambda draw: 2 * draw.numbers("group_drops", 5) - 1,
    "group_sums": lambda draw: draw.rarely(draw.numbers("group_sums", 5), 2),
    "information": lambda draw: draw.numbers("information", 6).cumsum(1),
    "insertion": lambda draw: draw.numbers("insertion", 9),
    "known": _known,
    "known_predicted": lambda draw: _known(draw) > 0.6,
    "least": lambda draw: draw.numbers("least", 9),
    "least_regions": lambda draw: draw.numbers("least_regions", 11),
    "maps": _maps,
    "masked": lambda draw: draw.numbers("masked"),
    "masked_embeddings": lambda draw: draw.numbers("masked_embeddings", 7) - 0.5,
    "masked_maps": lambda draw: draw.numbers("masked_maps", *SIZE),
    "masked_rest": lambda draw: 1 - draw.numbers("masked"),
    "masks": _masks,
    "most": lambda draw: draw.numbers("most", 9),
    "noisy_maps": lambda draw: draw.numbers("noisy_maps", 3, *SIZE),
    "norms": lambda draw: draw.numbers("norms") + 1,
    "other_class_maps": lambda draw: draw.numbers("other_class_maps", *SIZE),
    "output_distances": _distances("output_distances"),
    "predicted": lambda draw: (3 * draw.numbers("predicted")).long(),
    "random_maps": lambda draw: draw.numbers("random_maps", 5, *SIZE),
    "random_network_maps": lambda draw: draw.numbers("random_network_maps", *SIZE),
    "refinement": lambda draw: draw.numbers("refinement", 3),
    "regions": lambda draw: draw.numbers("regions", 11),
    "rises": lambda draw: draw.rarely(draw.numbers("rises") + 0.1, 0),
    "same_class": lambda draw: draw.rarely(draw.numbers("same_class", 3) > 0.1, False),
    "shifted_maps": lambda draw: draw.numbers("shifted_maps", *SIZE),
    "smooth_maps": lambda draw: draw.numbers("smooth_maps", *SIZE),
    "smooth_random_maps": lambda draw: draw.numbers("smooth_random_maps", 5, *SIZE),
    "translated_maps": lambda draw: draw.numbers("translated_maps", 3, *SIZE),
    "translation_distances": _distances("translation_distances"),
    "segments": _segments,
    "squares": _squares,
    "subset_drops": lambda draw: 2 * draw.numbers("subset_drops", 2, 6) - 1,
    "subset_sums": lambda draw: draw.rarely(draw.numbers("subset_sums", 2, 6), 3),
    "target_cells": lambda draw: torch.tensor([[0, 0, 25, 24], [25, 24, 50, 48]]).expand(
        draw.count, 2, 4
    ),
}
"""What makes each argument of `update`, by its name."""


def inputs(count: int, seed: int = 0, names: Iterable[str] = NAMES) -> dict[str, Any]:
    """Return what some metrics' `update` takes for a number of images.

    Raises:
        LookupError: an argument has no generator.
    """
    wanted = {}
    for name in names:
        for argument in metric_entry(name).inputs:
            if argument not in GENERATORS:
                raise LookupError(
                    f"The metric {name} takes {argument!r}, of which no test knows what it looks "
                    "like; add it to GENERATORS in tests/synthetic.py."
                )
            wanted[argument] = GENERATORS[argument]
    draw = Draw(count, seed)
    return {argument: make(draw) for argument, make in wanted.items()}


def chosen(images: Inputs, places: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of some of the images."""
    index = torch.tensor(places, dtype=torch.long)

    def part(argument: str, values: Any) -> Any:
        if argument in SHARED:
            return values
        return values[index] if isinstance(values, Tensor) else [values[one] for one in places]

    return {argument: part(argument, values) for argument, values in images.items()}


def batches_of(images: Inputs, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Cut arguments of `update` into batches of these sizes, the first image first."""
    made, start = [], 0
    for size in sizes:
        made.append(chosen(images, range(start, start + size)))
        start += size
    return made

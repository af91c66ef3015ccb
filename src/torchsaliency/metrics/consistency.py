"""Whether images whose maps peak in the same places have the same class."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.core.space import describe_size
from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric


def consistency(codes: Int[Tensor, " n"], predicted: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return 100 · the share, among images of the same code, of those of the same class.

    The image itself is among them: this is the definition for images drawn from these ones.

    Args:
        codes: what each image's map says, as a number, see `peak_cells`.
        predicted: the class that the network predicts.

    Raises:
        InputError: codes and classes of different numbers of images.

    Example:
        >>> consistency(torch.tensor([4, 4, 0]), torch.tensor([7, 8, 9]))
        tensor([ 50.,  50., 100.], dtype=torch.float64)
    """
    if codes.shape != predicted.shape or codes.ndim != 1:
        raise InputError(
            f"Codes of {tuple(codes.shape)} and classes of {tuple(predicted.shape)} were given; "
            "give one of each an image."
        )
    same_code = codes[:, None] == codes
    agree = (same_code & (predicted[:, None] == predicted).to(codes.device)).sum(1)
    return 100 * agree.double() / same_code.sum(1)


def peak_cells(maps: Float[Tensor, " n *size"], cells: int = 3) -> Int[Tensor, " n"]:
    """Return the number of the cell, of `cells` a side, in which each map has most of its mass.

    Args:
        maps: S (N, *size) in [0, 1].
        cells: how many a side; at most the map's shortest side.

    Raises:
        InputError: maps outside [0, 1].
        OptionError: no cell, or more than there are pixels.

    Example:
        >>> maps = torch.zeros(1, 6, 6)
        >>> maps[0, 5, 5] = 1.0
        >>> peak_cells(maps)
        tensor([8])
    """
    values = require_maps(maps).double()
    if not 1 <= cells <= min(values.shape[1:]):
        raise OptionError(
            f"{cells} cells a side were given for maps of {describe_size(tuple(values.shape[1:]))};"
            f" accepted are 1 to {min(values.shape[1:])}."
        )
    for side in range(1, values.ndim):
        parts = values.tensor_split(cells, side)
        values = torch.stack([part.mean(side) for part in parts], side)
    return values.flatten(1).argmax(1)


@final
@metric(
    "consistency",
    group="robustness",
    cite="dasgupta2022",
    requires="predictions",
    direction="higher",
)
class Consistency(SaliencyMetric):
    """Consistency: do images whose maps say the same get the same prediction?

    Formula: 100/N · Σ_i |{j : e_j = e_i, c_j = c_i}| / |{j : e_j = e_i}|, e the cell, of 3 × 3,
    with most of the map's mass, and c the predicted class: P(c = c' | e = e') among these images.

    Rewards: maps that tell classes apart by where they look.

    Misleads: centred objects have one cell, whatever the class, so a right map scores what a guess
    of the class would. It is a number of a set of images: each image agrees with itself, so that a
    small set scores high, and one image 100.

    Undefined: never.

    Differs: Quantus compares the images of a batch only, leaves the image itself out, counts an
    image without a partner as 0, and by default compares the signs of the first five pixels
    (erratum Q3).

    Source: Dasgupta, Frost and Moshkovitz, ICML 2022.

    Args:
        cells: a side of the map; at least 1.
    """

    width = 2

    def __init__(self, cells: int = 3, **options: Any) -> None:
        if cells < 1:
            raise OptionError(f"{cells} cells a side were given; give at least 1.")
        self.cells = cells
        super().__init__(**options)

    def update(self, maps: Tensor, predicted: Tensor) -> None:
        """Add maps (N, H, W) in [0, 1], and the predicted classes (N,)."""
        codes = peak_cells(maps, self.cells)
        self._record(torch.stack([codes, predicted.to(codes.device)], 1))

    def image_values(self, rows: Tensor) -> Tensor:
        """Return every image's share among all images of these rows."""
        return consistency(rows[:, 0].long(), rows[:, 1].long())

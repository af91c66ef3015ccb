"""Noisy linear imputation's linear part: removed pixels become the mean of their neighbours.

The one place of the measures that is not pure torch: the sparse systems, one an image, are solved
exactly by scipy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

_NEIGHBOURS = (
    ((0, 1), 1 / 6),
    ((0, -1), 1 / 6),
    ((1, 0), 1 / 6),
    ((-1, 0), 1 / 6),
    ((1, 1), 1 / 12),
    ((1, -1), 1 / 12),
    ((-1, 1), 1 / 12),
    ((-1, -1), 1 / 12),
)


def impute_neighbours(
    images: Float[Tensor, "n c h w"], removed: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n c h w"]:
    """Replace removed pixels by the weighted mean of their eight neighbours, all at once.

    The weights are 1/6 beside and 1/12 across, divided by their sum at the border of the image;
    removed neighbours count with their own imputed value.

    Args:
        images: (N, C, H, W).
        removed: (N, H, W); an image without any pixel left becomes its mean colour.
    """
    pairs = zip(images.cpu().double().numpy(), removed.cpu().numpy(), strict=True)
    filled = np.stack([_impute(image, hidden) for image, hidden in pairs])
    return torch.from_numpy(filled).to(images)


def _impute(image: NDArray[Any], hidden: NDArray[Any]) -> NDArray[Any]:
    from scipy import sparse  # noqa: PLC0415 (slow to import, and one metric needs it)
    from scipy.sparse.linalg import spsolve  # noqa: PLC0415

    count = int(hidden.sum())
    filled = image.copy()
    if count == 0:
        return filled
    if count == hidden.size:
        filled[:] = image.mean((1, 2), keepdims=True)
        return filled
    number = np.full(hidden.shape, -1)
    number[hidden] = np.arange(count)
    rows, columns = np.nonzero(hidden)
    degree = np.zeros(count)
    goal = np.zeros((count, len(image)))
    entries: list[tuple[NDArray[Any], ...]] = []
    for (down, right), weight in _NEIGHBOURS:
        near_row, near_column = rows + down, columns + right
        exists = (near_row >= 0) & (near_row < hidden.shape[0])
        exists &= (near_column >= 0) & (near_column < hidden.shape[1])
        own = np.nonzero(exists)[0]
        near = near_row[own], near_column[own]
        degree[own] += weight
        unknown = hidden[near]
        goal[own[~unknown]] += weight * image[:, near[0][~unknown], near[1][~unknown]].T
        other = number[near][unknown]
        entries.append((own[unknown], other, np.full(len(other), -weight)))
    own, other, weights = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = sparse.csc_array((weights, (own, other)), shape=(count, count))
    solved = spsolve(system + sparse.diags_array(degree, format="csc"), goal)
    filled[:, hidden] = solved.reshape(count, -1).T
    return filled

"""Noisy linear imputation's linear part: removed pixels become the mean of their neighbours.

The one place of the measures that is not pure torch: the sparse systems, one an image, are solved
exactly by scipy.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor


def _neighbours(sides: int) -> list[tuple[tuple[int, ...], float]]:
    """Return the steps to a pixel's neighbours and their weights, which add up to 1.

    A neighbour across k sides has half the weight of one across k - 1: 1/6 and 1/12 in a picture.
    """
    steps = [step for step in product((0, 1, -1), repeat=sides) if any(step)]
    steps.sort(key=lambda step: sum(map(abs, step)))
    return [(step, 0.5 ** sum(map(abs, step)) / (2**sides - 1)) for step in steps]


def impute_neighbours(
    images: Float[Tensor, "n c *size"], removed: Bool[Tensor, " n *size"]
) -> Float[Tensor, "n c *size"]:
    """Replace removed pixels by the weighted mean of their eight neighbours, all at once.

    The weights are 1/6 beside and 1/12 across, divided by their sum at the border of the image;
    removed neighbours count with their own imputed value. In a volume there are 26 neighbours, of
    weights 1/14, 1/28 and 1/56, and the system is solved by conjugate gradients to 1e-8.

    Args:
        images: (N, C, *size).
        removed: (N, *size); an image without any pixel left becomes its mean colour.
    """
    pairs = zip(images.cpu().double().numpy(), removed.cpu().numpy(), strict=True)
    filled = np.stack([_impute(image, hidden) for image, hidden in pairs])
    return torch.from_numpy(filled).to(images)


def _impute(image: NDArray[Any], hidden: NDArray[Any]) -> NDArray[Any]:
    from scipy import sparse  # noqa: PLC0415 (slow to import, and one metric needs it)

    count = int(hidden.sum())
    filled = image.copy()
    if count == 0:
        return filled
    if count == hidden.size:
        filled[:] = image.mean(tuple(range(1, image.ndim)), keepdims=True)
        return filled
    number = np.full(hidden.shape, -1)
    number[hidden] = np.arange(count)
    places = np.nonzero(hidden)
    degree = np.zeros(count)
    goal = np.zeros((count, len(image)))
    entries: list[tuple[NDArray[Any], ...]] = []
    for step, weight in _neighbours(hidden.ndim):
        beside = [place + by for place, by in zip(places, step, strict=True)]
        exists = np.ones(count, dtype=bool)
        for place, side in zip(beside, hidden.shape, strict=True):
            exists &= (place >= 0) & (place < side)
        own = np.nonzero(exists)[0]
        near = tuple(place[own] for place in beside)
        degree[own] += weight
        unknown = hidden[near]
        goal[own[~unknown]] += weight * image[(slice(None), *(n[~unknown] for n in near))].T
        other = number[near][unknown]
        entries.append((own[unknown], other, np.full(len(other), -weight)))
    own, other, weights = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = sparse.csc_array((weights, (own, other)), shape=(count, count))
    system = system + sparse.diags_array(degree, format="csc")
    filled[:, hidden] = _solve(system, goal, hidden.ndim).reshape(count, -1).T
    return filled


def _solve(system: Any, goal: NDArray[Any], sides: int) -> NDArray[Any]:
    """Solve the symmetric system of each colour; directly where its factors stay sparse."""
    from scipy.sparse.linalg import cg, spsolve  # noqa: PLC0415

    if sides < 3:  # noqa: PLR2004
        return np.asarray(spsolve(system, goal))
    # not divided by the diagonal, which would make it less symmetric than it is
    return np.stack([cg(system, colour, rtol=1e-8, atol=0)[0] for colour in goal.T], 1)

"""How compact is the map? The spread of its strongest pixels, and the tree that joins them."""

from __future__ import annotations

import math
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from torchsaliency.core.maps import require_maps
from torchsaliency.errors import OptionError
from torchsaliency.metrics.base import SaliencyMetric, metric

Points = NDArray[np.float64]


def tree_compactness(
    maps: Float[Tensor, " n *size"], percentile: float | int = 80
) -> Float[Tensor, " n"]:
    """Return 100 · d / √A · |V| / L of every map, above 0; NaN for fewer than two pixels.

    V are the pixels above 0 that are not below the percentile, A the area of their convex hull (d
    where they lie on a line, squared), L the length of their minimum spanning tree, and d the
    image's diagonal. Of volumes, the cube root of the hull's volume.

    Args:
        maps: S (N, H, W) in [0, 1].
        percentile: at least 0 and below 100.

    Raises:
        InputError: maps outside [0, 1].
        OptionError: a percentile outside [0, 100).

    Example:
        >>> maps = torch.zeros(1, 8, 8)
        >>> maps[0, 2:4, 2:4] = 1.0
        >>> tree_compactness(maps).shape
        torch.Size([1])
    """
    _check_percentile(percentile)
    values = require_maps(maps).detach().double().cpu().numpy()
    found = [_compactness(one, float(percentile)) for one in values]
    return torch.tensor(found, dtype=torch.float64, device=maps.device)


def _compactness(saliency: NDArray[Any], percentile: float) -> float:
    cutoff = np.percentile(saliency, percentile)
    points = np.argwhere((saliency >= cutoff) & (saliency > 0)).astype(np.float64)
    if len(points) < 2:  # noqa: PLR2004
        return math.nan
    diagonal = math.hypot(*saliency.shape)
    return 100 * diagonal / _hull_side(points, diagonal) * len(points) / tree_length(points)


def _flatten(points: Points) -> Points:
    """Return points (n, d) in the coordinates of the line, plane or space that they fill."""
    centred = points - points.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    rank = int((sizes > 1e-9 * sizes[0]).sum())
    return points if rank == points.shape[1] else centred @ axes[:rank].T


def _hull_side(points: Points, diagonal: float) -> float:
    """Return the side of a square (or cube) as large as the hull of points (n, d)."""
    from scipy.spatial import ConvexHull  # noqa: PLC0415 (slow to import, for one metric)

    sides = points.shape[1]
    if _flatten(points).shape[1] < sides:
        return diagonal
    volume = float(np.ptp(points) if sides == 1 else ConvexHull(points).volume)
    return float(volume ** (1 / sides))


def tree_length(points: Points) -> float:
    """Return the length of the minimum spanning tree of at least two different points (n, d).

    It is a part of every Delaunay triangulation.
    """
    from scipy.sparse import coo_matrix  # noqa: PLC0415 (slow to import, for one metric)
    from scipy.sparse.csgraph import minimum_spanning_tree  # noqa: PLC0415
    from scipy.spatial import Delaunay  # noqa: PLC0415

    flat = _flatten(points)
    count, sides = flat.shape
    if sides == 1:
        return float(np.ptp(flat))
    corners = Delaunay(flat).simplices
    pairs = [(i, j) for i in range(sides + 1) for j in range(i)]
    ends = np.unique(np.sort(np.concatenate([corners[:, pair] for pair in pairs]), axis=1), axis=0)
    lengths = np.linalg.norm(flat[ends[:, 0]] - flat[ends[:, 1]], axis=1)
    graph = coo_matrix((lengths, (ends[:, 0], ends[:, 1])), shape=(count, count))
    return float(minimum_spanning_tree(graph.tocsr()).sum())


@final
@metric(
    "mst-c", group="complexity", cite="mesgari2026", direction="higher", unit="score", worst=0.0
)
class TreeCompactness(SaliencyMetric):
    """MST-C: are the strongest pixels close together, in few clusters?

    Formula: 100/N · Σ_i d / √A_i · |V_i| / L_i, V_i the fifth of the pixels of map i that is
    strongest, A_i the area of their convex hull, L_i the length of their minimum spanning tree, d
    the diagonal.

    Rewards: maps whose strongest pixels lie in a small area, and touch each other.

    Misleads: it says nothing of whether they are the right pixels. A fifth of the pixels is
    compared, whatever the object's size, and their order does not count; smooth maps of coarse
    layers are compact by themselves. Pixels on a line count as spread over the whole image.

    Undefined: for fewer than two pixels above 0.

    Differs: pixels of 0 are never among the strongest, and the tree joins all clusters. Quantus
    takes all pixels of a map that is mostly 0, and a forest of nearest neighbours, in which gaps
    between clusters cost nothing (errata Q17, Q18).

    Source: Mesgari et al., "Structural Compactness as a Complementary Criterion for Explanation
    Quality", 2026.

    Args:
        percentile: above which pixels are among the strongest, in [0, 100).
    """

    def __init__(self, percentile: float | int = 80, **options: Any) -> None:
        _check_percentile(percentile)
        self.percentile = percentile
        super().__init__(**options)

    def update(self, maps: Tensor) -> None:
        """Add maps (N, H, W) in [0, 1]."""
        self._record(tree_compactness(maps, self.percentile))


def _check_percentile(percentile: float | int) -> None:
    if not 0 <= percentile < 100:  # noqa: PLR2004
        raise OptionError(f"A percentile of {percentile} was given; give one in [0, 100).")

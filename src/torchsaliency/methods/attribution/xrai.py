"""XRAI: integrated gradients, gathered in regions that are found from the image alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.core.method import Method, register, require_positive
from torchsaliency.core.runtime import without_warnings
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.attribution.gradient import integrate
from torchsaliency.methods.passes import IMAGE_PASSES, images_of, require_picture

_SIDE = 224
"""Pixels a side of the images for which the sizes of regions are given."""

_SMALLEST, _LEAST = 150, 50
"""Pixels that a region has at least, and that it must add to those chosen before."""

_FEWEST = 16
"""Pixels that a region of a small image has at least."""


@register("xrai", family="attribution", cite="kapishnikov2019", needs=IMAGE_PASSES)
@final
@dataclass(frozen=True)
class XRAI(Method):
    """XRAI: regions in the order of the attribution that they add, by pixel.

    R is the mean of integrated gradients from two baselines, the image's least and largest number.
    Regions come from Felzenszwalb's segmentation at several scales, each widened by a disc. The
    region with the largest mean of R over its pixels that are not chosen yet is chosen,
    and these pixels get that mean; those that no region adds get their mean. So the means add up
    to what R does: y_c(x) less the mean score of the baselines. S is their ReLU.

    Source: Kapishnikov et al., ICCV 2019. Differs from the authors' code, which takes the largest
    of a pixel's three colours, `colours=max`, and keeps means below zero: small regions that come
    last would set the scale. Sizes are those of 224 × 224 pixels and grow with the image, where the
    code resizes the image. Pictures (N, C, H, W) alone.

    Attributes:
        steps: points of each quadrature; above 0.
        scales: of the segmentations; above 0.
        dilation: radius of the disc in pixels; 0 widens nothing.
        colours: how R is read at a pixel: "sum" of its colours, or "max".
    """

    joint: ClassVar[bool] = True

    steps: int = 50
    scales: tuple[float | int, ...] = (50, 100, 150, 250, 500, 1200)
    dilation: float | int = 5
    colours: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        require_positive(self.name, steps=self.steps, **{"scales": min(self.scales, default=0)})
        if not self.dilation >= 0:
            raise OptionError(f"xrai.dilation must be at least 0; {self.dilation} was given.")

    def saliency(self, view: View) -> Tensor:
        """Return the means over regions where they are positive, (N, H, W)."""
        require_picture(self.name, view.size)
        images = images_of(view)
        ends = [getattr(images.flatten(1), kind)(1) for kind in ("amin", "amax")]
        bases = [add_sides(end, images).expand_as(images) for end in ends]
        shares = torch.stack([integrate(view, base, self.steps) for base in bases]).mean(0)
        planes = shares.sum(1) if self.colours == "sum" else shares.amax(1)
        maps = [
            gather(plane, self.regions(image)) for plane, image in zip(planes, images, strict=True)
        ]
        return torch.stack(maps).relu()

    def regions(self, image: Float[Tensor, "c h w"]) -> Any:
        """Return which pixel lies in which region: 0 and 1, (H W, K) sparse."""
        from scipy import sparse  # noqa: PLC0415 (costs a second, and is needed here alone)
        from skimage.segmentation import felzenszwalb  # noqa: PLC0415 (needed here alone)

        stretched = (image - image.amin()) / (image.amax() - image.amin()).clamp_min(1e-12)
        picture = (2 * stretched - 1).movedim(0, -1).cpu().double().numpy()
        size = picture.shape[0] * picture.shape[1] / _SIDE**2
        smallest = max(_FEWEST, round(_SMALLEST * size))
        found = []
        for scale in self.scales:
            with without_warnings():  # of more than three channels
                labels = felzenszwalb(picture, scale * size, sigma=0.8, min_size=smallest)
            found.append(widen(labels, self.dilation * size**0.5))
        return sparse.hstack(found, format="csr")


def widen(labels: Int[np.ndarray, "h w"], radius: float | int) -> Any:
    """Return which pixel is in which region (H W, K), or in the disc around one of its pixels."""
    from scipy import sparse  # noqa: PLC0415

    height, width = labels.shape
    rows, columns = np.indices(labels.shape)
    reach = math.floor(radius)
    places, regions = [], []
    for down, across in np.ndindex(2 * reach + 1, 2 * reach + 1):
        shift = down - reach, across - reach
        if math.hypot(*shift) <= radius:
            y, x = rows + shift[0], columns + shift[1]
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            places.append((y * width + x)[inside])
            regions.append(labels[inside])
    where = np.concatenate(places), np.concatenate(regions)
    member = sparse.csr_array((np.ones(len(where[0])), where), (labels.size, labels.max() + 1))
    member.data[:] = 1  # where several pixels of a region reach
    return member


def gather(plane: Float[Tensor, "h w"], inside: Any) -> Float[Tensor, "h w"]:
    """Return the plane with every pixel at the mean of what its region added.

    Args:
        plane: any numbers.
        inside: which pixel lies in which region (H W, K).
    """
    numbers = plane.detach().cpu().double().numpy().ravel()
    least = max(1, round(_LEAST * numbers.size / _SIDE**2))
    columns = inside.tocsc()
    left = np.ones(numbers.size, bool)
    counts, sums = inside.sum(0), numbers @ inside
    found = np.zeros_like(numbers)
    while (counts >= least).any():
        means = np.where(counts >= least, sums / np.maximum(counts, 1), -np.inf)
        best = means.argmax()
        region = columns.indices[columns.indptr[best] : columns.indptr[best + 1]]
        new = region[left[region]]
        found[new] = numbers[new].mean()
        left[new] = False
        members = inside[new]
        counts, sums = counts - members.sum(0), sums - numbers[new] @ members
    if left.any():
        found[left] = numbers[left].mean()
    return torch.from_numpy(found.reshape(plane.shape)).to(plane)

"""Where the network's input lies on the photograph, and how a map goes back to its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_SLIVER = 1e-6  # of a pixel: an overlap that is only rounding


@dataclass(frozen=True)
class Placement:
    """The rectangle of a photograph that the network's input shows.

    Attributes:
        photo_size: (H, W) of the photograph, in pixels.
        top: where the rectangle begins, in photo pixels; negative when the input was padded.
        left: as `top`, from the left edge.
        height: of the rectangle, in photo pixels; may reach outside the photograph.
        width: as `height`.
    """

    photo_size: tuple[int, int]
    top: float
    left: float
    height: float
    width: float

    def to_photo(self, saliency: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch H W"]:
        """Put maps over the network's input back at the photograph's own resolution.

        Bilinear, antialiased where the photograph is the coarser of the two. Pixels the network
        never saw are zero, and no value leaves the range that the map and zero span.

        Args:
            saliency: maps of any resolution over the network's input.

        Returns:
            The maps over the photograph, in the same type and on the same device.
        """
        values = saliency.detach().float()
        rows = _resampling(self.photo_size[0], self.top, self.height, values.shape[-2]).to(values)
        columns = _resampling(self.photo_size[1], self.left, self.width, values.shape[-1]).to(
            values
        )
        placed = rows @ values @ columns.mT
        lowest, highest = values.min().clamp(max=0), values.max().clamp(min=0)
        return placed.clamp(lowest, highest).to(saliency.dtype)

    def boxes_to_input(
        self,
        boxes: Float[Tensor, "b 4"],
        size: tuple[int, int],
        *,
        clip: bool = False,
        drop: bool = False,
    ) -> Float[Tensor, "kept 4"]:
        """Put boxes on the photograph where they lie on the network's input.

        Args:
            boxes: x0 y0 x1 y1 in the photograph's pixels, the maximum side exclusive.
            size: (h, w) of the network's input.
            clip: cut them at the input's edges. Without it a box reaches beyond the input, as the
                published localisation numbers want it.
            drop: leave out boxes of which the input shows nothing; clipped, they have no area.

        Returns:
            The boxes in the input's pixels, not rounded.
        """
        scale = torch.tensor([size[1] / self.width, size[0] / self.height], dtype=torch.float64)
        start = torch.tensor([self.left, self.top], dtype=torch.float64)
        corners = boxes.detach().cpu().double().reshape(-1, 2, 2)
        moved = (corners - start) * scale
        ends = torch.tensor([size[1], size[0]], dtype=torch.float64)
        clipped = torch.minimum(moved.clamp_min(0), ends)
        seen = (clipped[:, 1] - clipped[:, 0] > _SLIVER).all(1)
        placed = clipped if clip else moved
        return placed[seen if drop else slice(None)].reshape(-1, 4).to(boxes)

    def boxes_to_photo(
        self, boxes: Float[Tensor, "b 4"], size: tuple[int, int]
    ) -> Float[Tensor, "b 4"]:
        """Put boxes on the network's input where they lie on the photograph.

        Args:
            boxes: x0 y0 x1 y1 in the input's pixels.
            size: (h, w) of the network's input.

        Returns:
            The boxes in the photograph's pixels, not rounded.
        """
        scale = torch.tensor([self.width / size[1], self.height / size[0]], dtype=torch.float64)
        start = torch.tensor([self.left, self.top], dtype=torch.float64)
        corners = boxes.detach().cpu().double().reshape(-1, 2, 2)
        return (corners * scale + start).reshape(-1, 4).to(boxes)


def _resampling(pixels: int, start: float, extent: float, cells: int) -> Tensor:
    """Return (pixels, cells) weights that read a row of cells, laid from `start`, at each pixel."""
    cells_per_pixel = cells / extent
    centres = torch.arange(pixels, dtype=torch.float64) + 0.5 - start
    read_at = centres.clamp(0, extent) * cells_per_pixel
    distances = (torch.arange(cells) + 0.5) - read_at.unsqueeze(1)
    weights = (1 - distances.abs() / max(1.0, cells_per_pixel)).clamp(min=0)
    seen = ((centres + 0.5 > _SLIVER) & (centres - 0.5 < extent - _SLIVER)).unsqueeze(1)
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny) * seen

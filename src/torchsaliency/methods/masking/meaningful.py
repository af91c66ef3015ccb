"""Meaningful perturbation: the smallest blurred patch that makes the class go away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.maps import is_constant
from torchsaliency.core.masking import Blur, Masking
from torchsaliency.core.method import Method, Saliency, register, require_positive
from torchsaliency.core.runtime import draw_uniform
from torchsaliency.core.space import Size, add_sides, repeat_image
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.methods.cam.solvers import AdamState
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    as_probability,
    blur,
    join,
    rows,
    score_under_masks,
    slope,
    sum_dtype,
)

_FLAT = 1e-10
_DISC_STEP = 5
_DISC_BLUR = 10.0
_DISC_SHARE = 0.01
_DISC_ROOM = 0.75
"""The largest disc tried, in shares of the longer side: it covers the whole image."""


@register("meaningful-perturbation", family="masking", cite="fong2017", needs=IMAGE_PASSES)
@final
@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    """Meaningful perturbation: a mask that deletes what the class needs, small and smooth.

    m* = argmin p_c(x ⊙ M + x̃ ⊙ (1-M)) + λ₁ Σ|1-m| + λ₂ Σ (√(Δ_x²+Δ_y²))^β with m in [0, 1] on
    cells of 8 x 8 pixels (8 x 8 x 8 in a volume), M = blur(up(m)) and x̃ the blurred image; the map
    is 1 - m*. Adam on every image by itself. A target that is not a class has its own score
    in place of p_c.

    The search begins at the smallest blurred disc in the image's centre under which the score falls
    to within 1 % of what the largest leaves; where that one does not lower it, at m = 1.

    `details` holds "objective" (N, iterations), what is minimised, before each step.

    Source: Fong and Vedaldi, ICCV 2017. Differs from the official code, which leaves the mask's
    blur out of the gradient and quantises it to 8 bits, cuts jittered images out of a larger one
    (here the border is repeated), begins at a disc even where blur helps the class, and lets the
    discs reach 170 pixels (here 0.75 of the longer side).

    Attributes:
        iterations: of Adam.
        learning_rate: of Adam.
        area_weight: λ₁.
        variation_weight: λ₂.
        variation_power: β.
        cell: side of the mask's cells, in pixels.
        mask_blur: σ of the blur from m to M, in pixels; 0 for none.
        perturbation: x̃, "blur" for the image blurred by `image_blur`, or "masking" for the
            baseline of the explanation's masking.
        image_blur: σ of the blurred image, in pixels.
        jitter: the image is moved by up to this many pixels less one, up and left together
            with the mask, anew in each iteration; 1 for none.
        start: "disc", or "random" for a uniform draw.
        seed: of the jitter and the random start, the same for all images.
    """

    joint: ClassVar[bool] = True

    iterations: int = 300
    learning_rate: float = 0.1
    area_weight: float = 1e-4
    variation_weight: float = 1e-2
    variation_power: float = 3.0
    cell: int = 8
    mask_blur: float = 5.0
    perturbation: Literal["blur", "masking"] = "blur"
    image_blur: float = 10.0
    jitter: int = 4
    start: Literal["disc", "random"] = "disc"
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(
            self.name,
            iterations=self.iterations,
            learning_rate=self.learning_rate,
            cell=self.cell,
            jitter=self.jitter,
        )
        if self.variation_power < 1:
            raise OptionError(
                f"{self.name}.variation_power must be at least 1, not {self.variation_power}."
            )

    def saliency(self, view: View) -> Saliency:
        """Return 1 - m* with the cells spread over the image, (N, *size), and the objective."""
        masking = Blur(self.image_blur) if self.perturbation == "blur" else view.trace.masking
        draw = torch.Generator().manual_seed(self.seed)
        grid = tuple(-(-side // self.cell) for side in view.size)
        first = draw_uniform(draw, *grid)
        shifts = torch.randint(
            0, self.jitter, (self.iterations, len(grid)), generator=draw, device="cpu"
        ).tolist()
        dtype = sum_dtype(view.images.device)
        start = repeat_image(first, len(view.images)).to(view.images.device, dtype)
        if self.start == "disc":
            start = self._discs(view, masking, grid).to(dtype)
        with torch.autocast(start.device.type, enabled=False):
            hidden = masking.baseline(view.images).expand_as(view.images)
        parts = [
            self._search(view, hidden[index], start[index], index, shifts)
            for index in rows(len(start), view)
        ]
        cells, objective = join(parts)
        raw = 1 - _spread(cells, view.size).to(view.score.dtype)
        return Saliency(raw, {"objective": objective.to(view.score.dtype)})

    def _discs(self, view: View, masking: Masking, grid: Size) -> Tensor:
        """Return the cells (N, *grid) of the smallest disc that is as good as the largest."""
        device = view.images.device
        most = _DISC_ROOM * max(view.size) + _DISC_STEP
        radii = torch.arange(0, most, _DISC_STEP, device=device, dtype=torch.float32)
        lines = [torch.arange(side, device=device) - (side - 1) / 2 for side in view.size]
        away = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt()

        def masks(index: Tensor) -> Tensor:
            discs = (away < add_sides(radii[index], away[None])).float()
            return 1 - blur(discs, _DISC_BLUR, "repeat", sides=away.ndim).clamp(0, 1)

        scores = view.score.new_zeros((len(view.images), len(radii)))
        target = as_probability(view.trace.target)
        for group, steps, _, found in score_under_masks(view, len(radii), masks, target, masking):
            scores[group[:, None], steps] = found.to(scores)
        fall = scores[:, :1] - scores[:, -1:]
        idle = is_constant(scores)[:, None] | (fall <= 0)
        enough = idle | (scores - scores[:, -1:] < _DISC_SHARE * fall)
        best = masks(enough.int().argmax(1)).to(scores)
        return F.interpolate(best[:, None], grid, mode="area")[:, 0]

    def _search(
        self, view: View, hidden: Tensor, start: Tensor, index: Tensor, shifts: list[list[int]]
    ) -> list[Tensor]:
        """Return the cells (n, *grid) of the images at `index`, and their objective."""
        images, target = view.images[index], as_probability(view.trace.target)
        adam = AdamState(start.flatten(1), self.learning_rate)
        history = start.new_zeros((len(start), self.iterations))
        for step, shift in enumerate(shifts):
            with torch.enable_grad():
                cells = adam.rows.view_as(start).clone().requires_grad_()
                mask = blur(
                    _spread(cells, view.size), self.mask_blur, "repeat", sides=len(view.size)
                )
                mixed = torch.lerp(hidden, images, mask[:, None].to(images.dtype).expand_as(images))
                scores = view.trace.scores(_move(mixed, shift), index, target)
                price = self._price(cells)
                (rise,) = torch.autograd.grad(price.sum(), cells)
                rise = rise + slope(view, scores, cells)
            history[:, step] = (scores + price).detach()
            adam.ascend(slice(None), -rise.flatten(1))
            adam.rows.clamp_(0, 1)
        return [adam.rows.view_as(start), history]

    def _price(self, cells: Tensor) -> Tensor:
        """Return what size and roughness of the mask cost, (n,)."""
        steep = torch.zeros_like(cells)
        for side in range(1, cells.ndim):
            edge = torch.zeros_like(cells.narrow(side, 0, 1))
            steep = steep + torch.cat([cells.diff(dim=side), edge], side).square()
        # The floor keeps the power's gradient finite where the mask is flat.
        rough = steep.clamp_min(_FLAT).pow(self.variation_power / 2).flatten(1).sum(1)
        area = (1 - cells).abs().flatten(1).sum(1)
        return self.area_weight * area + self.variation_weight * rough


def _spread(cells: Tensor, size: Size) -> Tensor:
    """Repeat the cells over the pixels of the image."""
    return F.interpolate(cells[:, None], size, mode="nearest")[:, 0]


def _move(images: Tensor, shift: list[int]) -> Tensor:
    """Move images to the start of each side, up and to the left; the border is repeated."""
    for place, by in enumerate(shift, 2):
        side = images.shape[place]
        where = (torch.arange(side, device=images.device) + by).clamp_max(side - 1)
        images = images.index_select(place, where)
    return images

"""RISE and D-RISE: the mean of random masks, weighted by the score of the image under each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.detection import is_detections
from torchsaliency.core.maps import is_constant
from torchsaliency.core.method import Method, Needs, Saliency, register, require_positive
from torchsaliency.core.runtime import draw_uniform
from torchsaliency.core.space import Size, add_sides, multiply_sides
from torchsaliency.core.target import Target
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError, TargetError
from torchsaliency.methods.masking.control import CoarseMasks, fit_control
from torchsaliency.methods.passes import IMAGE_PASSES, as_probability, score_under_masks, sum_dtype
from torchsaliency.methods.sampling import (
    Control,
    plan_looks,
    require_sampling,
    unit_of,
)

_MADE_TOGETHER = 32
"""Masks that are held at once where no pass bounds them; even, for pairs."""

_FIRST_LOOK = 256
"""Masks before the standard error is looked at: fewer fit no control variate."""


@dataclass(frozen=True)
class _MaskAverage(Method):
    """What RISE and D-RISE have in common: their masks, and the average."""

    joint: ClassVar[bool] = True

    samples: int = 4000
    cells: int = 7
    keep: float = 0.5
    seed: int = 0
    sampler: Literal["independent", "antithetic"] = "independent"
    control: Control = "none"
    until: float | int | None = None

    def __post_init__(self) -> None:
        require_positive(self.name, samples=self.samples, cells=self.cells)
        if not 0 < self.keep <= 1:
            raise OptionError(f"{self.name}.keep must be above 0 and at most 1, not {self.keep}.")
        require_sampling(self, self.until)

    def _average(self, view: View, target: Target) -> Tensor | Saliency:
        """Return 1/(N·p₁) Σ_i y(x ⊙ M_i) M_i (N, *size); constant where all masks score alike."""
        if (self.sampler, self.control, self.until) != ("independent", "none", None):
            return self._average_steadily(view, target)
        images = view.images
        dtype = sum_dtype(images.device)
        total = torch.zeros((len(images), *view.size), dtype=dtype, device=images.device)
        low = total.new_full((len(images),), torch.inf)
        high = -low
        masks = RandomMasks(self, view.size, images.device)
        for group, _, drawn, scores in score_under_masks(view, self.samples, masks, target):
            total[group] += torch.einsum("nm,m...->n...", scores.to(dtype), drawn.to(dtype))
            low[group] = torch.minimum(low[group], scores.to(dtype).amin(1))
            high[group] = torch.maximum(high[group], scores.to(dtype).amax(1))
        ends = torch.stack([low, high], 1).to(view.score)
        alike = add_sides(is_constant(ends), total)
        raw = total / (self.samples * self.keep)
        return torch.where(alike, add_sides(low, total), raw).to(view.score.dtype)

    def _average_steadily(self, view: View, target: Target) -> Saliency:
        """Return what the average estimates, with its standard error, as the options say."""
        masks = RandomMasks(self, view.size, view.images.device)
        coarse = CoarseMasks(masks.grids, masks.shifts, masks.stretch, view.size, self.keep)
        count, unit = len(view.images), unit_of(self.sampler)
        scores = torch.zeros(count, self.samples, dtype=torch.float64, device="cpu")
        residuals, errors = torch.zeros_like(scores), scores.new_zeros(count)
        level, used = scores.new_zeros(count), torch.zeros(count, dtype=torch.int64, device="cpu")
        weights = scores.new_zeros(count, *coarse.masks.shape[1:])
        going, start = torch.arange(count, device="cpu"), 0
        for look in plan_looks(self.samples, self.until, _FIRST_LOOK, unit):
            chosen = going.to(view.images.device)
            found = score_under_masks(view, look, masks, target, first=start, images=chosen)
            for group, steps, _, part in found:
                scores[group.cpu()[:, None], steps.cpu()] = part.detach().cpu().double()
            fit = fit_control(coarse, scores[going, :look], unit, self.control)
            residuals[going, :look], level[going] = fit.residuals, fit.level
            weights[going], errors[going], used[going] = fit.weights, fit.errors, look
            going, start = going[~(fit.errors <= (self.until or 0))], look
            if not len(going):
                break
        drawn = torch.arange(self.samples, device="cpu") < used[:, None]
        mean, error = _weigh_masks(masks, residuals * drawn, used, unit)
        known = add_sides(self.keep * level, mean) + coarse.reach_of(weights)
        raw = (mean + known.to(mean)) / self.keep
        low = scores.where(drawn, torch.inf).amin(1)
        high = scores.where(drawn, -torch.inf).amax(1)
        alike = is_constant(torch.stack([low, high], 1).to(view.score)).to(raw.device)
        raw = torch.where(add_sides(alike, raw), add_sides(low.to(raw), raw), raw)
        details = {"samples": used, "relative_error": errors, "standard_error": error / self.keep}
        details = {key: each.to(view.images.device) for key, each in details.items()}
        return Saliency(raw.to(view.score.dtype), details)


@register("rise", family="masking", cite="petsiuk2018", needs=IMAGE_PASSES)
@final
@dataclass(frozen=True)
class RISE(_MaskAverage):
    """RISE: random masks averaged with the class probability of the image under each as weight.

    S = 1/(N·p₁) Σ_i p_c(x ⊙ M_i) M_i. A mask is a grid of s x s cells, each 1 with probability p₁,
    stretched bilinearly to (s+1)·⌈H/s⌉ x (s+1)·⌈W/s⌉ pixels and cut to the image at a random
    place; in a volume or a video it has s x s x s cells. A target that is not a class gives its own
    score in place of a probability.

    The same masks serve all images, whatever the batch, the chunk and the device; they are made
    where they are used, so memory is bounded by the chunk. Where all masks score alike, the map is
    constant, and not the mean mask.

    Source: Petsiuk et al., BMVC 2018. Differs from the official code, which resizes with skimage:
    there the outer half cell mirrors its neighbour, here it repeats the border.

    With another `sampler`, `control` or `until` than by default, `details` tells the samples used,
    the standard error of the raw map (N, *size), and the relative one: that of the map on a coarse
    grid, over the map's deviation between positions.

    Attributes:
        samples: number of masks N; 4000 is the paper's for VGG16, 8000 for ResNet-50.
        cells: side s of the grid.
        keep: probability p₁ that a cell shows the image.
        seed: of the masks.
        sampler: "independent", or "antithetic": each second mask is the complement of the one
            before it (at p₁ = ½), at the same place.
        control: "linear" subtracts from the scores a linear model of the mask, fitted on the way,
            whose share of the map is known without a pass; the expected map is the same.
        until: samples end, for each image, once the map's relative standard error is no more than
            this; None draws them all.
    """

    def saliency(self, view: View) -> Tensor | Saliency:
        """Return the weighted mean mask at the image's own size, (N, *size)."""
        return self._average(view, as_probability(view.trace.target))


@register("d-rise", family="masking", cite="petsiuk2021", needs=IMAGE_PASSES | Needs.DETECTIONS)
@final
@dataclass(frozen=True)
class DRISE(_MaskAverage):
    """D-RISE: random masks averaged with how surely the detector still finds the object as weight.

    S = 1/(N·p₁) Σ_i w_i M_i with w_i = max_j s(d, d_j) over the detections d_j in x ⊙ M_i, where
    the similarity s(d, d_j) to the explained detection d is the overlap of their boxes (IoU) times
    the detector's probability of the class of d: see `DetectionScore`, which also has the paper's
    cosine of class probabilities, several objects, and masks in place of boxes. The masks are
    RISE's, of finer cells.

    It explains detections alone, by default the surest one of each image; `rise` explains classes.

    Source: Petsiuk et al., CVPR 2021. Hidden pixels have the masking's colour; the paper's are
    black, which the default masking, zero, is for torchvision's detectors: they normalise.

    Attributes:
        samples: number of masks N.
        cells: side s of the grid.
        keep: probability p₁ that a cell shows the image.
        seed: of the masks.
        sampler: "independent", or "antithetic": each second mask is the complement of the one
            before it (at p₁ = ½), at the same place.
        control: "linear" subtracts from the scores a linear model of the mask, fitted on the way,
            whose share of the map is known without a pass; the expected map is the same.
        until: samples end, for each image, once the map's relative standard error is no more than
            this; None draws them all.
    """

    samples: int = 5000
    cells: int = 16

    def saliency(self, view: View) -> Tensor | Saliency:
        """Return the weighted mean mask at the image's own size, (N, *size).

        Raises:
            TargetError: the network is no detector.
        """
        if not is_detections(view.output):
            raise TargetError(
                "d-rise explains what a detector found, and this network gives no boxes; use rise, "
                "which explains any score, or scorecam or gradcam."
            )
        return self._average(view, view.trace.target)


@final
class RandomMasks:
    """RISE's masks for one image size, drawn on the CPU and made when they are needed.

    Attributes:
        grids: (N, s, s), or (N, s, s, s) for a volume, 0 or 1.
        shifts: (N, 2), where each stretched grid is cut: down and right; one more in a volume.
        stretch: the bilinear stretch of each side as a matrix, (s+1)·⌈side/s⌉ x s.
        size: of the masks.
    """

    def __init__(self, options: _MaskAverage, size: Size, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(options.seed)
        cells, unit = options.cells, unit_of(options.sampler)
        drawn = -(-options.samples // unit)
        numbers = draw_uniform(draw, drawn, *[cells] * len(size))
        grids = numbers < options.keep
        pixels = torch.tensor([-(-side // cells) for side in size], device="cpu")
        shifts = (draw_uniform(draw, drawn, len(size)) * pixels).long()
        if unit > 1:  # the opposite of each grid at the same place; at p₁ = ½ its complement
            grids = torch.stack([grids, numbers >= 1 - options.keep], 1).flatten(0, 1)
            shifts = shifts.repeat_interleave(unit, 0)
        self.grids, self.size = grids[: options.samples].float().to(device), size
        self.shifts = shifts[: options.samples].to(device)
        self.stretch = [_stretch(cells, int(side)).to(device) for side in pixels]

    def __call__(self, index: Tensor) -> Tensor:
        """Return the masks (m, *size) at `index`."""
        stretches = [
            matrix[shift[:, None] + torch.arange(side, device=index.device)]
            for matrix, shift, side in zip(
                self.stretch, self.shifts[index].unbind(1), self.size, strict=True
            )
        ]
        with torch.autocast(index.device.type, enabled=False):
            return multiply_sides(self.grids[index], stretches).clamp(0, 1)


def _weigh_masks(
    masks: RandomMasks, weights: Tensor, used: Tensor, unit: int
) -> tuple[Tensor, Tensor]:
    """Return the mean of weighted masks and its standard error, (N, *size).

    Args:
        masks: S of them.
        weights: (N, S), zero beyond those used.
        used: (N,) how many masks each mean has.
        unit: masks in a row that belong together.
    """
    device = masks.grids.device
    dtype = sum_dtype(device)
    weights, used = weights.to(device, dtype), used.to(device, dtype)
    mean = torch.zeros(len(weights), *masks.size, dtype=dtype, device=device)
    power = torch.zeros_like(mean)
    for steps in torch.arange(int(used.max()), device=device).split(_MADE_TOGETHER):
        made, part = masks(steps).to(dtype), weights[:, steps]
        mean += torch.einsum("nm,m...->n...", part, made)
        power += torch.einsum("nm,m...->n...", part.square(), made.square())
        if unit > 1:  # (a + b)² = a² + b² + 2ab
            pairs = len(steps) // unit * unit
            both = made[:pairs:unit] * made[1:pairs:unit]
            product = part[:, :pairs:unit] * part[:, 1:pairs:unit]
            power += 2 * torch.einsum("nm,m...->n...", product, both)
    count = add_sides(used, mean)
    units = (count / unit).floor().clamp_min(1)
    mean /= count
    variance = (power / (units * unit**2) - mean.square()).clamp_min(0) / (units - 1)
    return mean, variance.sqrt()


def _stretch(cells: int, pixels: int) -> Tensor:
    """Return bilinear resizing from s cells to (s+1)·pixels as a matrix."""
    unit = torch.eye(cells, dtype=torch.float32, device="cpu")[None]
    return F.interpolate(unit, (cells + 1) * pixels, mode="linear")[0].T

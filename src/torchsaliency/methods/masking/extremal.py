"""Extremal perturbation: the part of a given area that keeps the class best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.method import Method, Saliency, register, require_positive
from torchsaliency.core.space import Size
from torchsaliency.core.target import ClassTarget, Margin, Target
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError, TargetError
from torchsaliency.methods.passes import (
    IMAGE_PASSES,
    blur,
    join,
    require_picture,
    rows,
    slope,
    sum_dtype,
)

AREAS: dict[str, tuple[float, ...]] = {
    "torchray": (0.1,),
    "torchray-benchmark": (0.025, 0.05, 0.1, 0.2),
}
"""Areas by name: the default of TorchRay's function, and those of its benchmark."""

Preset = Literal["torchray", "torchray-benchmark"]

_TIE = 2.0**16
"""Mask values closer than its inverse are sorted by place: rounding must not choose among them."""

_MOMENTUM = 0.9
_COLDNESS = 20.0
_ROWS = 2
"""Masks drawn at once; each takes 81 numbers a pixel."""


@register("extremal-perturbation", family="masking", cite="fong2019", needs=IMAGE_PASSES)
@final
@dataclass(frozen=True)
class ExtremalPerturbation(Method):
    """Extremal perturbation: smooth masks of fixed areas that keep the class best, summed.

    m_a = argmax Φ(x ⊗ m) - λ · mean (sort(m) - r_a)², r_a the step that is 1 in a share a of the
    canvas. x ⊗ m picks each pixel from a pyramid of blurred images, the sharp one where m = 1.
    m is the smooth maximum of nodes 7 pixels apart under a kernel of σ = 21, on a canvas 18 pixels
    wider than the image on every side or so (260 for 224). λ begins at 300 and reaches 4909 after
    800 iterations of gradient ascent with momentum; every other iteration sees the mirror image.

    All images and areas are problems of their own, solved in batches no larger than the chunk. An
    image whose reward has no gradient at all gets a constant map. `details` holds "masks"
    (N, areas, H, W), "objective" (N, areas, iterations) and "area" (N, areas), the mean of each
    last mask over its canvas.

    Source: Fong et al., ICCV 2019, as TorchRay's `extremal_perturbation`. Differs from it in that
    nodes are found by whole numbers instead of rounded ones, and that mask values which differ by
    less than 2⁻¹⁶ are sorted by their place. The masks of "delete" can be others than TorchRay's:
    all pixels but the area tie at first, and rounding chooses among them. TorchRay's own masks of
    one image in float32 and in float64 differ by up to 0.86. TorchRay's benchmark takes
    areas=torchray-benchmark and smoothing=0.09.

    Attributes:
        areas: shares of the canvas, one mask each, and the map is their sum; or one share alone;
            or a name: "torchray" (0.1, the default), "torchray-benchmark" (0.025, 0.05, 0.1, 0.2).
        iterations: steps of the ascent, one pass an image and area each (two for "dual").
        variant: "preserve" rewards the image under m, "delete" punishes it under 1 - m, "dual"
            does both.
        reward: "simple" is the target's score (the class logit), "contrastive" its lead over the
            best other class.
        perturbation: "blur" for the pyramid, or "masking" for the explanation's own masking
            (TorchRay's "fade" is that with the mean colour).
        learning_rate: of the ascent.
        area_weight: λ at the beginning.
        area_growth: by which λ is multiplied in each iteration.
        spacing: of the nodes, in pixels.
        sigma: of the kernel, in pixels.
        levels: of the pyramid.
        image_blur: σ of the pyramid's most blurred level, in pixels.
        mirrored: whether every other iteration sees the mirror image.
        smoothing: σ of a last blur of the map, as a share of the shorter side; 0 for none.
    """

    joint: ClassVar[bool] = True

    areas: Preset | float | tuple[float, ...] = (0.1,)
    iterations: int = 800
    variant: Literal["preserve", "delete", "dual"] = "preserve"
    reward: Literal["simple", "contrastive"] = "simple"
    perturbation: Literal["blur", "masking"] = "blur"
    learning_rate: float = 0.01
    area_weight: float = 300.0
    area_growth: float = 1.0035
    spacing: int = 7
    sigma: float = 21.0
    levels: int = 8
    image_blur: float = 20.0
    mirrored: bool = True
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_positive(
            self.name,
            iterations=self.iterations,
            learning_rate=self.learning_rate,
            spacing=self.spacing,
            sigma=self.sigma,
            levels=self.levels - 1,
        )
        known = not isinstance(self.areas, str) or self.areas in AREAS
        if not known or not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise OptionError(
                f"{self.name}.areas are shares above 0 and at most 1, or one of "
                f"{', '.join(AREAS)}; {self.areas!r} was given."
            )

    @property
    def shares(self) -> tuple[float, ...]:
        """The areas as numbers."""
        if isinstance(self.areas, str):
            return AREAS[self.areas]
        return self.areas if isinstance(self.areas, tuple) else (self.areas,)

    def saliency(self, view: View) -> Saliency:
        """Return the sum of the masks less its least value, at the image's own size, (N, H, W)."""
        require_picture(self.name, view.size)
        target = self._target(view)
        shape = (len(view.images), len(self.shares))
        parts = [self._ascend(view, target, pairs) for pairs in rows(shape[0] * shape[1], view)]
        masks, objective, area, moved = (part.unflatten(0, shape) for part in join(parts))
        raw = masks.sum(1) * moved.any(1)[:, None, None]
        raw = blur(raw, self.smoothing * min(view.size))
        # In float32 the first steps would be lost beside the 1 from which all masks set out.
        raw = raw - raw.amin((1, 2), keepdim=True)
        details = {"masks": masks, "objective": objective, "area": area}
        kind = view.score.dtype
        return Saliency(raw.to(kind), {key: part.to(kind) for key, part in details.items()})

    def weight(self, iteration: int) -> float:
        """Return λ in an iteration, counted from 0."""
        return self.area_weight * self.area_growth**iteration

    def _target(self, view: View) -> Target:
        target = view.trace.target
        if self.reward == "simple":
            return target
        if not isinstance(target, ClassTarget):
            raise TargetError(
                f"{self.name}.reward=contrastive compares classes, and the target is "
                f"{type(target).__name__}; give a class, or reward=simple."
            )
        return target.restate(Margin)

    def _ascend(self, view: View, target: Target, pairs: Tensor) -> list[Tensor]:
        """Optimise some pairs of an image and an area, numbered image by image."""
        index, which = pairs // len(self.shares), pairs % len(self.shares)
        score = view.score.to(sum_dtype(pairs.device))
        canvas = Canvas(view.size, self.spacing, self.sigma, score)
        reference = self._reference(canvas, score)[which]
        show = self._perturbation(view, index)
        nodes = score.new_ones((len(pairs), *canvas.nodes))
        velocity = torch.zeros_like(nodes)
        objective = score.new_zeros((len(pairs), self.iterations))
        moved = torch.zeros_like(pairs, dtype=torch.bool)
        for step in range(self.iterations):
            masks = canvas.masks(nodes)
            off = masks - _rank(masks, reference)
            value, push = torch.zeros_like(objective[:, 0]), torch.zeros_like(canvas.cut(masks))
            for sign in {"preserve": (1,), "delete": (-1,), "dual": (1, -1)}[self.variant]:
                with torch.enable_grad():
                    leaf = canvas.cut(masks).detach().clone().requires_grad_()
                    images = show(leaf if sign > 0 else 1 - leaf)
                    images = images.flip(3) if self.mirrored and step % 2 == 0 else images
                    scores = view.trace.scores(images, index, target)
                    push += sign * slope(view, scores, leaf)
                value += sign * scores.detach()
            moved |= (push != 0).flatten(1).any(1)
            weight = self.weight(step)
            objective[:, step] = value - weight * off.square().mean((1, 2))
            pull = (-2 * weight / off[0].numel()) * off
            canvas.cut(pull).add_(push)
            climb = canvas.pull_back(nodes, pull)
            # The first step is taken whole, as torch's SGD does with its momentum of 0.9.
            velocity = climb if step == 0 else _MOMENTUM * velocity + (1 - _MOMENTUM) * climb
            nodes = (nodes + self.learning_rate * velocity).clamp(0, 1)
        return [canvas.cut(masks), objective, masks.mean((1, 2)), moved]

    def _reference(self, canvas: Canvas, like: Tensor) -> Tensor:
        """Return r_a of every area, (areas, pixels)."""
        count = canvas.size[0] * canvas.size[1]
        places = torch.arange(count, device=like.device)
        low = torch.tensor([int((1 - area) * count) for area in self.shares], device=like.device)
        return (places >= low[:, None]).to(like.dtype)

    def _perturbation(self, view: View, index: Tensor) -> Callable[[Tensor], Tensor]:
        """Return ⊗: what shows the images at `index` under masks (n, H, W)."""
        if self.perturbation == "masking":

            def mask(masks: Tensor) -> Tensor:
                with torch.autocast(index.device.type, enabled=False):
                    return view.trace.apply_masks(masks, index)

            return mask
        images = view.images[index].to(view.score.dtype)
        shares = [1 - level / (self.levels - 1) for level in range(self.levels)]
        pyramid = torch.stack([blur(images, self.image_blur * share) for share in shares], 1)
        return partial(_pick, pyramid.to(view.images.dtype))


@final
class Canvas:
    """TorchRay's smooth masks: nodes on a grid, each output the smooth maximum of those around it.

    Attributes:
        image: (H, W).
        nodes: how many nodes down and across.
        padding: nodes of value 0 around the grid.
        margin: pixels of the canvas around the image.
        weights: (k², spacing, spacing), the kernel from each node near a pixel to the pixel, which
            depends only on where in its cell the pixel lies.
    """

    def __init__(self, image: Size, spacing: int, sigma: float, like: Tensor) -> None:
        self.image, self.margin = image, round(sigma)
        self.nodes = (-(-image[0] // spacing), -(-image[1] // spacing))
        radius = 1 + math.ceil(sigma / spacing)
        # TorchRay's padding cuts the image where σ is no multiple of the spacing.
        self.padding = max(
            1 + math.ceil(2 * sigma / spacing),
            radius + math.ceil((self.margin + spacing - 1) / (2 * spacing)),
        )
        near = torch.arange(2 * radius + 1, dtype=torch.float64, device="cpu")[:, None]
        apart = torch.arange(spacing, device="cpu") - sigma - spacing * (near - self.padding)
        down, across = apart[:, None, :, None], apart[None, :, None, :]
        away = (down.square() + across.square()).sqrt().flatten(0, 1)
        self.weights = (-2 * (away / sigma - 0.5).clamp_min(0).square()).exp().to(like)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the canvas: 260 for an image of 224 and TorchRay's numbers."""
        spacing, near = self.weights.shape[1], math.isqrt(len(self.weights))
        down, across = (
            spacing * (count + 2 * self.padding - near + 1) - spacing + 1 for count in self.nodes
        )
        return down, across

    def cut(self, canvas: Tensor) -> Tensor:
        """Return the part of the canvas that lies on the image, as a view."""
        height, width = self.image
        return canvas[:, self.margin : self.margin + height, self.margin : self.margin + width]

    def masks(self, nodes: Tensor) -> Tensor:
        """Return the masks (n, *size) of nodes (n, h, w)."""
        return torch.cat([self._masks(part) for part in nodes.split(_ROWS)])

    def pull_back(self, nodes: Tensor, slopes: Tensor) -> Tensor:
        """Carry slopes in the masks (n, *size) back to the nodes, (n, h, w)."""
        found = []
        for part, given in zip(nodes.split(_ROWS), slopes.split(_ROWS), strict=True):
            with torch.enable_grad():
                leaf = part.detach().clone().requires_grad_()
                found += torch.autograd.grad(self._masks(leaf), leaf, given)
        return torch.cat(found)

    def _masks(self, nodes: Tensor) -> Tensor:
        near = math.isqrt(len(self.weights))
        cells = [count + 2 * self.padding - near + 1 for count in self.nodes]
        around = F.unfold(nodes[:, None], near, padding=self.padding).unflatten(2, cells)
        spread = around[:, :, :, None, :, None] * self.weights[:, None, :, None, :]
        spread = spread.flatten(4, 5).flatten(2, 3)[:, :, : self.size[0], : self.size[1]]
        pooled = (spread * (_COLDNESS * spread).softmax(1)).sum(1)
        return pooled.clamp(0, 1)


def _rank(masks: Tensor, reference: Tensor) -> Tensor:
    """Put the values of a sorted reference (n, pixels) where each mask has them in its order."""
    flat = masks.flatten(1)
    order = (flat * _TIE).round().argsort(dim=1, stable=True)
    return torch.zeros_like(flat).scatter_(1, order, reference).view_as(masks)


def _pick(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Pick each pixel from the pyramid (n, levels, C, H, W) at the height that its mask says."""
    height = masks * (pyramid.shape[1] - 1)
    below = height.detach().floor().clamp(0, pyramid.shape[1] - 2)
    index = below.long()[:, None, None].expand(-1, 1, pyramid.shape[2], -1, -1)
    low, high = (pyramid.gather(1, index + by)[:, 0] for by in (0, 1))
    share = (height - below)[:, None].to(pyramid.dtype)
    return torch.lerp(low, high, share.expand_as(low))

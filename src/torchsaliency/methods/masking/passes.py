"""What methods that hide parts of the image share: masked passes, their target, their precision."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from torchsaliency.core.maps import has_float64
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Needs
from torchsaliency.core.rules import gradients
from torchsaliency.core.target import ClassTarget, Probability, Target
from torchsaliency.core.trace import View

MASKED = Needs.TARGET | Needs.PASSES
"""No layer is read."""

Border = Literal["zero", "repeat", "mirror"]

_HALF_SCALE = 1024.0
"""Loss scale for float16 networks, whose smallest gradients would round to zero."""


def under_masks(
    view: View,
    count: int,
    masks: Callable[[Tensor], Tensor],
    target: Target | None = None,
    masking: Masking | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Score every image under each of `count` masks that all images share, chunk by chunk.

    Args:
        view: the images.
        count: how many masks there are.
        masks: gives the masks (m, H, W) in [0, 1] for indices (m,) in 0 … count-1.
        target: of the explained images; the trace's own by default.
        masking: the trace's own by default.

    Yields:
        Indices of images (n,), indices of masks (m,), these masks, and the scores (n, m).
    """
    device, chunk, hide = view.images.device, view.trace.chunk, masking or view.trace.masking
    everyone = torch.arange(len(view.images), device=device)
    for steps in torch.arange(count, device=device).split(max(1, chunk // len(everyone))):
        made = masks(steps)
        for group in everyone.split(chunk):
            index = group.repeat_interleave(len(steps))
            with torch.autocast(device.type, enabled=False):
                rows = hide(view.images[index], made.repeat(len(group), 1, 1))
            scores = view.trace.scores(rows, index, target)
            yield group, steps, made, scores.view(len(group), len(steps))


def probability(target: Target) -> Target:
    """Return the class probability where a class is explained, any other target as it is."""
    return Probability(target.labels) if isinstance(target, ClassTarget) else target


@contextmanager
def aimed(view: View, kind: type[ClassTarget]) -> Iterator[View]:
    """Look at the same pass with another score of the class explained; other targets stay."""
    target = view.trace.target
    if not isinstance(target, ClassTarget):
        yield view
        return
    trace = copy.copy(view.trace)
    trace.target = kind(target.labels)
    scores = trace.target(trace.output)
    trace.score = scores.to(view.score.dtype)
    try:
        yield View(trace, view.layers)
    finally:
        view.trace.passes = trace.passes


def widest(device: torch.device) -> torch.dtype:
    """Return the type for sums: autocast leaves float64 alone, and Apple's devices have none."""
    return torch.float64 if has_float64(device) else torch.float32


def slope(view: View, values: Tensor, leaf: Tensor) -> Tensor:
    """Return ∂ Σ values / ∂ leaf, with float16's small gradients kept."""
    scale = _HALF_SCALE if view.trace.holds(torch.float16) else 1.0
    if not values.requires_grad:  # the network broke the graph: no evidence
        return torch.zeros_like(leaf)
    weight = torch.full_like(values, scale)
    (found,) = gradients(values, [leaf], weight)
    return torch.zeros_like(leaf) if found is None else found / scale


def blurred(
    planes: Tensor, sigma: float, border: Border = "zero", radius: int | None = None
) -> Tensor:
    """Blur (…, H, W) by a Gaussian, differentiably.

    Args:
        planes: any planes.
        sigma: of the Gaussian, in pixels; 0 leaves them as they are.
        border: what pixels outside are: zero, the nearest pixel, or those mirrored at the border.
        radius: where the kernel is cut; ⌈4σ⌉ by default.
    """
    if sigma <= 0:
        return planes
    reach = math.ceil(4 * sigma) if radius is None else radius
    rows, columns = (_blur(side, sigma, border, reach).to(planes) for side in planes.shape[-2:])
    with torch.autocast(planes.device.type, enabled=False):
        return rows @ planes @ columns.T


def _blur(length: int, sigma: float, border: Border, reach: int) -> Tensor:
    """Return the blur of one side as a matrix: no kernel is wider than the image then."""
    offsets = torch.arange(-reach, reach + 1, device="cpu")
    kernel = (-0.5 * (offsets.double() / sigma).square()).exp()
    where = torch.arange(length, device="cpu")[:, None] + offsets
    weights = (kernel / kernel.sum()).expand(where.shape)
    if border == "zero":
        weights = weights * ((where >= 0) & (where < length))
    elif border == "mirror":
        where = where.remainder(max(1, 2 * (length - 1)))
        where = torch.minimum(where, 2 * (length - 1) - where)
    matrix = torch.zeros(length, length, dtype=torch.float64, device="cpu")
    return matrix.scatter_add_(1, where.clamp(0, length - 1), weights)

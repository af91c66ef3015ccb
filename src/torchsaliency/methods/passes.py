"""What methods share that run the whole network again: chunks, gradients, rules, hidden parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.layer import first_tensor, replace_first
from torchsaliency.core.maps import has_float64, to_float64, upcast
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Needs
from torchsaliency.core.rules import Recording, Rules, backward, differentiate
from torchsaliency.core.space import Size, describe_size, multiply_sides
from torchsaliency.core.target import ClassTarget, Probability, Target, score
from torchsaliency.core.trace import View
from torchsaliency.errors import InputError, LayerError, TargetError

IMAGE_PASSES = Needs.TARGET | Needs.PASSES
"""Further passes, forward and perhaps backward, through the whole network; no layer is read."""

Border = Literal["zero", "repeat", "mirror"]

_HALF_SCALE = 1024.0
"""Loss scale for float16 networks, whose smallest gradients would round to zero."""


def images_of(view: View) -> Float[Tensor, "n c *size"]:
    """Return the images in float32 or better; the network rounds them itself."""
    return upcast(view.images)


def baseline(view: View) -> Float[Tensor, "n c *size"]:
    """Return what "absent" means: the baseline of the masking in use."""
    images = images_of(view)
    return view.masking.baseline(images).expand_as(images)


def rows(count: int, view: View) -> tuple[Tensor, ...]:
    """Return the numbers 0 … count-1 in chunks."""
    return torch.arange(count, device=view.images.device).split(view.chunk)


def join(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the results of several chunks as one of each."""
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the type for sums: autocast leaves float64 alone, and Apple's devices have none."""
    return torch.float64 if has_float64(device) else torch.float32


# --- gradients -----------------------------------------------------------------------------------


def loss_scale(view: View) -> float:
    """Return what keeps the gradients of a float16 network from vanishing; results are divided."""
    return _HALF_SCALE if view.is_rounded_to(torch.float16) else 1.0


def slope(view: View, values: Tensor, leaf: Tensor) -> Tensor:
    """Return ∂ Σ values / ∂ leaf, zeros where the values do not depend on it."""
    if not values.requires_grad:  # the network broke the graph: no evidence
        return torch.zeros_like(leaf)
    scale = loss_scale(view)
    (found,) = differentiate(values, [leaf], torch.full_like(values, scale))
    return torch.zeros_like(leaf) if found is None else found / scale


def record_scores(
    view: View, images: Tensor, index: Tensor, recording: AbstractContextManager[object]
) -> tuple[Tensor, Tensor]:
    """Return a leaf with variants of the images at `index`, and their scores, made while recording.

    Raises:
        TargetError: the score does not depend differentiably on the image.
    """
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), recording:
        # A copy, for a network that works in place on its input.
        scores = view.scores(leaf.clone(), index)
    if not scores.requires_grad:
        raise _no_gradient()
    return leaf, scores


def gradient(
    view: View, images: Float[Tensor, "m c *size"], index: Tensor
) -> Float[Tensor, "m c *size"]:
    """Return ∂y/∂x of variants of the images at `index`, of any number that fits in one chunk.

    Raises:
        TargetError: the score does not depend differentiably on the image.
    """
    leaf, scores = record_scores(view, images, index, nullcontext())
    scale = loss_scale(view)
    (found,) = differentiate(
        scores, [leaf], torch.full_like(scores, scale), create_graph=view.differentiable
    )
    if found is None:
        raise _no_gradient()
    return found / scale


def _no_gradient() -> TargetError:
    return TargetError(
        "The score does not depend differentiably on the image; choose another target, or a method "
        "that needs no gradient, such as lime."
    )


def image_gradients(view: View) -> Float[Tensor, "n c *size"]:
    """Return ∂y/∂x of every image, chunk by chunk."""
    images = images_of(view)
    return torch.cat([gradient(view, images[i], i) for i in rows(len(images), view)])


def mean_over_draws(
    view: View, draws: int, part: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "n c *size"]:
    """Return the mean over draws of part(draw, image), both (m,) int64, for every image.

    Draws and images are paired freely in a chunk, so that one image fills it too.
    """
    count, total = len(view.images), None
    for pairs in rows(draws * count, view):
        index = pairs % count
        found = part(pairs // count, index)
        if total is None:
            total = found.new_zeros(count, *found.shape[1:])
        total.index_add_(0, index, found)
    assert total is not None
    return total / draws


def rise_from(view: View, base: Float[Tensor, "n c *size"]) -> Float[Tensor, " n"]:
    """Return y_c(x) - y_c(b), what attributions to the way from b to x add up to."""
    with torch.no_grad():
        found = [view.scores(base[index], index) for index in rows(len(base), view)]
    return view.score - torch.cat(found).to(view.score)


def layer_gradients(
    view: View,
    module: nn.Module,
    images: Float[Tensor, "m c *size"],
    index: Tensor,
    features: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what a module gives for variants of the images at `index`, and ∂y of that.

    Args:
        view: the images.
        module: of the network, one that runs once.
        images: the variants, of any number that fits in one chunk.
        index: (M,) the images that they are of.
        features: (M, …) in the place of what the module gives.

    Raises:
        LayerError: the module did not run, or ran twice.
    """
    leaves: list[Tensor] = []

    def hand_on(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        own = first_tensor(output, "")
        made = own if features is None else features
        leaves.append(upcast(made.detach()).clone().requires_grad_())
        return replace_first(output, leaves[-1].to(own.dtype, copy=True))

    handle = module.register_forward_hook(hand_on)
    try:
        with torch.enable_grad():
            output = view.run(images, index)
            values = upcast(score(view.target.take(index), output, len(index)))
    finally:
        handle.remove()
    if len(leaves) != 1:
        raise LayerError(
            f"A {type(module).__name__} ran {len(leaves)} times in one pass, so it has no single "
            "output; choose the block around it."
        )
    return leaves[0].detach(), slope(view, values, leaves[0])


def propagate(
    view: View,
    rules: Rules,
    *,
    values: bool = True,
    check: Callable[[Recording], None] | None = None,
    conserves: str = "",
) -> Float[Tensor, "n c *size"]:
    """Return ∂y/∂x of every image, with rules in the place of some operations' gradients.

    Args:
        view: the images.
        rules: by operation, see `core.rules`.
        values: whether a rule reads an operation's numbers.
        check: looks at each recording, and refuses what the rules do not hold for.
        conserves: as `core.rules.backward`.

    Raises:
        LayerError: a rule is for a layer that the network does not have; or as `backward`.
        TargetError: the score does not depend differentiably on the image.
    """
    images, scale = images_of(view), loss_scale(view)
    layers = {key.rpartition(":")[0] for key in rules} - {""}
    modules = {name: view.get_module(name) for name in sorted(layers)}
    found = []
    for index in rows(len(images), view):
        recording = Recording(len(index), values=values)
        with recording.in_layers(modules):
            leaf, scores = record_scores(view, images[index], index, recording)
        if check is not None:
            check(recording)
        weight = torch.full_like(scores, scale)
        found += backward(scores, [leaf], recording, rules, weight=weight, conserves=conserves)
    return torch.cat(found) / scale


def completeness_gap(
    shares: Float[Tensor, "n c *size"], rises: Float[Tensor, " n"], scores: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return how far shares are from adding up to the rise of the score, relative to it.

    (Σ R - Δy) / max(|Δy|, 1 % of |y| + |y - Δy|).
    """
    rises, scores, sums = (
        to_float64(rises),
        to_float64(scores),
        to_float64(shares.flatten(1)).sum(1),
    )
    least = 0.01 * (scores.abs() + (scores - rises).abs())
    below = torch.maximum(rises.abs(), least).clamp_min(torch.finfo(torch.float32).tiny)
    return ((sums - rises) / below).to(shares)


# --- hidden parts --------------------------------------------------------------------------------


def score_under_masks(
    view: View,
    count: int,
    masks: Callable[[Tensor], Tensor],
    target: Target | None = None,
    masking: Masking | None = None,
    *,
    first: int = 0,
    images: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Score every image under each of `count` masks that all images share, chunk by chunk.

    Args:
        view: the images.
        count: how many masks there are.
        masks: gives the masks (m, *size) in [0, 1] for indices (m,) in 0 … count-1.
        target: of the explained images; the trace's own by default.
        masking: the trace's own by default.
        first: the masks before it are left out.
        images: indices (n,) of the images that are scored; all by default.

    Yields:
        Indices of images (n,), indices of masks (m,), these masks, and the scores (n, m).
    """
    device, chunk = view.images.device, view.chunk
    chosen = torch.arange(len(view.images), device=device) if images is None else images
    hide = (masking or view.masking).over(view.images)
    for steps in torch.arange(first, count, device=device).split(max(1, chunk // len(chosen))):
        made = masks(steps)
        for group in chosen.split(chunk):
            index = group.repeat_interleave(len(steps))
            with torch.autocast(device.type, enabled=False):
                variants = hide(made.repeat(len(group), *[1] * (made.ndim - 1)), index)
            scores = view.scores(variants, index, target)
            yield group, steps, made, scores.view(len(group), len(steps))


def require_picture(name: str, size: Size) -> None:
    """Check that images are pictures, for a method that is defined on no other.

    Raises:
        InputError: they are not.
    """
    if len(size) != 2:  # noqa: PLR2004
        raise InputError(
            f"{name} is defined on pictures (N, C, H, W), and images of {describe_size(size)} were "
            "given; use rise, occlusion, meaningful-perturbation or a class activation map."
        )


def as_probability(target: Target) -> Target:
    """Return the class probability where a class is explained, any other target as it is."""
    return target.restate(Probability) if isinstance(target, ClassTarget) else target


def blur(
    planes: Tensor,
    sigma: float,
    border: Border = "zero",
    radius: int | None = None,
    *,
    sides: int = 2,
) -> Tensor:
    """Blur (…, *size) by a Gaussian, differentiably.

    Args:
        planes: any planes.
        sigma: of the Gaussian, in pixels; 0 leaves them as they are.
        border: what pixels outside are: zero, the nearest pixel, or those mirrored at the border.
        radius: where the kernel is cut; ⌈4σ⌉ by default.
        sides: how many of the last dimensions are blurred.
    """
    if sigma <= 0:
        return planes
    reach = math.ceil(4 * sigma) if radius is None else radius
    matrices = [_blur_matrix(n, sigma, border, reach).to(planes) for n in planes.shape[-sides:]]
    with torch.autocast(planes.device.type, enabled=False):
        return multiply_sides(planes, matrices)


def _blur_matrix(length: int, sigma: float, border: Border, reach: int) -> Tensor:
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

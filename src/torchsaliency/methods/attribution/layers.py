"""Attribution to a layer's numbers: what each of them adds to the rise from the baseline.

With A(x) what the layer gives for the image x, b the baseline and x_α = b + α(x - b):
the layer's integrated gradients go from A(b) to A(x) on a straight line, conductance
takes the way that A itself takes while the image goes from b to x (Dhamdhere et al., ICLR 2019).
Both return numbers of the shape of what the layer gives, and sum to y(x) - y(b) if the score
depends on the image through this layer alone.
"""

from __future__ import annotations

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn

from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View
from torchsaliency.methods.passes import images_of, layer_gradients, mean_over_draws, rows


def read_layer(view: View, module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (N, …) and ∂y/∂A of variants (N, C, *size) of all images, chunk by chunk.

    Args:
        view: the images.
        module: of the network, one that runs once.
        images: the variants.

    Raises:
        LayerError: the module did not run, or ran twice.
    """
    found = [
        layer_gradients(view, module, images[index], index) for index in rows(len(images), view)
    ]
    activations, slopes = (torch.cat(parts) for parts in zip(*found, strict=True))
    return activations, slopes


def integrate_layer(view: View, module: nn.Module, base: Tensor, steps: int) -> Tensor:
    """Return (A(x) - A(b)) ⊙ ∫₀¹ ∂y/∂A (A(b) + α(A(x) - A(b))) dα, (N, …).

    By Gauss-Legendre quadrature; what the network computes beside this layer is that of x.

    Args:
        view: the images.
        module: of the network, one that runs once.
        base: b (N, C, *size).
        steps: points of the quadrature.
    """
    images = images_of(view)
    start, end = (read_layer(view, module, one)[0] for one in (base, images))
    points, weights = (start.new_tensor(numbers) for numbers in leggauss(steps))

    def part(step: Tensor, index: Tensor) -> Tensor:
        at = add_sides(1 + points[step], end) / 2
        features = start[index] + at * (end[index] - start[index])
        slopes = layer_gradients(view, module, images[index], index, features)[1]
        return add_sides(weights[step], slopes) / 2 * steps * slopes

    return (end - start) * mean_over_draws(view, steps, part)


def find_conductance(view: View, module: nn.Module, base: Tensor, steps: int) -> Tensor:
    """Return ∫₀¹ ∂y/∂A (x_α) ⊙ ∂A(x_α)/∂α dα, (N, …), by the trapezoidal rule.

    Σ_k (A(x_{k+1}) - A(x_k)) ⊙ (g_k + g_{k+1}) / 2, where g = ∂y/∂A and x_0 = b … x_steps = x.

    Args:
        view: the images.
        module: of the network, one that runs once.
        base: b (N, C, *size).
        steps: of equal length.
    """
    return torch.stack(
        [_conduct_one(view, module, base, steps, place) for place in range(len(view.images))]
    )


def _conduct_one(view: View, module: nn.Module, base: Tensor, steps: int, place: int) -> Tensor:
    """Return the conductance of the image at `place`; chunks of steps share their border."""
    start, end = base[place], images_of(view)[place]
    before: tuple[Tensor, Tensor] | None = None
    total = start.new_zeros(())
    for points in torch.arange(steps + 1, device=start.device).split(view.chunk):
        at = add_sides(points.to(start) / steps, end[None])
        index = torch.full_like(points, place)
        found = layer_gradients(view, module, start + at * (end - start), index)
        values, slopes = (
            torch.cat([old, new])
            for old, new in zip(before or (found[0][:0],) * 2, found, strict=True)
        )
        total = total + (values.diff(dim=0) * (slopes[1:] + slopes[:-1]) / 2).sum(0)
        before = values[-1:], slopes[-1:]
    return total

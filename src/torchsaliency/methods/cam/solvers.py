"""How Opti-CAM searches: the paper's Adam, and a trust-region search that needs fewer passes.

Both hold one vector u of logits an image and are element-wise, so images do not influence each
other. A pass of the network happens between `propose` and `update`.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from torchsaliency.core.maps import Normalisation, minmax, normalise, upsample

_BETAS = (0.9, 0.999)
_EPS = 1e-8


def combine(logits: Tensor, features: Tensor) -> Tensor:
    """Return S(u) = Σ_k softmax(u)_k A_k (Eq. 8), shape (N, h, w)."""
    return torch.einsum("nk,nkhw->nhw", logits.softmax(1), features)


@final
class AdamState:
    """Adam's moments for rows that may stop at different times (torch's keeps one clock for all).

    Attributes:
        rows: the values that are optimised (N, K), changed in place by `ascend`.
    """

    def __init__(self, rows: Tensor, rate: float) -> None:
        self.rows, self._rate = rows, rate
        self._first, self._second = torch.zeros_like(rows), torch.zeros_like(rows)
        self._clock = rows.new_zeros((len(rows), 1))

    def ascend(self, live: Tensor, slope: Tensor) -> None:
        """Move the rows `live` one step up their slope."""
        beta, gamma = _BETAS
        self._clock[live] += 1
        self._first[live] = self._first[live].lerp(slope, 1 - beta)
        self._second[live] = self._second[live].lerp(slope.square(), 1 - gamma)
        clock = self._clock[live]
        first = self._first[live] / (1 - beta**clock)
        second = self._second[live] / (1 - gamma**clock)
        self.rows[live] += self._rate * first / (second.sqrt() + _EPS)


@final
class Adam:
    """The paper's search: one Adam step on u for every pass of the network.

    Attributes:
        logits: u (N, K), the current iterate.
    """

    def __init__(
        self, features: Tensor, start: Tensor, rate: float, normalisation: Normalisation
    ) -> None:
        self.logits = start.clone()
        self._features, self._normalisation = features, normalisation
        self._adam = AdamState(self.logits, rate)

    def propose(self, live: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return u as a leaf of the graph, and the masks (M, H, W) made from it."""
        leaf = self.logits[live].requires_grad_()
        maps = combine(leaf, self._features[live])
        return leaf, normalise(upsample(maps, size), self._normalisation)

    def update(self, live: Tensor, slope: Tensor, values: Tensor) -> None:  # noqa: ARG002
        """Step up the slope ∂F/∂u."""
        self._adam.ascend(live, slope)


@final
class TrustRegion:
    """Many cheap steps on a model of the objective for each pass of the network.

    The pass gives G = ∂F/∂S at the current low-resolution map S₀, and from u to S is only a softmax
    and a K x hw product. So u climbs ⟨G, S(u) - S₀⟩ - ρ/2 ‖S(u) - S₀‖² for a few Adam steps,
    without the network. ρ, one an image, grows when the objective fell and shrinks when it rose.

    Attributes:
        logits: u (N, K), the current iterate.
    """

    inner_steps = 10
    caution = 3.0
    grow, shrink = 3.0, 0.8

    def __init__(
        self, features: Tensor, start: Tensor, rate: float, normalisation: Normalisation
    ) -> None:
        self.logits = start.clone()
        self._features, self._rate, self._normalisation = features, rate, normalisation
        self._rho = start.new_full((len(start),), self.caution)
        self._previous = start.new_full((len(start),), -torch.inf)
        self._anchor = features.new_zeros((len(features), *features.shape[2:]))

    def _shape(self, logits: Tensor, live: Tensor) -> Tensor:
        """The low-resolution map up to what the normalisation takes away anyway."""
        maps = combine(logits, self._features[live])
        return maps if self._normalisation == "sigmoid" else minmax(maps)

    def propose(self, live: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return S as a leaf of the graph, and the masks (M, H, W) made from it."""
        self._anchor[live] = self._shape(self.logits[live], live)
        leaf = self._anchor[live].requires_grad_()
        return leaf, normalise(upsample(leaf, size), self._normalisation)

    def update(self, live: Tensor, slope: Tensor, values: Tensor) -> None:
        """Climb the model that the slope ∂F/∂S gives."""
        fell = values < self._previous[live]
        rho = self._rho[live] * torch.where(fell, self.grow, self.shrink)
        self._rho[live], self._previous[live] = rho, values
        adam = AdamState(self.logits[live], self._rate)
        everyone = torch.arange(len(live), device=live.device)
        for _ in range(self.inner_steps):
            with torch.enable_grad():
                leaf = adam.rows.clone().requires_grad_()
                move = self._shape(leaf, live) - self._anchor[live]
                model = (slope * move).sum((1, 2)) - rho / 2 * move.square().sum((1, 2))
                (climb,) = torch.autograd.grad(model.sum(), leaf)
            adam.ascend(everyone, climb)
        self.logits[live] = adam.rows

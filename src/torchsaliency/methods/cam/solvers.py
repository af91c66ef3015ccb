"""How Opti-CAM searches: the paper's Adam, and a trust-region search that needs fewer passes.

All hold one vector u of logits an image and treat every image alone, so images do not influence
each other. A pass of the network happens between `propose` and `update`. The third search is in
`torchsaliency.methods.cam.surrogate`.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from torchsaliency.core.maps import Normalisation, normalise, rounding, upsample
from torchsaliency.core.space import Size

_BETAS = (0.9, 0.999)
_EPS = 1e-8


def combine(logits: Tensor, features: Tensor) -> Tensor:
    """Return S(u) = Σ_k softmax(u)_k A_k (Eq. 8), shape (N, *grid)."""
    return torch.einsum("nk,nk...->n...", logits.softmax(1), features)


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

    def ascend(self, live: Tensor | slice, slope: Tensor) -> None:
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

    def propose(self, live: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return u as a leaf of the graph, and the masks (M, *size) made from it."""
        leaf = self.logits[live].requires_grad_()
        maps = combine(leaf, self._features[live])
        return leaf, normalise(upsample(maps, size), self._normalisation)

    def update(self, live: Tensor, slope: Tensor, values: Tensor) -> None:  # noqa: ARG002
        """Step up the slope ∂F/∂u."""
        self._adam.ascend(live, slope)


class MapSearch:
    """What the searches share that learn from gradients at low-resolution maps: the proposals.

    Attributes:
        logits: u (N, K), the current iterate.
    """

    def __init__(self, features: Tensor, start: Tensor, normalisation: Normalisation) -> None:
        self.logits = start.clone()
        self._features, self._normalisation = features, normalisation
        self._anchor = features.new_zeros((len(features), *features.shape[2:]))

    def propose(self, live: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return S as a leaf of the graph, and the masks (M, *size) made from it."""
        maps = self._mix(self.logits[live].softmax(1), self._features[live].flatten(2))
        self._anchor[live] = maps.shape.unflatten(1, self._features.shape[2:])
        leaf = self._anchor[live].requires_grad_()
        return leaf, normalise(upsample(leaf, size), self._normalisation)

    def _mix(self, weights: Tensor, features: Tensor) -> Stretch | Plain:
        """Return the maps of weights (M, K), up to what the normalisation takes away anyway."""
        maps = torch.bmm(weights[:, None], features)[:, 0]
        return Stretch(maps) if self._normalisation == "range" else Plain(maps)

    @staticmethod
    def _pull_back(
        slope: Tensor, maps: Stretch | Plain, weights: Tensor, features: Tensor
    ) -> Tensor:
        """Carry the slope in S (M, hw) back to u (M, K)."""
        climb = torch.bmm(features, maps.backward(slope)[..., None])[..., 0]
        return weights * (climb - (weights * climb).sum(1, keepdim=True))  # softmax's own


@final
class TrustRegion(MapSearch):
    """Many cheap steps on a model of the objective for each pass of the network.

    The pass gives G = ∂F/∂S at the current low-resolution map S₀, and from u to S is only a softmax
    and a K x hw product. So u climbs the quadratic model

        m(u) = ⟨G, S(u) - S₀⟩ - ½ (S(u) - S₀)ᵀ (B + λI) (S(u) - S₀)

    for some Adam steps, without the network. B, the curvature, is learned from how G changed
    between passes (BFGS, damped after Powell so that it stays positive), from B₀ = ρ₀I on; λ, one
    an image, grows when the objective fell and shrinks when it rose. G is in units of the first
    ‖G‖, and ρ₀ = λ₀ = 1 / (r ‖S₀ - mean S₀‖): whatever the units of the objective and of the
    features, the first step is r / 2 times the map's own spread, where u can go that far. u climbs
    at the full learning rate in the first passes and at half of it later.

    B is kept as the vectors of its rank-one terms, two a pass: never a matrix hw x hw.
    """

    inner_steps = 20
    eager = 4
    reach = 2.5
    grow, shrink = 3.0, 0.8
    damping = 0.2

    def __init__(
        self, features: Tensor, start: Tensor, rate: float, normalisation: Normalisation
    ) -> None:
        super().__init__(features, start, normalisation)
        self._rate, self._passes = rate, 0
        count, cells = len(features), features[0, 0].numel()
        self._unit = self._rho = self._caution = start.new_zeros(count)
        self._terms = features.new_zeros((count, 0, cells))
        self._signs = features.new_zeros(0)
        self._before: tuple[Tensor, Tensor, Tensor] | None = None

    def update(self, live: Tensor, slope: Tensor, values: Tensor) -> None:
        """Climb the model that the slope ∂F/∂S gives."""
        here, slope = self._anchor[live].flatten(1), slope.flatten(1)
        if self._before is None:
            self._unit = slope.norm(dim=1).clamp_min(torch.finfo(slope.dtype).tiny)
            slope = slope / self._unit[live, None]
            spread = (here - here.mean(1, keepdim=True)).norm(dim=1)
            self._rho = 1 / (self.reach * spread).clamp_min(1e-12)
            self._caution = self._rho.clone()
            self._before = (
                torch.zeros_like(self._anchor).flatten(1),
                torch.zeros_like(self._anchor).flatten(1),
                values.new_zeros(len(self.logits)),
            )
        else:
            slope = slope / self._unit[live, None]
            place, gradient, value = (kept[live] for kept in self._before)
            self._learn(live, here - place, gradient - slope)
            fell = values < value
            self._caution[live] *= torch.where(fell, self.grow, self.shrink)
        for kept, now in zip(self._before, (here, slope, values), strict=True):
            kept[live] = now
        self._climb(live, here, slope)

    def _learn(self, live: Tensor, step: Tensor, change: Tensor) -> None:
        """Add a pair: the slope fell by `change` (M, hw) along `step` (M, hw)."""
        bent = self._measure_curvature(live, step)  # B s
        expected = (step * bent).sum(1)  # sᵀ B s
        seen = (step * change).sum(1)
        # Powell: where the slope fell by less than a fifth of what B expects, believe B in part.
        low = seen < self.damping * expected
        share = (1 - self.damping) * expected / (expected - seen).clamp_min(1e-12)
        share = torch.where(low, share, 1.0)[:, None]
        mixed = share * change + (1 - share) * bent
        usable = (expected > 1e-12) & ((step * mixed).sum(1) > 1e-12)  # noqa: PLR2004
        # B ← B + r rᵀ / sᵀr - (B s)(B s)ᵀ / sᵀBs
        gained = mixed / (step * mixed).sum(1).clamp_min(1e-12).sqrt()[:, None]
        lost = bent / expected.clamp_min(1e-12).sqrt()[:, None]
        terms = self._terms.new_zeros((len(self._terms), 2, step.shape[1]))
        terms[live] = torch.stack([gained, lost], 1) * usable[:, None, None]
        self._terms = torch.cat([self._terms, terms], 1)
        self._signs = torch.cat([self._signs, self._signs.new_tensor([1.0, -1.0])])

    def _measure_curvature(self, live: Tensor, step: Tensor) -> Tensor:
        """Return B s (M, hw) for steps (M, hw)."""
        terms = self._terms[live]
        along = torch.einsum("njd,nd->nj", terms, step) * self._signs
        return self._rho[live, None] * step + torch.einsum("nj,njd->nd", along, terms)

    def _climb(self, live: Tensor, here: Tensor, slope: Tensor) -> None:
        self._passes += 1
        rate = self._rate if self._passes <= self.eager else self._rate / 2
        # written out, as a graph of so few and small operations costs more than they do
        logits, features = self.logits[live], self._features[live].flatten(2)
        terms, signs = self._terms[live], self._signs[:, None]
        stiffness = (self._rho + self._caution)[live, None]
        first, second = torch.zeros_like(logits), torch.zeros_like(logits)
        for step in range(1, self.inner_steps + 1):
            weights = logits.softmax(1)
            maps = self._mix(weights, features)
            move = maps.shape - here
            bent = torch.bmm((torch.bmm(terms, move[..., None]) * signs).mT, terms)[:, 0]
            uphill = slope - stiffness * move - bent  # ∂m/∂S
            climb = self._pull_back(uphill, maps, weights, features)
            first.lerp_(climb, 1 - _BETAS[0])
            second.lerp_(climb.square(), 1 - _BETAS[1])
            spread = (second / (1 - _BETAS[1] ** step)).sqrt_().add_(_EPS)
            logits = logits.addcdiv(first, spread, value=rate / (1 - _BETAS[0] ** step))
        self.logits[live] = logits


@final
class Stretch:
    """`minmax` of maps (N, hw), and its gradient, in few operations.

    Attributes:
        shape: n(S) = (S - min S) / (max S - min S); 0 where S is constant.
    """

    def __init__(self, maps: Tensor) -> None:
        low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
        span = high - low
        self._scale = torch.where(span > rounding(low, high), 1 / span, 0)
        self.shape = (maps - low) * self._scale
        self._least, self._largest = maps == low, maps == high

    def backward(self, slope: Tensor) -> Tensor:
        """Return ∂F/∂S from g = ∂F/∂n(S).

        (g_i + [S_i is least] Σ_j g_j (n_j - 1) - [S_i is largest] Σ_j g_j n_j) / (max - min), each
        sum shared evenly where several are least or largest.
        """
        whole = (slope * self.shape).sum(1, keepdim=True)
        falls = (whole - slope.sum(1, keepdim=True)) / self._least.sum(1, keepdim=True)
        rises = whole / self._largest.sum(1, keepdim=True)
        return (slope + self._least * falls - self._largest * rises).mul_(self._scale)


@final
class Plain:
    """Maps (N, hw) as they are, where the normalisation takes no offset away."""

    def __init__(self, maps: Tensor) -> None:
        self.shape = maps

    def backward(self, slope: Tensor) -> Tensor:
        """Return the slope."""
        return slope

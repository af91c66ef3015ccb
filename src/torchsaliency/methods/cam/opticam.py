"""Opti-CAM: the convex combination of feature maps whose masked image the network likes best.

Equation numbers are those of Zhang et al., "Opti-CAM: Optimizing saliency maps for
interpretability", CVIU 248 (2024). Each image is a problem of its own: nothing in it depends on
its batch mates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from torchsaliency.core.maps import Normalisation
from torchsaliency.core.method import (
    PASSES,
    ChannelCAM,
    Method,
    Saliency,
    create,
    extend_needs,
    register,
    require_positive,
)
from torchsaliency.core.rules import differentiate
from torchsaliency.core.space import sides_of
from torchsaliency.core.target import (
    ClassTarget,
    EmbeddingSimilarity,
    Logit,
    LogProbability,
    Margin,
    Probability,
    Target,
)
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError, TargetError
from torchsaliency.methods.cam.solvers import Adam, TrustRegion, combine
from torchsaliency.methods.cam.surrogate import Surrogate
from torchsaliency.methods.passes import join, rows

Selector = Literal[
    "target", "logit", "probability", "log-probability", "margin", "dot", "cosine", "mse"
]
Solver = Literal["adam", "trust-region", "surrogate"]
Objective = Literal["mask", "diff", "iomask", "iodiff"]

_SELECTORS: dict[str, type[ClassTarget]] = {
    "logit": Logit,
    "probability": Probability,
    "log-probability": LogProbability,
    "margin": Margin,
}
_SOLVERS: dict[str, type[Adam | TrustRegion | Surrogate]] = {
    "adam": Adam,
    "trust-region": TrustRegion,
    "surrogate": Surrogate,
}
_SIMILARITIES = ("dot", "cosine", "mse")


@register("opticam", family="cam", cite="zhang2024", needs=PASSES)
@final
@dataclass(frozen=True)
class OptiCAM(Method):
    """Opti-CAM: softmax channel weights optimised so that the masked image scores highest.

    S(u) = Σ_k softmax(u)_k ReLU(A_k) (Eq. 8), u* = argmax F(u) (Eq. 9), by default with
    F(u) = g_c(f(x ⊙ n(up(S(u))))) (Eq. 10). Costs one pass of the network an iteration, plus the
    shared one ("iomask" and "iodiff" look at two images in each).

    `details` holds "objective" (N, iterations), NaN after an image stopped; "iterations" (N,) run;
    "best" (N,) the largest objective met; "weights" (N, K) softmax(u) of the returned map.

    Source: Zhang et al., CVIU 2024. Differs from the official code, which stops a whole batch at
    once when its summed loss rises and so lets an image's map depend on its batch mates
    (erratum O2); the masking is the trace's (the code's is black).

    Attributes:
        iterations: most network passes; at least 1.
        learning_rate: of Adam; above 0.
        normalisation: n: "range" (Eq. 16), "max" (Eq. 17) or "sigmoid" (Eq. 18).
        objective: "mask" (Eq. 10), "diff" (Eq. 19), "iomask" (F.1) or "iodiff" (F.2).
        selector: g_c: "target" keeps the target as given (the class logit by default); "logit",
            "probability", "log-probability" and "margin" read its classes through that score;
            "dot", "cosine" and "mse" compare embeddings that way. On an encoder, "mse" finds the
            map whose masked image keeps its embedding: -‖f(x ⊙ S) - f(x)‖² (the Tucker saliency
            paper's Eq. 9 as an objective).
        start: "uniform" or the name of a CAM, whose weights are where u begins.
        solver: "adam", the paper's; "trust-region", which takes many steps on a quadratic model of
            the objective for each network pass and needs far fewer of them; or "surrogate", the
            same on a Gaussian process, which needs fewer still on many networks and more work
            between the passes. Both search best with keep="best".
        area: λ of F(u) - λ · |F(all shown) - F(nothing shown)| · mean(S): what showing the whole
            image costs, as a share of what hiding it costs, so that one λ serves all networks.
            0 is the paper's; above it, one more pass. Without labels, about 0.2 keeps the map from
            showing nearly everything (docs/encoders.md).
        tolerance: an image stops when its objective moves by less between two iterations.
        keep: "last" returns the map of the last weights (the paper), "best" that of the best met.
        rectified: whether features pass ReLU first, as in the official code.
    """

    joint: ClassVar[bool] = True

    iterations: int = 100
    learning_rate: float = 0.1
    normalisation: Normalisation = "range"
    objective: Objective = "mask"
    selector: Selector = "target"
    start: str = "uniform"
    solver: Solver = "adam"
    area: float = 0.0
    tolerance: float = 1e-10
    keep: Literal["last", "best"] = "last"
    rectified: bool = True

    def __post_init__(self) -> None:
        require_positive("opticam", iterations=self.iterations, learning_rate=self.learning_rate)
        if self.area < 0:
            raise OptionError(f"opticam.area must be at least 0, and {self.area} was given.")
        if self.start != "uniform":
            extend_needs(self, _find_start(self.start).entry.needs)

    def saliency(self, view: View) -> Saliency:
        """Return the optimised map S(u*) (N, *grid) and the history of the objective."""
        features = view.activations.relu() if self.rectified else view.activations
        start = self._start(view, features)
        parts = [
            self._optimise(view, features, start, index) for index in rows(len(features), view)
        ]
        raw, objective, count, best, weights = join(parts)
        details = {"objective": objective, "iterations": count, "best": best, "weights": weights}
        return Saliency(raw, details)

    # --- the objective ---------------------------------------------------------------------------

    def _target(self, view: View) -> Target:
        target = view.trace.target
        if self.selector == "target":
            return target
        if self.selector in _SIMILARITIES:
            if not isinstance(target, EmbeddingSimilarity):
                raise TargetError(
                    f"opticam.selector={self.selector} compares embeddings, and the target is "
                    f"{type(target).__name__}; give OwnEmbedding() or EmbeddingSimilarity, or "
                    "selector=target."
                )
            return EmbeddingSimilarity(target.reference, self.selector)
        if not isinstance(target, ClassTarget):
            raise TargetError(
                f"opticam.selector={self.selector} reads a class, and the target is "
                f"{type(target).__name__}; give a class, or selector=target."
            )
        return _SELECTORS[self.selector](target.labels)

    def _objective(self, view: View) -> Callable[[Tensor, Tensor], Tensor]:
        """Return F as a function of masks (M, *size) and the images (M,) they belong to."""
        target = self._target(view)
        clean = view.score if self.selector == "target" else target(view.trace.output)
        outside = self.objective in ("iomask", "iodiff")
        price = self._price(view, target, clean) if self.area else None

        def value(masks: Tensor, index: Tensor) -> Tensor:
            both = torch.cat([masks, 1 - masks]) if outside else masks
            where = torch.cat([index, index]) if outside else index
            images = view.trace.apply_masks(both, where)
            scores = view.trace.scores(images, where, target)
            inner, *outer = scores.split(len(index))
            found = self._combine(clean[index], inner, outer)
            return (
                found
                if price is None
                else found - price[index] * masks.mean(tuple(range(1, masks.ndim)))
            )

        return value

    def _price(self, view: View, target: Target, clean: Tensor) -> Tensor:
        """Return what showing the whole of each image costs, (N,)."""
        zeros = view.images.new_zeros(len(view.images), *view.size)
        blank = torch.cat(
            [
                view.trace.scores(view.trace.apply_masks(zeros[index], index), index, target)
                for index in rows(len(zeros), view)
            ]
        )
        everything = self._combine(clean, clean, [blank])
        nothing = self._combine(clean, blank, [clean])
        return self.area * (everything - nothing).abs().detach()

    def _combine(self, clean: Tensor, inner: Tensor, outer: Sequence[Tensor]) -> Tensor:
        """Return F of the scores inside the mask and, where the objective asks, outside."""
        if self.objective == "mask":
            return inner
        if self.objective == "iomask":
            return inner - outer[0]
        near = (clean - inner).abs()
        return -near if self.objective == "diff" else (clean - outer[0]).abs() - near

    # --- the search ------------------------------------------------------------------------------

    def _start(self, view: View, features: Tensor) -> Tensor:
        """Return u₀ (N, K): zeros, or the logarithm of another CAM's positive weights."""
        if self.start == "uniform":
            return features.new_zeros(features.shape[:2])
        if len(view.layers) > 1:
            raise OptionError("opticam.start from another CAM needs a single layer, or uniform.")
        weights = _find_start(self.start).weights(view)
        weights = weights if weights.ndim == 2 else weights.mean(sides_of(weights))  # noqa: PLR2004
        share = weights.relu() / weights.relu().sum(1, keepdim=True).clamp_min(1e-12)
        # A floor at a tenth of the uniform share: log 0 could never be left again.
        return (share + 0.1 / share.shape[1]).log()

    def _optimise(self, view: View, features: Tensor, start: Tensor, index: Tensor) -> list[Tensor]:
        """Optimise the images at `index`; those that stop leave the batch."""
        objective = self._objective(view)
        solver = _SOLVERS[self.solver](
            features[index], start[index], self.learning_rate, self.normalisation
        )
        history = features.new_full((len(index), self.iterations), torch.nan)
        best = features.new_full((len(index),), -torch.inf)
        kept = solver.logits.clone()
        live = torch.arange(len(index), device=index.device)
        for step in range(self.iterations):
            with torch.enable_grad():
                leaf, masks = solver.propose(live, view.size)
                values = objective(masks, index[live])
                (found,) = differentiate(values.sum(), [leaf])
                slope = torch.zeros_like(leaf) if found is None else found
            now = values.detach().to(history.dtype)
            history[live, step] = now
            better = live[now > best[live]]
            best[better], kept[better] = history[better, step], solver.logits[better]
            solver.update(live, slope, now)
            if step:
                still = (now - history[live, step - 1]).abs() < self.tolerance
                live = live[~still]
            if not len(live):
                break
        logits = kept if self.keep == "best" else solver.logits
        count = (~history.isnan()).sum(1)
        return [combine(logits, features[index]), history, count, best, logits.softmax(1)]


def _find_start(name: str) -> ChannelCAM:
    method = create(name)
    if not isinstance(method, ChannelCAM):
        raise OptionError(f"opticam.start={name!r} has no channel weights; name a CAM or uniform.")
    return method

"""CRAFT: a bank of concepts, how much each matters for a score, and where each of them is.

1. Crops of the images, resized to the whole input, go through the network up to the layer; their
   features, averaged over the cells, are factorised: A - o ≈ U W, U ≥ 0, W ≥ 0 (R, K).
2. In the whole images, the shares u(cell) ≥ 0 of the concepts come nearest to the features.
3. Concepts are masked, m ∈ [0, 1]^R, and what follows the layer scores o + Σ_r m_r u_r W_r. The
   importance of a concept is its total Sobol index by Jansen's estimator,

    ST_r = E[(f(m) - f(m with m_r drawn again))²] / (2 Var f),

   the part of the score's variance that it takes part in, alone or with others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.concepts.factorisation import (
    factorise_features,
    find_maps,
    least_values,
    rebuild,
    upsample_each,
)
from torchsaliency.concepts.passes import (
    Watch,
    as_float,
    at_cells,
    count_through,
    open_layer,
    watch_nothing,
)
from torchsaliency.core.layer import Layer, LayerLike, first_tensor
from torchsaliency.core.maps import to_float64
from torchsaliency.core.method import require_positive
from torchsaliency.core.network import as_module, find_fact, unwrap
from torchsaliency.core.space import LINEAR, Size
from torchsaliency.core.target import Target, TargetLike
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError, OptionError

_STRIDE = 0.8
"""From a crop to the next, relative to its side."""


@final
@dataclass(frozen=True, eq=False)
class ConceptBank:
    """Concepts of a class's images, the most important first.

    Attributes:
        maps: (N, R, *size) in [0, 1] at the size of the network's input, the shares of the concepts
            in every cell; 1 is where a concept is strongest in the batch.
        raw: (N, R, *grid) the same at the layer's resolution.
        concepts: (R, K) the features of a cell in which a concept alone is as strong as at its
            strongest.
        offset: (K,) o, what was subtracted before the factorisation.
        importance: (R,) the mean of the images' total Sobol indices, in [0, 1] but for the error of
            the estimate; they add up to 1 if the concepts do not interact, and to more if they do.
        importances: (N, R) of each image; NaN where masking does not change the image's score.
        error: ‖A - o - uW‖ / ‖A - o‖ of the whole images, what the concepts leave over.
        score: (N,) the target's value on the clean images.
        rebuilt_score: (N,) the same if the features are made of the concepts alone; as far as it is
            off, the importances speak of something else than the network.
        target: what was explained, resolved.
        layer: with its layout.
    """

    maps: Tensor
    raw: Tensor
    concepts: Tensor
    offset: Tensor
    importance: Tensor
    importances: Tensor
    error: float
    score: Tensor
    rebuilt_score: Tensor
    target: Target
    layer: Layer

    def describe(self) -> list[str]:
        """Say of every concept in words how important it is."""
        return [
            f"concept {number}: importance {value:.0%}"
            for number, value in enumerate(self.importance.tolist(), 1)
        ]

    def network(self, model: Any) -> ConceptNetwork:
        """Return a network whose numbers are the concepts' mean shares in the images, (N, R).

        Any method then shows which pixels a concept stands on, as any class of a network:

            explain(bank.network(model), x, "occlusion", Regression(index=0))

        Args:
            model: the network that the bank was made with.
        """
        return ConceptNetwork(as_module(model), self)


@final
class ConceptNetwork(nn.Module):
    """From images to the mean shares of a bank's concepts; gradients are exact, see `find_shares`.

    Attributes:
        net: the network whose features are read.
        bank: the concepts.
        scores: what the numbers mean, for `explain`.
        preprocessing: of the network, if it says so.
    """

    scores = "regression"

    def __init__(self, net: nn.Module, bank: ConceptBank) -> None:
        super().__init__()
        self.net, self.bank = unwrap(net), bank
        self.preprocessing = find_fact(net, "preprocessing")

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, R) shares of images (N, C, *size)."""
        layer, kept = self.bank.layer, []
        module = layer.module_of(self.net)
        if module is None:
            kept.append(images)
        else:

            def keep(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
                kept.append(first_tensor(output, layer.name).clone())

            handle = module.register_forward_hook(keep)
            try:
                self.net(images)
            finally:
                handle.remove()
        assert layer.reshape is not None
        features = layer.reshape.to_maps(kept[-1]).float()
        offset = self.bank.offset.to(features)
        parts = (self.bank.concepts - self.bank.offset).to(features)
        return find_maps(features, parts, offset).flatten(2).mean(2)


def craft(  # noqa: PLR0913 (all but the first five by name)
    model: Any,
    x: Any,
    concepts: int = 10,
    target: TargetLike = None,
    layer: LayerLike | None = None,
    *,
    crop: float = 0.33,
    samples: int = 64,
    seed: int | None = None,
    chunk: int | None = None,
    watch: Watch = watch_nothing,
) -> ConceptBank:
    """Find the concepts of a class in its images, how important each is, and where it is.

    Takes N passes for each place of a crop (16 by default), and N · (R + 2) · samples passes from
    the layer on.

    Args:
        model: as `explain`.
        x: as `explain`; images of one class, some tens of them for concepts that mean something.
        concepts: R, how many.
        target: as `explain`. The predicted class of each image by default; say the class if they
            are not all predicted alike.
        layer: as `explain`, one.
        crop: the side of a crop, relative to the image's; crops overlap by a fifth at least.
        samples: of the masks, best a power of 2. An index near 0.6 is off by 0.11 with 32 of them,
            0.07 with 64 and 0.02 with 128 (mean of 20 seeds, a linear function of ten concepts).
        seed: of a random start of the factorisation (None starts from the singular vectors) and of
            the masks (None is 0).
        chunk: as `explain`.
        watch: told which crops are read, then which images are done.

    Raises:
        InputError: as `explain`; or the crops' features are all zero.
        OptionError: an option is out of range; there are more concepts than channels or crops.
        LayerError: as `explain`; or the score does not depend on the layer's cells.
        TargetError, DataError: as `explain`.

    Source: Fel et al., CRAFT: Concept Recursive Activation FacTorization for Explainability, CVPR
    2023, without the recursion: another layer is another call. Jansen, 1999, for the estimator.

    Example:
        >>> import torch, torchvision
        >>> net = torchvision.models.resnet18().eval()
        >>> bank = craft(net, torch.rand(2, 3, 64, 64), 3, target=7, samples=8)
        >>> bank.maps.shape, bank.importance.shape
        (torch.Size([2, 3, 64, 64]), torch.Size([3]))
    """
    require_positive("craft", concepts=concepts, samples=samples, crop=crop)
    if crop > 1:
        raise OptionError(f"craft.crop must be at most 1, a share of a side, and {crop} was given.")
    with open_layer(model, x, target, layer, chunk=chunk) as view, torch.no_grad():
        features = view.activations
        rows = torch.cat(list(_crop_features(view, crop, watch)))
        offset = torch.minimum(least_values(features), least_values(rows))
        parts, _ = factorise_features(rows - offset, concepts, seed=seed)
        raw = find_maps(features, parts, offset)
        error = _error(features - at_cells(offset[None], features), raw, parts)
        strongest = raw.transpose(0, 1).flatten(1).amax(1)
        strongest = torch.where(strongest > 0, strongest, 1)
        raw, parts = raw / at_cells(strongest[None], raw), parts * strongest[:, None]
        images = count_through(raw, watch, "weighing concepts", "images")
        indices, rebuilt = _rank(view, images, parts, offset, samples, seed or 0)
        importance = indices.nanmean(0)
        order = importance.argsort(descending=True, stable=True)
        raw, parts = raw[:, order], parts[order]
        return ConceptBank(
            maps=as_float(upsample_each(raw, view)),
            raw=as_float(raw),
            concepts=as_float(parts + offset),
            offset=as_float(offset),
            importance=as_float(importance[order]),
            importances=as_float(indices[:, order]),
            error=error,
            score=as_float(view.score),
            rebuilt_score=as_float(rebuilt),
            target=view.target,
            layer=view.layer,
        )


def _error(lifted: Tensor, raw: Tensor, parts: Tensor) -> float:
    whole = float(lifted.norm())
    return float((lifted - rebuild(raw, parts)).norm()) / whole if whole else 0.0


def _crop_features(view: View, share: float, watch: Watch) -> Iterator[Float[Tensor, "n k"]]:
    """Yield the mean features of the crops at every place, which are resized to the whole input."""
    images, size = view.images, view.size
    crop = tuple(max(1, round(side * share)) for side in size)
    corners = list(_corners(size, crop))
    for corner in count_through(corners, watch, "reading crops of all images", "places"):
        small = images
        for side, (start, length) in enumerate(zip(corner, crop, strict=True), 2):
            small = small.narrow(side, start, length)
        whole = F.interpolate(small, size, mode=LINEAR[len(size)], align_corners=False)
        with view.trace_variants(whole) as cropped:
            yield cropped.activations.flatten(2).mean(2)


def _corners(size: Size, crop: Size) -> Iterator[tuple[int, ...]]:
    """Yield where crops begin: evenly, up to the border."""
    sides = []
    for whole, part in zip(size, crop, strict=True):
        steps = math.ceil((whole - part) / (_STRIDE * part))
        sides.append([round(step * (whole - part) / max(1, steps)) for step in range(steps + 1)])
    yield from itertools.product(*sides)


def _rank(
    view: View, raw: Iterable[Tensor], parts: Tensor, offset: Tensor, samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the total Sobol indices (N, R), and the scores (N,) of the features rebuilt."""
    indices, rebuilt = [], []
    for image, shares in enumerate(raw):

        def mask(masks: Tensor, shares: Tensor = shares) -> Tensor:
            masked = at_cells(masks, shares[None]) * shares
            return rebuild(masked, parts) + at_cells(offset[None], shares[None])

        def score(masks: Tensor, image: int = image) -> Tensor:
            rows = masks.to(parts)
            return view.tail(image, lambda index: mask(rows[index]), len(rows))

        indices.append(total_indices(score, len(parts), samples, seed=seed))
        rebuilt.append(score(torch.ones(1, len(parts), device="cpu"))[0])
    found = torch.stack(indices)
    if bool(found.isnan().all()):
        raise LayerError(
            f"The score does not change when the concepts of layer {view.layer.name!r} are masked: "
            "what follows it does not read its cells; choose an earlier layer."
        )
    return found, torch.stack(rebuilt)


def total_indices(
    function: Callable[[Tensor], Tensor], dimensions: int, samples: int = 64, *, seed: int = 0
) -> Float[Tensor, " r"]:
    """Return the total Sobol indices of a function of R numbers uniform in [0, 1].

    ST_r = Σ_j (f(A_j) - f(A_j with B_jr in place of A_jr))² / (2 samples · Var f), where A and B
    are drawn as one scrambled Sobol sequence of 2R dimensions (Jansen's estimator).

    Args:
        function: gives the values (M,) of rows (M, R), float64 on the processor.
        dimensions: R.
        samples: of A and of B; (R + 2) · samples rows in all.
        seed: of the scrambling.

    Returns:
        (R,) at least 0; NaN if the function is constant, up to rounding.

    Example:
        >>> total_indices(lambda rows: 3 * rows[:, 0], 2).round().tolist()
        [1.0, 0.0]
    """
    engine = torch.quasirandom.SobolEngine(2 * dimensions, scramble=True, seed=seed)
    first, second = engine.draw(samples, dtype=torch.float64).split(dimensions, 1)
    own = torch.eye(dimensions, dtype=torch.bool, device="cpu")[:, None]
    mixed = torch.where(own, second, first)  # (R, samples, R)
    values = to_float64(function(torch.cat([first, second, mixed.flatten(0, 1)])).detach()).cpu()
    base, changed = values[: 2 * samples], values[2 * samples :].view(dimensions, samples)
    variance = base.var(correction=0)
    smallest = (1e-6 * base.abs().amax()) ** 2
    total = (changed - base[:samples]).square().mean(1) / (2 * variance)
    return total if bool(variance > smallest) else torch.full_like(total, torch.nan)

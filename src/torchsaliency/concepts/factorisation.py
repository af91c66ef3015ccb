"""Deep feature factorisation (Collins, Achanta, Süsstrunk, ECCV 2018).

The features of a layer, one row a cell, are factorised into few parts that are not negative:

    A_k(u) ≈ o_k + Σ_r H_r(u) W_rk,    H, W ≥ 0

W_r is a concept, a direction of the feature space; H_r is its map. All images are factorised
together, so that a concept is the same in all of them. o_k = min(0, min_u A_k(u)) is zero behind a
ReLU, as in the paper; of other features it is the channel's least value.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchsaliency.concepts.passes import (
    Watch,
    as_float,
    at_cells,
    from_rows,
    open_layer,
    to_rows,
    watch_nothing,
)
from torchsaliency.core.layer import LayerLike
from torchsaliency.core.maps import to_float64, upsample
from torchsaliency.core.method import require_positive
from torchsaliency.core.scores import SOFTMAX, ScoreKind
from torchsaliency.core.trace import View
from torchsaliency.errors import InputError, OptionError, TargetError

_ITERATIONS, _TOLERANCE = 2000, 1e-4
_SWEEPS, _STILL = 2000, 1e-9
_LEAST_NAMED = 0.01
"""A less probable class is not named, unless it is the first."""

_SAME = 1e-4
"""Outputs that are apart by less, relative to the largest, do not tell concepts apart."""


@final
@dataclass(frozen=True, eq=False)
class Factorisation:
    """Concepts of a batch of images, the one with the largest share of the features first.

    Attributes:
        maps: (N, R, *size) in [0, 1] at the size of the network's input; 1 is where a concept is
            strongest in the batch.
        raw: (N, R, *grid) the same at the layer's resolution.
        concepts: (R, K) the features of a cell in which a concept alone is present, as strong as at
            its strongest; Σ_r raw_r · (concepts_r - offset) + offset approximates the features.
        offset: (K,) o, what was subtracted before the factorisation.
        error: ‖A - o - HW‖ / ‖A - o‖, what the concepts leave over.
        outputs: (R, C) the network's numbers for a concept that fills the image, see `dff`; None
            where the network gives no (N, C) or does not read the features' cells.
        layer: whose features they are.
        scores: what the numbers of `outputs` mean.
    """

    maps: Tensor
    raw: Tensor
    concepts: Tensor
    offset: Tensor
    error: float
    outputs: Tensor | None
    layer: str
    scores: ScoreKind = SOFTMAX

    @property
    def dominant(self) -> Int[Tensor, " n *size"]:
        """Which concept is strongest at each pixel; -1 where none is present."""
        strongest, which = self.maps.max(1)
        return torch.where(strongest > 0, which, -1)

    def describe(self, classes: Sequence[str] | None = None, top: int = 2) -> list[str]:
        """Say of every concept in words which classes the network gives it.

        Args:
            classes: their names; numbers by default.
            top: how many are named of a concept.

        Example:
            >>> import torch, torchvision
            >>> net = torchvision.models.resnet18().eval()
            >>> dff(net, torch.rand(1, 3, 64, 64), 2).describe(top=1)[0]  # doctest: +SKIP
            'concept 1: 463 12 %'
        """
        words = [f"concept {number}" for number in range(1, len(self.concepts) + 1)]
        if self.outputs is None:
            return words
        try:
            values, unit = self.scores.probabilities(self.outputs), True
        except TargetError:  # a regression has no probabilities
            values, unit = self.outputs, False
        best = values.topk(min(top, values.shape[1]), dim=1)
        named = []
        for word, row, places in zip(
            words, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            shares = [
                f"{_name(place, classes)} {f'{value:.0%}' if unit else f'{value:.3g}'}"
                for value, place in zip(row, places, strict=True)
                if value == row[0] or not unit or value >= _LEAST_NAMED
            ]
            named.append(f"{word}: {', '.join(shares)}")
        return named


def _name(place: int, classes: Sequence[str] | None) -> str:
    known = classes is not None and place < len(classes)
    return classes[place].partition(",")[0] if classes is not None and known else str(place)


def dff(
    model: Any,
    x: Any,
    concepts: int = 4,
    layer: LayerLike | None = None,
    *,
    seed: int | None = None,
    chunk: int | None = None,
    watch: Watch = watch_nothing,
) -> Factorisation:
    """Find the concepts that the images share in a layer's features, and where each of them is.

    Where the network goes on from the layer to one row of numbers an image, each concept is passed
    on by itself, in every cell of the layer: behind a global average pooling that is the classifier
    on the concept's vector. Where later layers read the image beside these features, it is the
    first image.

    Args:
        model: as `explain`.
        x: as `explain`; the images are factorised together.
        concepts: R, at most as many as the layer has channels, and as there are cells.
        layer: as `explain`, one.
        seed: of a random start; by default the factorisation starts from the singular vectors,
            which draws nothing.
        chunk: as `explain`.
        watch: told when all images are read, which is one pass, and when their features are
            factorised.

    Raises:
        InputError: as `explain`; or the features are all zero.
        OptionError: there are more concepts than channels or cells, or less than one.
        LayerError, DataError: as `explain`.

    Source: Collins et al., Deep Feature Factorization for Concept Discovery, ECCV 2018; what the
    network says of a concept as in pytorch-grad-cam.

    Example:
        >>> import torch, torchvision
        >>> net = torchvision.models.resnet18()
        >>> found = dff(net, torch.rand(2, 3, 64, 64), 2)
        >>> found.maps.shape, found.concepts.shape, found.outputs.shape
        (torch.Size([2, 2, 64, 64]), torch.Size([2, 512]), torch.Size([2, 1000]))
    """
    with open_layer(model, x, None, layer, chunk=chunk) as view, torch.no_grad():
        features = view.activations
        watch("finding concepts", "images", len(features), len(features))
        offset = least_values(features)
        lifted = features - at_cells(offset[None], features)
        parts, raw = factorise_features(lifted, concepts, seed=seed)
        error = (lifted - rebuild(raw, parts)).norm() / lifted.norm()
        # what is strongest becomes 1, so that a part has the size of real features
        strongest = raw.transpose(0, 1).flatten(1).amax(1)
        raw = raw / at_cells(strongest.clamp_min(torch.finfo(raw.dtype).tiny)[None], raw)
        parts = parts * strongest[:, None]
        share = parts.norm(dim=1) * raw.transpose(0, 1).flatten(1).sum(1)
        order = share.argsort(descending=True, stable=True)
        raw, parts = raw[:, order], parts[order]
        outputs = _pass_on(view, parts + offset)
        return Factorisation(
            maps=as_float(upsample_each(raw, view)),
            raw=as_float(raw),
            concepts=as_float(parts + offset),
            offset=as_float(offset),
            error=float(error),
            outputs=None if outputs is None else as_float(outputs),
            layer=view.layer.name,
            scores=view.session.scores,
        )


def upsample_each(raw: Tensor, view: View) -> Tensor:
    """Resize maps (N, R, *grid) to the images."""
    return upsample(raw.flatten(0, 1), view.size).unflatten(0, raw.shape[:2])


def _pass_on(view: View, vectors: Tensor) -> Tensor | None:
    """Return the network's numbers (R, C) for features that are the same vector in every cell."""
    if not isinstance(view.output, Tensor) or view.output.ndim != 2:  # noqa: PLR2004
        return None
    filled = at_cells(vectors, view.activations)
    # the image itself is passed on, too: a head that reads other tokens gives all the same
    edits = torch.cat([view.activations[:1], filled])
    outputs = view.tail_outputs(0, lambda index: edits[index], len(edits))
    if outputs is None:
        return None
    apart = (outputs - outputs[:1]).abs().amax()
    return outputs[1:] if bool(apart > _SAME * outputs.abs().amax()) else None


# --- on features ----------------------------------------------------------------------------------


def least_values(features: Float[Tensor, "n k *grid"]) -> Float[Tensor, " k"]:
    """Return o_k = min(0, min A_k), which is zero for features behind a ReLU."""
    return features.transpose(0, 1).flatten(1).amin(1).clamp_max(0)


def factorise_features(
    features: Float[Tensor, "n k *grid"], concepts: int = 4, *, seed: int | None = None
) -> tuple[Float[Tensor, "r k"], Float[Tensor, "n r *grid"]]:
    """Return concepts W and their maps H of features: A_k(u) ≈ Σ_r H_r(u) W_rk, neither negative.

    Args:
        features: A (N, K, *grid), not negative; see `least_values` for others.
        concepts: R, how many.
        seed: of a random start; None starts from the singular vectors, which draws nothing.

    Raises:
        InputError: features that are negative, not finite, or all zero.
        OptionError: less than one concept; or more than channels or cells, without a seed.

    Source: the factorisation is scikit-learn's NMF (least squares, coordinate descent).

    Example:
        >>> import torch
        >>> found, maps = factorise_features(torch.rand(2, 6, 4, 4), 3)
        >>> found.shape, maps.shape
        (torch.Size([3, 6]), torch.Size([2, 3, 4, 4]))
    """
    from sklearn.decomposition import NMF  # noqa: PLC0415 (slow to import)
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

    require_positive("factorise_features", concepts=concepts)
    channels = to_float64(features.detach()).transpose(0, 1)
    rows = channels.flatten(1)
    low, high = float(rows.min()), float(rows.max())  # NaN is the extreme of what holds it
    if not (low >= 0 and 0 < high < float("inf")):
        raise InputError(
            f"The features run from {low:.4g} to {high:.4g}; a factorisation needs finite ones "
            "that are not negative and not all zero: subtract least_values, or choose another "
            "layer."
        )
    most = min(rows.shape)
    if seed is None and concepts > most:
        raise OptionError(
            f"{concepts} concepts were asked of {rows.shape[0]} channels and {rows.shape[1]} "
            f"cells; ask for at most {most}, or give more images."
        )
    model = NMF(
        n_components=concepts,
        init="nndsvd" if seed is None else "random",
        random_state=0 if seed is None else seed,
        max_iter=_ITERATIONS,
        tol=_TOLERANCE,
    )
    with warnings.catch_warnings():
        # concepts that can be exchanged for each other creep for ever; the error says what is left
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = model.fit_transform((rows / high).cpu().numpy())
    weights = torch.from_numpy(found) * high**0.5
    shares = torch.from_numpy(model.components_).unflatten(1, channels.shape[1:]) * high**0.5
    return weights.mT.to(features), shares.transpose(0, 1).to(features)


def rebuild(
    maps: Float[Tensor, "n r *grid"], parts: Float[Tensor, "r k"]
) -> Float[Tensor, "n k *grid"]:
    """Return Σ_r H_r(u) W_rk."""
    return torch.einsum("nr...,rk->nk...", maps, parts)


def find_shares(rows: Float[Tensor, "m k"], parts: Float[Tensor, "r k"]) -> Float[Tensor, "m r"]:
    """Return of every row the shares u ≥ 0 of the parts that come nearest: min ‖a - Σ_r u_r W_r‖².

    Which shares are zero is found by coordinate descent. The others solve a linear system of a, so
    that they are exact, and their gradient is that of the implicit function theorem: the optimality
    conditions differentiated where the set of zeros stays as it is.

    Args:
        rows: a (M, K), any values; gradients flow to them.
        parts: W ≥ 0, (R, K).

    Returns:
        The shares (M, R).

    Example:
        >>> import torch
        >>> parts = torch.tensor([[1.0, 0, 1], [0, 2, 0]])
        >>> find_shares(torch.tensor([[3.0, 2, 3]]), parts)
        tensor([[3., 1.]])
    """
    double, exact = to_float64(rows), to_float64(parts.detach())
    products, wanted = exact @ exact.mT, double @ exact.mT
    diagonal = products.diagonal()
    used = diagonal > 0
    with torch.no_grad():
        shares = torch.zeros_like(wanted)
        for _ in range(_SWEEPS):
            moved = 0.0
            for part in used.nonzero()[:, 0].tolist():
                step = (wanted[:, part] - shares @ products[part]) / diagonal[part]
                better = (shares[:, part] + step).clamp_min(0)
                moved = max(moved, float((better - shares[:, part]).abs().max()))
                shares[:, part] = better
            if moved <= _STILL * max(float(shares.max()), 1e-300):
                break
        active = shares > 0
        pairs = active[:, :, None] & active[:, None, :]
        # parts that are equal but for rounding share what they have in common
        ridge = 1e-10 * diagonal.amax().clamp_min(1e-300)
        system = torch.where(pairs, products, 0) + torch.diag_embed((~active).double() + ridge)
    solved = torch.linalg.solve(system, torch.where(active, wanted, 0)[..., None])[..., 0]
    return solved.clamp_min(0).to(rows)


def find_maps(
    features: Float[Tensor, "n k *grid"], parts: Float[Tensor, "r k"], offset: Float[Tensor, " k"]
) -> Float[Tensor, "n r *grid"]:
    """Return the shares of the parts in every cell, see `find_shares`."""
    return from_rows(find_shares(to_rows(features) - offset, parts), features)

"""TCAV: does a concept that a user shows in images move a network's score?

A concept activation vector v (CAV) is the normal of a linear classifier that tells features of the
concept's images from those of random ones, pointing to the concept. Of an image, S = ∇_A y · v is
how the score changes when its features move along v. The TCAV score is the share of images with
S > 0. A random set of images has a CAV and a score, too: only a score that is unusual among those
is evidence.

Features are averaged over the cells before the classifier, and the gradient is summed over them, so
that it does not matter where in the images the concept is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from torchsaliency.concepts.passes import Watch, count_through, open_layer, watch_nothing
from torchsaliency.core.explain import read_inputs
from torchsaliency.core.layer import LayerLike
from torchsaliency.core.maps import to_float64
from torchsaliency.core.network import as_module
from torchsaliency.core.target import TargetLike
from torchsaliency.errors import InputError, LayerError, OptionError

_BATCH = 32
_FEWEST, _FEWEST_RUNS = 4, 3
"""Images of a concept or a random set, and random sets."""

_FOLDS = 3

Rows = NDArray[np.float64]


@final
@dataclass(frozen=True)
class ConceptTest:
    """What a concept does to a score, beside what chance does.

    Attributes:
        scores: (runs) TCAV scores, one for each random set that the concept was told from.
        chance: (runs) mean TCAV scores of the random sets, each told from all others.
        p_value: two-sided, of the mean of `scores` among `chance`, see `compare_with_chance`.
        strengths: (runs) mean cosine of the score's gradient and the CAV: the score with its size.
        strength_chance: (runs) the same of the random sets.
        strength_p_value: two-sided, of the mean of `strengths`.
        accuracy: how well a CAV tells images that it has not seen, mean over the runs of both
            kinds' accuracies; 0.5 is no better than a coin: then the concept is not in the layer.
        vector: (K,) the mean CAV, of length 1.
        layer: where.
    """

    scores: tuple[float, ...]
    chance: tuple[float, ...]
    p_value: float
    strengths: tuple[float, ...]
    strength_chance: tuple[float, ...]
    strength_p_value: float
    accuracy: float
    vector: Tensor
    layer: str

    @property
    def score(self) -> float:
        """The mean TCAV score in [0, 1]; 0.5 is no direction."""
        return float(np.mean(self.scores))

    @property
    def strength(self) -> float:
        """The mean cosine in [-1, 1]; above 0 if the concept raises the score."""
        return float(np.mean(self.strengths))


def tcav(  # noqa: PLR0913 (all but the first five by name)
    model: Any,
    x: Any,
    concepts: Mapping[str, Any],
    random: Any,
    target: TargetLike = None,
    *,
    layer: LayerLike | None = None,
    runs: int = 10,
    seed: int = 0,
    chunk: int | None = None,
    watch: Watch = watch_nothing,
) -> dict[str, ConceptTest]:
    """Test whether concepts, each shown by images, move a network's score of a class.

    Args:
        model: as `explain`.
        x: as `explain`; images of the class.
        concepts: by name, images that show the concept: a folder of photographs, or as `x`.
        random: images of anything, likewise. They are parted into `runs` sets, best each of about
            as many images as a concept has.
        target: as `explain`; the predicted class of each image by default.
        layer: as `explain`, one.
        runs: how many random sets there are.
        seed: of the parting.
        chunk: as `explain`.
        watch: told which images are read, then which classifiers are fitted.

    Returns:
        A test for each concept. With several concepts, compare p times their number with the level
        (Bonferroni).

    Raises:
        InputError: as `explain`; there are fewer than 4 images of a concept or in a random set.
        OptionError: no concept, or fewer than 3 runs.
        LayerError: as `explain`; or the score does not depend on the layer.
        TargetError, DataError: as `explain`.

    Source: Kim et al., Interpretability Beyond Feature Attribution: Quantitative Testing with
    Concept Activation Vectors (TCAV), ICML 2018; but for the averaged features and the test.

    Example:
        >>> import torch, torchvision
        >>> net, draw = torchvision.models.resnet18().eval(), torch.rand
        >>> sets = {"bright": draw(6, 3, 64, 64) + 1}
        >>> test = tcav(net, draw(4, 3, 64, 64), sets, draw(12, 3, 64, 64), 7, runs=3)["bright"]
        >>> 0 <= test.score <= 1 and 0 <= test.p_value <= 1
        True
    """
    if not concepts:
        raise OptionError("No concept was given to tcav; give one at least, {name: images}.")
    if runs < _FEWEST_RUNS:
        raise OptionError(
            f"tcav.runs must be at least {_FEWEST_RUNS}, and {runs} was given: chance is estimated "
            "from the random sets."
        )
    net = as_module(model)
    with open_layer(net, x, target, layer, gradients=True, chunk=chunk) as view:
        place = view.layer
        gradients = _as_rows(view.gradients.flatten(2).sum(2))
    size = np.linalg.norm(gradients, axis=1, keepdims=True)
    if not size.all():
        raise LayerError(
            f"The score of {int((size == 0).sum())} images does not change with layer "
            f"{place.name!r}; choose an earlier layer, or other images."
        )
    gradients = gradients / size
    inputs = {name: _read_images(net, images) for name, images in concepts.items()}
    sets_of_images = [*inputs.items(), (None, _read_images(net, random))]
    parts = [(name, part) for name, images in sets_of_images for part in images.split(_BATCH)]
    features: dict[str | None, list[Rows]] = {}
    for name, part in count_through(parts, watch, "reading features", f"batches of {_BATCH}"):
        with open_layer(net, part, None, place, chunk=chunk) as view:
            rows = _as_rows(view.activations.flatten(2).mean(2))
        features.setdefault(name, []).append(rows)
    pool = np.concatenate(features.pop(None))
    read = {name: np.concatenate(features[name]) for name in concepts}
    sets = np.array_split(pool[np.random.default_rng(seed).permutation(len(pool))], runs)
    for name, rows in {**read, f"one of {runs} random sets": sets[-1]}.items():
        if len(rows) < _FEWEST:
            raise InputError(
                f"There are {len(rows)} images for {name!r}, and a classifier needs at least "
                f"{_FEWEST}; give more images, or fewer runs."
            )
    steps = [*range(runs), *read]
    chance = np.zeros((runs, 2))
    found = {}
    for step in count_through(steps, watch, "fitting classifiers", "sets"):
        if isinstance(step, int):
            others = [other for number, other in enumerate(sets) if number != step]
            told = [_measure(gradients, _find_vector(sets[step], other)) for other in others]
            chance[step] = np.mean(told, axis=0)
        else:
            found[step] = _test(gradients, read[step], sets, chance, place.name)
    return found


def _test(gradients: Rows, rows: Rows, sets: list[Rows], chance: Rows, layer: str) -> ConceptTest:
    vectors = [_find_vector(rows, other) for other in sets]
    found = np.array([_measure(gradients, vector) for vector in vectors])
    mean = np.mean(vectors, axis=0)
    return ConceptTest(
        scores=tuple(found[:, 0].tolist()),
        chance=tuple(chance[:, 0].tolist()),
        p_value=compare_with_chance(float(found[:, 0].mean()), chance[:, 0]),
        strengths=tuple(found[:, 1].tolist()),
        strength_chance=tuple(chance[:, 1].tolist()),
        strength_p_value=compare_with_chance(float(found[:, 1].mean()), chance[:, 1]),
        accuracy=float(np.mean([_accuracy(rows, other) for other in sets])),
        vector=torch.from_numpy(mean / max(float(np.linalg.norm(mean)), 1e-300)).float(),
        layer=layer,
    )


def compare_with_chance(value: float, chance: Any) -> float:
    """Return the two-sided p-value of one more draw from where the others were drawn.

    t = (value - mean) / (s √(1 + 1/J)) of J - 1 degrees of freedom. The concept's runs all have the
    same images of the concept, so that they count as one draw and not as J: a t-test over the runs
    calls random concepts significant. Where the others are all equal, the least that J ranks can
    say, 2 / (J + 1), or 1 if the value is the same, too.

    Args:
        value: of the concept.
        chance: (J) of random concepts.

    Example:
        >>> round(compare_with_chance(3.0, [-1.0, 0.0, 1.0]), 2)
        0.12
    """
    from scipy import stats  # noqa: PLC0415 (slow to import)

    others = np.asarray(chance, dtype=float)
    count, spread = len(others), float(others.std(ddof=1))
    off = abs(value - float(others.mean()))
    if spread <= 1e-12 * max(1.0, off):
        return 1.0 if off <= 1e-12 else 2 / (count + 1)  # noqa: PLR2004
    return float(2 * stats.t.sf(off / (spread * (1 + 1 / count) ** 0.5), count - 1))


def _read_images(net: nn.Module, images: Any) -> Tensor:
    inputs = read_inputs(net, images)
    if not isinstance(inputs, Tensor):
        raise InputError(
            "tcav was given several inputs for images of a concept; give the images alone."
        )
    return inputs


def _as_rows(tensor: Float[Tensor, "n k"]) -> Rows:
    return to_float64(tensor.detach()).cpu().numpy()


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 (slow to import)

    return LogisticRegression(class_weight="balanced", max_iter=1000)


def _pair(own: Rows, other: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """Return features in units of their common spread, and which are the concept's.

    One unit for all channels: a vector's direction is in the layer's own space.
    """
    rows = np.concatenate([own, other])
    centred = rows - rows.mean(0)
    spread = float(np.sqrt(np.square(centred).sum(1).mean()))
    return centred / max(spread, 1e-300), np.arange(len(rows)) < len(own)


def _find_vector(own: Rows, other: Rows) -> Rows:
    """Return the CAV, of length 1; zeros if the features are all the same."""
    rows, labels = _pair(own, other)
    vector: Rows = _classifier().fit(rows, labels).coef_[0]
    return vector / max(float(np.linalg.norm(vector)), 1e-300)


def _accuracy(own: Rows, other: Rows) -> float:
    """Return the mean of both kinds' accuracies on images that were left out of the fit."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict  # noqa: PLC0415

    rows, labels = _pair(own, other)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    right = cross_val_predict(_classifier(), rows, labels, cv=folds) == labels
    return float(right[labels].mean() + right[~labels].mean()) / 2


def _measure(gradients: Rows, vector: Rows) -> tuple[float, float]:
    """Return the TCAV score and the mean cosine of gradients of length 1."""
    along = gradients @ vector
    return float((along > 0).mean()), float(along.mean())

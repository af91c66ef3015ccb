"""Attribution by what the score does when parts of an image are replaced by a baseline."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.compat._shared import draw_seed
from torchsaliency.compat.captum.attr.base import (
    Answer,
    Attribution,
    Baselines,
    Given,
    Question,
    Targets,
    ask,
    read_baselines,
    refuse,
)
from torchsaliency.core.space import multiply_sides
from torchsaliency.errors import OptionError
from torchsaliency.methods.attribution.coalitions import coalitions, lime_samples, ridge, shapley
from torchsaliency.methods.masking.occlusion import multiply_outer, slide_window


def _hide(asked: Question, base: Tensor, hidden: Tensor, image: Tensor) -> Tensor:
    """Return the images at `image` with their baselines where `hidden`."""
    return torch.where(hidden, base.expand_as(asked.images)[image], asked.images[image])


def _ask(
    owner: Attribution, inputs: Given, target: Targets, more: Any, perturbations_per_eval: int
) -> Question:
    images = inputs[0] if isinstance(inputs, tuple) else inputs
    # captum's default of one is what it can always hold; more is what the caller can
    chunk = perturbations_per_eval * len(images) if perturbations_per_eval > 1 else None
    return ask(owner._network, inputs, target, more, chunk)


def _read_features(feature_mask: Any, images: Tensor) -> Tensor:
    """Return the feature of each number of the images (N, C, *size), int64; each its own if None.

    Raises:
        OptionError: the mask has another shape.
    """
    if feature_mask is None:
        return torch.arange(images[0].numel(), device=images.device).view(images[:1].shape)
    found = feature_mask[0] if isinstance(feature_mask, tuple) else feature_mask
    if images.shape[2:] == (1,) and found.ndim < images.ndim:  # of vectors
        found = found[..., None]
    try:
        torch.broadcast_shapes(found.shape, images.shape)
    except RuntimeError:
        raise OptionError(
            f"feature_mask is {tuple(found.shape)} and the images are {tuple(images.shape)}; give "
            "a mask that can be expanded to them."
        ) from None
    return found.long().to(images.device)


@final
class FeatureAblation(Attribution):
    """How far the score falls when one feature shows the baseline."""

    _multiplies = True

    def attribute(
        self,
        inputs: Given,
        baselines: Baselines = None,
        target: Targets = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Answer:
        """Return the drop of every number's feature (N, C, *size).

        Args:
            inputs: the images.
            baselines: what is shown instead; zeros by default.
            target: the score.
            additional_forward_args: what else the network takes.
            feature_mask: the feature of each number, (1 or N, 1 or C, *size); each its own if None.
            perturbations_per_eval: if more than one, the variants of each image in a pass.
            show_progress: nothing is shown.
        """
        del show_progress
        asked = _ask(self, inputs, target, additional_forward_args, perturbations_per_eval)
        base = read_baselines(baselines, asked.images)
        kinds, labels = _read_features(feature_mask, asked.images).unique(return_inverse=True)
        labels = labels.expand_as(asked.images)

        def build(image: Tensor, place: Tensor) -> Tensor:
            number = place.view(-1, *[1] * (labels.ndim - 1))
            return _hide(asked, base, labels[image] == number, image)

        scores = asked.score_variants(len(kinds), build)
        drops = asked.score(asked.images)[:, None] - scores
        found = drops.gather(1, labels.flatten(1)).view(labels.shape)
        return asked.answer(found.to(asked.images))


@final
class Occlusion(Attribution):
    """How far the score falls, on average, when windows over a number show the baseline."""

    _multiplies = True

    def attribute(  # noqa: PLR0913, PLR0917 (captum's arguments)
        self,
        inputs: Given,
        sliding_window_shapes: tuple[Any, ...],
        strides: Any = None,
        baselines: Baselines = None,
        target: Targets = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Answer:
        """Return the mean drop of every number's windows (N, C, *size).

        Args:
            inputs: the images.
            sliding_window_shapes: the window's sides, channels first.
            strides: of all sides, or of each; 1 by default.
            baselines: what is shown instead; zeros by default.
            target: the score.
            additional_forward_args: what else the network takes.
            perturbations_per_eval: if more than one, the variants of each image in a pass.
            show_progress: nothing is shown.

        Raises:
            OptionError: the window does not fit, or moves by more than its side.
        """
        del show_progress
        asked = _ask(self, inputs, target, additional_forward_args, perturbations_per_eval)
        images, base = asked.images, read_baselines(baselines, asked.images)
        shape = tuple(images.shape[1:])
        window = _unpack(sliding_window_shapes)
        moves = _unpack(strides) if isinstance(strides, tuple) else (strides or 1,) * len(window)
        if asked.shape is not None:
            window, moves = (*window, 1), (*moves, 1)
        fits = len(window) == len(moves) == len(shape)
        if fits:  # a window over a whole side does not move
            moves = tuple(
                min(step, side) if side == most else step
                for side, step, most in zip(window, moves, shape, strict=True)
            )
        if not fits or any(
            not 0 < step <= side <= most
            for side, step, most in zip(window, moves, shape, strict=True)
        ):
            raise OptionError(
                f"sliding_window_shapes {window} and strides {moves} were given for images of "
                f"{shape}; give a side and a stride for each, channels included, with "
                "0 < stride <= side."
            )
        lines = [
            slide_window(*sides).to(images.device)
            for sides in zip(shape, window, moves, strict=True)
        ]
        places = [len(line) for line in lines]

        def build(image: Tensor, place: Tensor) -> Tensor:
            parts = zip(lines, torch.unravel_index(place, places), strict=True)
            return _hide(asked, base, multiply_outer([part[at] for part, at in parts]) > 0, image)

        scores = asked.score_variants(math.prod(places), build)
        drops = asked.score(images)[:, None] - scores
        exact = [line.to(drops) for line in lines]
        total = multiply_sides(drops.unflatten(1, places), [line.mT for line in exact])
        found = total / multiply_outer([line.sum(0)[None] for line in exact])
        return asked.answer(found.to(images))


def _unpack(sides: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the sides of the only input."""
    return sides[0] if len(sides) == 1 and isinstance(sides[0], tuple) else sides


class _Coalitions(Attribution, abc.ABC):
    """A class that scores images of which only some features are shown."""

    def attribute(  # noqa: PLR0913, PLR0917 (captum's arguments)
        self,
        inputs: Given,
        baselines: Baselines = None,
        target: Targets = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
    ) -> Answer:
        """Return the coefficient of every number's feature (N, C, *size).

        Args:
            inputs: the images.
            baselines: what is shown instead; zeros by default.
            target: the score.
            additional_forward_args: what else the network takes.
            feature_mask: the feature of each number, (1 or N, 1 or C, *size); each its own if None.
            n_samples: images that are scored.
            perturbations_per_eval: if more than one, the variants of each image in a pass.
            return_input_shape: False for the coefficients themselves, (N, M).
            show_progress: nothing is shown.
        """
        del show_progress
        asked = _ask(self, inputs, target, additional_forward_args, perturbations_per_eval)
        base = read_baselines(baselines, asked.images).expand_as(asked.images)
        labels = _read_features(feature_mask, asked.images).expand_as(asked.images)
        seed = draw_seed()
        rows, found = [], []
        for question, behind, mask in zip(asked.each(), base, labels, strict=True):
            # only the image's own features play
            kinds, places = mask.unique(return_inverse=True)
            row = self._solve(_Shown(question, behind, places), len(kinds), n_samples, seed)
            found.append(row[places])
            rows.append((kinds, row))
        if return_input_shape:
            return asked.answer(torch.stack(found).to(asked.images))
        features = int(labels.max()) + 1
        table = asked.images.new_zeros(len(rows), features)
        for place, (kinds, row) in enumerate(rows):
            table[place, kinds] = row.to(table)
        return table if asked.alone else (table,)

    @abc.abstractmethod
    def _solve(self, score: _Shown, features: int, samples: int, seed: int) -> Tensor:
        """Return one coefficient a feature (M,)."""


@final
class _Shown:
    """Scores one image with only some features shown."""

    def __init__(self, asked: Question, base: Tensor, places: Tensor) -> None:
        self._asked, self._base, self._places = asked, base, places

    def __call__(self, shown: Tensor) -> Tensor:
        """Return the scores (S,) of the coalitions (S, M)."""
        shown = shown.bool().to(self._places.device)

        def build(image: Tensor, place: Tensor) -> Tensor:
            hidden = ~shown[place][:, self._places]
            return _hide(self._asked, self._base[None], hidden, image)

        return self._asked.score_variants(len(shown), build)[0]


@final
class Lime(_Coalitions):
    """LIME by its paper's linear model: a ridge regression, weighted by how much is shown.

    Args:
        forward_func: a network, or a function of the inputs.
        interpretable_model: None.
        similarity_func: None.
        perturb_func: None.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Any = None,
        perturb_func: Any = None,
    ) -> None:
        super().__init__(forward_func)
        for name, given in (
            ("interpretable_model", interpretable_model),
            ("similarity_func", similarity_func),
            ("perturb_func", perturb_func),
        ):
            if given is not None:
                raise refuse(name, type(given).__name__, "leave it out for the paper's ridge")

    def _solve(self, score: _Shown, features: int, samples: int, seed: int) -> Tensor:
        shown = lime_samples(samples, features, seed)
        scores = score(shown).cpu()
        distance = 1 - shown.double().mean(1).sqrt()
        weights = (-(distance**2) / _WIDTH**2).exp().sqrt()
        found = ridge(shown.double(), (scores - scores[0]).double(), weights, 1.0)
        return found.to(score._places.device)


_WIDTH = 0.25
"""Of LIME's kernel for images."""


@final
class KernelShap(_Coalitions):
    """Shapley values of the features; exact where `n_samples` is no less than 2^M - 2."""

    def _solve(self, score: _Shown, features: int, samples: int, seed: int) -> Tensor:
        inner, weights = coalitions(features, samples, seed)
        ends = torch.stack([inner.new_ones(features), inner.new_zeros(features)])
        scores = score(torch.cat([ends, inner])).cpu().double()
        gains = scores - scores[1]
        found = shapley(inner.double(), gains[2:], gains[0], weights)
        return found.to(score._places.device)

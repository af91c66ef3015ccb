"""The network that scores: a session whose outputs are logits, and what they say of a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.maps import to_float64, upcast
from torchsaliency.core.neurons import Neuron
from torchsaliency.core.scores import SOFTMAX, By, ScoreKind
from torchsaliency.core.session import Session, open_session
from torchsaliency.core.target import (
    ClassTarget,
    RowWise,
    Target,
    TargetSpec,
    names_classes,
    resolve_target,
    score,
)
from torchsaliency.errors import InputError, OptionError, TargetError

Labels = None | int | Sequence[int] | Tensor | Target | Any
"""What a measure takes: classes, None for the one predicted on the clean image, or any target."""


@contextmanager
def judging(
    model: nn.Module,
    x: InputsLike,
    *,
    chunk: int | None = None,
    scores: ScoreKind | None = None,
) -> Iterator[Judge]:
    """Freeze a network while it scores variants of images.

    Args:
        model: the judge; it may differ from the network that was explained.
        x: images (N, C, *size), preprocessed for the judge.
        chunk: images in one pass; None finds it; bounds the memory, never changes the result.
        scores: what its numbers mean; None for what the network says, or else shows.

    Raises:
        InputError: the images cannot be scored.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
        >>> with judging(net, x) as judge:
        ...     logits = judge.clean_logits(None)
        >>> logits.shape
        torch.Size([2, 8])
    """
    with open_session(model, x, chunk=chunk, scores=scores) as session:
        yield Judge(session)


@final
class Judge:
    """A frozen network, and the images it judges.

    Attributes:
        session: the network, which runs and counts.
        images: (N, C, *size), on the network's device and in its precision.
        size: their spatial size.
    """

    def __init__(self, session: Session) -> None:
        self.images, self.size = session.images, session.size
        self.session = session
        self._classes: int | None = None

    @property
    def scores(self) -> ScoreKind:
        """What the judge's numbers mean."""
        return self.session.scores

    @property
    def passes(self) -> int:
        """Images that went through the network so far."""
        return self.session.passes

    def logits(
        self,
        count: int,
        build: Callable[[Tensor], Tensor],
        each: int = 1,
        index: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "m k"]:
        """Return the logits (count, K) of variants that are built chunk by chunk.

        Args:
            count: how many variants there are.
            build: gives the variants (m, C, *size) of the indices (m,).
            each: how many variants in a row derive from one image.
            index: the indices themselves, if not all variants are wanted.

        Raises:
            TargetError: the network does not give (N, K), or too few classes for its kind of
                scores.
        """
        logits = require_logits(
            self.session.run_variants(count, build, each, index=index), self.scores
        )
        if self._classes not in (None, logits.shape[1]):
            raise InputError(
                f"Clean logits of {self._classes} classes were given and the judge has "
                f"{logits.shape[1]}; give logits of the same network."
            )
        return logits

    def variants(
        self, each: int, build: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "n m k"]:
        """Return the logits (N, each, K) of as many variants of every image.

        Args:
            each: how many variants an image has.
            build: gives the variants (m, C, *size) of images (m,) and places 0 … each-1 (m,).

        Raises:
            TargetError: the network does not give (N, K), or too few classes for its kind of
                scores.
        """
        count = len(self.images)
        logits = self.logits(count * each, lambda index: build(index // each, index % each), each)
        sets: Tensor = logits.unflatten(0, (count, each))
        return sets

    def resolve(self, target: TargetSpec | Callable[[Any], Tensor]) -> Target:
        """Return the target of the clean images; one pass if it has to see the judge's output."""
        if isinstance(target, Neuron) and self.session.output != target.output:
            raise TargetError(
                f"The judge gives its own output, and a neuron of {target.layer!r} was asked for; "
                "measure an explanation of it with torchsaliency.score, or explain and judge "
                f'with output="{target.output}".'
            )
        if isinstance(target, Target):
            return target.of_scores(self.scores)
        if not isinstance(target, TargetSpec):
            return RowWise(target)
        outputs = []
        with torch.no_grad():
            for part in torch.arange(len(self.images)).split(self.session.chunk):
                rows = part.to(self.images.device)
                outputs.append(self.session.run(self.images[rows], rows=rows))
        joined = (
            torch.cat(outputs)
            if all(isinstance(one, Tensor) for one in outputs)
            else [row for one in outputs for row in one]
        )
        return resolve_target(target, joined, self.scores)

    def target_scores(
        self,
        target: Target,
        each: int,
        build: Callable[[Tensor, Tensor], Tensor],
        index: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "n m"] | Float[Tensor, " m"]:
        """Return the score (N, each) that a target gives to as many variants of every image.

        Args:
            target: of the clean images.
            each: how many variants an image has.
            build: gives the variants (m, C, *size) of images (m,) and places 0 … each-1 (m,).
            index: image · each + place (m,) of some variants, whose scores (m,) are returned.
        """
        count = len(self.images)

        def read(output: Any, index: Tensor) -> Tensor:
            return score(target.take(index // each), output, len(index))

        found = self.session.run_variants(
            count * each if index is None else len(index),
            lambda index: build(index // each, index % each),
            each,
            read,
            index,
        )
        scores: Tensor = to_float64(found)
        return scores.unflatten(0, (count, each)) if index is None else scores

    def clean_logits(self, known: Tensor | None) -> Float[Tensor, "n k"]:
        """Return the logits of the clean images: those that are known, or else from one pass.

        Raises:
            InputError: the known logits are of another number of images.
        """
        if known is None:
            return self.logits(len(self.images), lambda index: self.images[index])
        if len(known) != len(self.images):
            raise InputError(
                f"Clean logits of {len(known)} images were given for {len(self.images)} images."
            )
        numbers = upcast(known.detach().to(self.images.device))
        if numbers.ndim == 1 or numbers.shape[1] == 1:  # as the network gave them
            numbers = self.scores.canonical(numbers)
        logits = require_logits(numbers, self.session.known_scores or SOFTMAX)
        self._classes = logits.shape[1]
        return logits

    def class_scores(
        self, logits: Float[Tensor, "n ... k"], labels: Int[Tensor, " n"]
    ) -> ClassScores:
        """Return what the judge's logits say of each image's class; see `class_scores`."""
        return class_scores(logits, labels, self.scores)

    def read_clean(self, target: Labels, clean: Tensor | None, by: By) -> Reading:
        """Return how one score an image is read: of its class, or of any target.

        Args:
            target: classes, None for the predicted ones, or any target.
            clean: logits of the clean images if they are known; they then cost no pass.
            by: what is read of a class.

        Raises:
            OptionError: there is no such score.
            TargetError: the target does not fit the network.
        """
        if by not in get_args(By):
            raise OptionError(
                f"by={by!r} was given; choose {', '.join(get_args(By))}: the score that is read."
            )
        if not names_classes(target):
            resolved = self.resolve(cast("TargetSpec", target))
            before = self.target_scores(resolved, 1, lambda image, _: self.images[image])[:, 0]
            return Reading(self, before, resolved)
        logits = self.clean_logits(clean)
        labels = class_labels(target, logits)
        if by == "target":
            resolved = resolve_target(target, logits, self.scores)
            before = to_float64(score(resolved, logits, len(logits)))
            return Reading(self, before, resolved, labels, logits)
        before = _read_class(logits, labels, by, self.scores)
        return Reading(self, before, None, labels, logits, by)

    def maps(self, maps: Tensor, *, several: bool = False) -> Tensor:
        """Return maps on the judge's device, of the images' number and size.

        Raises:
            InputError: they are not.
        """
        several = several and maps.ndim == self.images.ndim
        shape = (maps.shape[0], *maps.shape[2:]) if several else maps.shape
        if tuple(shape) != (len(self.images), *self.size):
            raise InputError(
                f"Maps of {tuple(maps.shape)} were given for images of "
                f"{tuple(self.images.shape)}; give one map of the same size an image."
            )
        return maps.to(self.images.device)


@final
@dataclass(frozen=True, eq=False)
class Reading:
    """One score an image, and how it is read off variants of the images.

    Attributes:
        judge: the network.
        clean: (N,) scores of the clean images, in float64.
        target: what gives the scores; None for the class itself.
        labels: the class of each image; None for a target that is no class.
        logits: (N, K) of the clean images; None for a target that is no class.
        by: what is read of the class.
    """

    judge: Judge
    clean: Tensor
    target: Target | None
    labels: Tensor | None = None
    logits: Tensor | None = None
    by: By = "probability"

    def variants(
        self, each: int, build: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "n m"]:
        """Return the scores (N, each) of as many variants of every image, see `Judge.variants`."""
        if self.target is not None:
            return self.judge.target_scores(self.target, each, build)
        numbers = self.judge.variants(each, build)
        return _read_class(numbers, cast("Tensor", self.labels), self.by, self.judge.scores)

    def some_variants(
        self, each: int, build: Callable[[Tensor, Tensor], Tensor], index: Int[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """Return the scores (m,) of the variants image · each + place (m,); see `variants`."""
        if self.target is not None:
            return self.judge.target_scores(self.target, each, build, index)
        numbers = self.judge.logits(
            len(index), lambda part: build(part // each, part % each), each, index
        )
        labels = cast("Tensor", self.labels)[index // each]
        return _read_class(numbers, labels, self.by, self.judge.scores)


def _read_class(numbers: Tensor, labels: Tensor, by: By, scores: ScoreKind) -> Tensor:
    if by == "logit":
        return class_logits(numbers, labels)
    return class_scores(numbers, labels, scores).probability


@final
@dataclass(frozen=True, eq=False)
class ClassScores:
    """What logits say of one class an image, in float64.

    Attributes:
        logit: y_c.
        probability: p_c, such as softmax(y)_c or σ(y_c).
        rest: 1 - p_c, computed so that it survives near 1: from the other classes, or as σ(-y_c).
    """

    logit: Tensor
    probability: Tensor
    rest: Tensor


def class_scores(
    logits: Float[Tensor, "n ... k"], labels: Int[Tensor, " n"], scores: ScoreKind = SOFTMAX
) -> ClassScores:
    """Return logit, probability and its complement of each image's class.

    Args:
        logits: (N, K), or (N, M, K) of M variants of each image.
        labels: the classes.
        scores: what the logits mean.

    Raises:
        TargetError: they have no probabilities.

    Example:
        >>> class_scores(torch.zeros(1, 4), torch.tensor([2])).probability
        tensor([0.2500], dtype=torch.float64)
    """
    numbers, place = _of_labels(logits, labels)
    probability, rest = scores.of_class(numbers, place)
    return ClassScores(numbers.gather(-1, place)[..., 0], probability, rest)


def class_logits(logits: Float[Tensor, "n ... k"], labels: Int[Tensor, " n"]) -> Tensor:
    """Return the logit of each image's class, in float64; arguments as `class_scores`."""
    numbers, place = _of_labels(logits, labels)
    return numbers.gather(-1, place)[..., 0]


def _of_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    numbers = to_float64(logits)
    ones = [1] * (numbers.ndim - 1)
    place = labels.to(numbers.device).view(-1, *ones).expand(*numbers.shape[:-1], 1)
    return numbers, place


def class_labels(target: Labels, logits: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """Return one class an image.

    Raises:
        TargetError: the target names no classes, or does not fit the logits.
    """
    resolved = resolve_target(target, logits)
    if not isinstance(resolved, ClassTarget):
        raise TargetError(
            f"A {type(resolved).__name__} names no class, and this measure needs one; give class "
            "indices, or None for the predicted class."
        )
    resolved(logits)  # raises if there are too few labels, or no such class
    labels: Tensor = resolved.labels
    return labels.to(logits.device)


def require_logits(logits: Tensor, scores: ScoreKind = SOFTMAX) -> Tensor:
    """Return logits (N, K) of as many classes as there must be.

    Minus infinity is the logit of a class that cannot be: its probability is 0.

    Args:
        logits: what a network gave.
        scores: what its numbers mean.

    Raises:
        TargetError: they are of another shape, or hold NaN or plus infinity, or minus infinity
            for every class.
    """
    if logits.ndim != 2 or logits.shape[1] < max(1, scores.classes):  # noqa: PLR2004
        raise TargetError(
            f"The judge gave {tuple(logits.shape)}; a measure of class probabilities needs logits "
            'of at least two classes (N, K), or scores="binary" of a single logit (for an encoder, '
            "see masked_embeddings; for a segmenter, insertion and deletion)."
        )
    if bool((logits.isnan() | logits.isposinf()).any()) or (
        scores is SOFTMAX and bool(logits.isneginf().all(1).any())
    ):
        raise TargetError("The judge gave NaN or infinite logits; check its weights and precision.")
    return logits

"""What a network's numbers mean: logits of classes, independent labels, probabilities, or neither.

Every probability in the library is taken here: of targets, judges, measures, tables and prints. The
kind is stated by the caller or the network, or found from what the network gives.
"""

from __future__ import annotations

import abc
import math
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.network import find_fact, unwrap
from torchsaliency.errors import OptionError, TargetError, describe_unknown

_SUMMED, _SUMMED_HALF = 1e-3, 2e-2
"""How far a row of probabilities may be from adding up to 1."""


class ScoreKind(abc.ABC):
    """What the numbers that a network gives for an image mean.

    Attributes:
        name: the word for it, as in `scores="sigmoid"`.
        classes: the fewest classes of which it has probabilities; 0 if it has none.
    """

    name: ClassVar[str]
    classes: ClassVar[int] = 1

    def canonical(self, output: Any) -> Any:
        """Return the numbers (N, K) on which class targets read y_c; other outputs as they are.

        Raises:
            TargetError: the output is not of this kind.
        """
        return output

    @abc.abstractmethod
    def probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return each class's probability p_c, in [0, 1].

        Raises:
            TargetError: the numbers have no probabilities.
        """

    @abc.abstractmethod
    def log_probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return log p_c, at most 0.

        Raises:
            TargetError: the numbers have no probabilities.
        """

    @abc.abstractmethod
    def of_class(
        self, numbers: Float[Tensor, "... k"], place: Int[Tensor, "... 1"]
    ) -> tuple[Tensor, Tensor]:
        """Return p_c and 1 - p_c of one class a row, each accurate near 0.

        Raises:
            TargetError: the numbers have no probabilities.
        """

    @abc.abstractmethod
    def margin(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:
        """Return by how much the class leads, (N,): above 0 if it is predicted."""

    def predicts(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:
        """Return whether the class is predicted of each image, (N,)."""
        return numbers.argmax(1) == labels.to(numbers.device)


@final
@dataclass(frozen=True)
class Softmax(ScoreKind):
    """Logits of classes of which one is true: p_c = softmax(y)_c."""

    name = "softmax"
    classes = 2

    def probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return softmax(y)_c."""
        return numbers.softmax(-1)

    def log_probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return log softmax(y)_c."""
        return numbers.log_softmax(-1)

    def of_class(
        self, numbers: Float[Tensor, "... k"], place: Int[Tensor, "... 1"]
    ) -> tuple[Tensor, Tensor]:
        """Return softmax(y)_c, and the sum of the other classes', which survives near 1."""
        own = numbers.gather(-1, place)[..., 0]
        others = numbers.scatter(-1, place, -torch.inf).logsumexp(-1)
        total = torch.logaddexp(own, others)
        return (own - total).exp(), (others - total).exp()

    def margin(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:
        """Return y_c minus the largest other number."""
        return _lead(numbers, labels)


class _Labels(ScoreKind):
    """Logits of labels that are true or false by themselves: p_c = σ(y_c), 1 - p_c = σ(-y_c)."""

    def probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return σ(y_c)."""
        return numbers.sigmoid()

    def log_probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return log σ(y_c)."""
        return F.logsigmoid(numbers)

    def of_class(
        self, numbers: Float[Tensor, "... k"], place: Int[Tensor, "... 1"]
    ) -> tuple[Tensor, Tensor]:
        """Return σ(y_c) and σ(-y_c)."""
        own = numbers.gather(-1, place)[..., 0]
        return own.sigmoid(), (-own).sigmoid()

    def margin(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:
        """Return the log-odds log p_c - log(1 - p_c), which is y_c."""
        return _pick(numbers, labels)

    def predicts(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:
        """Return whether p_c is at least 1/2."""
        return _pick(numbers, labels) >= 0


@final
@dataclass(frozen=True)
class Sigmoid(_Labels):
    """Logits of independent labels: p_c = σ(y_c). Several may be true of an image, or none."""

    name = "sigmoid"

    def canonical(self, output: Any) -> Any:
        """Return (N, K); (N,) becomes (N, 1)."""
        return _as_rows(output)


@final
@dataclass(frozen=True)
class Binary(_Labels):
    """One logit z an image: of class 1 it is z, of class 0 it is -z; p_1 = σ(z), p_0 = σ(-z)."""

    name = "binary"
    classes = 2

    def canonical(self, output: Any) -> Any:
        """Return (N, 2) [-z, z] of (N,) or (N, 1), likewise (N, 2, h, w) of (N, 1, h, w).

        Raises:
            TargetError: the network gives several numbers an image.
        """
        rows = _as_rows(output)
        if not isinstance(rows, Tensor):
            return rows
        if rows.shape[1] != 1:
            raise TargetError(
                f'scores="binary" is of one number an image, and the network gave '
                f'{tuple(output.shape)}; say scores="softmax" for classes of which one is true, or '
                '"sigmoid" for independent labels.'
            )
        return torch.cat([-rows, rows], 1)


@final
@dataclass(frozen=True)
class Probabilities(ScoreKind):
    """Probabilities already: p_c = y_c. Of a single one, p_1 = y and p_0 = 1 - y.

    Attributes:
        function: gives them, (N, K), from the network's output; None takes the output itself.
    """

    function: Callable[[Any], Tensor] | None = None
    name = "probabilities"

    def canonical(self, output: Any) -> Any:
        """Return (N, K) probabilities.

        Raises:
            TargetError: the function gives something else.
        """
        if self.function is None:
            rows = _as_rows(output)
            single = isinstance(rows, Tensor) and rows.shape[1] == 1
            return torch.cat([1 - rows, rows], 1) if single else rows
        found = self.function(output)
        if not isinstance(found, Tensor) or found.ndim != 2:  # noqa: PLR2004
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(
                f"The callable given as scores must return probabilities (N, K), and it returned "
                f"{shape}."
            )
        return found

    def probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return y_c."""
        return numbers

    def log_probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:
        """Return log y_c."""
        return numbers.log()

    def of_class(
        self, numbers: Float[Tensor, "... k"], place: Int[Tensor, "... 1"]
    ) -> tuple[Tensor, Tensor]:
        """Return y_c and 1 - y_c."""
        own = numbers.gather(-1, place)[..., 0]
        return own, 1 - own

    def margin(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:
        """Return y_c minus the largest other number, or 2 y_c - 1 where there is no other."""
        single = numbers.shape[1] == 1
        return 2 * numbers[:, 0] - 1 if single else _lead(numbers, labels)

    def predicts(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:
        """Return whether the class is the most probable one, or its probability at least 1/2."""
        return super().predicts(numbers, labels) | (_pick(numbers, labels) >= 0.5)  # noqa: PLR2004


class _NoProbability(ScoreKind):
    """Numbers that say nothing of a probability."""

    classes = 0
    _meaning: ClassVar[str]

    def _refuse(self) -> TargetError:
        return TargetError(
            f"The network's numbers are {self._meaning} (scores={self.name!r}), which have no "
            "class probability; choose a target or metric without one, or say what they are with "
            'scores="softmax", "sigmoid", "binary" or "probabilities".'
        )

    def probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:  # noqa: ARG002
        """Raise `TargetError`."""
        raise self._refuse()

    def log_probabilities(self, numbers: Float[Tensor, "... k"]) -> Float[Tensor, "... k"]:  # noqa: ARG002
        """Raise `TargetError`."""
        raise self._refuse()

    def of_class(
        self,
        numbers: Float[Tensor, "... k"],  # noqa: ARG002
        place: Int[Tensor, "... 1"],  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Raise `TargetError`."""
        raise self._refuse()

    def margin(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:  # noqa: ARG002
        """Raise `TargetError`."""
        raise self._refuse()

    def predicts(self, numbers: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Tensor:  # noqa: ARG002
        """Raise `TargetError`."""
        raise self._refuse()


@final
@dataclass(frozen=True)
class RegressionScores(_NoProbability):
    """Measured quantities: nothing is predicted but the numbers themselves."""

    name = "regression"
    _meaning = "those of a regression"


@final
@dataclass(frozen=True)
class EmbeddingScores(_NoProbability):
    """An embedding: its numbers mean something together alone."""

    name = "embedding"
    _meaning = "an embedding's"


SOFTMAX, SIGMOID, BINARY, PROBABILITIES = Softmax(), Sigmoid(), Binary(), Probabilities()
REGRESSION, EMBEDDING = RegressionScores(), EmbeddingScores()

SCORE_KINDS: Mapping[str, ScoreKind] = {
    kind.name: kind for kind in (SOFTMAX, SIGMOID, BINARY, PROBABILITIES, REGRESSION, EMBEDDING)
}
"""What can be said of a network's numbers, by the word for it."""

By = Literal["probability", "logit", "target"]
"""The number that is read of a class: its probability, its logit, or what the target itself says.

A target that is no class (an embedding's similarity, a detection, a callable) always says itself.
"""


def require_error(error: float | int | None) -> float:
    """Return what the number of a curve of scores may be wrong by, in points; 0 for nothing.

    Raises:
        OptionError: it is below 0 or not finite.
    """
    wanted = 0.0 if error is None else float(error)
    if not 0 <= wanted < math.inf:
        raise OptionError(
            f"error={error} was given; give points above 0, such as 0.5, or None for exact curves."
        )
    return wanted


ScoresLike = str | ScoreKind | Callable[[Any], Tensor] | None
"""A word of `SCORE_KINDS`, or a function from the output to probabilities (N, K); or None."""

PROBLEM_TYPES: Mapping[Any, ScoreKind] = {
    "single_label_classification": SOFTMAX,
    "multi_label_classification": SIGMOID,
    "regression": REGRESSION,
}
"""What Hugging Face calls them."""


def parse_scores(scores: ScoresLike) -> ScoreKind | None:
    """Return the kind that a word or function stands for; None stands for itself.

    Raises:
        OptionError: there is no such kind.

    Example:
        >>> parse_scores("sigmoid").probabilities(torch.tensor([[0.0, 30.0]]))
        tensor([[0.5000, 1.0000]])
    """
    if scores is None or isinstance(scores, ScoreKind):
        return scores
    if isinstance(scores, str):
        if scores in SCORE_KINDS:
            return SCORE_KINDS[scores]
        raise OptionError(describe_unknown("kind of scores", scores, SCORE_KINDS))
    if callable(scores) and not isinstance(scores, type):
        return Probabilities(scores)
    raise OptionError(
        f"scores={scores!r} was given; accepted are {', '.join(SCORE_KINDS)}, or a function from "
        "the network's output to probabilities (N, K)."
    )


def find_stated_scores(model: nn.Module) -> ScoreKind | None:
    """Return the kind that a network states, or its wrapper; None if nothing is stated.

    In this order: the wrapper's `scores`; the network's own attribute `scores`, if it is a word;
    the `problem_type` of a Hugging Face configuration; that the network is an encoder.

    Raises:
        OptionError: what is stated is no kind of scores.
    """
    if (wrapped := find_fact(model, "scores")) is not None:
        return parse_scores(wrapped)
    net = unwrap(model)
    own = getattr(net, "scores", None)
    if isinstance(own, str):
        return parse_scores(own)
    problem = getattr(getattr(net, "config", None), "problem_type", None)
    if isinstance(problem, str) and problem in PROBLEM_TYPES:
        return PROBLEM_TYPES[problem]
    return EMBEDDING if find_fact(model, "encoder") is True else None


_Place = int | str | None
_found: weakref.WeakKeyDictionary[nn.Module, dict[_Place, tuple[tuple[type, ...], ScoreKind]]] = (
    weakref.WeakKeyDictionary()
)
_noticed: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def recall_scores(
    net: nn.Module, place: _Place = None, *, classes: bool = True
) -> ScoreKind | None:
    """Return the kind that was found for a network, None if none was yet.

    Args:
        net: without a wrapper.
        place: of the numbers in its output, as for `unwrap_output`.
        classes: as for `find_scores`.
    """
    known = _found.get(net, {}).get(place)
    if known is None or known[0] != _structure(net):
        return None
    return REGRESSION if known[1] is BINARY and not classes else known[1]


def find_scores(
    net: nn.Module,
    output: Any,
    place: _Place = None,
    *,
    classes: bool = True,
    differentiable: Callable[[], Any] | None = None,
) -> ScoreKind:
    """Return the kind that a network's output shows; remembered for the network.

    Probabilities are rows in [0, 1] that add up to 1, or numbers in [0, 1] of a network whose last
    module or operation is a sigmoid. A single number an image may be a logit or a measured
    quantity: it is taken for a logit, and a `UserWarning` says so once a network. All else are
    logits.

    Args:
        net: without a wrapper.
        output: unwrapped, of some images.
        place: of it in what the network gave.
        classes: whether a class is asked for; if not, a single number stays what it is.
        differentiable: gives such an output with its graph, by one more pass where the numbers
            leave it open whether a sigmoid made them.
    """
    kind = _see(net, output, differentiable)
    if kind is BINARY and not classes:
        return REGRESSION
    _found.setdefault(net, {})[place] = _structure(net), kind
    if kind is BINARY and net not in _noticed:
        _noticed.add(net)
        warnings.warn(
            f"The {type(net).__name__} gives one number an image, which is taken for the logit z "
            'of two classes: z of class 1, -z of class 0. Say scores="binary" if it is, '
            'scores="regression" if it is a measured quantity (--scores on the command line).',
            stacklevel=2,
        )
    return kind


def _see(net: nn.Module, output: Any, differentiable: Callable[[], Any] | None) -> ScoreKind:
    if not isinstance(output, Tensor) or output.ndim not in (1, 2) or 0 in output.shape:
        return SOFTMAX
    rows = _as_rows(output.detach()).float()
    single = rows.shape[1] == 1
    if bool(((rows >= 0) & (rows <= 1)).all()):
        near = _SUMMED if output.dtype in (torch.float32, torch.float64) else _SUMMED_HALF
        summed = not single and bool(((rows.sum(1) - 1).abs() < near).all())
        if summed:
            return PROBABILITIES
        if output.grad_fn is None and differentiable is not None:
            output = differentiable()
        if isinstance(output, Tensor) and output.grad_fn is not None:
            squashed = _ends_in_sigmoid(output)
        else:  # the last module may be a gate, so it is asked only where there is no graph
            squashed = isinstance(list(net.modules())[-1], nn.Sigmoid)
        if squashed:
            return PROBABILITIES
    return BINARY if single else SOFTMAX


_MOVES = (
    *("View", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "ToCopy", "Cat"),
    "BackwardHookFunction",
)
"""Operations that leave numbers as they are, by the beginnings of their nodes' names."""


def _ends_in_sigmoid(output: Any) -> bool:
    """Whether the last operation of an output's graph that makes numbers is a sigmoid."""
    node = output.grad_fn if isinstance(output, Tensor) else None
    while node is not None and node.name().startswith(_MOVES):
        node = next((earlier for earlier, _ in node.next_functions if earlier is not None), None)
    return node is not None and node.name().startswith("Sigmoid")


def _structure(net: nn.Module) -> tuple[type, ...]:
    return tuple(map(type, net.modules()))


def _as_rows(output: Any) -> Any:
    """Return (N,) as (N, 1), and anything else as it is."""
    flat = isinstance(output, Tensor) and output.ndim == 1
    return output[:, None] if flat else output


def _pick(numbers: Tensor, labels: Tensor) -> Tensor:
    return numbers.gather(1, labels.to(numbers.device)[:, None])[:, 0]


def _lead(numbers: Tensor, labels: Tensor) -> Tensor:
    own = F.one_hot(labels, numbers.shape[1]).bool()
    return _pick(numbers, labels) - numbers.masked_fill(own, -torch.inf).amax(1)

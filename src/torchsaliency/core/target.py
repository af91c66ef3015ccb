"""What is explained: a target turns the network's output into one number for each image.

`None` stands for the predicted class; it is resolved once, on the clean image, and recorded. Every
target can be taken at an index, because methods run the network on many variants of one image.

`TARGETS` holds the targets that words can name: "margin", "margin:tabby", "regression:index=2",
"box:dog,least=0.3". Those of detectors are in `core.detection`, those of segmenters in
`core.segmentation`.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.scores import EMBEDDING, REGRESSION, SOFTMAX, ScoreKind
from torchsaliency.errors import OptionError, TargetError
from torchsaliency.registry import Entry, Registry

_BEFORE_OPTION = re.compile(r",(?=\w+=)")

Scores = Float[Tensor, " n"]
"""One number an image, larger for more evidence."""


class TargetSpec(abc.ABC):
    """What becomes a target once the network's output on the clean images is known."""

    @abc.abstractmethod
    def resolve(self, output: Any) -> Target:
        """Return the target of images whose unwrapped output this is.

        Raises:
            TargetError: the output does not fit.
        """


class Target(TargetSpec):
    """A batched, differentiable score of the network's output.

    Example:
        >>> y = torch.tensor([[2.0, 1.0, 0.0]])
        >>> Logit([0])(y), Margin([0])(y)
        (tensor([2.]), tensor([1.]))
    """

    @abc.abstractmethod
    def __call__(self, output: Any) -> Scores:
        """Return one score an image; `output` is what the network gave, unwrapped to a tensor."""

    def take(self, index: Tensor) -> Target:
        """Return the target of the images at `index` (int64, repeats allowed).

        The default takes the rows of all tensors among a dataclass's fields.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        rows = {
            name: value[index.to(value.device)]
            for name, value in values.items()
            if isinstance(value, Tensor) and value.ndim
        }
        return replace(self, **rows) if rows else self  # type: ignore[type-var]

    def of_scores(self, kind: ScoreKind) -> Target:  # noqa: ARG002 (it needs no probability)
        """Return the target of a network whose numbers mean this."""
        return self

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a manifest must say to repeat this target (JSON types only)."""

    def resolve(self, output: Any) -> Target:  # noqa: ARG002 (it needs no output)
        """Return the target itself."""
        return self


@dataclass(frozen=True)
class TargetEntry(Entry):
    """A registered target; all its options have defaults."""

    @property
    def names_class(self) -> bool:
        """Whether it scores one class an image, which may be named: "margin:tabby"."""
        return isinstance(self.factory, type) and issubclass(self.factory, ClassTarget)

    @property
    def words(self) -> tuple[str, ...]:
        """What may stand after the colon, beside options by name: ("CLASS",) of "margin:CLASS"."""
        return ("CLASS",) if self.names_class else getattr(self.factory, "words", ())

    def read_word(self, word: str, class_index: Callable[[str], int]) -> dict[str, Any]:
        """Return the options that the word after the colon stands for: "0" in "box:0".

        Raises:
            OptionError: the target takes named options alone.
        """
        read = getattr(self.factory, "read_word", None)
        if read is None:
            raise OptionError(
                f"{self.name}:{word} was given; {self.name} takes options by name: "
                f"{', '.join(self.options)}."
            )
        found: dict[str, Any] = read(word, class_index)
        return found


TARGETS: Registry[TargetEntry] = Registry(
    "target", "torchsaliency.targets", base=TargetSpec, error=TargetError
)
T = TypeVar("T", bound=type[TargetSpec])


def register_target(name: str) -> Callable[[T], T]:
    """Add a target to the registry under `name`; every option must have a default.

    Raises:
        OptionError: the name is taken.
    """
    return TARGETS.decorate(lambda factory: TargetEntry(name, factory))


def parse_target(text: str, class_index: Callable[[str], int]) -> int | TargetSpec | None:
    """Return the target that words name, as on the command line.

    Args:
        text: a class ("281", "tabby"); "predicted"; a registered target, of the predicted class
            ("margin"), of a class ("margin:tabby") or with options ("regression:index=2,sign=-1",
            "box:0,overlap=0.5", "segment:cat").
        class_index: gives the index of a class by its number or name.

    Raises:
        TargetError: there is no such target, or no such class.
        OptionError: an option does not fit.

    Example:
        >>> parse_target("regression:index=2", int)
        Regression(index=2, sign=1.0)
    """
    if text == "predicted":
        return None
    name, colon, rest = text.partition(":")
    if name not in TARGETS:
        return class_index(text)
    entry = TARGETS.get(name)
    if not colon:
        return entry.factory()
    if entry.names_class:
        return entry.factory(class_index(rest))
    first, *others = _BEFORE_OPTION.split(rest)
    named = _BEFORE_OPTION.match(f",{first}") is not None
    options = {} if named else entry.read_word(first, class_index)
    pairs = dict(part.partition("=")[::2] for part in ([first] if named else []) + others)
    return entry.create({**options, **pairs})


@dataclass(frozen=True, eq=False)
class ClassTarget(Target):
    """A score of one class an image.

    Attributes:
        labels: class indices, one for each image, or one for all of them: anything that
            `class_indices` takes. Kept as a tensor in int64, of shape (N,) or (). None stands for
            the predicted class until the target is resolved.
        scores: what the network's numbers mean; None stands for what the network says or shows,
            and for logits of a softmax where no network is asked.

    Raises:
        TargetError: they are no class indices.
    """

    labels: Any = None
    scores: ScoreKind | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "labels", class_indices(self.labels))

    @abc.abstractmethod
    def of_logits(self, logits: Float[Tensor, "n k"]) -> Scores:
        """Return the score of `labels` given the logits."""

    @final
    def __call__(self, output: Any) -> Scores:
        """Return the score of each image's class.

        Raises:
            TargetError: the output is no (N, K) tensor, or the labels do not fit it.
        """
        if self.labels is None:
            raise TargetError(
                f"{type(self).__name__}() has no classes yet; give class indices, or let "
                "`resolve_target` take the predicted ones."
            )
        return self.resolve(output).of_logits(output)

    @property
    def kind(self) -> ScoreKind:
        """What the network's numbers mean."""
        return self.scores or SOFTMAX

    @final
    def of_scores(self, kind: ScoreKind) -> ClassTarget:
        """Return the target of a network whose numbers mean this, unless it says itself."""
        return self if self.scores is not None else replace(self, scores=kind)

    @final
    def restate(self, score: type[ClassTarget]) -> ClassTarget:
        """Return another score of the same classes; itself if the network has no probabilities."""
        return score(self.labels, self.scores) if self.kind.classes else self

    @final
    def resolve(self, output: Any) -> ClassTarget:
        """Return the target with one class for each row of the output.

        Raises:
            TargetError: the output is no (N, K) tensor, or the labels do not fit it.
        """
        logits = _require_logits(output, self.labels)
        labels = logits.argmax(1) if self.labels is None else self.labels
        return replace(self, labels=labels.to(logits.device).expand(len(logits)))

    @final
    def describe(self) -> dict[str, Any]:
        """Return the kind and the labels."""
        labels = None if self.labels is None else self.labels.tolist()
        return {"kind": type(self).__name__, "labels": labels}


@register_target("logit")
@final
@dataclass(frozen=True, eq=False)
class Logit(ClassTarget):
    """The class logit y_c: what CAMs and Opti-CAM explain unless told otherwise."""

    def of_logits(self, logits: Float[Tensor, "n k"]) -> Scores:
        """Return y_c."""
        return _pick(logits, self.labels)


@register_target("probability")
@final
@dataclass(frozen=True, eq=False)
class Probability(ClassTarget):
    """The class probability p_c, in [0, 1]; its gradient vanishes for a sure network.

    p_c is softmax(y)_c, σ(y_c) or y_c itself, as the network's `scores` say.
    """

    def of_logits(self, logits: Float[Tensor, "n k"]) -> Scores:
        """Return p_c."""
        return _pick(self.kind.probabilities(logits), self.labels)


@register_target("log-probability")
@final
@dataclass(frozen=True, eq=False)
class LogProbability(ClassTarget):
    """The log-probability log p_c, at most 0; see `Probability`."""

    def of_logits(self, logits: Float[Tensor, "n k"]) -> Scores:
        """Return log p_c."""
        return _pick(self.kind.log_probabilities(logits), self.labels)


@register_target("margin")
@final
@dataclass(frozen=True, eq=False)
class Margin(ClassTarget):
    """The margin to the best other class, y_c - max_{j≠c} y_j.

    Of independent labels it is the log-odds log p_c - log(1 - p_c) = y_c: to the label's absence.

    Differs from the official Opti-CAM code, which compares with max(0, best other) (erratum O15).
    """

    def of_logits(self, logits: Float[Tensor, "n k"]) -> Scores:
        """Return y_c minus the largest other logit."""
        return self.kind.margin(logits, self.labels)


@register_target("rest")
@final
@dataclass(frozen=True, eq=False)
class ResidualSoftmax(ClassTarget):
    """The residual softmax target-class score y_c + log p_c: logit and log-probability together.

    Source: Cai, "CAMs as Shapley value-based explainers", 2025 (see `shapleycam`).
    """

    def of_logits(self, logits: Float[Tensor, "n k"]) -> Scores:
        """Return y_c + log p_c."""
        return _pick(logits + self.kind.log_probabilities(logits), self.labels)


@final
@dataclass(frozen=True, eq=False)
class Contrast(Target):
    """A class against others: Σ_d q_d (y_c - α y_d), q the softmax of the others' logits.

    Attributes:
        labels: the class c of each image (N,), int64.
        others: the classes d of each image (N, R), int64.
        alpha: α, how much the others count.

    Example:
        >>> y = torch.tensor([[2.0, 1.0, 1.0]])
        >>> Contrast(torch.tensor([0]), torch.tensor([[1, 2]]), alpha=1.0)(y)
        tensor([1.])
    """

    labels: Tensor
    others: Tensor
    alpha: float = 1.0

    def __call__(self, output: Any) -> Scores:
        """Return how far the class leads the others."""
        logits = _require_logits(output, self.labels)
        against = logits.gather(1, self.others.to(logits.device))
        leads = _pick(logits, self.labels.to(logits.device))[:, None] - self.alpha * against
        return (against.softmax(1) * leads).sum(1)

    def describe(self) -> dict[str, Any]:
        """Return the kind, the classes and α."""
        return {
            "kind": "Contrast",
            "labels": self.labels.tolist(),
            "others": self.others.tolist(),
            "alpha": self.alpha,
        }


@register_target("finer")
@final
@dataclass(frozen=True, eq=False)
class Finer(TargetSpec):
    """A class against those that the network finds nearest to it: what tells it from them?

    Becomes a `Contrast` with the classes whose logits on the clean image are nearest to y_c, the
    same for all variants of the image. Their weights q_d are part of the score, as in the authors'
    code, which adds 1e-9 to Σ_d p_d: of a network so sure that all others' p_d are smaller than
    that, its maps are others (erratum L18).

    Source: Zhang et al., "Finer-CAM", CVPR 2025.

    Attributes:
        labels: as `ClassTarget`; None for the predicted class.
        alpha: α, how much the others count: 0 is the class logit.
        nearest: how many classes it is compared with, at least 1; all others, if they are fewer.

    Example:
        >>> y = torch.tensor([[3.0, 2.0, 0.0]])
        >>> Finer(nearest=1).resolve(y).others
        tensor([[1]])
    """

    words: ClassVar[tuple[str, ...]] = ("CLASS",)

    labels: Any = None
    alpha: float = 1.0
    nearest: int = 3

    def __post_init__(self) -> None:
        if self.nearest < 1:
            raise OptionError(f"finer.nearest must be at least 1, and {self.nearest} was given.")

    @classmethod
    def read_word(cls, word: str, class_index: Callable[[str], int]) -> dict[str, Any]:
        """Return the options that a word stands for: a class."""
        return {"labels": class_index(word)}

    def resolve(self, output: Any) -> Target:
        """Return the target of images whose output this is.

        Raises:
            TargetError: the output is no (N, K) tensor of two classes or more.
        """
        labels = Logit(self.labels).resolve(output).labels
        if output.shape[1] < 2:  # noqa: PLR2004
            raise TargetError(
                "finer compares a class with others, and the network gives one number an image; "
                'say scores="binary" if it is a logit, or choose another target.'
            )
        away = (output.detach().float() - _pick(output.detach().float(), labels)[:, None]).abs()
        away = away.scatter(1, labels[:, None], torch.inf)
        nearest = away.argsort(dim=1, stable=True)[:, : min(self.nearest, output.shape[1] - 1)]
        return Contrast(labels, nearest, float(self.alpha))


@final
@dataclass(frozen=True, eq=False)
class EmbeddingSimilarity(Target):
    """Similarity of the network's embedding to a reference embedding.

    Attributes:
        reference: (N, D), one an image, or (1, D), one for all: the embedding of another image, of
            a prototype, of a text (see `similarity_to`).
        kind: "dot" ⟨z, r⟩, "cosine" ⟨z, r⟩/(‖z‖‖r‖) or "mse" -‖z - r‖²; all larger when closer.

    Example:
        >>> z = torch.tensor([[3.0, 4.0]])
        >>> EmbeddingSimilarity(torch.tensor([[1.0, 0.0]]), "cosine")(z)
        tensor([0.6000])
    """

    reference: Tensor
    kind: str = "cosine"

    def __post_init__(self) -> None:
        _require_similarity(self.kind)

    def __call__(self, output: Any) -> Scores:
        """Return the similarity of each embedding to its reference."""
        reference = self.reference.to(output)
        if len(reference) == 1:
            reference = reference.expand(len(output), -1)
        if output.shape != reference.shape:
            raise TargetError(
                f"The reference embeddings are {tuple(reference.shape)} and the network gave "
                f"{tuple(output.shape)}; give one reference of the same length for each image, or "
                "one for all."
            )
        if self.kind == "dot":
            return (output * reference).sum(1)
        if self.kind == "cosine":
            return F.cosine_similarity(output, reference, dim=1)
        return -(output - reference).square().sum(1)

    def take(self, index: Tensor) -> Target:
        """Return the target of the images at `index`."""
        return self if len(self.reference) == 1 else super().take(index)

    def describe(self) -> dict[str, Any]:
        """Return the kind and the size of the embedding."""
        return {"kind": f"EmbeddingSimilarity({self.kind})", "dimensions": self.reference.shape[1]}


@register_target("own-embedding")
@final
@dataclass(frozen=True)
class OwnEmbedding(TargetSpec):
    """Similarity to the embedding that the network gives the clean image itself.

    It needs no labels: what of the image makes its embedding? It becomes an `EmbeddingSimilarity`
    once the clean image has passed the network, and is the default for encoders.

    Attributes:
        kind: as `EmbeddingSimilarity`. The gradients of "cosine" and "mse" vanish at the clean
            image, so methods that read gradients there need "dot".

    Example:
        >>> z = torch.tensor([[3.0, 4.0]])
        >>> OwnEmbedding("dot").resolve(z)(z)
        tensor([25.])
    """

    kind: str = "dot"

    def __post_init__(self) -> None:
        _require_similarity(self.kind)

    def resolve(self, output: Any) -> Target:
        """Return the target of images whose output this is.

        Raises:
            TargetError: the output is no embedding (N, D).
        """
        output = require_embeddings(output)
        return EmbeddingSimilarity(output.detach(), self.kind)


@register_target("regression")
@final
@dataclass(frozen=True)
class Regression(Target):
    """One output of a regression network.

    Attributes:
        index: which of the K outputs.
        sign: +1 explains what raises it, -1 what lowers it.
    """

    index: int = 0
    sign: float = 1.0

    def __call__(self, output: Any) -> Scores:
        """Return the signed output."""
        values = output.flatten(1) if output.ndim > 1 else output[:, None]
        if not -values.shape[1] <= self.index < values.shape[1]:
            raise TargetError(
                f"Regression output {self.index} was asked for and the network gives "
                f"{values.shape[1]}; choose 0 to {values.shape[1] - 1}."
            )
        return self.sign * values[:, self.index]

    def describe(self) -> dict[str, Any]:
        """Return the output's index and sign."""
        return {"kind": "Regression", "index": self.index, "sign": self.sign}


@final
@dataclass(frozen=True)
class RowWise(Target):
    """Any callable (N, …) -> (N,) that scores each row by itself."""

    function: Callable[[Any], Tensor]

    def __call__(self, output: Any) -> Scores:
        """Return the callable's scores."""
        return self.function(output)

    def describe(self) -> dict[str, Any]:
        """Return the callable's name."""
        return {"kind": "callable", "name": getattr(self.function, "__name__", repr(self.function))}


_DEFAULTS: dict[str, type[TargetSpec]] = {
    REGRESSION.name: Regression,
    EMBEDDING.name: OwnEmbedding,
}
"""What is explained of networks without classes unless a target is given."""

TargetLike = None | int | Sequence[int] | Tensor | TargetSpec | Callable[[Any], Tensor] | Any
"""What a user may give: see `resolve_target`; arrays and Series have no type of their own here."""


def resolve_target(spec: TargetLike, output: Any, kind: ScoreKind = SOFTMAX) -> Target:
    """Return the target that a user's `spec` stands for, given the network's output.

    Args:
        spec: None (the predicted class; the first number of a regression; an encoder's own
            embedding; a detector's surest detection), one class index for all images, N class
            indices, a `Target`, `OwnEmbedding`, or a row-wise callable.
        output: the network's unwrapped output for the batch.
        kind: what its numbers mean.

    Raises:
        TargetError: the specification does not fit the output.
    """
    if spec is None and isinstance(output, list):
        spec = TARGETS.create("box")
    if spec is None:
        spec = _DEFAULTS.get(kind.name, Logit)()
    if not isinstance(spec, TargetSpec):
        rowwise = callable(spec) and not isinstance(spec, Tensor)
        spec = RowWise(spec) if rowwise else Logit(spec)  # type: ignore[arg-type]
    return spec.resolve(output).of_scores(kind)


def names_classes(spec: TargetLike) -> bool:
    """Whether a user's target is of a class: the predicted one, class indices, a `ClassTarget`."""
    return isinstance(spec, ClassTarget) or not (
        isinstance(spec, TargetSpec) or (callable(spec) and not isinstance(spec, Tensor))
    )


def class_indices(spec: Any) -> Tensor:
    """Return class indices as int64 of shape (N,), or () for one that all images share.

    Args:
        spec: a whole number, or a tensor, array, Series or sequence of such.

    Raises:
        TargetError: anything else: fractions, truth values, words, a matrix.
    """
    given = spec
    if hasattr(spec, "to_numpy"):  # pandas: its own index does not matter
        spec = spec.to_numpy()
    if hasattr(spec, "tolist") and not isinstance(spec, Tensor):  # NumPy
        spec = spec.tolist()
    if isinstance(spec, list | tuple):
        if not spec:
            raise TargetError("No class index was given; give one class, or one for each image.")
        spec = [part.item() if getattr(part, "ndim", None) == 0 else part for part in spec]
        if any(isinstance(part, bool) for part in spec):
            spec = None
    try:
        # on the processor, whatever the default device: tensors stay where they are
        labels = spec if isinstance(spec, Tensor) else torch.as_tensor(spec, device="cpu")
    except (ValueError, TypeError, RuntimeError, OverflowError):
        labels = None
    if labels is None or isinstance(spec, type):
        raise TargetError(f"Class indices must be integers, and {given!r} was given.")
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise TargetError(f"Class indices must be integers, and {labels.dtype} was given.")
    if labels.ndim > 1:
        raise TargetError(
            f"Class indices of shape {tuple(labels.shape)} were given; give one class, or one for "
            "each image."
        )
    return labels.long()


def score(target: Target, output: Any, count: int) -> Scores:
    """Apply a target, which must give one score an image.

    Raises:
        TargetError: the target gave another number of scores.
    """
    scores = target(output)
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        raise TargetError(
            f"The target must give one score for each of {count} images, not {_shape_of(scores)}."
        )
    return scores


def require_embeddings(output: Any) -> Tensor:
    """Return a network's output if it is one vector (N, D) an image.

    Raises:
        TargetError: it is something else.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:  # noqa: PLR2004
        raise TargetError(f"An embedding is (N, D), and the network gave {_shape_of(output)}.")
    return output


def _shape_of(output: Any) -> Any:
    return tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__


def _require_similarity(kind: str) -> None:
    if kind not in ("dot", "cosine", "mse"):
        raise TargetError(f"There is no similarity {kind!r}; choose dot, cosine or mse.")


def _pick(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None])[:, 0]


def _require_logits(output: Any, labels: Tensor | None) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2:  # noqa: PLR2004
        raise TargetError(
            f"Class targets need an output (N, K), and the network gave {_shape_of(output)}; give "
            "Box (box:CLASS) of a detector, Segment (segment:CLASS) of a segmenter, or a target "
            "such as MaskScore, Regression or a callable."
        )
    if labels is None:
        return output
    if labels.ndim and len(labels) != len(output):
        raise TargetError(
            f"{len(labels)} target classes were given for {len(output)} images; "
            "give one class, or one for each image."
        )
    classes = output.shape[1]
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise TargetError(
            f"Target class {int(labels.max() if labels.max() >= classes else labels.min())} was "
            f"given and the network has classes 0 to {classes - 1}."
        )
    return output

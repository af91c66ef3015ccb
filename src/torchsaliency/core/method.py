"""What a method is: a frozen set of hyper-parameters and one function from a view to a raw map."""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.explanation import ExplainingMethod, Explanation
from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.layer import LayerLike
from torchsaliency.core.maps import Normalisation
from torchsaliency.core.masking import Masking
from torchsaliency.core.space import add_sides
from torchsaliency.core.target import TargetLike
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError
from torchsaliency.registry import Entry, Registry, load_all


class Needs(enum.Flag):
    """What a method asks of the network beyond the shared forward pass.

    Given to `register`, joined by |: ACTIVATIONS | TARGET.
    """

    NOTHING = 0
    ACTIVATIONS = enum.auto()
    """Feature maps of a layer."""
    TARGET = enum.auto()
    """A class or another target: without it the method is label-independent."""
    GRADIENTS = enum.auto()
    """One backward pass through the tail."""
    PASSES = enum.auto()
    """Further forward passes."""
    ATTENTION = enum.auto()
    """The attention of a transformer's blocks."""
    DETECTIONS = enum.auto()
    """The boxes of a detector."""


ACTIVATIONS = Needs.ACTIVATIONS
GRADIENTS = Needs.ACTIVATIONS | Needs.TARGET | Needs.GRADIENTS
PASSES = Needs.ACTIVATIONS | Needs.TARGET | Needs.PASSES


@dataclass(frozen=True)
class MethodEntry(Entry):
    """A registered method.

    Attributes:
        family: "cam", "decomposition", "masking", …
        cite: key of the paper.
        needs: what it asks of the network.
        signed: whether its numbers have a sign: above 0 they speak for the target, below against
            it. False where it weighs by absolute values, positive parts or softmax, or where the
            sign is arbitrary, as of a singular vector.
        control: whether it is no explanation, but what explanations are compared with: it takes
            no part in a table's ranks.
    """

    family: str
    cite: str
    needs: Needs
    signed: bool = False
    control: bool = False


@final
@dataclass(frozen=True, eq=False)
class Saliency:
    """A raw map together with what else a method found out.

    Attributes:
        raw: (N, *grid), not normalised.
        details: named tensors with the images along the first dimension (Opti-CAM's history, say).
        signed: (N, *grid) before signs were lost, of a method that has signs.
        attributions: (N, C, *size), what each number of the images adds to the score, of a method
            that says so.
    """

    raw: Tensor
    details: Mapping[str, Tensor] = field(default_factory=dict)
    signed: Tensor | None = None
    attributions: Tensor | None = None


def as_saliency(found: Tensor | Saliency, *, keep_graph: bool = False) -> Saliency:
    """Return what a method gave as plain numbers: methods may run the network with gradients."""
    saliency = found if isinstance(found, Saliency) else Saliency(found)
    return (
        saliency
        if keep_graph
        else replace(
            saliency,
            raw=saliency.raw.detach(),
            signed=None if saliency.signed is None else saliency.signed.detach(),
            attributions=None if saliency.attributions is None else saliency.attributions.detach(),
        )
    )


@dataclass(frozen=True)
class Method(abc.ABC):
    """A saliency method; its fields are its hyper-parameters.

    Attributes:
        entry: name, family, citation and needs, set by `@register`.
        joint: whether several layers are explained by one map made from all of them, instead of
            the mean of one map each.
        differentiable: whether its map can keep its graph, so that a loss can be put on it.

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> x = torch.rand(2, 3, 64, 64)
        >>> found = torchsaliency.explain(net, x, [torchsaliency.GradCAM(), "saliency"])
        >>> found["gradcam"].map.shape, list(found)
        (torch.Size([2, 64, 64]), ['gradcam', 'saliency'])
    """

    entry: ClassVar[MethodEntry]
    joint: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    @abc.abstractmethod
    def saliency(self, view: View) -> Tensor | Saliency:
        """Return the raw map (N, *grid) of every image in the view, larger for more salient."""

    @final
    @property
    def name(self) -> str:
        """The registered name."""
        return self.entry.name

    @final
    @property
    def scaling(self) -> Normalisation:
        """How the raw map becomes [0, 1]: the option `normalisation` if there is one, or range."""
        kind: Normalisation = getattr(self, "normalisation", "range")
        return kind

    @final
    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @final
    def __call__(
        self,
        model: Any,
        x: InputsLike | Any,
        target: TargetLike = None,
        layer: LayerLike | Sequence[LayerLike] | None = None,
        *,
        masking: Masking | None = None,
        chunk: int | None = None,
    ) -> Explanation:
        """Explain a batch by this method alone; see `torchsaliency.explain`."""
        load_all()
        found = _explainers[0](model, x, self, target, layer, masking=masking, chunk=chunk)
        return found[self.name]


_explainers: list[Callable[..., Mapping[str, Explanation]]] = []


def set_explainer(explainer: Callable[..., Mapping[str, Explanation]]) -> None:
    """Let methods that are called explain by `explainer`, which is above them: `core.explain`."""
    _explainers[:] = [explainer]


METHODS: Registry[MethodEntry] = Registry("method", "torchsaliency.methods", base=Method)
M = TypeVar("M", bound=type[Method])


def register(
    name: str,
    *,
    family: str,
    cite: str,
    needs: Needs,
    signed: bool = False,
    control: bool = False,
) -> Callable[[M], M]:
    """Add a method to the registry under `name`; every hyper-parameter must have a default.

    Args:
        name: new, in lower case.
        family: the group in which lists show it, such as "cam".
        cite: the key of its paper.
        needs: what it reads of the shared pass.
        signed: whether it gives its signed values with its map, see `Saliency`.
        control: whether it is a control, which knows nothing of the network.

    Raises:
        OptionError: the name is taken.

    Example:
        >>> @register("mine", family="cam", cite="me", needs=Needs.ACTIVATIONS)
        ... @dataclass(frozen=True)
        ... class Mine(Method):
        ...     def saliency(self, view):
        ...         return view.activations.norm(dim=1)
        >>> create("mine").name
        'mine'
    """

    def add(factory: M) -> M:
        entry = MethodEntry(name, factory, family, cite, needs, signed, control)
        factory.entry = METHODS.register(entry)
        return factory

    return add


def methods() -> Mapping[str, MethodEntry]:
    """Return every registered method by name, plug-ins included, read-only."""
    return METHODS.entries()


def require_signs(method: ExplainingMethod) -> None:
    """Check that a method gives signed values.

    Raises:
        OptionError: it does not; the message lists those that do.
    """
    if not method.entry.signed:
        known = ", ".join(entry.name for entry in methods().values() if entry.signed)
        raise OptionError(f"{method.name} gives no signed values; these methods do: {known}.")


def require_differentiable(method: Method) -> None:
    """Check that a method's map can keep its graph.

    Raises:
        OptionError: it cannot; the message lists those that can.
    """
    if not method.differentiable:
        entries = methods().values()
        known = ", ".join(e.name for e in entries if getattr(e.factory, "differentiable", False))
        raise OptionError(f"{method.name} gives maps without a graph; these methods can: {known}.")


def create(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Make a method from its name and hyper-parameters, which may be strings ("iterations": "50").

    Args:
        name: as `torchsaliency methods` lists it.
        options: hyper-parameters by name; the others keep their defaults.

    Raises:
        OptionError: unknown method or hyper-parameter, or a value that does not fit.

    Example:
        >>> create("opticam", {"iterations": "50"}).iterations
        50
    """
    method: Method = METHODS.create(name, options)
    return method


class ChannelCAM(Method):
    r"""A class activation map: S = h(Σ_k w_k ⊙ A_k), with h = ReLU or the identity.

    Where weights have signs, by its entry, the sum has, too: it is given with the map.

    Attributes:
        rectified: whether h is ReLU.
    """

    rectified: ClassVar[bool] = True

    @abc.abstractmethod
    def weights(self, view: View) -> Tensor:
        """Return one weight a channel (N, K), or one a channel and position (N, K, *grid)."""

    @final
    def contributions(self, view: View) -> Float[Tensor, "n k *grid"]:
        """Return w_k ⊙ A_k, what every channel adds to the map."""
        return add_sides(self.weights(view), view.activations) * view.activations

    @final
    def saliency(self, view: View) -> Saliency:
        """Return h(Σ_k w_k ⊙ A_k), shape (N, *grid)."""
        weights, details = self.weights_and_details(view)
        maps = view.activations
        weights = weights.to(maps)
        if weights.ndim == 2:  # noqa: PLR2004
            summed = torch.einsum("nk,nk...->n...", weights, maps)
        else:
            summed = (weights * maps).sum(1)  # einsum would permute both: 20 times slower
        raw = summed.relu() if self.rectified else summed
        return Saliency(raw, details, summed if self.entry.signed else None)

    def weights_and_details(self, view: View) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the weights and what else was found out, the images along its first dimension."""
        return self.weights(view), {}


def drop_signs(method: Method) -> None:
    """Let one instance have no signs, though its class has."""
    object.__setattr__(method, "entry", replace(method.entry, signed=False))  # frozen, set once


def extend_needs(method: Method, needs: Needs, suffix: str = "") -> None:
    """Let one instance need more than its class does, and have a longer name if need be."""
    entry = replace(method.entry, name=method.entry.name + suffix, needs=method.entry.needs | needs)
    object.__setattr__(method, "entry", entry)  # frozen, and set once


def require_positive(name: str, **values: float | int) -> None:
    """Check that hyper-parameters are above zero.

    Raises:
        OptionError: one is not.
    """
    for key, value in values.items():
        if not value > 0:
            raise OptionError(f"{name}.{key} must be above 0, and {value} was given.")

"""What all attribution classes share: what is asked of a network, and how answers are returned."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import EachImage, OneTarget, read_as_given, score_variants
from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.inputs import Inputs, InputsLike
from torchsaliency.core.layer import Layer
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Method
from torchsaliency.core.network import NetworkWrapper, unwrap
from torchsaliency.core.neurons import Neuron
from torchsaliency.errors import InputError, OptionError, TargetError

Given = Tensor | tuple[Tensor, ...]
"""One input, or a tuple of one."""

Targets = None | int | tuple[int, ...] | Tensor | Sequence[int] | Sequence[tuple[int, ...]]
"""The place of the score in an image's row of the output: one for all images, or one for each."""

Baselines = None | float | int | Tensor | tuple[Any, ...]
"""A number, an image (1, C, *size), one for each image (N, C, *size), or a tuple of one of them."""

Answer = Tensor | tuple[Any, ...]
"""Attributions as the inputs were given, perhaps with what they lack to the score."""


class _Vectors(nn.Module):
    """A network of vectors (N, K) or numbers (N,), read as signals (N, K, 1)."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def forward(self, x: Tensor, *more: Any) -> Any:
        """Run the network."""
        return self.net(x.reshape(len(x), *self.shape), *more)


class _Function(nn.Module):
    """A plain function as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)


def as_network(forward_func: Any) -> nn.Module:
    """Return a module as it is, and any other function as one.

    Raises:
        InputError: it cannot be called.
    """
    if not callable(forward_func):
        raise InputError(
            f"forward_func is a {type(forward_func).__name__}; give a torch.nn.Module or a "
            "function of the inputs."
        )
    return forward_func if isinstance(forward_func, nn.Module) else _Function(forward_func)


@final
@dataclass(frozen=True, eq=False)
class _Baselines(Masking):
    """A baseline for each image, or one for all: methods read it for the whole batch at once."""

    images: Tensor

    def baseline(self, images: Tensor) -> Tensor:
        """Return the baselines, in the images' precision."""
        return self.images.to(images)

    def describe(self) -> dict[str, Any]:
        """Return that they were given."""
        return {"baseline": "given", "mean": float(self.images.float().mean())}


@final
@dataclass(frozen=True, eq=False)
class Question:
    """Which images are explained, of which network, and for which scores.

    Attributes:
        model: the network; its numbers are scores as they are.
        images: (N, C, *size).
        functions: the score of each image.
        more: what else the network takes, after the images.
        alone: whether the images were given alone, and not as a tuple of one.
        shape: (K,) if they were given as vectors, () as numbers; None as images.
        chunk: images in one pass; None finds it.
    """

    model: NetworkWrapper
    images: Tensor
    functions: tuple[OneTarget, ...]
    more: tuple[Any, ...] = ()
    alone: bool = True
    shape: tuple[int, ...] | None = None
    chunk: int | None = None

    @cached_property
    def x(self) -> InputsLike:
        """All that the network takes."""
        return Inputs((self.images, *self.more), 0) if self.more else self.images

    def explain(self, method: Method, base: Tensor | None = None) -> Explanation:
        """Explain the images by a method that reads no layer.

        Args:
            method: of the library.
            base: the baseline (N or 1, C, *size); zeros by default.
        """
        masking = None if base is None else _Baselines(base)
        target = EachImage(self.functions)
        found = explain(
            self.model, self.x, method, target, "input", masking=masking, chunk=self.chunk
        )
        return found[method.name]

    def attribute(self, method: Method, base: Tensor | None = None) -> Tensor:
        """Return what each number of the images adds to the score, (N, C, *size)."""
        found = self.explain(method, base).attributions
        assert found is not None
        return found.to(self.images)

    def score(self, images: Tensor) -> Tensor:
        """Return the scores (N,), in float64, of other images in the place of these."""
        return self.score_variants(1, lambda index, _: images.expand_as(self.images)[index])[:, 0]

    def score_variants(self, each: int, build: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the scores (N, each), in float64, of as many variants of every image."""
        return score_variants(self.model, self.x, self.functions, each, build, chunk=self.chunk)

    def each(self) -> Sequence[Question]:
        """Return a question for every image."""
        parts = []
        for place in range(len(self.images)):
            rows = torch.tensor([place], device="cpu")
            taken = self.x.take(rows) if isinstance(self.x, Inputs) else None
            more = () if taken is None else tuple(taken.values)[1:]
            images, functions = self.images[[place]], self.functions[place : place + 1]
            parts.append(replace(self, images=images, functions=functions, more=more))
        return parts

    def give_shape(self, images: Tensor) -> Tensor:
        """Return images, vectors or numbers, as those that are explained were given."""
        return images if self.shape is None else images.reshape(len(images), *self.shape)

    def answer(self, attributions: Tensor, delta: Tensor | None = None) -> Answer:
        """Return attributions in the form of the inputs, and what they lack if that was asked."""
        attributions = self.give_shape(attributions)
        shown: Answer = attributions if self.alone else (attributions,)
        return shown if delta is None else (shown, delta.to(attributions))


def ask(
    forward_func: nn.Module,
    inputs: Given,
    target: Targets = None,
    additional_forward_args: Any = None,
    internal_batch_size: int | None = None,
    layer: nn.Module | str | None = None,
) -> Question:
    """Return what is asked: of the network's output, or of a layer's.

    Raises:
        InputError: it is not one batch of images.
        TargetError: there are more or fewer targets than images.
    """
    images = take_only(inputs, "inputs")
    if not isinstance(images, Tensor):
        raise InputError(
            f"inputs is a {type(images).__name__}; give a tensor (N, C, …) that the network takes."
        )
    more = additional_forward_args
    more = () if more is None else more if isinstance(more, tuple) else (more,)
    images = images.detach()
    shape = tuple(images.shape[1:]) if images.ndim <= 2 else None  # noqa: PLR2004
    net = forward_func if shape is None else _Vectors(forward_func, shape)
    if layer is not None:
        net = NetworkWrapper(net, output=Neuron(Layer.of(layer, unwrap(net)).name).output)
    return Question(
        read_as_given(net),
        images if shape is None else images.reshape(len(images), -1, 1),
        read_targets(target, len(images)),
        more,
        shape=shape,
        alone=not isinstance(inputs, tuple),
        chunk=internal_batch_size,
    )


def read_targets(target: Targets, count: int) -> tuple[OneTarget, ...]:
    """Return the score of each of `count` images.

    Raises:
        TargetError: there are more or fewer targets than images, or they are of another kind.
    """
    if target is None:
        return (_whole,) * count
    if isinstance(target, Tensor) and target.numel() > 1:
        target = target.flatten().tolist()
    elif isinstance(target, Tensor):
        target = int(target)
    if isinstance(target, tuple) or (isinstance(target, int) and not isinstance(target, bool)):
        return (itemgetter(target),) * count
    if not isinstance(target, list) or len(target) != count:
        given = f"{len(target)} targets" if isinstance(target, list) else f"{target!r}"
        raise TargetError(
            f"{given} were given for {count} images; give a place in the output, or one for each "
            "image."
        )
    return tuple(itemgetter(one) for one in target)


def _whole(row: Tensor) -> Tensor:
    if row.numel() != 1:
        raise TargetError(
            f"target was left out, and an image's output is {tuple(row.shape)}; give the place of "
            "one number in it, such as target=281."
        )
    return row


def take_only(given: Any, name: str) -> Any:
    """Return the only part of a tuple, and anything else as it is."""
    if not isinstance(given, tuple):
        return given
    if len(given) != 1:
        raise InputError(
            f"{name} are {len(given)}, and one input at a time has attributions; give the others "
            "as additional_forward_args, and call once for each."
        )
    return given[0]


def read_baselines(baselines: Baselines, images: Tensor, *, several: bool = False) -> Tensor:
    """Return baselines that can be expanded to the images.

    Args:
        baselines: as captum takes them.
        images: (N, C, *size).
        several: whether they are a set of any number, (M, C, *size), that all images share; it may
            be made by a function, of the images or of nothing.

    Raises:
        OptionError: they are of another shape.
    """
    if several and callable(baselines):
        baselines = baselines(*[images][: len(inspect.signature(baselines).parameters)])
    found = take_only(0 if baselines is None else baselines, "baselines")
    if not isinstance(found, Tensor):
        return images.new_full((1, *images.shape[1:]), float(found))
    found = found.detach().to(images)
    if 0 < found.ndim <= 2 and images.shape[2:] == (1,):  # noqa: PLR2004
        found = found.reshape(len(found), -1, 1)
    fits = found.shape[1:] == images.shape[1:] and (several or len(found) in (1, len(images)))
    if not fits:
        wanted = "a set (M, C, …)" if several else "a number, one image (1, C, …), or one for each"
        raise OptionError(
            f"The baselines are {tuple(found.shape)} and the images {tuple(images.shape)}; give "
            f"{wanted} of the images' size."
        )
    return found


class Attribution(ABC):
    """A class of captum's: made of a network, asked by `attribute`.

    Args:
        forward_func: a network, or a function of the inputs.
    """

    _complete: ClassVar[bool] = False
    _multiplies: ClassVar[bool] = False

    def __init__(self, forward_func: Any) -> None:
        self.forward_func = forward_func
        self._network = as_network(forward_func)

    @abstractmethod
    def attribute(self, inputs: Given, *args: Any, **kwargs: Any) -> Answer:
        """Return the attributions; every class says of what."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are multiplied by the inputs, or their difference to baselines."""
        return self._multiplies

    def has_convergence_delta(self) -> bool:
        """Whether the attributions add up to a difference of scores."""
        return self._complete

    def compute_convergence_delta(
        self,
        attributions: Given,
        start_point: Baselines,
        end_point: Given,
        target: Targets = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Return Σ attributions - (y(end) - y(start)) of every image, (N,)."""
        asked = ask(self._network, end_point, target, additional_forward_args)
        shares = take_only(attributions, "attributions")
        return find_delta(asked, shares, read_baselines(start_point, asked.images)).to(shares)


def find_delta(asked: Question, shares: Tensor, base: Tensor) -> Tensor:
    """Return Σ shares - (y(x) - y(b)) of every image (N,), in float64."""
    rise = asked.score(asked.images) - asked.score(base)
    return shares.double().flatten(1).sum(1).to(rise) - rise


def refuse(name: str, given: object, accepted: str) -> OptionError:
    """Return the error that an option has no equal here."""
    return OptionError(f"{name} is {given!r}, which has no equal here; {accepted}.")


def require_gauss_legendre(method: str) -> None:
    """Refuse another quadrature.

    Raises:
        OptionError: it is wanted.
    """
    if method != "gausslegendre":
        raise refuse("method", method, "the integral is by gausslegendre")


def require_multiplied(multiply_by_inputs: bool) -> None:
    """Refuse attributions that are not multiplied by the way from the baseline.

    Raises:
        OptionError: they are wanted.
    """
    if not multiply_by_inputs:
        raise refuse(
            "multiply_by_inputs",
            False,
            "attributions are multiplied by x - b, so that they add up; divide them by it for the "
            "mean gradient",
        )

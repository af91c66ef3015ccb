"""What a network takes: the images that are explained, and whatever else its `forward` wants."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from torchsaliency.errors import InputError

_USUAL = ("pixel_values", "pixel_values_videos", "images", "image")
"""What networks call the images among several inputs."""

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@final
@dataclass(frozen=True, eq=False)
class Inputs:
    """Several inputs of a network, one of which is explained.

    Of variants of the images (masked, noisy …) each gets the others' row of the image it derives
    from. An input whose first dimension is not the number of images passes unchanged. Of a dict,
    list or tuple that is an input, the tensors are meant; or a list has one item for each image.

    Attributes:
        values: tensors and others by name, for `forward(**values)` (or `forward(values)` of a
            network that takes one dict), or a tuple of them, for `forward(*values)`.
        of: the name or place of the images (N, C, *size) that are explained; None for the only
            floating-point tensor of such a shape.
        more: keyword arguments that pass unchanged.
        follows: the names or places of inputs with a row for each image; None for those whose
            first dimension is the number of images. Say `frozenset()` if that is a coincidence.

    Raises:
        InputError: there is no such input, or several that may be the images.

    Example:
        >>> x = Inputs({"image": torch.rand(2, 3, 8, 8), "meta": torch.rand(2, 4)})
        >>> x.of, x.take(torch.tensor([1])).values["meta"].shape
        ('image', torch.Size([1, 4]))
    """

    values: Mapping[str, Any] | tuple[Any, ...]
    of: str | int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    follows: frozenset[str | int] | None = None

    def __post_init__(self) -> None:
        parts = self._parts()
        of = _find_images(parts) if self.of is None else self.of
        if not isinstance(parts.get(of), Tensor):
            raise InputError(
                f"of={of!r} was given, and the inputs are {_listed(parts)}; give the name or place "
                "of the images."
            )
        object.__setattr__(self, "of", of)  # frozen, and set once
        if self.follows is None:
            count = len(parts[of])
            rows = (name for name, part in parts.items() if name != of and _has_rows(part, count))
            object.__setattr__(self, "follows", frozenset(rows))

    def _parts(self) -> dict[Any, Any]:
        several = isinstance(self.values, Mapping)
        return dict(self.values) if several else dict(enumerate(self.values))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def images(self) -> Tensor:
        """The images that are explained."""
        images: Tensor = self._parts()[self.of]
        return images

    def with_images(self, images: Tensor, rows: Tensor | None = None) -> Inputs:
        """Return the inputs of variants of the images.

        Args:
            images: (M, C, *size).
            rows: (M,) int64, the image each derives from; None if these are all images in order.
        """
        parts = self._parts()
        parts[self.of] = images
        if rows is not None:
            for name in self.follows or ():
                parts[name] = _take_rows(parts[name], rows, len(self))
        values = parts if isinstance(self.values, Mapping) else tuple(parts.values())
        return replace(self, values=values)

    def take(self, rows: Tensor) -> Inputs:
        """Return the inputs of the images at `rows`."""
        return self.with_images(self.images[rows.to(self.images.device)], rows)

    def rows_left_alone(self) -> list[str | int]:
        """Return the names of what does not follow the images, and has as many rows as they."""
        others = {**self._parts(), **self.more}
        follow = {self.of, *(self.follows or ())}
        count = len(self)
        return [
            name for name, part in others.items() if name not in follow and _has_rows(part, count)
        ]

    def like(self, images: Tensor) -> Inputs:
        """Return the inputs on the device, and in the precision, of the images (N, C, *size)."""

        def move_tensor(part: Tensor) -> Tensor:
            part = part.clone() if part.is_inference() else part.detach()
            return part.to(images.device, images.dtype if part.is_floating_point() else part.dtype)

        move = partial(tree_map_only, Tensor, move_tensor)
        moved = {name: move(part) for name, part in self._parts().items()}
        moved[self.of] = images
        values = moved if isinstance(self.values, Mapping) else tuple(moved.values())
        return replace(self, values=values, more={k: move(part) for k, part in self.more.items()})

    def describe(self) -> dict[str, Any]:
        """Return what a manifest says of them (JSON types only)."""
        return {
            "of": self.of,
            "given": {str(name): _describe(part) for name, part in self._parts().items()},
            "more": {name: _describe(part) for name, part in self.more.items()},
        }

    def arguments(self, net: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword arguments for a network.

        Raises:
            InputError: its `forward` takes no arguments of these names.
        """
        if not isinstance(self.values, Mapping):
            return tuple(self.values), dict(self.more)
        known = _signature(net)
        if not known:
            return (), {**self.values, **self.more}
        anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
        if anything or all(name in known for name in self.values):
            return (), {**self.values, **self.more}
        needed = required_arguments(net)
        if len(needed) == 1 and needed[0] not in self.values:
            return (dict(self.values),), dict(self.more)
        raise InputError(
            f"The network's forward takes {', '.join(known) or 'nothing'}, and "
            f"{', '.join(map(str, self.values))} were given; name the inputs as it does."
        )


InputsLike = Float[Tensor, "n c *size"] | Inputs | Mapping[str, Any] | tuple[Any, ...]
"""Images (N, C, *size), or several inputs, one of which they are."""


def as_inputs(
    x: InputsLike, of: str | int | None = None, more: Mapping[str, Any] | None = None
) -> Inputs:
    """Return what a network takes.

    Args:
        x: images, or several inputs.
        of: which of several the images are.
        more: keyword arguments that pass unchanged.

    Raises:
        InputError: see `Inputs`.
    """
    more = more or {}
    if isinstance(x, np.ndarray):
        raise InputError(
            f"The images are an array {x.shape}; give a tensor (N, C, …), such as preprocess gives."
        )
    if isinstance(x, Tensor):
        return Inputs((x,), 0, more)
    if not isinstance(x, Inputs):
        return Inputs(x, of, more)
    more = {**more, **x.more}
    return replace(x, more=more) if of in (None, x.of) else Inputs(x.values, of, more)


def find_images_argument(net: Callable[..., Any], given: Collection[str]) -> str:
    """Return the argument of a network's forward that takes the images.

    It is one with a usual name, such as image or pixel_values, or the only one that must be given
    and is not.

    Args:
        net: the network.
        given: the names of all other inputs.

    Raises:
        InputError: there is no such argument, or there are several.

    Example:
        >>> find_images_argument(lambda x, age: x, ["age"])
        'x'
    """
    known = _signature(net)
    left = {name: one for name, one in known.items() if one.kind in _NAMED and name not in given}
    needed = [name for name in required_arguments(net) if name in left]
    for found in ([name for name in _USUAL if name in left][:1], needed, [*left]):
        if len(found) == 1 and known.keys() >= {*given}:
            return found[0]
    raise InputError(
        f"The network's forward takes {', '.join(known) or 'nothing that it says'}, and "
        f"{', '.join(given) or 'nothing'} was given beside the images; name the inputs as it does, "
        "and the argument of the images by of."
    )


def required_arguments(net: Callable[..., Any]) -> list[str]:
    """Return the arguments that a network's forward has no default for, none if it does not say."""
    known = _signature(net).items()
    empty = inspect.Parameter.empty
    return [name for name, one in known if one.kind in _NAMED and one.default is empty]


def _signature(net: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(getattr(net, "forward", net)).parameters
    except (TypeError, ValueError):  # some of C's functions do not say
        return {}


def images_of(x: InputsLike) -> Tensor:
    """Return the images among what a network takes.

    Raises:
        InputError: see `Inputs`.
    """
    return x if isinstance(x, Tensor) else as_inputs(x).images


def first_of(x: InputsLike) -> Tensor | Inputs:
    """Return the first image, and what belongs to it, if there is one."""
    if isinstance(x, Tensor):
        return x[:1]
    inputs = as_inputs(x)
    return inputs.take(torch.arange(min(1, len(inputs)), device="cpu"))


def _find_images(parts: Mapping[Any, Any]) -> Any:
    for name in _USUAL:
        if isinstance(parts.get(name), Tensor):
            return name
    floats = {n: p for n, p in parts.items() if isinstance(p, Tensor) and p.is_floating_point()}
    spatial = [name for name, part in floats.items() if part.ndim in (4, 5)]
    candidates = spatial or [name for name, part in floats.items() if part.ndim == 3]  # noqa: PLR2004
    if len(candidates) == 1:
        return candidates[0]
    raise InputError(
        f"The inputs are {_listed(parts)}, and which of them is explained cannot be known; say "
        "of= with its name or place."
    )


def _has_rows(part: Any, count: int) -> bool:
    """Whether an input has a row for each image, in a tensor or as the items of a list."""
    listed = isinstance(part, list) and len(part) == count
    return listed or any(_is_row_wise(leaf, count) for leaf in tree_leaves(part))


def _is_row_wise(part: Any, count: int) -> bool:
    return isinstance(part, Tensor) and part.ndim > 0 and len(part) == count


def _take_rows(part: Any, rows: Tensor, count: int) -> Any:
    if isinstance(part, list) and not any(_is_row_wise(leaf, count) for leaf in tree_leaves(part)):
        return [part[row] for row in rows.tolist()] if len(part) == count else part
    return tree_map(
        lambda leaf: leaf[rows.to(leaf.device)] if _is_row_wise(leaf, count) else leaf, part
    )


def _describe(part: Any) -> Any:
    if isinstance(part, Tensor):
        return list(part.shape)
    plain = part is None or isinstance(part, bool | int | float | str)
    return part if plain else type(part).__name__


def _listed(parts: Mapping[Any, Any]) -> str:
    if not parts:
        return "none"
    return ", ".join(f"{name!r} {_describe(part)}" for name, part in parts.items())

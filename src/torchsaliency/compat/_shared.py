"""What the modules share: a callable for each image as a target, and numbers read as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.layer import Reshape
from torchsaliency.core.network import NetworkWrapper
from torchsaliency.core.target import Scores, Target
from torchsaliency.errors import LayerError, TargetError
from torchsaliency.measures.judge import judging

Array = NDArray[Any]

OneTarget = Callable[[Any], Tensor]
"""Scores one image: takes its row of the output, or its dict of detections."""

ReshapeTransform = Callable[[Any], Tensor]
"""Makes feature maps (N, C, *grid) of a layer's output."""


@final
@dataclass(frozen=True, eq=False)
class EachImage(Target):
    """A callable for each image, which scores that image's part of the output.

    Attributes:
        functions: one an image, given a row of the output (K,) or its entry in a list.
    """

    functions: tuple[OneTarget, ...]

    def __call__(self, output: Any) -> Scores:
        """Return the score of each image.

        Raises:
            TargetError: there are not as many images, or a callable gives no single number.
        """
        if not isinstance(output, Tensor | list) or (
            isinstance(output, Tensor) and not output.ndim
        ):
            raise TargetError(
                f"The network gave a {type(output).__name__}, of which no part is one image's; "
                "wrap the network so that it returns a tensor (N, …) or a list of N outputs."
            )
        if len(output) != len(self.functions):
            raise TargetError(
                f"{len(self.functions)} targets were given for {len(output)} images; give one for "
                "each image."
            )
        return torch.stack(
            [_score(function, part) for function, part in zip(self.functions, output, strict=True)]
        )

    def take(self, index: Tensor) -> Target:
        """Return the target of the images at `index`."""
        return EachImage(tuple(self.functions[place] for place in index.tolist()))

    def describe(self) -> dict[str, Any]:
        """Return the callables' names."""
        names = [getattr(one, "__name__", type(one).__name__) for one in self.functions]
        return {"kind": "EachImage", "names": names}


def _score(function: OneTarget, part: Any) -> Tensor:
    try:
        found: Any = function(part)
    except IndexError as error:
        given = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
        raise TargetError(
            f"A target reads a place that one image's output, {given}, does not have ({error}); "
            "give a place in it, counted from 0."
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TargetError(
            f"A target gave {given} for one image; it must give a tensor with a single number."
        )
    return found.reshape(())


@final
@dataclass(frozen=True, eq=False)
class Transformed(Reshape):
    """A user's reshape_transform; its inverse is found from where it takes each number from."""

    transform: ReshapeTransform

    def __post_init__(self) -> None:
        if not callable(self.transform):
            raise TypeError(
                f"reshape_transform must be callable, and a {type(self.transform).__name__} was "
                "given."
            )

    def to_maps(self, output: Any) -> Tensor:
        """Return what the user's function makes of the output."""
        maps = self.transform(output)
        if not isinstance(maps, Tensor) or maps.ndim < 3:  # noqa: PLR2004
            given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise LayerError(
                f"reshape_transform gave {given}; it must return feature maps (N, C, *grid)."
            )
        return maps

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """Put maps back where the user's function took them from, all else as in the output."""
        numbers = torch.arange(output[0].numel(), dtype=torch.float64, device=output.device)
        taken = self.transform(numbers.view_as(output[:1]))[0].flatten()
        places = taken.round().long()
        moved = bool((taken == places).all()) and len(places.unique()) == len(places)
        if not moved or int(places.max()) >= len(numbers):
            raise LayerError(
                "reshape_transform computes new numbers, so features cannot be replaced through "
                "it; use a method that only reads them, such as EigenCAM or GradCAM."
            )
        flat = output[:1].flatten(1).expand(len(maps), -1).clone()
        flat[:, places] = maps.flatten(1).to(flat.dtype)
        return flat.view(len(maps), *output.shape[1:])


def draw_seed() -> int:
    """Return a seed of torch's own generator, so that `torch.manual_seed` repeats a program."""
    return int(torch.randint(2**31, (), device="cpu"))


def to_numpy(values: Tensor) -> Array:
    """Return numbers as float32 of NumPy, free of any graph."""
    numbers: Array = values.detach().float().cpu().numpy()
    return numbers


def read_as_given(model: nn.Module) -> NetworkWrapper:
    """Return the network such that targets see the very numbers that it gives."""
    return NetworkWrapper(model, scores="regression")


def score_variants(
    model: nn.Module,
    x: InputsLike,
    targets: Sequence[OneTarget],
    each: int,
    build: Callable[[Tensor, Tensor], Tensor],
    *,
    chunk: int | None = None,
) -> Tensor:
    """Return the scores (N, each), in float64, of as many variants of every image.

    Args:
        model: the network.
        x: images (N, C, *size).
        targets: one an image.
        each: how many variants an image has.
        build: gives the variants (m, C, *size) of images (m,) and places 0 … each-1 (m,).
        chunk: images in one pass; None finds it.
    """
    with judging(read_as_given(model), x, chunk=chunk) as judge, torch.no_grad():
        return judge.target_scores(EachImage(tuple(targets)), each, build)

"""The network that scores: held still, fed in chunks, its passes counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchsaliency.core.acceleration import engine
from torchsaliency.core.maps import exact, wide
from torchsaliency.core.memory import (
    checked_chunk,
    known,
    measuring,
    suited_chunk,
    with_less_memory,
)
from torchsaliency.core.session import held_still, mixes_images, notice_probabilities
from torchsaliency.core.target import ClassTarget, Target, resolve_target
from torchsaliency.core.trace import checked_images
from torchsaliency.core.wrapper import unwrap
from torchsaliency.errors import InputError, TargetError

Labels = None | int | Sequence[int] | Tensor | Target | Any
"""Classes as a measure takes them: None is the one predicted on the clean image."""

_FIRST = 8
"""Variants in the pass that shows how many later ones may hold."""


@contextmanager
def judging(
    model: nn.Module, x: Float[Tensor, "n c H W"], *, chunk: int | None = None
) -> Iterator[Judge]:
    """Hold a network still while it scores variants of images.

    Args:
        model: the judge; it may differ from the network that was explained.
        x: images (N, C, H, W), preprocessed for the judge.
        chunk: images in one pass; None finds it; bounds the memory, never changes the result.

    Raises:
        InputError: the images cannot be scored.
    """
    net = unwrap(model)
    checked_chunk(chunk)
    with held_still(net, x.device):
        images = checked_images(net, x)
        alone = chunk != 1 and len(images) > 0 and mixes_images(net, images)
        yield Judge(net, images, 1 if alone else chunk)


@final
class Judge:
    """A network held still, and the images it judges.

    Attributes:
        images: (N, C, H, W), on the network's device and in its precision.
        chunk: images in one pass; None until it is needed, where it was not given.
        passes: images that went through the network so far.
    """

    def __init__(self, net: nn.Module, images: Tensor, chunk: int | None) -> None:
        self.images, self.chunk, self.passes = images, chunk, 0
        self._net = net
        self._classes: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.images.shape[2], self.images.shape[3]

    def run(self, images: Tensor) -> Any:
        """Run the network once and return its unwrapped output."""
        self.passes += len(images)
        seen = self.chunk is None and known(self._net, self.images)
        most = suited_chunk(self._net, self.images) if seen else self.chunk or 1
        return engine.run(self._net, images.to(self.images.dtype), most)

    def outputs(self, count: int, build: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the outputs (count, …) of `count` variants that are built chunk by chunk.

        Args:
            count: how many variants there are.
            build: gives the variants (m, C, H, W) of the indices (m,).

        Raises:
            TargetError: the network does not give one tensor.
        """
        places, rows, start = torch.arange(count, device=self.images.device), [], 0
        while start < count:
            output, took = self._some(lambda size, start=start: build(places[start : start + size]))  # type: ignore[misc]
            if not isinstance(output, Tensor):
                raise TargetError(
                    f"The judge gave a {type(output).__name__}; measures need one tensor an image."
                )
            rows.append(wide(output.detach()))
            start += took
        return torch.cat(rows)

    def _some(self, build: Callable[[int], Tensor]) -> tuple[Any, int]:
        """Return the output of as many variants as one pass may hold, and how many these are."""

        def work(size: int) -> Any:
            return self.run(build(size))

        if self.chunk is None and not known(self._net, self.images):
            with measuring(self._net, self.images):
                return with_less_memory(work, _FIRST, self._net, self.images)
        chunk = self.chunk or suited_chunk(self._net, self.images)
        output, self.chunk = with_less_memory(work, chunk, self._net, self.images)
        return output, self.chunk

    def logits(self, count: int, build: Callable[[Tensor], Tensor]) -> Float[Tensor, "m k"]:
        """Return the logits (count, K) of variants, as `outputs`.

        Raises:
            TargetError: the network does not give (N, K) with at least two classes.
        """
        logits = checked_logits(self.outputs(count, build))
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
            build: gives the variants (m, C, H, W) of images (m,) and places 0 … each-1 (m,).

        Raises:
            TargetError: the network does not give (N, K) with at least two classes.
        """
        logits = self.logits(
            len(self.images) * each, lambda index: build(index // each, index % each)
        )
        sets: Tensor = logits.unflatten(0, (len(self.images), each))
        return sets

    def clean_logits(self, given: Tensor | None) -> Float[Tensor, "n k"]:
        """Return the logits of the clean images: those given, or else from one pass.

        Raises:
            InputError: the given logits are of another number of images.
        """
        if given is None:
            found = self.logits(len(self.images), lambda index: self.images[index])
            notice_probabilities(self._net, found)
            return found
        if len(given) != len(self.images):
            raise InputError(
                f"Clean logits of {len(given)} images were given for {len(self.images)} images."
            )
        known = checked_logits(wide(given.detach().to(self.images.device)))
        self._classes = known.shape[1]
        return known

    def maps(self, maps: Tensor, *, several: bool = False) -> Tensor:
        """Return maps on the judge's device, of the images' number and size.

        Raises:
            InputError: they are not.
        """
        shape = (maps.shape[0], *maps.shape[2:]) if several and maps.ndim == 4 else maps.shape  # noqa: PLR2004
        if tuple(shape) != (len(self.images), *self.size):
            raise InputError(
                f"Maps of {tuple(maps.shape)} were given for images of "
                f"{tuple(self.images.shape)}; give one map of the same height and width an image."
            )
        return maps.to(self.images.device)


@final
@dataclass(frozen=True, eq=False)
class ClassScores:
    """What logits say of one class an image, in float64.

    Attributes:
        logit: y_c.
        probability: softmax(y)_c.
        rest: 1 - softmax(y)_c, summed from the other classes, so that it survives near 1.
    """

    logit: Tensor
    probability: Tensor
    rest: Tensor


def class_scores(logits: Float[Tensor, "n ... k"], labels: Int[Tensor, " n"]) -> ClassScores:
    """Return logit, probability and its complement of each image's class.

    Args:
        logits: (N, K), or (N, M, K) of M variants of each image.
        labels: the classes.
    """
    numbers = exact(logits)
    ones = [1] * (numbers.ndim - 1)
    place = labels.to(numbers.device).view(-1, *ones).expand(*numbers.shape[:-1], 1)
    own = numbers.gather(-1, place)[..., 0]
    others = numbers.scatter(-1, place, -torch.inf).logsumexp(-1)
    total = torch.logaddexp(own, others)
    return ClassScores(own, (own - total).exp(), (others - total).exp())


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


def checked_logits(logits: Tensor) -> Tensor:
    """Return logits (N, K) of at least two classes.

    Raises:
        TargetError: they are not, or not finite.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:  # noqa: PLR2004
        raise TargetError(
            f"The judge gave {tuple(logits.shape)}; a measure of class probabilities needs logits "
            "(N, K) of at least two classes (for an encoder, see masked_embeddings)."
        )
    if not bool(logits.isfinite().all()):
        raise TargetError("The judge gave NaN or infinite logits; check its weights and precision.")
    return logits

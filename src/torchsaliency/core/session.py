"""The only place in the library that calls a network.

A session holds one network for one batch: frozen, locked to one thread, fed in chunks that fit into
memory, accelerated if asked for, its passes counted. Methods see it through `core.trace`, measures
through `measures.judge`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from torchsaliency.core import acceleration, memory
from torchsaliency.core.acceleration.engine import Call
from torchsaliency.core.detection import is_detections, read_detections
from torchsaliency.core.freeze import frozen_eval, get_hold
from torchsaliency.core.inputs import Inputs, InputsLike, as_inputs
from torchsaliency.core.layer import Layer
from torchsaliency.core.maps import upcast
from torchsaliency.core.network import (
    NetworkWrapper,
    find_fact,
    prepare_images,
    unwrap,
    unwrap_output,
)
from torchsaliency.core.neurons import layer_of_output, run_to_layer
from torchsaliency.core.runtime import draw_normal
from torchsaliency.core.scores import (
    ScoreKind,
    find_scores,
    find_stated_scores,
    recall_scores,
)
from torchsaliency.core.space import Size, size_of
from torchsaliency.errors import InputError, TargetError, out_of_memory

T = TypeVar("T")

_FIRST = 8
"""Variants in the pass that shows how many later ones may hold."""

_SEVERAL = "it takes more than images"

_INSIDE = "neurons of one of its layers are explained"

_MIXED = 1e-3
"""How far an image's output may be off beside another image, relative to the largest number."""

_mixing: weakref.WeakKeyDictionary[
    nn.Module, dict[frozenset[str | int] | None, tuple[tuple[type, ...], bool]]
] = weakref.WeakKeyDictionary()
"""By the names of the inputs that follow the images."""


def call_network(
    net: Callable[..., Any],
    images: Tensor,
    where: int | str | None = None,
    inputs: Inputs | None = None,
) -> Any:
    """Run a network, or a copy of one, on at least one image and return its unwrapped output.

    Args:
        net: the network.
        images: (N, C, *size).
        where: in the output its scores are, or which layer's output they are; None finds them.
        inputs: all that it takes, these images among it; None for the images alone.

    Raises:
        InputError: there is no image, or the network takes no such inputs.
        TargetError: its output holds no scores.
    """
    if not len(images):
        raise InputError("No image was given; a network runs on one at least.")
    arguments, named = ((images,), {}) if inputs is None else inputs.arguments(net)
    layer = layer_of_output(where)

    def run() -> Any:
        return net(*arguments, **named)

    try:
        if layer is not None and isinstance(net, nn.Module):
            return run_to_layer(net, layer, run)
        output = run()
        found = read_detections(net, output, size_of(images)) if where is None else None
        return unwrap_output(output, where) if found is None else found
    except SystemExit as error:  # a network does not end the program that explains it
        raise InputError(
            f"The network tried to end the program (exit code {error.code})."
        ) from error


@contextmanager
def open_session(
    model: nn.Module,
    x: InputsLike,
    *,
    chunk: int | None = None,
    scores: ScoreKind | None = None,
    learnable: bool = False,
) -> Iterator[Session]:
    """Freeze a network for a batch of images, and give it back as it was.

    Args:
        model: any network; wrappers (data-parallel, compiled) are looked through, and what they
            say of the network is heeded.
        x: images (N, C, *size), preprocessed, or several inputs (a dict, a tuple, `Inputs`); moved
            to the network's device and precision.
        chunk: images in one pass; bounds the memory, never changes the result. None finds it from
            the largest layer.
        scores: what the numbers mean; None for what the network says, or else shows.
        learnable: whether parameters keep their gradients.

    Raises:
        InputError: the images do not fit, or the chunk is below 1.
        OptionError: what the network says of its scores is unknown.
    """
    net = unwrap(model)
    memory.require_chunk(chunk)
    stated = scores or find_stated_scores(model)
    given = as_inputs(x, more=find_fact(model, "forward_kwargs"))
    with frozen_eval(net, given.images.device, learnable=learnable):
        images = prepare_images(net, given.images)
        alone = isinstance(x, Tensor) and not given.more
        inputs = None if alone else given.like(images)
        yield Session(net, images, chunk, stated, find_fact(model, "output"), inputs)


@final
class Session:
    """A frozen network and a batch of images for it.

    Attributes:
        net: the network.
        images: (N, C, *size), on the network's device and in its precision.
        passes: images that went through the network so far; backward passes are not counted.
        stated_scores: what its numbers mean, as far as that was said.
        output: where in its output they are, if that was said.
        classes: whether a class is asked for; if not, a single number is not taken for a logit.
        inputs: all that the network takes, the images among it; None for the images alone.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        chunk: int | None = None,
        scores: ScoreKind | None = None,
        output: int | str | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.net, self.images, self.passes = net, images, 0
        self.given_chunk = chunk
        self.stated_scores, self.output = scores, output
        self.classes, self.inputs = True, inputs
        self._call_alone: Call = partial(call_network, where=output)

    def call(self, net: Callable[..., Any], images: Tensor, rows: Tensor | None = None) -> Any:
        """Run the network or a copy of it and return its unwrapped output; nothing is counted.

        Args:
            net: the network.
            images: (M, C, *size).
            rows: (M,) the image each derives from, whose other inputs it gets; by default the
                images' own numbers, again from the first if there are more.
        """
        if self.inputs is None:
            return self._call_alone(net, images)
        if rows is None:
            rows = torch.arange(len(images), device=images.device) % len(self.images)
        return call_network(net, images, self.output, self.inputs.with_images(images, rows))

    def with_images(self, images: Tensor, rows: Tensor | None = None) -> InputsLike:
        """Return variants of the images with all else that the network takes.

        Args:
            images: (M, C, *size).
            rows: (M,) the image each derives from.

        Raises:
            InputError: there are other inputs, another number of images, and no rows.
        """
        if self.inputs is None:
            return images
        return self.inputs.with_images(images, self._require_rows(len(images), rows))

    @property
    def first_image(self) -> InputsLike:
        """The first image (1, C, *size) with all else that the network takes."""
        first = torch.zeros(1, dtype=torch.int64, device=self.images.device)
        return self.with_images(self.images[:1], first)

    def _require_rows(self, count: int, rows: Tensor | None) -> Tensor | None:
        if self.inputs is None or not self.inputs.follows or rows is not None:
            return rows
        if count != len(self.images):
            raise InputError(
                f"{count} images were given to a network that takes other inputs of "
                f"{len(self.images)} images; give rows=, the image that each derives from."
            )
        return None

    @cached_property
    def scores(self) -> ScoreKind:
        """What the network's numbers mean: as stated, found earlier, or seen in one pass."""
        with torch.no_grad():
            return self._find_scores(lambda: self.call(self.net, self.images[:1].clone()))

    @property
    def known_scores(self) -> ScoreKind | None:
        """What the network's numbers mean, None if that takes a pass to see."""
        found: ScoreKind | None = vars(self).get("scores") or self.stated_scores
        return found or recall_scores(self.net, self.output, classes=self.classes)

    def _find_scores(self, run: Callable[[], Any]) -> ScoreKind:
        known = self.known_scores
        return known or find_scores(
            self.net,
            run(),
            self.output,
            classes=self.classes,
            differentiable=self._run_differentiably,
        )

    def _run_differentiably(self) -> Any:
        with torch.enable_grad():
            leaf = self.images[:1].clone().requires_grad_()
            return self.call(self.net, leaf.clone())

    @property
    def wrapper(self) -> NetworkWrapper:
        """The network with what was said or found of it, for another session."""
        return NetworkWrapper(self.net, scores=self.scores, output=self.output)

    @property
    def size(self) -> Size:
        """(H, W) of the images; (D, H, W) of volumes, (T, H, W) of videos, (T,) of signals."""
        return size_of(self.images)

    @cached_property
    def mixes_images(self) -> bool:
        """Whether an image's output depends on its batch mates; images then run one by one."""
        follows = None if self.inputs is None else self.inputs.follows
        if self.inputs is not None:
            self._check_order()
        if follows and follows not in _mixing.get(self.net, {}):
            self._check_rows()
        return mixes_images(self.net, self.images, self.call, follows)

    def _check_order(self) -> None:
        """Refuse inputs that have a row for each image and do not follow them.

        As many rows may be a coincidence; then the order of the images does not matter.
        """
        count = len(self.images)
        names = [] if self.inputs is None else self.inputs.rows_left_alone()
        if count == 1 or not names:
            return
        order = torch.arange(count - 1, -1, -1, device=self.images.device)
        try:
            with torch.no_grad():
                straight = self.call(self.net, self.images.clone())
                turned = self.call(self.net, self.images[order], order)
        except Exception as error:  # a network may raise anything
            if out_of_memory(error):
                raise
            return
        if not isinstance(straight, Tensor) or not isinstance(turned, Tensor):
            return
        if len(straight) == len(turned) == count and _differ(straight[order], turned):
            raise InputError(
                f"{', '.join(map(repr, names))} was given with a row for each of {count} images "
                "and does not follow them, so that copies of one would get another's; give it "
                "among the inputs, as in x={'image': …, 'meta': …}, and not in forward_kwargs, "
                "or name it in Inputs(…, follows=…)."
            )

    def _check_rows(self) -> None:
        """Refuse inputs whose rows are none of the images: with more of them, the output widens."""
        images, widths = self.images[:1], []
        for count in (1, 2):
            rows = torch.zeros(count, dtype=torch.int64, device=images.device)
            try:
                with torch.no_grad():
                    output = self.call(self.net, torch.cat([images] * count), rows)
            except Exception as error:  # a network may raise anything, of two images say
                if out_of_memory(error):
                    raise
                return
            widths.append(tuple(output.shape[1:]) if isinstance(output, Tensor) else ())
        if widths[0] != widths[1]:
            raise InputError(
                f"The network gives {widths[0]} for one image and {widths[1]} for two: an input "
                "with as many rows as there are images is none of theirs; say which are with "
                "Inputs(…, follows=…)."
            )

    @property
    def chunk(self) -> int:
        """Images in one pass: as given or found; less once memory ran out."""
        if self.given_chunk != 1 and self.mixes_images:
            self.given_chunk = 1
        if self.given_chunk is None:
            self.given_chunk = find_chunk(self.net, self.images, self.call)
        return self.given_chunk

    def measure_layers(self) -> AbstractContextManager[None]:
        """Measure the network's layers in the one pass inside, unless the chunk is known."""
        return memory.measure_layers(self.net, self.images)

    def run(self, images: Tensor, rows: Tensor | None = None, count: int | None = None) -> Any:
        """Run the network itself and return its numbers, see `read`; grad mode is the caller's.

        Args:
            images: (M, C, *size).
            rows: (M,) the image each derives from, whose other inputs it gets; None if these are
                all images in order.
            count: passes that are counted, if the batch grows inside the network.

        Raises:
            InputError: rows are missing.
        """
        return self.read(self.forward(images, rows, count))

    def forward(self, images: Tensor, rows: Tensor | None = None, count: int | None = None) -> Any:
        """Run the network itself and return its unwrapped output, not yet read; see `run`."""
        rows = self._require_rows(len(images), rows)
        self.passes += len(images) if count is None else count
        return self.call(self.net, images.to(self.images.dtype), rows)

    def read(self, output: Any) -> Any:
        """Return the numbers of an unwrapped output: the canonical ones of their kind.

        The first output shows the kind if nobody says it, which may take one more pass: no hook
        that reads a pass should be installed then.
        """
        if "scores" not in vars(self):
            self.scores = self._find_scores(lambda: output)
        return self.scores.canonical(output)

    def run_accelerated(self, images: Tensor, rows: Tensor | None = None) -> Any:
        """Run the network, or a faster copy of it, as `accelerated` says; see `run`.

        Copies are of networks that take images alone and are explained themselves, and no layer
        of theirs; any other runs itself.
        """
        if self.inputs is not None or layer_of_output(self.output) is not None:
            acceleration.step_aside(self.net, _SEVERAL if self.inputs is not None else _INSIDE)
            return self.run(images, rows)
        self.passes += len(images)
        known = self.given_chunk is not None or memory.is_measured(self.net, self.images)
        batch = self.chunk if known else 1
        images = images.to(self.images.dtype)
        return self.read(acceleration.run(self._call_alone, self.net, images, batch))

    def run_variants(
        self,
        count: int,
        build: Callable[[Tensor], Tensor],
        each: int = 1,
        read: Callable[[Any, Tensor], Any] = lambda output, index: output,  # noqa: ARG005
        index: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs (count, …) of variants of the images, built chunk by chunk.

        Args:
            count: how many variants there are.
            build: gives the variants (m, C, *size) of the indices (m,).
            each: how many variants in a row derive from one image.
            read: makes what is returned from an output and its indices (m,).
            index: (count,) the indices themselves, if not all variants are wanted.

        Raises:
            TargetError: the network does not give one tensor.
        """
        places, rows, start = index, [], 0
        if places is None:
            places = torch.arange(count, device=self.images.device)
        while start < count:
            output, size = self._run_next(places[start:], build, each)
            output = read(output, places[start:][:size])
            if not isinstance(output, Tensor):
                raise TargetError(
                    f"The judge gave a {type(output).__name__}; measures need one tensor an image; "
                    "what was explained of a detector is measured by insertion and deletion."
                )
            rows.append(upcast(output.detach()))
            start += size
        return torch.cat(rows)

    def _run_next(
        self, places: Tensor, build: Callable[[Tensor], Tensor], each: int
    ) -> tuple[Any, int]:
        """Return the output of as many variants as one pass may hold, and their number."""

        def work(size: int) -> Any:
            return self.run_accelerated(build(places[:size]), places[:size] // each)

        if self.given_chunk is None and not memory.is_measured(self.net, self.images):
            with self.measure_layers():
                return memory.with_less_memory(work, _FIRST, self.net, self.images)
        return self.with_less_memory(lambda: work(self.chunk)), self.chunk

    def with_less_memory(self, work: Callable[[], T]) -> T:
        """Do the work, again with half the chunk if memory runs out.

        Raises:
            torch.OutOfMemoryError: (or what says so on a processor) a chunk of one is too many.
        """

        def attempt(chunk: int) -> T:
            self.given_chunk = chunk
            return work()

        return memory.with_less_memory(attempt, self.chunk, self.net, self.images)[0]

    def stand_in(self, count: int, layers: Sequence[Layer] = ()) -> nn.Module:
        """Return the network that traced passes of such images should run: a copy, or itself.

        Args:
            count: images in the passes.
            layers: all that is read from these passes: no other layer, no gradient of the image.
        """
        if self.inputs is not None:
            acceleration.step_aside(self.net, _SEVERAL)
            return self.net
        return acceleration.stand_in(self._call_alone, self.net, self.images[:count], layers)


def find_chunk(net: nn.Module, images: Tensor, call: Call = call_network) -> int:
    """Return how many images of this size one pass should hold; see `memory.chunk_of`."""
    if not memory.is_measured(net, images):
        with torch.no_grad(), memory.measure_layers(net, images[:1]):
            call(net, images[:1].clone())
    return memory.chunk_of(net, images)


def mixes_images(
    net: nn.Module,
    images: Tensor,
    call: Call = call_network,
    follows: frozenset[str | int] | None = None,
) -> bool:
    """Whether an image's output depends on its batch mates, or a batch cannot be run at all.

    Found once a network by running an image alone and beside another one: normalisation by the
    statistics of the batch mixes them, a reshaping to a fixed number of images refuses them. Such
    networks run one image at a time.

    Args:
        net: frozen.
        images: (N, C, *size), N at least 1.
        call: runs it.
        follows: the names of its other inputs with a row for each image.
    """
    hold = get_hold(net)
    kinds = tuple(map(type, net.modules() if hold is None else hold.modules))
    found = _mixing.setdefault(net, {})
    known = found.get(follows)
    if known is None or known[0] != kinds:
        known = found[follows] = kinds, _try_two_images(net, images, call)
    return known[1]


def _try_two_images(net: nn.Module, images: Tensor, call: Call) -> bool:
    first = images[:1]
    noise = draw_normal(torch.Generator().manual_seed(0), *first.shape).to(first)
    other = images[1:2] if len(images) > 1 else first.mean() + first.std() * noise
    with torch.no_grad():
        alone = call(net, first.clone())
        try:
            both = call(net, torch.cat([first, other]))
        except Exception as error:  # a network may raise anything
            if out_of_memory(error):
                raise
            return True
    if is_detections(alone) and is_detections(both):
        parts = alone[0].keys() == both[0].keys() and len(both) == 2 * len(alone)
        return not parts or any(_differ(part, both[0][name]) for name, part in alone[0].items())
    if not isinstance(alone, Tensor) or not isinstance(both, Tensor):
        return False
    return len(both) != 2 * len(alone) or _differ(alone, both[: len(alone)])


def _differ(alone: Tensor, beside: Tensor) -> bool:
    """Whether an image's numbers beside another image are not those that it has alone."""
    if alone.shape != beside.shape:
        return True
    near = _MIXED if alone.dtype in (torch.float32, torch.float64) else 50 * _MIXED
    a, b = upcast(alone), upcast(beside)
    scale = float(a[a.isfinite()].abs().amax()) if bool(a.isfinite().any()) else 0.0
    return not torch.allclose(a, b, rtol=0, atol=near * scale, equal_nan=True)

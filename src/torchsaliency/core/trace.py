"""One shared pass through the network, from which every method takes what it needs.

The graph begins at the layer: parameters are frozen and the layer's output is replaced by a
detached leaf, so the backward pass covers only the tail of the network. Whatever happens inside,
the user's network is given back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.acceleration import engine
from torchsaliency.core.attention import Attention, record_attention
from torchsaliency.core.clock import seconds_now
from torchsaliency.core.layer import Layer, LayerLike, first_tensor, replace_first
from torchsaliency.core.layout import decide_layout
from torchsaliency.core.maps import is_constant, minmax, upsample, wide
from torchsaliency.core.masking import Masked, Masking, MeanColour
from torchsaliency.core.memory import checked_chunk, measuring, suited_chunk, with_less_memory
from torchsaliency.core.rules import differentiate
from torchsaliency.core.session import (
    call,
    held_still,
    mixes_images,
    notice_probabilities,
)
from torchsaliency.core.target import Target, TargetLike, resolve_target, score
from torchsaliency.core.wrapper import unwrap
from torchsaliency.errors import InputError, LayerError, out_of_memory

T = TypeVar("T")

_HALF_SCALE = 1024.0
"""Loss scale for float16 networks, whose smallest gradients would round to zero."""

_TAIL_BUDGET = 8
"""A tail's chunk may hold this many times the numbers of `chunk` images; see `View.tail`."""


@contextmanager
def tracing(  # noqa: PLR0913 (all but the first four by name)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    target: TargetLike = None,
    layers: Sequence[LayerLike] = (),
    *,
    gradients: bool = True,
    attentions: bool = False,
    masking: Masking | None = None,
    chunk: int | None = None,
) -> Iterator[Trace]:
    """Run the network once on `x` and hold it still while methods read from the pass.

    Args:
        model: any network; wrappers (data-parallel, compiled) are looked through.
        x: images (N, C, H, W), preprocessed; moved to the network's device and precision.
        target: see `resolve_target`.
        layers: the layers to read.
        gradients: whether a method will ask for gradients; without, the pass keeps no graph.
        attentions: whether a method will ask for the attention of a transformer's blocks.
        masking: the baseline for masked passes, mean colour by default.
        chunk: images in one derived pass; bounds the memory, never changes the result. None finds
            it from the largest layer.

    Yields:
        The trace, valid inside the context.

    Raises:
        InputError: the images cannot be explained.
        LayerError: a layer does not exist, did not run, or ran twice.
        TargetError: the target does not fit.
    """
    net = unwrap(model)
    checked_chunk(chunk)
    with held_still(net, x.device):
        images = checked_images(net, x)
        trace = Trace(net, images, masking or MeanColour(), chunk)
        trace._recording = attentions
        trace._run_once([Layer.of(layer, net) for layer in layers], target, gradients=gradients)
        try:
            yield trace
        finally:
            trace._views.clear()  # they know the trace: a circle that keeps the features in memory


@final
class Trace:
    """One pass, and the means to run more of them under the same conditions.

    Attributes:
        images: what was explained, (N, C, H, W), on the network's device.
        output: the network's unwrapped output on it.
        target: the resolved target.
        score: (N,) the target's value on the clean images, float32 or better.
        passes: how many images went through the network so far (a backward pass is not counted).
        backward_seconds: what the shared backward pass took; 0 before a method asks for it.
    """

    def __init__(
        self, net: nn.Module, images: Tensor, masking: Masking, chunk: int | None = None
    ) -> None:
        self.images, self.masking = images, masking
        self._chunk = chunk
        self.passes = 0
        self.backward_seconds = 0.0
        self.output: Any
        self.target: Target
        self.score: Tensor
        self._net = net
        self._captured: dict[str, list[Tensor]] = {}
        self._layers: dict[str, Layer] = {}
        self._graph_score: Tensor | None = None
        self._gradients: dict[str, Tensor | None] = {}
        self._views: dict[tuple[str, ...], View] = {}
        self._broadcasts: dict[str, bool] = {}
        self._alone: bool | None = None
        self._masked: Masked | None = None
        self._recording = False
        self._attentions: list[list[Attention]] = []
        self._attention_gradients: list[list[Tensor | None]] = []

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def chunk(self) -> int:
        """Images in one derived pass: as given or found; less once the memory ended."""
        if self._chunk != 1 and self.alone:
            self._chunk = 1
        if self._chunk is None:
            self._chunk = suited_chunk(self._net, self.images)
        return self._chunk

    @property
    def alone(self) -> bool:
        """Whether the network runs one image at a time, for it would mix a batch."""
        if self._alone is None:
            self._alone = mixes_images(self._net, self.images)
        return self._alone

    def with_less_memory(self, work: Callable[[], T]) -> T:
        """Do the work, again with half the chunk where the memory ends.

        Raises:
            torch.OutOfMemoryError: (or what says so on a processor) a chunk of one is too many.
        """

        def once(chunk: int) -> T:
            self._chunk = chunk
            return work()

        return with_less_memory(once, self.chunk, self._net, self.images)[0]

    @property
    def parameter_names(self) -> list[str]:
        """Names of the network's parameters; a distillation token, say, is known by its own."""
        return [name for name, _ in self._net.named_parameters()]

    def module(self, layer: str) -> nn.Module:
        """Return the network's submodule of that name.

        Raises:
            LayerError: there is none.
        """
        return Layer(layer).module_of(self._net) or self._net

    def __getitem__(self, layers: LayerLike | Sequence[LayerLike]) -> View:
        """Return what the methods see of one layer, or of several together."""
        group = [layers] if isinstance(layers, str | nn.Module | Layer) else list(layers)
        names = tuple(self._name_of(layer) for layer in group)
        for name in names:
            if name not in self._layers:
                known = ", ".join(self._layers) or "none"
                raise LayerError(f"Layer {name!r} was not traced (traced: {known}); name it first.")
        if names not in self._views:
            self._views[names] = View(self, tuple(self._layers[name] for name in names))
        return self._views[names]  # one for all methods, which share what is made once

    def _name_of(self, layer: LayerLike) -> str:
        known = isinstance(layer, str) and layer in self._layers
        return str(layer) if known else Layer.of(layer, self._net).name

    def run(self, images: Tensor) -> Any:
        """Run the network and return its unwrapped output; grad mode is the caller's."""
        self.passes += len(images)
        return call(self._net, images.to(self.images.dtype))

    def scores(self, images: Tensor, index: Tensor, target: Target | None = None) -> Tensor:
        """Run the network and score each row by the target of the image it derives from.

        Args:
            images: (M, C, H, W), variants of the explained images.
            index: (M,) int64, which image each row derives from.
            target: of the N explained images; the trace's own by default.

        Returns:
            (M,) scores, float32 or better, differentiable if gradients are enabled.
        """
        if not len(images):
            return self.score.new_zeros(0)
        chosen = (target or self.target).take(index)
        self.passes += len(images)
        output = engine.run(self._net, images.to(self.images.dtype), self.chunk)
        return wide(score(chosen, output, len(images)))

    def masked_scores(self, masks: Tensor, index: Tensor) -> Tensor:
        """Score the images under masks (M, H, W) in [0, 1], with this trace's masking."""
        return self.scores(self.masked(masks, index), index)

    def masked(self, masks: Tensor, index: Tensor) -> Tensor:
        """Return the images at `index` (M,) under masks (M, H, W), with this trace's masking."""
        if self._masked is None:
            self._masked = self.masking.over(self.images)
        return self._masked(masks, index)

    @contextmanager
    def again(self, images: Tensor, layers: Sequence[Layer]) -> Iterator[Trace]:
        """Trace variants (N, C, H', W') of the same images, with the same target and masking."""
        graph = self._graph_score is not None or bool(self._gradients)
        unshaped = [Layer(layer.name) for layer in layers]  # another size has another grid
        with tracing(
            self._net,
            images,
            self.target,
            unshaped if images.shape[2:] != self.images.shape[2:] else layers,
            gradients=graph,
            attentions=self._recording,
            masking=self.masking,
            chunk=self._chunk,
        ) as trace:
            yield trace
            self.passes += trace.passes

    def holds(self, *dtypes: torch.dtype) -> bool:
        """Whether numbers of the pass were rounded to one of these, by the network or autocast."""
        captured = [part for parts in self._captured.values() for part in parts]
        tensors = [self.images, self.output, *captured]
        return any(isinstance(one, Tensor) and one.dtype in dtypes for one in tensors)

    @property
    def finite(self) -> Tensor:
        """(N,) whether the network gave numbers for an image; a class may be out of the question.

        NaN and plus infinity are none; minus infinity is the logit of a class that cannot be.
        """
        sound = self.score.isfinite()
        if isinstance(self.output, Tensor) and self.output.is_floating_point():
            numbers = self.output.flatten(1) if self.output.ndim > 1 else self.output[:, None]
            sound = sound & ~(numbers.isnan() | numbers.isposinf()).any(1)
        return sound

    # --- the shared pass ---------------------------------------------------------------------

    def _run_once(self, layers: Sequence[Layer], target: TargetLike, *, gradients: bool) -> None:
        modules = {layer.name: layer.module_of(self._net) for layer in layers}
        raw: dict[str, list[Tensor]] = {name: [] for name in modules}
        # attention is read from a graph, in which torch takes no short cut past it
        graph = gradients or self._recording

        def capture(name: str, output: Any) -> Any:
            tensor = first_tensor(output, name)
            if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                raise LayerError(
                    f"Layer {name!r} runs inside torch.vmap or torch.func, where no images can be "
                    "told apart; name a layer outside of it."
                )
            if graph and not tensor.requires_grad and tensor.is_floating_point():
                tensor = tensor.detach().requires_grad_()
            raw[name].append(tensor)
            # The network goes on with a copy, so that an in-place operation spoils nothing.
            return replace_first(output, tensor.clone())

        together = self._parts()
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(graph))
            for name, module in modules.items():
                if module is not None:
                    hook = _after(partial(capture, name))
                    stack.callback(module.register_forward_hook(hook).remove)
            if self._chunk is None:
                stack.enter_context(measuring(self._net, self.images))
            outputs = []
            for part in together:
                images = part.clone()  # for a network that works in place on its input
                if self._recording:
                    images = part.detach().requires_grad_().clone()
                for name, module in modules.items():
                    if module is None:
                        images = capture(name, images)
                with record_attention(len(part), wanted=self._recording) as blocks:
                    outputs.append(self.run(images))
                self._attentions.append(blocks)
        for name, found in raw.items():
            _check_runs(name, len(found), len(outputs))
        with torch.set_grad_enabled(graph):
            output = _joined(outputs)
        notice_probabilities(self._net, output)
        self.target = resolve_target(target, _detached(output))
        with torch.set_grad_enabled(gradients):
            graph_score = wide(score(self.target, output, len(self.images)))
        self.output, self.score = _detached(output), graph_score.detach()
        self._graph_score = graph_score if gradients and graph_score.requires_grad else None
        for layer in layers:
            self._captured[layer.name] = raw[layer.name]
            self._layers[layer.name] = self._laid_out(layer, raw[layer.name][0])

    def _laid_out(self, layer: Layer, output: Tensor) -> Layer:
        if layer.reshape is None:
            layout = decide_layout(self._net, layer.name, output, self.images[:1])
            layer = replace(layer, reshape=layout)
        return layer.resolved(output, self.size)

    def _parts(self) -> Sequence[Tensor]:
        """Return the images that run together: all, but where a network would mix them."""
        several = len(self.images) > 1
        return self.images.split(1) if several and self.alone else (self.images,)

    def _gradient(self, name: str) -> Tensor:
        self._run_backward(name)
        gradient = self._gradients[name]
        if gradient is None:
            raise _no_gradient(name)
        return gradient

    def _run_backward(self, name: str) -> None:
        if self._gradients:
            return
        if self._graph_score is None:
            raise _no_gradient(name)
        scale = _HALF_SCALE if self.holds(torch.float16) else 1.0
        blocks = [block for part in self._attentions for block in part]
        captured = [part for parts in self._captured.values() for part in parts]
        sources = [*captured, *(block.source for block in blocks)]
        weight = torch.full_like(self._graph_score, scale)
        begun = seconds_now(self.images.device)
        found = differentiate(self._graph_score, sources, weight)
        self.backward_seconds = seconds_now(self.images.device) - begun
        self._graph_score = None  # the graph is freed, and with it the tail's memory
        rest = iter([None if one is None else wide(one) / scale for one in found])
        for layer, parts in self._captured.items():
            own = [next(rest) for _ in parts]
            whole = [one for one in own if one is not None]
            self._gradients[layer] = torch.cat(whole) if len(whole) == len(own) else None
        self._attention_gradients = [
            [None if (one := next(rest)) is None else block.gradient(one) for block in part]
            for part in self._attentions
        ]

    def _features(self, layer: Layer) -> Tensor:
        return _maps(layer, _whole([one.detach() for one in self._captured[layer.name]]))

    # --- the tail --------------------------------------------------------------------------------

    def _tail_scores(self, layer: Layer, image: int, features: Tensor) -> Tensor:
        """Score image `image` with the layer's output replaced by each row of `features`."""
        index = torch.full((len(features),), image, device=self.images.device)
        if layer.name not in self._broadcasts:
            self._broadcasts[layer.name] = self._tail_broadcasts(layer, image)
        rows = 1 if self._broadcasts[layer.name] else len(features)
        output = self._run_replaced(layer, self.images[image : image + 1], features, rows)
        return wide(score(self.target.take(index), output, len(features)))

    def _run_replaced(self, layer: Layer, image: Tensor, features: Tensor, rows: int) -> Any:
        self.passes += len(features)
        module = layer.module_of(self._net)
        assert layer.reshape is not None
        if module is None:
            return call(self._net, features.to(image.dtype, copy=True))
        reshape = layer.reshape

        def put_in(output: Any) -> Any:
            own = first_tensor(output, layer.name)
            return replace_first(output, reshape.from_maps(features.to(own.dtype), own))

        handle = module.register_forward_hook(_after(put_in))
        try:
            return call(self._net, image.repeat(rows, 1, 1, 1))
        finally:
            handle.remove()

    def _tail_broadcasts(self, layer: Layer, image: int) -> bool:
        """Whether the batch may grow at the layer: two unchanged copies must score as before."""
        if layer.module_of(self._net) is None:
            return True
        features = self._features(layer)[image].expand(2, -1, -1, -1)
        index = torch.full((2,), image, device=self.images.device)
        try:
            output = self._run_replaced(layer, self.images[image : image + 1], features, 1)
            scores = wide(score(self.target.take(index), output, 2))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            if out_of_memory(error):
                raise
            # A tail that joins earlier features, or that remembers the batch size, cannot grow.
            return False
        loose = 3e-2 if self.holds(torch.float16, torch.bfloat16) else 1e-3
        return torch.allclose(scores, self.score[image].expand(2), rtol=loose, atol=loose)


@final
class Shared:
    """What several methods need of the same features, made by the first one that asks.

    Attributes:
        spared_seconds: what later ones were spared.
    """

    def __init__(self) -> None:
        self.spared_seconds = 0.0
        self._made: dict[str, tuple[Any, float]] = {}

    def once(self, name: str, make: Callable[[], Any], device: torch.device) -> Any:
        """Return what `make` gives, or gave.

        Args:
            name: what it is; the same name must always stand for the same numbers.
            make: makes it from the features alone. Nobody may change the result in place.
            device: where it is made; the clock waits for it.
        """
        if name in self._made:
            self.spared_seconds += self._made[name][1]
        else:
            begun = seconds_now(device)
            made = make()
            self._made[name] = made, seconds_now(device) - begun
        return self._made[name][0]


@final
@dataclass(frozen=True, eq=False)
class View:
    """What a method sees: one layer of one traced batch (or several layers, joined).

    All tensors are float32 or float64, whatever the network's precision.
    """

    trace: Trace
    layers: tuple[Layer, ...]

    @property
    def images(self) -> Tensor:
        """The explained images (N, C, H, W)."""
        return self.trace.images

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.trace.size

    @property
    def score(self) -> Tensor:
        """(N,) the target's value on the clean images."""
        return self.trace.score

    @property
    def layer(self) -> Layer:
        """The layer, for methods that explain one at a time."""
        if len(self.layers) != 1:
            raise LayerError(f"{len(self.layers)} layers are joined here; explain one at a time.")
        return self.layers[0]

    @cached_property
    def activations(self) -> Float[Tensor, "n k h w"]:
        """Feature maps A (N, K, h, w); several layers are joined along K at the finest grid.

        Joined layers are first divided by their largest absolute value in the image, or the layer
        with the largest numbers would speak alone.
        """
        features = [self.trace._features(layer) for layer in self.layers]
        if len(features) == 1:
            return features[0]
        size = max((maps.shape[2:] for maps in features), key=lambda hw: hw[0] * hw[1])
        return torch.cat([_joinable(maps, (size[0], size[1])) for maps in features], dim=1)

    @property
    def gradients(self) -> Float[Tensor, "n k h w"]:
        """∂y_c/∂A (N, K, h, w); one backward pass through the tail serves all layers."""
        return _maps(self.layer, self.trace._gradient(self.layer.name))

    @cached_property
    def shared(self) -> Shared:
        """What methods make of these layers once for all of them."""
        return Shared()

    @property
    def attentions(self) -> list[Tensor]:
        """Attention probabilities (N, heads, T, T) of every block, the first block first."""
        if not self.trace._recording:
            raise LayerError("The pass recorded no attention; trace with attentions=True.")
        parts = [[block.weights for block in part] for part in self.trace._attentions]
        if len({len(part) for part in parts}) > 1:
            return []  # no two images attend alike
        return [_whole(blocks) for blocks in zip(*parts, strict=True)]

    @property
    def attention_gradients(self) -> list[Tensor]:
        """∂y_c/∂A of every block, like `attentions`; zeros where y_c does not read it."""
        self.trace._run_backward("attention")
        parts = zip(*self.trace._attention_gradients, strict=True)
        pieces = zip(*self.trace._attentions, strict=True)
        return [
            _whole(
                [
                    torch.zeros_like(block.weights) if one is None else one
                    for one, block in zip(gradients, blocks, strict=True)
                ]
            )
            for gradients, blocks in zip(parts, pieces, strict=True)
        ]

    def tail(self, image: int, edits: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """Score one image with the layer's output replaced, the batch growing at the layer.

        Everything before the layer runs once per chunk, on the one image; where the tail cannot
        grow (it joins earlier features, say) the whole network runs, with the same numbers. As the
        layer's features are small, a chunk may hold more of them than it may hold images.

        Args:
            image: index of the image in the batch.
            edits: gives the replacements (m, K, h, w) for indices (m,) in 0 … count-1.
            count: how many replacements there are.

        Returns:
            (count,) scores.
        """
        own = self.activations[image]
        roomy = self.trace.chunk * self.images[0].numel() * _TAIL_BUDGET // own.numel()
        rows = self.trace.chunk if self.trace.alone else max(self.trace.chunk, roomy)
        steps = torch.arange(count, device=self.images.device).split(rows)
        return torch.cat(
            [self.trace._tail_scores(self.layer, image, edits(step)) for step in steps]
        )

    def rescore(
        self, masks: Float[Tensor, "n m h w"], *, align_corners: bool = False
    ) -> Float[Tensor, "n m"]:
        """Score every image under each of its masks: f(x ⊙ n(up(mask)))_c, chunk by chunk.

        A constant mask hides everything, so all of an image's constant masks share one pass.

        Args:
            masks: any values; each is upsampled and stretched to [0, 1] inside the chunk.
            align_corners: as in `maps.upsample`.

        Returns:
            (N, M) scores.
        """
        hidden = is_constant(masks)
        scores = masks.new_zeros(masks.shape[:2])
        for pairs in (~hidden).nonzero().split(self.trace.chunk):
            image, row = pairs.unbind(1)
            grown = upsample(masks[image, row], self.size, align_corners=align_corners)
            scores[image, row] = self.trace.masked_scores(minmax(grown), image).to(scores.dtype)
        for images in hidden.any(1).nonzero()[:, 0].split(self.trace.chunk):
            nothing = self.images.new_zeros((len(images), *self.size))
            blank = self.trace.masked_scores(nothing, images).to(scores.dtype)
            scores[images] = torch.where(hidden[images], blank[:, None], scores[images])
        return scores

    @contextmanager
    def again(self, images: Tensor) -> Iterator[View]:
        """Look at variants of the same images through the same layers."""
        with self.trace.again(images, self.layers) as trace:
            yield trace[list(self.layers)]


def _after(function: Callable[[Any], Any]) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001 (torch's signature)
        return function(output)

    return hook


def _no_gradient(name: str) -> LayerError:
    return LayerError(
        f"The score does not depend differentiably on layer {name!r}; choose a layer on the way to "
        "the output, or a method that needs no gradient."
    )


def _check_runs(name: str, count: int, passes: int) -> None:
    if count == 0:
        raise LayerError(f"Layer {name!r} did not run in the forward pass; choose one that does.")
    if count > passes:
        raise LayerError(
            f"Layer {name!r} ran {count // passes} times in one forward pass, so it has no single "
            "map; choose the block around it."
        )


def _maps(layer: Layer, tensor: Tensor) -> Tensor:
    assert layer.reshape is not None
    maps = layer.reshape.to_maps(tensor)
    if maps.ndim != 4 or maps.shape[2] * maps.shape[3] == 0:  # noqa: PLR2004
        raise LayerError(f"Layer {layer.name!r} gives {tuple(tensor.shape)}: no feature maps.")
    return wide(maps)


def _joinable(maps: Tensor, size: tuple[int, int]) -> Tensor:
    scale = maps.abs().amax((1, 2, 3), keepdim=True)
    return upsample((maps / scale.clamp_min(1e-12)).flatten(0, 1), size).unflatten(
        0, maps.shape[:2]
    )


def _whole(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _joined(outputs: Sequence[Any]) -> Any:
    """Return the outputs of images that ran one by one as one output."""
    if len(outputs) == 1:
        return outputs[0]
    if all(isinstance(one, Tensor) for one in outputs):
        return torch.cat(list(outputs))
    return [part for one in outputs for part in one]


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, dict):
        return {key: _detached(part) for key, part in output.items()}
    return [_detached(part) for part in output] if isinstance(output, list | tuple) else output


def checked_images(net: nn.Module, x: Tensor) -> Tensor:
    """Return the images on the network's device and in its precision, free of any graph.

    Raises:
        InputError: they are not a batch of finite floating-point images.
    """
    if x.ndim != 4 or 0 in x.shape:  # noqa: PLR2004
        hint = "; add the batch dimension with x[None]" if x.ndim == 3 else ""  # noqa: PLR2004
        raise InputError(f"Images must be (N, C, H, W), not empty, not {tuple(x.shape)}{hint}.")
    if not x.is_floating_point():
        raise InputError(
            f"Images must be preprocessed floats, and {x.dtype} was given; use "
            "torchsaliency.preprocess, or divide by 255 and normalise."
        )
    # A finite sum says it of all in one look; another may only have been too large.
    if not bool(x.sum().isfinite()) and not bool(x.isfinite().all()):
        raise InputError("The images hold NaN or infinite values; check the preprocessing.")
    parameter = next((p for p in net.parameters() if p.is_floating_point()), None)
    x = x.clone() if x.is_inference() else x.detach()
    return x if parameter is None else x.to(parameter.device, parameter.dtype)

"""One shared pass through the network, from which every method takes what it needs.

The graph begins at the layer: parameters are frozen and the layer's output is replaced by a
detached leaf, so the backward pass covers only the tail of the network. Whatever happens inside,
the user's network is given back as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchsaliency.core import memory
from torchsaliency.core.attention import Attention, record_attention
from torchsaliency.core.inputs import InputsLike
from torchsaliency.core.layer import Layer, LayerLike, as_group, first_tensor, replace_first
from torchsaliency.core.layout import decide_layout, find_grids
from torchsaliency.core.maps import is_constant, minmax, upcast, upsample
from torchsaliency.core.masking import Masked, Masking, MeanColour
from torchsaliency.core.neurons import read_neurons
from torchsaliency.core.rules import differentiate
from torchsaliency.core.runtime import seconds_now
from torchsaliency.core.session import Session, open_session
from torchsaliency.core.space import Size, sides_of, size_of
from torchsaliency.core.tail import Tail
from torchsaliency.core.target import (
    ClassTarget,
    Target,
    TargetLike,
    TargetSpec,
    names_classes,
    resolve_target,
    score,
)
from torchsaliency.errors import LayerError, out_of_memory

T = TypeVar("T")

_HALF_SCALE = 1024.0
"""Loss scale for float16 networks, whose smallest gradients would round to zero."""

_TAIL_BUDGET = 8
"""A tail's chunk may hold this many times the numbers of `chunk` images; see `View.tail`."""


@contextmanager
def tracing(  # noqa: PLR0913 (all but the first four by name)
    model: nn.Module,
    x: InputsLike,
    target: TargetLike = None,
    layers: Sequence[LayerLike] = (),
    *,
    gradients: bool = True,
    attentions: bool = False,
    masking: Masking | None = None,
    chunk: int | None = None,
    differentiable: bool = False,
) -> Iterator[View]:
    """Run the network once on `x` and freeze it while methods read from the pass.

    Args:
        model: any network; wrappers (data-parallel, compiled) are looked through.
        x: images (N, C, *size), preprocessed, or several inputs (a dict, a tuple, `Inputs`); moved
            to the network's device and precision.
        target: see `resolve_target`.
        layers: the layers to read.
        gradients: whether a method will ask for gradients; without, the pass keeps no graph.
        attentions: whether a method will ask for the attention of a transformer's blocks.
        masking: the baseline for masked passes, mean colour by default.
        chunk: images in one derived pass; bounds the memory, never changes the result. None finds
            it from the largest layer.
        differentiable: whether features and gradients keep their graph, down to the parameters.

    Yields:
        The view of the whole pass, valid inside the context; `view[layer]` is that of a layer.

    Raises:
        InputError: the images cannot be explained.
        LayerError: a layer does not exist, did not run, or ran twice.
        TargetError: the target does not fit.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> with tracing(net, torch.rand(1, 3, 64, 64), 1, ["block5"]) as trace:
        ...     trace["block5"].activations.shape
        torch.Size([1, 128, 8, 8])
    """
    # fused attention has a first derivative alone
    exact = sdpa_kernel(SDPBackend.MATH) if differentiable else nullcontext()
    model = read_neurons(model, target)
    with exact, open_session(model, x, chunk=chunk, learnable=differentiable) as session:
        named = [Layer.of(layer, session.net) for layer in layers]
        traced = _Traced(attentions=[] if attentions else None, differentiable=differentiable)
        output, resolved, score = _run_once(session, traced, named, target, gradients=gradients)
        with _clearing(traced):
            yield View(session, traced, output, resolved, score, masking or MeanColour())


@contextmanager
def read_recorded_pass(
    model: nn.Module,
    x: InputsLike,
    target: TargetLike,
    *,
    layers: Mapping[Layer, Sequence[Tensor]],
    output: Any,
    masking: Masking | None = None,
    chunk: int | None = None,
) -> Iterator[View]:
    """Let methods read from a pass that the caller ran, in place of one that `tracing` runs.

    The caller's graph is kept: it may be read again.

    Args:
        model: the network, as `tracing` takes it.
        x: the images of the pass.
        target: of the output; see `resolve_target`.
        layers: what each layer gave in the pass, and went on with a copy of; once if it ran once.
        output: what the target scores; gradients are taken in its graph, if it has one.
        masking: the baseline for masked passes, mean colour by default.
        chunk: as `tracing`.

    Yields:
        The view of the pass, as `tracing`.

    Raises:
        LayerError: a layer did not run, or ran twice, or has no map.
        TargetError: the target does not fit.
    """
    with open_session(model, x, chunk=chunk) as session:
        named = [Layer.of(layer, session.net) for layer in layers]
        outputs = [list(parts) for parts in layers.values()]
        traced = _Traced(keeps_graph=True)
        traced.outputs = dict(zip([layer.name for layer in named], outputs, strict=True))
        _fill_layouts(session, traced, named, passes=1)
        resolved, score = _score(session, traced, output, target, gradients=True)
        with _clearing(traced):
            plain = _detach(output)
            yield View(session, traced, plain, resolved, score, masking or MeanColour())


@contextmanager
def _clearing(traced: _Traced) -> Iterator[None]:
    try:
        yield
    finally:
        traced.views.clear()  # they know the pass: a circle that keeps features in memory


@dataclass(eq=False)
class _Traced:
    """What the shared pass left, for all views of it."""

    layers: dict[str, Layer] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    """Of each layer, one for each part of the batch that ran by itself."""
    attentions: list[list[Attention]] | None = None
    """Of each part, one for each block; None if they were not recorded."""
    graph_score: Tensor | None = None
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    attention_gradients: list[list[Tensor | None]] = field(default_factory=list)
    backward_seconds: float = 0.0
    grows: dict[str, bool] = field(default_factory=dict)
    masked: Masked | None = None
    views: dict[tuple[str, ...], View] = field(default_factory=dict)
    keeps_graph: bool = False
    differentiable: bool = False


@final
class Shared:
    """What several methods need of the same features, computed by the first one that asks.

    Attributes:
        saved_seconds: what the others would have taken for it.
    """

    def __init__(self) -> None:
        self.saved_seconds = 0.0
        self._results: dict[str, tuple[Any, float]] = {}

    def compute_once(self, name: str, compute: Callable[[], Any], device: torch.device) -> Any:
        """Return what `compute` gives, or gave.

        Args:
            name: what it is; the same name must always stand for the same numbers.
            compute: makes it from the features alone. Nobody may change the result in place.
            device: where it is computed; the clock waits for it.
        """
        if name in self._results:
            self.saved_seconds += self._results[name][1]
        else:
            begun = seconds_now(device)
            result = compute()
            self._results[name] = result, seconds_now(device) - begun
        return self._results[name][0]


@final
@dataclass(frozen=True, eq=False)
class View:
    """What a method sees: a traced batch at one layer (or at several, joined).

    All tensors are float32 or float64, whatever the network's precision.

    Attributes:
        session: the frozen network and its images.
        traced: what the shared pass left.
        output: the network's unwrapped output on the images.
        target: the resolved target.
        score: (N,) the target's value on the clean images, float32 or better.
        masking: the baseline of masked passes.
        layers: those that are seen; none in the view of the whole pass.
    """

    session: Session
    traced: _Traced
    output: Any
    target: Target
    score: Tensor
    masking: Masking
    layers: tuple[Layer, ...] = ()

    def __getitem__(self, layers: LayerLike | Sequence[LayerLike]) -> View:
        """Return the view of one layer, or of several together."""
        names = tuple(self._name_of(layer) for layer in as_group(layers))
        for name in names:
            if name not in self.traced.layers:
                known = ", ".join(self.traced.layers) or "none"
                raise LayerError(f"Layer {name!r} was not traced (traced: {known}); name it first.")
        views = self.traced.views
        if names not in views:
            views[names] = replace(self, layers=tuple(self.traced.layers[name] for name in names))
        return views[names]  # one for all methods, which share what is computed once

    def _name_of(self, layer: LayerLike) -> str:
        known = isinstance(layer, str) and layer in self.traced.layers
        return str(layer) if known else Layer.of(layer, self.session.net).name

    def of_class_score(self, kind: type[ClassTarget]) -> View:
        """Return the same view with another score of the class explained; other targets stay."""
        if not isinstance(self.target, ClassTarget):
            return self
        target = self.target.restate(kind)
        return replace(self, target=target, score=target(self.output).to(self.score.dtype))

    # --- the pass --------------------------------------------------------------------------------

    @property
    def trace(self) -> View:
        """The pass that is seen, which is this view."""
        return self

    @property
    def images(self) -> Tensor:
        """The explained images (N, C, *size), on the network's device."""
        return self.session.images

    @property
    def size(self) -> Size:
        """(H, W) of the images; (D, H, W) of volumes, (T, H, W) of videos, (T,) of signals."""
        return self.session.size

    @property
    def chunk(self) -> int:
        """Images in one derived pass: as given or found; less once memory ran out."""
        return self.session.chunk

    @property
    def passes(self) -> int:
        """How many images went through the network so far (a backward pass is not counted)."""
        return self.session.passes

    @property
    def parameter_names(self) -> list[str]:
        """Names of the network's parameters; a distillation token, say, is known by its own."""
        return [name for name, _ in self.session.net.named_parameters()]

    def get_module(self, layer: str) -> nn.Module:
        """Return the network's submodule of that name.

        Raises:
            LayerError: there is none.
        """
        return Layer(layer).module_of(self.session.net) or self.session.net

    @property
    def finite(self) -> Tensor:
        """(N,) whether the network gave numbers for an image.

        NaN and plus infinity are none; minus infinity is the logit of a class that cannot be.
        """
        sound = self.score.isfinite()
        if isinstance(self.output, Tensor) and self.output.is_floating_point():
            numbers = self.output.flatten(1) if self.output.ndim > 1 else self.output[:, None]
            sound = sound & ~(numbers.isnan() | numbers.isposinf()).any(1)
        return sound

    def is_rounded_to(self, *dtypes: torch.dtype) -> bool:
        """Whether numbers of the pass were rounded to one of these, by the network or autocast."""
        outputs = [part for parts in self.traced.outputs.values() for part in parts]
        tensors = [self.images, self.output, *outputs]
        return any(isinstance(value, Tensor) and value.dtype in dtypes for value in tensors)

    # --- features, gradients, attention ----------------------------------------------------------

    @property
    def layer(self) -> Layer:
        """The layer, for methods that explain one at a time."""
        if len(self.layers) != 1:
            raise LayerError(f"{len(self.layers)} layers are joined here; explain one at a time.")
        return self.layers[0]

    @cached_property
    def activations(self) -> Float[Tensor, "n k *grid"]:
        """Feature maps A (N, K, *grid); several layers are joined along K at the finest grid.

        Joined layers are first divided by their largest absolute value in the image, or the layer
        with the largest numbers would speak alone.
        """
        features = [
            _to_maps(layer, _join([self._keep(part) for part in self.traced.outputs[layer.name]]))
            for layer in self.layers
        ]
        if len(features) == 1:
            return features[0]
        size = max((size_of(maps) for maps in features), key=math.prod)
        return torch.cat([_scale(maps, size) for maps in features], dim=1)

    @property
    def differentiable(self) -> bool:
        """Whether features and gradients keep their graph, for maps that are trained with."""
        return self.traced.differentiable

    def _keep(self, part: Tensor) -> Tensor:
        return part if self.traced.differentiable else part.detach()

    @property
    def gradients(self) -> Float[Tensor, "n k *grid"]:
        """∂y_c/∂A (N, K, *grid); one backward pass through the tail serves all layers."""
        name = self.layer.name
        self._run_backward(name)
        gradient = self.traced.gradients[name]
        if gradient is None:
            raise _no_gradient(name)
        return _to_maps(self.layer, gradient)

    def differentiate_twice(self) -> tuple[Tensor, Tensor]:
        """Return ∂y_c/∂A and (∂²y_c/∂A²) A, both (N, K, *grid), from one more pass.

        Raises:
            LayerError: the score does not depend on the layer, or an operation after it has no
                second derivative.
        """
        # fused attention has a first derivative alone
        with sdpa_kernel(SDPBackend.MATH), self.trace_variants(self.images) as other:
            name, scale = self.layer.name, _HALF_SCALE if self.is_rounded_to(torch.float16) else 1.0
            score, parts = other.traced.graph_score, other.traced.outputs[name]
            if score is None:
                raise _no_gradient(name)
            weight = torch.full_like(score, scale).requires_grad_()
            found = differentiate(score, parts, weight, create_graph=True)
            if any(gradient is None for gradient in found):
                raise _no_gradient(name)
            first = [gradient for gradient in found if gradient is not None]
            with torch.enable_grad():
                pairs = zip(first, parts, strict=True)
                shares = [upcast(one) * upcast(part.detach()) for one, part in pairs]
                product = torch.stack([share.sum() for share in shares]).sum()
            fault = "an operation's gradient has none"
            second: list[Tensor | None]
            back: Tensor | None
            try:
                *second, back = differentiate(product, [*parts, weight])
            except (RuntimeError, NotImplementedError) as error:
                if out_of_memory(error):
                    raise
                second, back, fault = [None] * len(parts), None, str(error)
            # gradients are linear in the weight, unless one of them was cut from its graph
            reached = 0.0 if back is None else float((upcast(back) * scale).sum())
            whole = float(torch.stack([share.detach().abs().sum() for share in shares]).sum())
            near = 5e-2 if self.is_rounded_to(torch.float16, torch.bfloat16) else 1e-3
            if abs(reached - float(product.detach())) > near * whole:  # not of NaN
                raise LayerError(
                    f"What follows layer {name!r} cannot be differentiated twice ({fault}); use "
                    "gradcam, or a later layer."
                )
            curved = [
                torch.zeros_like(part) if two is None else two
                for two, part in zip(second, parts, strict=True)
            ]
            return tuple(  # type: ignore[return-value]
                _to_maps(self.layer, upcast(_join([part.detach() for part in many]))) / scale
                for many in (first, curved)
            )

    @cached_property
    def shared(self) -> Shared:
        """What methods compute of these layers once for all of them."""
        return Shared()

    @property
    def attentions(self) -> list[Tensor]:
        """Attention probabilities (N, heads, T, T) of every block, the first block first."""
        if self.traced.attentions is None:
            raise LayerError("The pass recorded no attention; trace with attentions=True.")
        parts = [[block.weights for block in part] for part in self.traced.attentions]
        if len({len(part) for part in parts}) > 1:
            return []  # no two images attend alike
        return [_join(blocks) for blocks in zip(*parts, strict=True)]

    @property
    def attention_gradients(self) -> list[Tensor]:
        """∂y_c/∂A of every block, like `attentions`; zeros where y_c does not read it."""
        self._run_backward("attention")
        gradients = zip(*self.traced.attention_gradients, strict=True)
        blocks = zip(*(self.traced.attentions or []), strict=True)
        return [
            _join(
                [
                    torch.zeros_like(block.weights) if gradient is None else gradient
                    for gradient, block in zip(*parts, strict=True)
                ]
            )
            for parts in zip(gradients, blocks, strict=True)
        ]

    def _run_backward(self, name: str) -> None:
        traced = self.traced
        if traced.gradients:
            return
        if traced.graph_score is None:
            raise _no_gradient(name)
        scale = _HALF_SCALE if self.is_rounded_to(torch.float16) else 1.0
        attentions = traced.attentions or []
        outputs = [part for parts in traced.outputs.values() for part in parts]
        sources = [*outputs, *(block.source for part in attentions for block in part)]
        weight = torch.full_like(traced.graph_score, scale)
        begun = seconds_now(self.images.device)
        found = differentiate(
            traced.graph_score,
            sources,
            weight,
            keep_graph=traced.keeps_graph,
            create_graph=traced.differentiable,
        )
        traced.backward_seconds = seconds_now(self.images.device) - begun
        traced.graph_score = None  # the graph is freed, and with it the tail's memory
        rest = iter([None if grad is None else upcast(grad) / scale for grad in found])
        for layer, parts in traced.outputs.items():
            grads = [next(rest) for _ in parts]
            some = [grad for grad in grads if grad is not None]
            traced.gradients[layer] = torch.cat(some) if len(some) == len(grads) else None
        traced.attention_gradients = [
            [None if (grad := next(rest)) is None else block.gradient(grad) for block in part]
            for part in attentions
        ]

    # --- further passes --------------------------------------------------------------------------

    def with_less_memory(self, work: Callable[[], T]) -> T:
        """Do the work, again with half the chunk if memory runs out.

        Raises:
            torch.OutOfMemoryError: (or what says so on a processor) a chunk of one is too many.
        """
        return self.session.with_less_memory(work)

    def run(self, images: Tensor, index: Tensor | None = None) -> Any:
        """Run the network and return its numbers; grad mode is the caller's.

        Args:
            images: (M, C, *size).
            index: (M,) int64, which image each row derives from; not needed if these are variants
                of all images in order, or the network takes images alone.
        """
        return self.session.run(images, index)

    def scores(self, images: Tensor, index: Tensor, target: Target | None = None) -> Tensor:
        """Run the network and score each row by the target of the image it derives from.

        Args:
            images: (M, C, *size), variants of the explained images.
            index: (M,) int64, which image each row derives from.
            target: of the N explained images; the view's own by default.

        Returns:
            (M,) scores, float32 or better, differentiable if gradients are enabled.
        """
        if not len(images):
            return self.score.new_zeros(0)
        chosen = (target or self.target).take(index)
        return upcast(score(chosen, self.session.run_accelerated(images, index), len(images)))

    def masked_scores(self, masks: Tensor, index: Tensor) -> Tensor:
        """Score the images under masks (M, *size) in [0, 1], with this pass's masking."""
        return self.scores(self.apply_masks(masks, index), index)

    def apply_masks(self, masks: Tensor, index: Tensor) -> Tensor:
        """Return the images at `index` (M,) under masks (M, *size), with this pass's masking."""
        if self.traced.masked is None:
            self.traced.masked = self.masking.over(self.images)
        return self.traced.masked(masks, index)

    def tail(self, image: int, edits: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """Score one image with the layer's output replaced, the batch growing at the layer.

        Everything before the layer runs once per chunk, on the one image; where the tail cannot
        grow (it joins earlier features, say) the whole network runs, with the same numbers. As the
        layer's features are small, a chunk may hold more of them than it may hold images.

        Args:
            image: index of the image in the batch.
            edits: gives the replacements (m, K, *grid) for indices (m,) in 0 … count-1.
            count: how many replacements there are.

        Returns:
            (count,) scores.
        """
        tail, steps = self._cut(image, count)
        return torch.cat([tail.score(image, edits(step)) for step in steps])

    def tail_outputs(
        self, image: int, edits: Callable[[Tensor], Tensor], count: int
    ) -> Tensor | None:
        """Return the network's numbers (count, …) with the layer's output replaced, see `tail`.

        None where they are no single tensor, as of a detector.
        """
        tail, steps = self._cut(image, count)
        outputs = [tail.output(image, edits(step)) for step in steps]
        tensors = [output for output in outputs if isinstance(output, Tensor)]
        return upcast(torch.cat(tensors)) if len(tensors) == len(outputs) else None

    def _cut(self, image: int, count: int) -> tuple[Tail, Sequence[Tensor]]:
        """Return what follows the layer, and the numbers of the replacements of each pass."""
        rows = self.chunk
        if not self.session.mixes_images:
            numbers = self.activations[image].numel()
            rows = max(rows, rows * self.images[0].numel() * _TAIL_BUDGET // numbers)
        tail = Tail(
            session=self.session,
            layer=self.layer,
            target=self.target,
            features=self.activations,
            expected=self.score,
            tolerance=3e-2 if self.is_rounded_to(torch.float16, torch.bfloat16) else 1e-3,
            grows=self.traced.grows,
        )
        return tail, torch.arange(count, device=self.images.device).split(rows)

    def rescore(
        self,
        masks: Float[Tensor, "n m *grid"],
        *,
        align_corners: bool = False,
        edit: Callable[[Tensor], Tensor] = lambda grown: grown,
    ) -> Float[Tensor, "n m"]:
        """Score every image under each of its masks: f(x ⊙ n(up(mask)))_c, chunk by chunk.

        A constant mask hides everything, so all of an image's constant masks share one pass.

        Args:
            masks: any values; each is upsampled and stretched to [0, 1] inside the chunk.
            align_corners: as in `maps.upsample`.
            edit: changes the stretched masks (m, *size), each by itself.

        Returns:
            (N, M) scores.
        """
        hidden = is_constant(masks.flatten(0, 1)).view(masks.shape[:2])
        scores = masks.new_zeros(masks.shape[:2])
        for pairs in (~hidden).nonzero().split(self.chunk):
            image, row = pairs.unbind(1)
            found = self.score_maps(
                masks[image, row], image, align_corners=align_corners, edit=edit
            )
            scores[image, row] = found.to(scores.dtype)
        for images in hidden.any(1).nonzero()[:, 0].split(self.chunk):
            nothing = self.images.new_zeros((len(images), *self.size))
            blank = self.masked_scores(edit(nothing), images).to(scores.dtype)
            scores[images] = torch.where(hidden[images], blank[:, None], scores[images])
        return scores

    def score_maps(
        self,
        maps: Float[Tensor, " m *grid"],
        index: Tensor,
        *,
        align_corners: bool = False,
        edit: Callable[[Tensor], Tensor] = lambda grown: grown,
    ) -> Float[Tensor, " m"]:
        """Score the images at `index` (M,) under a map each: f(x ⊙ n(up(map)))_c, in one pass."""
        grown = upsample(maps, self.size, align_corners=align_corners)
        return self.masked_scores(edit(minmax(grown)), index)

    @contextmanager
    def trace_variants(
        self,
        images: Tensor,
        *,
        target: TargetSpec | None = None,
        layers: Sequence[Layer] | None = None,
    ) -> Iterator[View]:
        """Trace variants (N, C, *size) of the same images, with the same masking.

        Args:
            images: the variants.
            target: what is explained; the view's own target by default.
            layers: what is read; the view's own layers by default.
        """
        chosen = self.layers if layers is None else tuple(layers)
        resized = size_of(images) != self.size  # another size has another grid
        with tracing(
            self.session.wrapper,
            self.session.with_images(images),
            target or self.target,
            [Layer(layer.name) for layer in chosen] if resized else chosen,
            gradients=self.traced.graph_score is not None or bool(self.traced.gradients),
            attentions=self.traced.attentions is not None,
            masking=self.masking,
            chunk=self.session.given_chunk,
        ) as view:
            yield view[chosen]
            self.session.passes += view.passes


Trace = View
"""The view of a whole pass, as `tracing` gives it."""


def _run_once(
    session: Session,
    traced: _Traced,
    layers: Sequence[Layer],
    target: TargetLike,
    *,
    gradients: bool,
) -> tuple[Any, Target, Tensor]:
    """Run the network and keep what the layers gave; return output, resolved target and score."""
    net, attentions = session.net, traced.attentions
    session.classes = names_classes(target)
    modules = {layer.name: layer.module_of(net) for layer in layers}
    traced.outputs = {name: [] for name in modules}
    # attention is read from a graph, in which torch takes no short cut past it
    graph = gradients or attentions is not None or traced.differentiable

    def capture(name: str, output: Any) -> Any:
        tensor = first_tensor(output, name)
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise LayerError(
                f"Layer {name!r} runs inside torch.vmap or torch.func, where no images can be "
                "told apart; name a layer outside of it."
            )
        if graph and not tensor.requires_grad and tensor.is_floating_point():
            tensor = tensor.detach().requires_grad_()
        traced.outputs[name].append(tensor)
        # The network goes on with a copy, so that an in-place operation spoils nothing.
        return replace_first(output, tensor.clone())

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        return capture(name, output)

    several = len(session.images) > 1 and session.mixes_images
    parts = session.images.split(1) if several else (session.images,)
    numbers = torch.arange(len(session.images), device=session.images.device).split(len(parts[0]))
    outputs = []
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(graph))
        for name, module in modules.items():
            if module is not None:
                stack.callback(module.register_forward_hook(partial(hook, name)).remove)
        if session.given_chunk is None:
            stack.enter_context(session.measure_layers())
        for part, rows in zip(parts, numbers, strict=True):
            images = part.clone()  # for a network that works in place on its input
            if attentions is not None:
                images = part.detach().requires_grad_().clone()
            for name, module in modules.items():
                if module is None:
                    images = capture(name, images)
            with record_attention(len(part), wanted=attentions is not None) as blocks:
                outputs.append(session.forward(images, rows))
            if attentions is not None:
                attentions.append(blocks)
    memory.check_allocator(session.net, parts[0])
    _fill_layouts(session, traced, layers, passes=len(parts))
    with torch.set_grad_enabled(graph):
        output = session.read(_join_outputs(outputs))
    resolved, clean = _score(session, traced, output, target, gradients=gradients)
    return _detach(output), resolved, clean


def _score(
    session: Session, traced: _Traced, output: Any, target: TargetLike, *, gradients: bool
) -> tuple[Target, Tensor]:
    """Return the resolved target and its score, and keep the graph of the score."""
    resolved = resolve_target(target, _detach(output), session.scores)
    with torch.set_grad_enabled(gradients):
        graph_score = upcast(score(resolved, output, len(session.images)))
    traced.graph_score = graph_score if gradients and graph_score.requires_grad else None
    return resolved, graph_score.detach()


def _fill_layouts(
    session: Session, traced: _Traced, layers: Sequence[Layer], *, passes: int
) -> None:
    """Keep the layers with the layouts of what they gave.

    Raises:
        LayerError: one did not run, ran twice in a pass, or has no map.
    """
    for name, found in traced.outputs.items():
        _check_runs(name, len(found), passes)
    net = session.net
    for layer in layers:
        first = traced.outputs[layer.name][0]
        image = session.images[:1]
        layout = layer.reshape or decide_layout(net, layer.name, first, image, session.call)
        grids = set() if layout else find_grids(net, first, image, session.call)
        traced.layers[layer.name] = Layer(layer.name, layout).fill_layout(
            first, session.size, grids
        )


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


def _to_maps(layer: Layer, tensor: Tensor) -> Tensor:
    assert layer.reshape is not None
    maps = layer.reshape.to_maps(tensor)
    if maps.ndim < 3 or 0 in maps.shape[2:]:  # noqa: PLR2004
        raise LayerError(f"Layer {layer.name!r} gives {tuple(tensor.shape)}: no feature maps.")
    return upcast(maps)


def _scale(maps: Tensor, size: Size) -> Tensor:
    scale = maps.abs().amax((1, *sides_of(maps)), keepdim=True).clamp_min(1e-12)
    return upsample((maps / scale).flatten(0, 1), size).unflatten(0, maps.shape[:2])


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _join_outputs(outputs: Sequence[Any]) -> Any:
    """Return the outputs of images that ran one by one as one output."""
    if len(outputs) == 1:
        return outputs[0]
    if all(isinstance(output, Tensor) for output in outputs):
        return torch.cat(list(outputs))
    return [part for output in outputs for part in output]


def _detach(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, dict):
        return {key: _detach(part) for key, part in output.items()}
    return [_detach(part) for part in output] if isinstance(output, list | tuple) else output

"""What all extractors share: hooks that record the caller's pass, and maps made of it.

An extractor lets methods of the library read the pass that the caller runs: no second one is
needed, and what is explained are the numbers that the caller hands over, in their own graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import (
    EachImage,
    OneTarget,
    ReshapeTransform,
    Transformed,
    read_as_given,
)
from torchsaliency.core.discovery import default_layer
from torchsaliency.core.layer import Layer, LayerLike, as_group, first_tensor, replace_first
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.method import Method, Needs, as_saliency, create
from torchsaliency.core.network import NetworkWrapper, unwrap, unwrap_output
from torchsaliency.core.target import Logit, Target
from torchsaliency.core.trace import View, read_recorded_pass, tracing
from torchsaliency.errors import InputError, OptionError, TargetError
from torchsaliency.registry import load_all

OutputTarget = OneTarget
"""Scores one image: given its row of the output, or its entry in a list."""

Targets = OutputTarget | Sequence[OutputTarget] | None
ClassIndex = int | Sequence[int] | None


C = TypeVar("C", bound="Extractor")


class Extractor:
    """Maps of a network's layers, from passes that the caller runs.

    It is made once, watches the network until it is left as a context, and is called after a pass:
    `scores = model(x); maps = extractor(class_idx, scores)`. In-place operations behind a layer
    change nothing of what is read.

    Args:
        model: any network.
        target_layer: a name, a submodule, or a list of them; None for the default layer.
        input_shape: of one input, with which the default layer is found.
        enable_hooks: whether passes are watched from the beginning.
        reshape_transform: makes feature maps (N, C, *grid) of a layer's output; None where they
            are, or where tokens or channels in last place show how.

    Attributes:
        target_names: the layers' names.
    """

    method_name: ClassVar[str]
    reads_scores: ClassVar[bool] = True
    """Whether what is explained are the scores handed over, and not the network's own output."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: LayerLike | Sequence[LayerLike] | None = None,
        input_shape: Sequence[int] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        load_all()
        self.model, self._net = model, unwrap(model)
        if reshape_transform is not None and target_layer is None:
            raise OptionError("reshape_transform was given without target_layer; name the layer.")
        if target_layer is None:
            layers = [default_layer(model, torch.zeros(1, *input_shape))]
        else:
            layers = [Layer.of(spec, self._net) for spec in as_group(target_layer)]
        if reshape_transform is not None:
            layers = [Layer(layer.name, Transformed(reshape_transform)) for layer in layers]
        if not layers or len({layer.name for layer in layers}) < len(layers):
            raise OptionError(
                f"{len(layers)} target layers were given; give at least one, each once."
            )
        self._layers = layers
        self.batch_size: int | None = None
        self._hooks_enabled = enable_hooks
        self._given: tuple[Any, Any] | None = None
        self._outputs: dict[str, list[Tensor]] = {}
        self._result: Any = None
        self.hook_handles = [
            self._net.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._net.register_forward_hook(self._end),
        ]
        self.hook_handles += [
            (layer.module_of(self._net) or self._net).register_forward_hook(
                partial(self._record, layer.name)
            )
            for layer in layers
        ]

    @property
    def target_names(self) -> list[str]:
        """The layers' names."""
        return [layer.name for layer in self._layers]

    # --- the pass --------------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        if self._hooks_enabled:
            self._given = _keep(args), _keep(kwargs)
            self._outputs = {name: [] for name in self.target_names}
            self._result = None

    def _record(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG002
        if not self._hooks_enabled or name not in self._outputs:
            return output
        tensor = first_tensor(output, name)
        if torch.is_grad_enabled() and not tensor.requires_grad and tensor.is_floating_point():
            tensor = tensor.detach().requires_grad_()
        self._outputs[name].append(tensor)
        # The network goes on with a copy, so that an in-place operation spoils nothing.
        return replace_first(output, tensor.clone())

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        if self._hooks_enabled:
            self._result = output

    def enable_hooks(self) -> None:
        """Watch the passes that come."""
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        """Let passes go by; the last one that was watched stays."""
        self._hooks_enabled = False

    def reset_hooks(self) -> None:
        """Forget the last pass."""
        self._given, self._outputs, self._result = None, {}, None

    def remove_hooks(self) -> None:
        """Watch the network no longer."""
        for handle in self.hook_handles:
            handle.remove()
        self.hook_handles.clear()

    @contextmanager
    def _hooks_off(self) -> Iterator[None]:
        before, self._hooks_enabled = self._hooks_enabled, False
        try:
            yield
        finally:
            self._hooks_enabled = before

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *error: object) -> None:
        """Watch the network no longer, and forget the last pass."""
        self.remove_hooks()
        self.reset_hooks()

    # --- the maps --------------------------------------------------------------------------------

    def __call__(
        self,
        class_idx: ClassIndex = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: Targets = None,
        retain_graph: bool = True,  # noqa: ARG002 (the graph is the caller's, and kept)
    ) -> list[Tensor]:
        """Return the maps (N, *grid) of each layer, of the last pass.

        Args:
            class_idx: a class, or one for each image.
            scores: what is explained, in the graph of the pass; the network's output by default.
                Without a graph they must be its output, and the pass is run again.
            normalized: whether each map is stretched to [0, 1].
            targets: in place of classes, a callable for all images or one for each, given a row of
                the output.
            retain_graph: accepted: the graph is kept as long as the caller keeps the scores.

        Raises:
            InputError: the network has not run.
            TargetError: neither or both of classes and targets are given, or they do not fit.
            LayerError: the scores do not depend on a layer's output in the last pass.
        """
        return self._maps(scores, self._make_target(class_idx, targets), normalized)

    compute_cams = __call__

    def _make_target(self, class_idx: ClassIndex, targets: Targets) -> Target:
        if (class_idx is None) == (targets is None):
            raise TargetError("Give a class, class_idx=, or callables, targets=, and not both.")
        if targets is None:
            return Logit(class_idx)
        count = self._count()
        several = [targets] * count if callable(targets) else list(targets)
        if not all(map(callable, several)):
            raise TargetError("targets must be a callable, or a list with one for each image.")
        return EachImage(tuple(several))

    def _count(self) -> int:
        return len(next(iter(self._require_pass().values()))[0])

    def _require_pass(self) -> Mapping[str, Sequence[Tensor]]:
        if self._given is None or not any(self._outputs.values()):
            raise InputError(
                "The network has not run since the extractor was made; call model(x) first, with "
                "its hooks enabled."
            )
        return self._outputs

    def _maps(self, scores: Any, target: Target, normalized: bool) -> list[Tensor]:
        """Return each layer's maps, raw or stretched."""
        method = self._make_method()
        with self._hooks_off(), self._view(method, scores, target) as view:
            views = [view[name] for name in self.target_names]
            raws = [
                view.with_less_memory(lambda one=one: as_saliency(method.saliency(one)).raw)  # type: ignore[misc]
                for one in views
            ]
        return [minmax(raw) if normalized else raw for raw in raws]

    def _make_method(self) -> Method:
        return create(self.method_name, self._options())

    def _options(self) -> Mapping[str, Any]:
        return {}

    def _given_inputs(self) -> tuple[NetworkWrapper, Any]:
        """Return the network and what it was given in the last pass."""
        assert self._given is not None
        args, kwargs = self._given
        x = (args if len(args) > 1 else args[0]) if args else kwargs
        model: NetworkWrapper = read_as_given(self.model)
        return (NetworkWrapper(model, forward_kwargs=kwargs) if args and kwargs else model), x

    @contextmanager
    def _view(self, method: Method, scores: Any, target: Target) -> Iterator[View]:
        """View the caller's pass, or the same once more if it kept no graph and one is needed."""
        outputs = self._require_pass()
        model, x = self._given_inputs()
        own = unwrap_output(self._result)
        output = own if scores is None or not self.reads_scores else scores
        graph = Needs.GRADIENTS in method.entry.needs
        if not graph or _carries_graph(output):
            layers = {layer: outputs[layer.name] for layer in self._layers}
            with read_recorded_pass(
                model, x, target, layers=layers, output=output, chunk=self.batch_size
            ) as view:
                yield view
            return
        if output is not own and not _are_equal(output, own):
            raise TargetError(
                "The scores carry no graph and are not what the network gave in its last pass; run "
                "it with gradients enabled, or give targets= of its own output."
            )
        with tracing(model, x, target, self._layers, chunk=self.batch_size) as view:
            yield view

    # --- several layers --------------------------------------------------------------------------

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: Sequence[int] | None = None) -> Tensor:
        """Return the maximum of the layers' maps, resized linearly.

        Args:
            cams: maps (N, *grid) of each layer.
            target_shape: the size; that of the largest map by default.

        Raises:
            TypeError: these are no maps.
            InputError: there are none.
        """
        size = require_cams(cams, target_shape)
        if len(cams) == 1:
            return cams[0]
        return torch.stack([upsample(cls._scale(cam), size) for cam in cams]).amax(0)

    @staticmethod
    def _scale(cam: Tensor) -> Tensor:
        return cam

    def _extra_repr(self) -> str:
        return f"target_layer={self.target_names}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._extra_repr()})"


def require_cams(cams: Any, target_shape: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the size to which maps are brought: the given one, or that of the largest.

    Raises:
        TypeError: they are no list of tensors.
        InputError: there are none.
    """
    if not isinstance(cams, list) or not all(isinstance(cam, Tensor) for cam in cams):
        raise TypeError(
            f"Maps are a list of tensors (N, *grid), and a {type(cams).__name__} was given."
        )
    if not cams:
        raise InputError("No map was given; give those of one layer at least.")
    if target_shape is not None:
        return tuple(target_shape)
    return tuple(max(sides) for sides in zip(*[cam.shape[1:] for cam in cams], strict=True))


def _keep(given: Any) -> Any:
    """Return inputs free of any graph and of what is done to them in place."""
    if isinstance(given, Tensor):
        return given.detach().clone()
    if isinstance(given, tuple):
        return tuple(_keep(part) for part in given)
    if isinstance(given, dict):
        return {name: _keep(part) for name, part in given.items()}
    return given


def _carries_graph(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    parts = output.values() if isinstance(output, Mapping) else output
    return isinstance(output, Mapping | Sequence) and any(map(_carries_graph, parts))


def _are_equal(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and one.shape == other.shape and bool(torch.equal(one.detach(), other.detach()))

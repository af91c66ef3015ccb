"""Attribution to a layer: its activations, gradients and integrals, Grad-CAM, and stretching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.compat._shared import EachImage
from torchsaliency.compat.captum.attr.base import (
    Answer,
    Attribution,
    Baselines,
    Given,
    Question,
    Targets,
    ask,
    find_delta,
    read_baselines,
    refuse,
    require_gauss_legendre,
    require_multiplied,
)
from torchsaliency.core.layer import Layer
from torchsaliency.core.method import create
from torchsaliency.core.network import unwrap
from torchsaliency.core.space import add_sides
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import LayerError, OptionError
from torchsaliency.methods.attribution.layers import find_conductance, integrate_layer, read_layer
from torchsaliency.methods.passes import images_of


class LayerAttribution(Attribution):
    """A class that explains by a layer's features.

    Args:
        forward_func: a network.
        layer: one of its modules, or its name.
        device_ids: nothing is made of it.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | str, device_ids: Any = None
    ) -> None:
        super().__init__(forward_func)
        del device_ids
        net = unwrap(self._network)
        self.layer = (
            net.get_submodule(Layer.of(layer, net).name) if isinstance(layer, str) else layer
        )

    @staticmethod
    def interpolate(
        layer_attribution: Tensor,
        interpolate_dims: int | tuple[int, ...],
        interpolate_mode: str = "nearest",
    ) -> Tensor:
        """Return attributions (N, C, *grid) stretched to a size, by torch's interpolation."""
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)

    @contextmanager
    def _look(self, asked: Question, *, to_input: bool) -> Iterator[View]:
        """View the network, of whose layer the output is read, and not the input."""
        if to_input:
            raise refuse(
                "attribute_to_layer_input", True, "name the layer before, whose output it is"
            )
        target = EachImage(asked.functions)
        handle = self.layer.register_forward_hook(_require_one)
        try:
            with tracing(asked.model, asked.x, target, gradients=False, chunk=asked.chunk) as view:
                yield view
        finally:
            handle.remove()

    def _read(self, asked: Question, *, to_input: bool) -> tuple[Tensor, Tensor]:
        """Return what the layer gives, and the gradient of the score there."""
        with self._look(asked, to_input=to_input) as view:
            found, slopes = read_layer(view, self.layer, images_of(view))
        return found.to(asked.images), slopes.to(asked.images)

    def _contributions(self, asked: Question, *, to_input: bool) -> Tensor:
        """Return what each channel adds to the map, (N, C, *grid)."""
        features, slopes = self._read(asked, to_input=to_input)
        weights = slopes.flatten(2).mean(2) if slopes.ndim > 2 else slopes  # noqa: PLR2004
        return add_sides(weights, features) * features


def _require_one(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
    """Refuse a layer that gives several tensors, of which one alone would be explained."""
    parts = output.values() if isinstance(output, dict) else output
    if isinstance(parts, Tensor) or not isinstance(parts, Iterable):
        return
    if sum(isinstance(part, Tensor) for part in parts) > 1:
        raise LayerError(
            f"A {type(module).__name__} gives several tensors, and a layer's attributions are of "
            "one; choose a module inside it."
        )


@final
class LayerActivation(LayerAttribution):
    """What the layer gives."""

    _multiplies = True

    def attribute(
        self,
        inputs: Given,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor:
        """Return A, (N, …)."""
        asked = ask(self._network, inputs, None, additional_forward_args, layer=self.layer)
        asked = replace(asked, functions=(_sum,) * len(asked.images))
        with self._look(asked, to_input=attribute_to_layer_input) as view:
            found: Tensor = view.output
        return found.to(asked.images)


def _sum(row: Tensor) -> Tensor:
    return row.sum()


@final
class LayerGradientXActivation(LayerAttribution):
    """What the layer gives times the gradient there.

    Args:
        forward_func: a network.
        layer: one of its modules, or its name.
        device_ids: nothing is made of it.
        multiply_by_inputs: False for the gradient alone.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        device_ids: Any = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiplied = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the gradient is multiplied by what the layer gives."""
        return self._multiplied

    def attribute(
        self,
        inputs: Given,
        target: Targets = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: None = None,
    ) -> Tensor:
        """Return A ⊙ ∂y/∂A, (N, …)."""
        del grad_kwargs
        asked = ask(self._network, inputs, target, additional_forward_args)
        found, slopes = self._read(asked, to_input=attribute_to_layer_input)
        return found * slopes if self._multiplied else slopes


class _OfPath(LayerAttribution):
    """A class that goes from a baseline to the image, and adds up to y(x) - y(b).

    Args:
        forward_func: a network.
        layer: one of its modules, or its name.
        device_ids: nothing is made of it.
        multiply_by_inputs: True.
    """

    _complete = _multiplies = True
    _integrate: Callable[[View, nn.Module, Tensor, int], Tensor]

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        device_ids: Any = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        require_multiplied(multiply_by_inputs)

    def attribute(  # noqa: PLR0913, PLR0917 (captum's arguments)
        self,
        inputs: Given,
        baselines: Baselines = None,
        target: Targets = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: None = None,
    ) -> Answer:
        """Return what each number of the layer adds (N, …), and perhaps Σ - (y(x) - y(b)) (N,).

        Raises:
            OptionError: another quadrature, or the layer's input is asked for.
        """
        require_gauss_legendre(method)
        del grad_kwargs
        asked = ask(self._network, inputs, target, additional_forward_args, internal_batch_size)
        base = read_baselines(baselines, asked.images)
        with self._look(asked, to_input=attribute_to_layer_input) as view:
            start = base.to(images_of(view)).expand_as(images_of(view))
            found = type(self)._integrate(view, self.layer, start, n_steps).to(asked.images)
        if not return_convergence_delta:
            return found
        return found, find_delta(asked, found, base).to(found)


@final
class LayerIntegratedGradients(_OfPath):
    """Integrated gradients from what the layer gives of the baseline to what it gives of x."""

    _integrate = staticmethod(integrate_layer)


@final
class LayerConductance(_OfPath):
    """Conductance: integrated gradients of the image, as they flow through the layer.

    The trapezoidal rule over `n_steps` equal steps from the baseline itself to the image itself.
    """

    _integrate = staticmethod(find_conductance)


@final
class LayerGradCam(LayerAttribution):
    """Grad-CAM at the layer's own size, with signs unless they are to be cut."""

    def attribute(
        self,
        inputs: Given,
        target: Targets = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: None = None,
    ) -> Tensor:
        """Return Σ_k w_k A_k (N, 1, *grid), or its summands (N, C, *grid).

        Args:
            inputs: the images.
            target: the score.
            additional_forward_args: what else the network takes.
            attribute_to_layer_input: False.
            relu_attributions: whether what is below 0 becomes 0.
            attr_dim_summation: False for the summands.
            grad_kwargs: None.
        """
        del grad_kwargs
        asked = ask(self._network, inputs, target, additional_forward_args)
        found = self._contributions(asked, to_input=attribute_to_layer_input)
        found = found.sum(1, keepdim=True) if attr_dim_summation else found
        return found.relu() if relu_attributions else found


@final
class GuidedGradCam(LayerAttribution):
    """Guided backpropagation times the stretched Grad-CAM.

    Args:
        model: a network.
        layer: one of its modules, or its name.
        device_ids: nothing is made of it.
    """

    def __init__(self, model: nn.Module, layer: nn.Module | str, device_ids: Any = None) -> None:
        super().__init__(model, layer, device_ids)

    def attribute(
        self,
        inputs: Given,
        target: Targets = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Answer:
        """Return the product (N, C, *size).

        Raises:
            OptionError: the layer's features have another number of sides.
        """
        asked = ask(self._network, inputs, target, additional_forward_args)
        parts = self._contributions(asked, to_input=attribute_to_layer_input)
        if parts.ndim != asked.images.ndim:
            raise OptionError(
                f"The layer's features are {tuple(parts.shape)} and the images "
                f"{tuple(asked.images.shape)}; choose a layer with positions."
            )
        cam = parts.sum(1, keepdim=True).relu()
        cam = self.interpolate(cam, tuple(asked.images.shape[2:]), interpolate_mode)
        return asked.answer(asked.attribute(create("guided-backprop")) * cam)

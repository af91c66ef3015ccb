"""Attribution of a neuron of a layer to the image, in the place of a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any, ClassVar, final

from torch import Tensor, nn

from torchsaliency.compat._shared import OneTarget
from torchsaliency.compat.captum.attr.base import (
    Answer,
    Attribution,
    Baselines,
    Given,
    ask,
    read_baselines,
    refuse,
    require_gauss_legendre,
    require_multiplied,
)
from torchsaliency.core.method import create

Selector = int | tuple[int | slice, ...] | Callable[..., Tensor]
"""A place in what the layer gives for an image, slices of which are summed; or a function of what
it gives for a batch, one number an image."""


class NeuronAttribution(Attribution):
    """A class that explains a neuron.

    Args:
        forward_func: a network.
        layer: one of its modules, in what it gives the neuron lies.
        device_ids: nothing is made of it.
    """

    _method: ClassVar[str]

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | str, device_ids: Any = None
    ) -> None:
        super().__init__(forward_func)
        del device_ids
        self.layer = layer

    def _attribute(
        self,
        inputs: Given,
        selector: Selector,
        more: Any,
        *,
        to_input: bool,
        chunk: int | None = None,
        baselines: Baselines = None,
        options: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Return the attributions of the neuron by the library's method."""
        if to_input:
            raise refuse("attribute_to_neuron_input", True, "name the layer before")
        asked = ask(self._network, inputs, None, more, chunk, self.layer)
        asked = replace(asked, functions=(_read_neuron(selector),) * len(asked.images))
        base = read_baselines(baselines, asked.images)
        return asked.answer(asked.attribute(create(self._method, options or {}), base))


def _read_neuron(selector: Selector) -> OneTarget:
    """Return what gives the neuron of one image's part of the layer's output."""
    if callable(selector):
        return lambda row: selector(row[None])
    places = selector if isinstance(selector, tuple) else (selector,)
    if any(isinstance(place, slice) for place in places):
        return lambda row: row[places].sum()
    return itemgetter(places)


class _Plain(NeuronAttribution):
    def attribute(
        self,
        inputs: Given,
        neuron_selector: Selector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Answer:
        """Return the attributions (N, C, *size)."""
        return self._attribute(
            inputs, neuron_selector, additional_forward_args, to_input=attribute_to_neuron_input
        )


@final
class NeuronGradient(_Plain):
    """The gradient of a neuron."""

    _method = "saliency"


@final
class NeuronGuidedBackprop(_Plain):
    """Guided backpropagation from a neuron."""

    _method = "guided-backprop"


@final
class NeuronDeconvolution(_Plain):
    """DeconvNet from a neuron."""

    _method = "deconvnet"


@final
class NeuronIntegratedGradients(NeuronAttribution):
    """Integrated gradients of a neuron.

    Args:
        forward_func: a network.
        layer: one of its modules, in what it gives the neuron lies.
        device_ids: nothing is made of it.
        multiply_by_inputs: True.
    """

    _method, _multiplies = "integrated-gradients", True

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
        neuron_selector: Selector,
        baselines: Baselines = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
    ) -> Answer:
        """Return (x - b) ⊙ ∫ ∂a/∂x, a the neuron, (N, C, *size).

        Raises:
            OptionError: another quadrature, or the neuron's input is asked for.
        """
        require_gauss_legendre(method)
        return self._attribute(
            inputs,
            neuron_selector,
            additional_forward_args,
            to_input=attribute_to_neuron_input,
            chunk=internal_batch_size,
            baselines=baselines,
            options={"steps": n_steps},
        )

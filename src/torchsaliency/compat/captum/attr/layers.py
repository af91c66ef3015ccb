"""Attribution to a layer: Grad-CAM, its product with guided backpropagation, and stretching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.compat._shared import EachImage
from torchsaliency.compat.captum.attr.base import (
    Answer,
    Attribution,
    Given,
    Question,
    Targets,
    ask,
    refuse,
)
from torchsaliency.core.layer import Layer
from torchsaliency.core.method import create
from torchsaliency.core.trace import tracing
from torchsaliency.errors import OptionError
from torchsaliency.methods.cam.gradient import GradCAM


class LayerAttribution(Attribution):
    """A class that explains by a layer's features.

    Args:
        forward_func: a network.
        layer: one of its modules.
        device_ids: nothing is made of it.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: Any = None
    ) -> None:
        super().__init__(forward_func)
        del device_ids
        self.layer = layer

    @staticmethod
    def interpolate(
        layer_attribution: Tensor,
        interpolate_dims: int | tuple[int, ...],
        interpolate_mode: str = "nearest",
    ) -> Tensor:
        """Return attributions (N, C, *grid) stretched to a size, by torch's interpolation."""
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)

    def _contributions(self, asked: Question, *, to_layer_input: bool) -> Tensor:
        """Return what each channel adds to the map, (N, C, *grid)."""
        if to_layer_input:
            raise refuse(
                "attribute_to_layer_input", True, "name the layer before, whose output it is"
            )
        target = EachImage(asked.functions)
        layer = Layer.of(self.layer, self._network)
        with tracing(asked.model, asked.x, target, [layer]) as view:
            return GradCAM().contributions(view[[layer.name]]).detach().to(asked.images)


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
    ) -> Tensor:
        """Return Σ_k w_k A_k (N, 1, *grid), or its summands (N, C, *grid).

        Args:
            inputs: the images.
            target: the score.
            additional_forward_args: what else the network takes.
            attribute_to_layer_input: False.
            relu_attributions: whether what is below 0 becomes 0.
            attr_dim_summation: False for the summands.
        """
        asked = ask(self._network, inputs, target, additional_forward_args)
        found = self._contributions(asked, to_layer_input=attribute_to_layer_input)
        found = found.sum(1, keepdim=True) if attr_dim_summation else found
        return found.relu() if relu_attributions else found


@final
class GuidedGradCam(LayerAttribution):
    """Guided backpropagation times the stretched Grad-CAM.

    Args:
        model: a network.
        layer: one of its modules.
        device_ids: nothing is made of it.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: Any = None) -> None:
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
        parts = self._contributions(asked, to_layer_input=attribute_to_layer_input)
        if parts.ndim != asked.images.ndim:
            raise OptionError(
                f"The layer's features are {tuple(parts.shape)} and the images "
                f"{tuple(asked.images.shape)}; choose a layer with positions."
            )
        cam = parts.sum(1, keepdim=True).relu()
        cam = self.interpolate(cam, tuple(asked.images.shape[2:]), interpolate_mode)
        return asked.answer(asked.attribute(create("guided-backprop")) * cam)

"""Guided backpropagation of one image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import Array, read_as_given, to_numpy
from torchsaliency.core.target import Logit
from torchsaliency.core.trace import tracing
from torchsaliency.errors import InputError
from torchsaliency.methods.propagation import GuidedBackprop


class GuidedBackpropReLUModel:
    """The gradient of a class, in which only positive parts pass a ReLU: `guided-backprop`.

    No module is exchanged: ReLU in the place of its input, used twice, or called as a function is
    seen, too.

    Args:
        model: any network with a ReLU.
        device: where it is put; None leaves it where it is.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        self.model = model if device is None else model.to(device)

    def __call__(self, input_img: Tensor, target_category: int | None = None) -> Array:
        """Return the gradient (H, W, C) of one image.

        Args:
            input_img: (1, C, H, W).
            target_category: the class; None for that of the largest output.

        Raises:
            InputError: several images.
            LayerError: the network has no ReLU.
        """
        if len(input_img) != 1:
            raise InputError(
                f"{len(input_img)} images were given; give one, (1, C, H, W), or use "
                'torchsaliency.explain(model, x, "guided-backprop").'
            )
        with tracing(read_as_given(self.model), input_img, Logit(target_category)) as view:
            found = GuidedBackprop().attributions(view)
        return to_numpy(found[0].movedim(0, -1))

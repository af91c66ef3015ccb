"""Maps as Quantus asks for them: of the library's methods, or of a user's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import Array, to_numpy
from torchsaliency.core.explain import explain as explain_images
from torchsaliency.core.maps import Normalisation
from torchsaliency.core.method import Method, MethodEntry, Needs, Saliency, create, require_signs
from torchsaliency.core.trace import View
from torchsaliency.errors import InputError, OptionError

ExplainFunction = Callable[..., Array]
"""Called with model, inputs and targets; returns maps (N, 1, *size) or (N, *size)."""

CAPTUM_NAMES = {
    "Saliency": "saliency",
    "InputXGradient": "input-x-gradient",
    "IntegratedGradients": "integrated-gradients",
    "GradientShap": "gradientshap",
    "DeepLift": "deeplift",
    "DeepLiftShap": "deepshap",
    "Deconvolution": "deconvnet",
    "Occlusion": "occlusion",
    "FeatureAblation": "feature-ablation",
    "LayerGradCam": "gradcam",
}
"""Methods that Quantus calls by captum's names."""


def explain(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    method: str = "saliency",
    layer: Any = None,
    signed: bool = False,
    device: Any = None,
    **options: Any,
) -> Array:
    """Return maps (N, 1, *size) of a method, as Quantus wants them of an `explain_func`.

    Args:
        model: the network.
        inputs: images (N, C, *size), as an array or a tensor.
        targets: a class of each image.
        method: its name here, or captum's.
        layer: as `torchsaliency.explain` takes it.
        signed: whether what speaks against the class is below 0; else maps are in [0, 1].
        device: images are moved to the network's.
        options: of the method.

    Raises:
        OptionError: there is no such method or option, or the method has no signs.
    """
    del device
    options.pop("xai_lib", None)
    chosen = create(CAPTUM_NAMES.get(method, method), options)
    labels = torch.as_tensor(np.asarray(targets)).long()
    images = torch.as_tensor(np.asarray(inputs)).float()
    found = explain_images(model, images, {"it": chosen}, labels, layer)["it"]
    if not signed:
        return to_numpy(found.map[:, None])
    require_signs(chosen)
    assert found.signed is not None
    return to_numpy(found.signed[:, None])


@final
@dataclass(frozen=True, eq=False)
class GivenFunction(Method):
    """Maps of a user's function, of whatever images and networks a measure shows it."""

    joint: ClassVar[bool] = True

    function: ExplainFunction | None
    arguments: Mapping[str, Any]
    absolute: bool
    normalisation: Normalisation

    def __post_init__(self) -> None:
        entry = MethodEntry("explain_func", GivenFunction, "attribution", "given", Needs.TARGET)
        object.__setattr__(self, "entry", entry)  # frozen, and set once

    def saliency(self, view: View) -> Saliency:
        """Return what the function gives, or its absolute values."""
        if self.function is None:
            raise OptionError(
                "This metric explains changed images or networks again; give explain_func, such as "
                "torchsaliency.compat.quantus.explain."
            )
        labels = view.target.labels  # type: ignore[attr-defined]
        found = self.function(
            model=view.session.net,
            inputs=to_numpy(view.images),
            targets=labels.cpu().numpy(),
            **self.arguments,
        )
        maps = read_maps(found, tuple(view.images.shape)).to(view.images.device)
        raw = maps.abs() if self.absolute else maps
        if self.normalisation == "max":
            require_positive(raw)
        return Saliency(raw, attributions=maps[:, None])


def read_maps(found: Any, shape: tuple[int, ...]) -> Tensor:
    """Return maps (N, *size) of an array, for images of a shape.

    Raises:
        InputError: they do not fit the images.
    """
    maps = torch.as_tensor(np.array(found)).float()
    if maps.ndim == len(shape) and maps.shape[1] == 1:
        maps = maps[:, 0]
    if tuple(maps.shape) != (shape[0], *shape[2:]):
        raise InputError(
            f"Maps of {tuple(np.shape(found))} were given for images of {shape}; give one number a "
            "pixel, (N, 1, …), such as a sum over the colours."
        )
    return maps


def require_positive(maps: Tensor) -> None:
    """Refuse maps with values below 0."""
    if bool((maps < 0).any()):
        raise OptionError(
            "The maps have negative values, and this metric reads how much each pixel counts; "
            "give abs=True, or maps without signs."
        )

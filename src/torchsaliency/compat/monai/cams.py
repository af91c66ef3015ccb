"""MONAI's `visualize.GradCAM`, `GradCAMpp` and `CAM`, in two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.maps import minmax
from torchsaliency.core.method import ChannelCAM, create
from torchsaliency.core.network import NetworkWrapper
from torchsaliency.core.target import Logit
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import LayerError

Resize = Callable[[Tensor], Tensor]
"""Stretches maps (N, 1, *grid) to the images' size."""

Labels = None | int | Sequence[int] | Tensor
"""A class of all images, or one of each; None for the best scored of each."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def default_upsampler(spatial_size: Sequence[int], align_corners: bool = False) -> Resize:
    """Return what stretches maps linearly to a size."""
    size = tuple(spatial_size)

    def stretch(maps: Tensor) -> Tensor:
        return F.interpolate(maps, size, mode=_LINEAR[len(size)], align_corners=align_corners)

    return stretch


def default_normalizer(x: Tensor) -> Tensor:
    """Return each image's maps (N, 1, *size) turned round: 0 at the largest, 1 at the smallest.

    A map without differences becomes 1: nothing in it is important.
    """
    return 1 - minmax(x.flatten(1)).view_as(x)


@final
class _Explained:
    """A network, and the classes that were last explained.

    Attributes:
        model: the network.
        class_idx: the class of each image, or None.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.class_idx: Tensor | None = None

    def get_wrapped_net(self) -> nn.Module:
        """Return the network."""
        return self.model


class _Maps:
    """A class activation map of a layer.

    Args:
        nn_module: the network.
        target_layers: the layer's name, or several.
        upsampler: makes, of the images' size, what stretches maps to it.
        postprocessing: of the stretched maps.
        register_backward: nothing is made of it.
    """

    _method: ClassVar[str] = ""

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str | Sequence[str],
        upsampler: Callable[..., Resize] = default_upsampler,
        postprocessing: Callable[[Tensor], Any] = default_normalizer,
        register_backward: bool = True,
    ) -> None:
        del register_backward
        self.nn_module = _Explained(nn_module)
        self.target_layers = (
            (target_layers,) if isinstance(target_layers, str) else tuple(target_layers)
        )
        self.upsampler, self.postprocessing = upsampler, postprocessing

    def compute_map(
        self,
        x: Tensor,
        class_idx: Labels = None,
        retain_graph: bool = False,
        layer_idx: int = -1,
        **kwargs: Any,
    ) -> Tensor:
        """Return the maps at the layer's own size (N, 1, *grid), not stretched.

        Args:
            x: images (N, C, *size).
            class_idx: the class; the best scored of each image by default.
            retain_graph: nothing is kept.
            layer_idx: which of several layers.
            kwargs: of the network's forward.
        """
        del retain_graph
        with self._trace(x, class_idx, layer_idx, kwargs) as view:
            return self._map(view)

    def feature_map_size(
        self, input_size: Sequence[int], device: Any = "cpu", layer_idx: int = -1, **kwargs: Any
    ) -> torch.Size:
        """Return the shape of the maps of images of a shape."""
        images = torch.zeros(*input_size, device=device)
        return self.compute_map(images, layer_idx=layer_idx, **kwargs).shape

    def __call__(
        self,
        x: Tensor,
        class_idx: Labels = None,
        layer_idx: int = -1,
        retain_graph: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the maps (N, 1, *size), stretched and processed; see `compute_map`."""
        maps = self.compute_map(x, class_idx, retain_graph, layer_idx, **kwargs)
        return self.postprocessing(self.upsampler(x.shape[2:])(maps))

    @contextmanager
    def _trace(
        self, x: Tensor, class_idx: Labels, layer_idx: int, kwargs: dict[str, Any]
    ) -> Iterator[View]:
        labels = class_idx
        if isinstance(labels, Sequence) and len(labels) == 1:  # one for all, as in MONAI's
            labels = labels[0]
        name = self.target_layers[layer_idx]
        network = NetworkWrapper(
            self.nn_module.model, scores="regression", forward_kwargs=kwargs or None
        )
        gradients = self._method != ""
        with tracing(network, x, Logit(labels), [name], gradients=gradients) as view:
            self.nn_module.class_idx = view.target.labels  # type: ignore[attr-defined]
            yield view[[name]]

    def _map(self, view: View) -> Tensor:
        method = create(self._method)
        assert isinstance(method, ChannelCAM)
        return method.contributions(view).sum(1, keepdim=True).relu().detach()


@final
class GradCAM(_Maps):
    """Grad-CAM, each image by its own class."""

    _method = "gradcam"


@final
class GradCAMpp(_Maps):
    """Grad-CAM++, each image by its own class."""

    _method = "gradcam++"


@final
class CAM(_Maps):
    """The classifier at every position of the layer before its pooling.

    Args:
        nn_module: the network.
        target_layers: the layer's name, or several.
        fc_layers: the classifier's name, or a function that returns it.
        upsampler: makes, of the images' size, what stretches maps to it.
        postprocessing: of the stretched maps.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str | Sequence[str],
        fc_layers: str | Callable[[nn.Module], nn.Module] = "fc",
        upsampler: Callable[..., Resize] = default_upsampler,
        postprocessing: Callable[[Tensor], Any] = default_normalizer,
    ) -> None:
        super().__init__(nn_module, target_layers, upsampler, postprocessing)
        self.fc_layers = fc_layers

    def compute_map(  # type: ignore[override]
        self, x: Tensor, class_idx: Labels = None, layer_idx: int = -1, **kwargs: Any
    ) -> Tensor:
        """Return the class's scores at each position (N, 1, *grid), with their signs.

        Args:
            x: images (N, C, *size).
            class_idx: the class; the best scored of each image by default.
            layer_idx: which of several layers.
            kwargs: of the network's forward.

        Raises:
            LayerError: there is no such classifier, or it does not take the layer's features.
        """
        with self._trace(x, class_idx, layer_idx, kwargs) as view:
            features, classify = view.activations, self._find_classifier()
            try:
                with torch.no_grad():
                    scores = classify(features.movedim(1, -1).flatten(0, -2))
            except RuntimeError as error:
                raise LayerError(
                    f"fc_layers {self.fc_layers!r} does not take the {features.shape[1]} channels "
                    f"of {view.layers[0]} ({error}); name the layer before its pooling."
                ) from error
            grid = features.shape[2:]
            rows = scores.unflatten(0, (len(features), math.prod(grid)))
            labels = view.target.labels.view(-1, 1, 1).expand(-1, rows.shape[1], 1)  # type: ignore[attr-defined]
            return rows.gather(2, labels).view(len(x), 1, *grid)

    def __call__(  # type: ignore[override]
        self, x: Tensor, class_idx: Labels = None, layer_idx: int = -1, **kwargs: Any
    ) -> Any:
        """Return the maps (N, 1, *size), stretched and processed; see `compute_map`."""
        maps = self.compute_map(x, class_idx, layer_idx, **kwargs)
        return self.postprocessing(self.upsampler(x.shape[2:])(maps))

    def _find_classifier(self) -> nn.Module:
        if callable(self.fc_layers):
            return self.fc_layers(self.nn_module.model)
        try:
            return self.nn_module.model.get_submodule(self.fc_layers)
        except AttributeError:
            raise LayerError(
                f"fc_layers is {self.fc_layers!r}, which the network does not have; name the "
                "linear layer after its pooling, or give a function of the network."
            ) from None

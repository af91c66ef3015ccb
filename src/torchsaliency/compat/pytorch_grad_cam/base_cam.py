"""`BaseCAM`: made once for a network and its layers, called on batches, NumPy maps returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import (
    Array,
    EachImage,
    OneTarget,
    ReshapeTransform,
    read_as_given,
    to_numpy,
)
from torchsaliency.compat.pytorch_grad_cam._levels import JoinedLevels
from torchsaliency.core.layer import Layer
from torchsaliency.core.maps import Fusion, fuse
from torchsaliency.core.method import METHODS, Method, Needs, as_saliency, create
from torchsaliency.core.network import unwrap
from torchsaliency.core.space import add_sides
from torchsaliency.core.target import Logit, Target, TargetSpec
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import InputError, OptionError
from torchsaliency.methods.smoothing import smooth
from torchsaliency.methods.tucker.spectrum import orient, spectrum
from torchsaliency.registry import load_all

Targets = Sequence[OneTarget] | TargetSpec | None


C = TypeVar("C", bound="BaseCAM")


class BaseCAM:
    """A class activation map of one network: S = ReLU(Σ_k w_k ⊙ A_k), as pytorch-grad-cam makes it.

    The map of each layer is stretched to [0, 1], resized to the image, averaged over the layers and
    stretched again. The network is not changed, whatever happens.

    A subclass either names a method of the library, or writes `get_cam_weights` or `get_cam_image`
    in NumPy.

    Args:
        model: any network.
        target_layers: its submodules (or names) whose outputs are read.
        reshape_transform: makes feature maps (N, C, *grid) of a layer's output; None where they
            are, or where tokens or channels in last place show how.
        compute_input_gradient: accepted, as graphs begin where they are needed.
        uses_gradients: whether a method written as a subclass reads gradients.
        tta_transforms: what `aug_smooth` does, each with `augment_image` and `deaugment_mask`, as
            ttach has them; by default the image times 1, 0.9 and 1.1, and its mirror image.
        detach: True, as maps are numbers; for maps that keep their graph use
            `torchsaliency.explain` with `differentiable=True`.

    Raises:
        OptionError: `detach` is False, or no layer, or one twice.

    Attributes:
        outputs: what the network gave for the last batch, detached.
        batch_size: images in one further pass; None finds it. It changes no map.
    """

    method_name: ClassVar[str | None] = None
    smoothable: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = True
    """Whether maps are of the target layers, and not of the whole network."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        compute_input_gradient: bool = False,  # noqa: ARG002
        uses_gradients: bool = True,
        tta_transforms: Any = None,
        detach: bool = True,
    ) -> None:
        if not detach:
            raise OptionError(
                "detach=False was given, and maps are numbers without a graph here; for maps to "
                "train with use torchsaliency.explain(…, differentiable=True)."
            )
        load_all()
        if isinstance(target_layers, str) or (
            isinstance(target_layers, nn.Module) and not isinstance(target_layers, Iterable)
        ):
            raise OptionError(
                f"target_layers is a {type(target_layers).__name__}; give a list of layers, such "
                "as [model.layer4]."
            )
        self.model = model
        self.target_layers = list(target_layers) if self.reads_layers else []
        self.reshape_transform = reshape_transform
        self.uses_gradients, self.tta_transforms = uses_gradients, tta_transforms
        self.outputs: Any = None
        self.batch_size: int | None = None
        net = unwrap(model)
        self._names = [Layer.of(spec, net).name for spec in self.target_layers]
        if bool(self._names) != self.reads_layers or len(set(self._names)) < len(self._names):
            raise OptionError(
                f"{len(self._names)} target layers were given; give at least one, each once."
            )
        self._read: nn.Module = model
        self._layers = [Layer(name) for name in self._names]
        if reshape_transform is not None:
            self._read = JoinedLevels(net, self._names, reshape_transform)
            self._layers = self._read.layers

    # --- the call --------------------------------------------------------------------------------

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Targets = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> Array:
        """Return the maps (N, *size) in [0, 1].

        Args:
            input_tensor: images (N, C, *size).
            targets: a callable for each image, given its row of the output; None for the class
                of the largest output.
            aug_smooth: the mean over mirrored and brightened copies, explained for the clean
                images' targets.
            eigen_smooth: the first principal component of the channels' contributions.

        Raises:
            TargetError: another number of targets than images, or a target that gives no number.
        """
        clean = self.forward(input_tensor, targets, eigen_smooth)
        if not aug_smooth:
            return clean
        outputs, resolved = self.outputs, self._resolved
        maps = [
            clean if copy is input_tensor else undo(self.forward(copy, resolved, eigen_smooth))
            for copy, undo in self._augment(input_tensor)
        ]
        self.outputs = outputs
        return np.stack(maps).mean(axis=0)

    def forward(
        self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False
    ) -> Array:
        """Return the maps (N, *size) of a batch without augmentation; see `__call__`."""
        return self._explain(input_tensor, targets, eigen_smooth, "grid-mean")

    def _explain(self, images: Tensor, targets: Targets, eigen: bool, fusion: Fusion) -> Array:
        """Return maps (N, *size) of all layers, from one pass of the network."""
        with tracing(
            read_as_given(self._read),
            images,
            _as_target(targets),
            self._layers,
            gradients=self._reads_gradients,
            chunk=self.batch_size,
        ) as view:
            self.outputs, self._resolved = view.output, view.target
            views = [view[at.name] for at in self._layers] or [view]
            raws = [
                one.with_less_memory(lambda one=one: self._raw(one, eigen))  # type: ignore[misc]
                for one in views
            ]
        return to_numpy(fuse([raw.relu() for raw in raws], view.size, fusion))

    def _augment(self, images: Tensor) -> Iterator[tuple[Tensor, Callable[[Array], Array]]]:
        """Yield copies of the images, themselves among them, and what turns maps of each back."""
        for transform in self.tta_transforms or ():
            yield transform.augment_image(images), partial(_undo, transform)
        if self.tta_transforms is None:
            for factor in (0.9, 1.0, 1.1):
                yield (images if factor == 1 else images * factor), lambda maps: maps
                yield (images * factor).flip(-1), lambda maps: maps[..., ::-1]

    # --- the method ------------------------------------------------------------------------------

    def _make_method(self) -> Method:
        """Return the library's method."""
        assert self.method_name is not None
        return create(self.method_name, self._options())

    def _options(self) -> Mapping[str, Any]:
        return {}

    @property
    def _written(self) -> bool:
        """Whether a subclass outside of this package says in NumPy how a map is made."""
        kind = type(self)
        own = kind.get_cam_image is not BaseCAM.get_cam_image
        return own or kind.get_cam_weights is not BaseCAM.get_cam_weights

    @property
    def _reads_gradients(self) -> bool:
        if self._written or self.method_name is None:
            return self.uses_gradients
        return Needs.GRADIENTS in METHODS.get(self.method_name).needs

    def _raw(self, view: View, eigen: bool) -> Tensor:
        """Return the raw maps (N, *grid) of a traced layer."""
        if not self._written and self.method_name is not None:
            method = smooth(self._make_method(), eigen=eigen and self.smoothable, augmented=False)
            return as_saliency(method.saliency(view)).raw
        found = self.get_cam_image(
            view.images,
            self.target_layers[[at.name for at in self._layers].index(view.layer.name)],
            view.target,
            to_numpy(view.activations),
            to_numpy(view.gradients) if self.uses_gradients else None,
            eigen,
        )
        return torch.as_tensor(np.asarray(found), device=view.images.device).to(view.activations)

    def get_cam_weights(
        self,
        input_tensor: Tensor,  # noqa: ARG002 (a subclass reads it)
        target_layers: Any,  # noqa: ARG002
        targets: Any,  # noqa: ARG002
        activations: Array,  # noqa: ARG002
        grads: Array | None,  # noqa: ARG002
    ) -> Array:
        """Return the channels' weights (N, K); written by a subclass.

        Raises:
            OptionError: no subclass wrote it.
        """
        raise OptionError(
            f"{type(self).__name__} has no weights of its own; write get_cam_weights, or take a "
            "method of the library."
        )

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: Any,
        targets: Any,
        activations: Array,
        grads: Array | None,
        eigen_smooth: bool = False,
    ) -> Array:
        """Return the raw maps (N, *grid): the weighted sum, or its first principal component."""
        weights = torch.as_tensor(
            np.asarray(
                self.get_cam_weights(input_tensor, target_layer, targets, activations, grads)
            )
        )
        features = torch.from_numpy(activations)
        parts = add_sides(weights.to(features), features) * features
        return to_numpy(first_component(parts) if eigen_smooth else parts.sum(1))

    # --- the context -----------------------------------------------------------------------------

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no hook outlives a call, and no error is hidden."""


def first_component(features: Tensor) -> Tensor:
    """Return the projection (N, *grid) of centred features on their first singular vector.

    Its largest absolute value is positive.
    """
    return orient(spectrum(features, centred=True, most=1).projections[:, 0])


def _as_target(targets: Targets) -> TargetSpec:
    if targets is None:
        return Logit()
    if isinstance(targets, Target | TargetSpec):
        return targets
    if not isinstance(targets, Sequence) or not all(map(callable, targets)):
        raise InputError(
            f"targets is a {type(targets).__name__}; give a list with a callable for each image, "
            "such as [ClassifierOutputTarget(281)]."
        )
    return EachImage(tuple(targets))


def _undo(transform: Any, maps: Array) -> Array:
    return to_numpy(transform.deaugment_mask(torch.from_numpy(maps)[:, None])[:, 0])

"""The class activation maps: each names a method of the library and passes its options on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

from torch import Tensor, nn

from torchsaliency.compat._shared import Array, EachImage, ReshapeTransform, draw_seed
from torchsaliency.compat.pytorch_grad_cam.ablation_layer import AblationLayer
from torchsaliency.compat.pytorch_grad_cam.base_cam import BaseCAM, Targets
from torchsaliency.compat.pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from torchsaliency.core.target import Target, TargetSpec, require_embeddings
from torchsaliency.core.trace import View
from torchsaliency.errors import OptionError

Layers = Sequence[nn.Module | str]


class GradCAM(BaseCAM):
    """Grad-CAM, `gradcam`: channels weighted by their mean gradient."""

    method_name = "gradcam"


class HiResCAM(BaseCAM):
    """HiResCAM, `hirescam`: gradient times activation at every position."""

    method_name = "hirescam"


class GradCAMPlusPlus(BaseCAM):
    """Grad-CAM++, `gradcam++`: its eps is relative to the gradients."""

    method_name = "gradcam++"


class XGradCAM(BaseCAM):
    """XGrad-CAM, `xgradcam`: gradients weighted by the activations' share."""

    method_name = "xgradcam"


class LayerCAM(BaseCAM):
    """LayerCAM, `layercam`: positive gradient times activation at every position."""

    method_name = "layercam"


class EigenCAM(BaseCAM):
    """Eigen-CAM, `eigencam`: the features' first principal component, its sign fixed."""

    method_name, smoothable = "eigencam", False


class EigenGradCAM(BaseCAM):
    """Eigen-Grad-CAM, `eigengradcam`: the first principal component of gradient times feature."""

    method_name, smoothable = "eigengradcam", False


class SegEigenCAM(BaseCAM):
    """Seg-Eigen-CAM, `seg-eigencam`: that of absolute gradient times feature."""

    method_name, smoothable = "seg-eigencam", False


class KPCA_CAM(BaseCAM):  # noqa: N801 (the other library's)
    """KPCA-CAM, `kpcacam`: the features' first principal component under a kernel.

    Args:
        model: as `BaseCAM`.
        target_layers: as `BaseCAM`.
        reshape_transform: as `BaseCAM`.
        kernel: as `kpcacam`.
        gamma: as `kpcacam`.
    """

    method_name, smoothable = "kpcacam", False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers,
        reshape_transform: ReshapeTransform | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.kernel, self.gamma = kernel, gamma

    def _options(self) -> Mapping[str, Any]:
        return {"kernel": self.kernel, "gamma": self.gamma}


class FEM(BaseCAM):
    """FEM, `fem`: features that are unusually strong, binarised, as in the paper.

    Args:
        model: as `BaseCAM`.
        target_layers: as `BaseCAM`.
        reshape_transform: as `BaseCAM`.
        k: how many standard deviations above the mean is unusual.
    """

    method_name, smoothable = "fem", False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers,
        reshape_transform: ReshapeTransform | None = None,
        k: float | int = 2,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.k = k

    def _options(self) -> Mapping[str, Any]:
        return {"deviations": self.k}


class GradCAMElementWise(BaseCAM):
    """Grad-CAM element by element, `gradcam-elementwise`: the positive products alone."""

    method_name = "gradcam-elementwise"


class ShapleyCAM(BaseCAM):
    """ShapleyCAM, `shapleycam`: the gradient less half the Hessian times the features."""

    method_name = "shapleycam"


class RandomCAM(BaseCAM):
    """Random-CAM, `randomcam`: random weights, of torch's own generator, for all images."""

    method_name = "randomcam"

    def _options(self) -> Mapping[str, Any]:
        return {"seed": draw_seed()}


class ScoreCAM(BaseCAM):
    """Score-CAM, `scorecam`: channels weighted by the score of the image that they mask."""

    method_name = "scorecam"


class AblationCAM(BaseCAM):
    """Ablation-CAM, `ablationcam`: channels weighted by the drop of the score without them.

    Args:
        model: as `BaseCAM`.
        target_layers: as `BaseCAM`.
        reshape_transform: as `BaseCAM`.
        ablation_layer: accepted, as a layer's output is replaced where it is.
        batch_size: features in one pass; None finds it.
        ratio_channels_to_ablate: accepted: every live channel is removed, which costs no pass from
            the image on.
    """

    method_name = "ablationcam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers,
        reshape_transform: ReshapeTransform | None = None,
        ablation_layer: AblationLayer | None = None,  # noqa: ARG002
        batch_size: int | None = None,
        ratio_channels_to_ablate: float = 1.0,  # noqa: ARG002
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)
        self.batch_size = batch_size


class FullGrad(BaseCAM):
    """FullGrad, `fullgrad`: the gradients at the image and at all biases, by channel.

    Args:
        model: as `BaseCAM`.
        target_layers: accepted, as all biases of the network count.
        reshape_transform: accepted, as no layer is read.
    """

    method_name, reads_layers = "fullgrad", False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers = (),
        reshape_transform: ReshapeTransform | None = None,  # noqa: ARG002
    ) -> None:
        super().__init__(model, target_layers)

    def _options(self) -> Mapping[str, Any]:
        return {"rescaled": "channel"}

    def _raw(self, view: View, eigen: bool) -> Tensor:
        if eigen:
            raise OptionError(
                "FullGrad adds up all that makes the score, and eigen_smooth=True would leave all "
                "but one component out; give eigen_smooth=False."
            )
        return super()._raw(view, eigen)


C = TypeVar("C", bound="_Wrapper")


class _Wrapper(ABC):
    """A map made of the maps of another class."""

    def __init__(self, base: BaseCAM) -> None:
        self.base_cam = base

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return the maps (N, *size) in [0, 1]; see `forward`."""
        return self.forward(*args, **kwargs)

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Array:
        """Return the maps (N, *size) in [0, 1]."""

    @property
    def outputs(self) -> Any:
        """What the network gave for the last batch."""
        return self.base_cam.outputs

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 (complete as it is)
        """Do nothing: no hook outlives a call, and no error is hidden."""


class FinerCAM(_Wrapper):
    """Finer-CAM: what distinguishes a class from those with the nearest scores.

    Args:
        model: as `BaseCAM`.
        target_layers: as `BaseCAM`.
        reshape_transform: as `BaseCAM`.
        base_method: the class that explains the difference.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers,
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAM,
    ) -> None:
        super().__init__(base_method(model, target_layers, reshape_transform))

    def forward(
        self,
        input_tensor: Tensor,
        targets: Targets = None,
        eigen_smooth: bool = False,
        alpha: float | int = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Array:
        """Return the maps (N, *size) in [0, 1].

        Args:
            input_tensor: images (N, C, *size).
            targets: as `BaseCAM`; None contrasts a class with those whose scores are nearest.
            eigen_smooth: as `BaseCAM`.
            alpha: how much the other classes count.
            comparison_categories: places in the order of nearness, 0 being the class itself; by
                default 1, 2 and 3, as far as there are so many classes.
            target_idx: the class; None for that of the largest score.
        """
        if targets is None:
            chosen = (1, 2, 3) if comparison_categories is None else tuple(comparison_categories)
            targets = _Nearest(alpha, chosen, target_idx)
        return self.base_cam.forward(input_tensor, targets, eigen_smooth)


@final
@dataclass(frozen=True)
class _Nearest(TargetSpec):
    """A class against those with the nearest scores, once the output is known."""

    alpha: float | int
    places: tuple[int, ...]
    category: int | None

    def resolve(self, output: Any) -> Target:
        """Return the difference for each image."""
        scores = require_embeddings(output)
        places = [place for place in self.places if place < scores.shape[1]]
        if not places:
            raise OptionError(
                f"FinerCAM compares with the classes at places {self.places} in the order of "
                f"nearness, and the network has {scores.shape[1]} classes; give places from 1 to "
                f"{scores.shape[1] - 1}."
            )
        own = scores.amax(1) if self.category is None else scores[:, self.category]
        order = (scores - own[:, None]).abs().argsort(dim=1, stable=True).tolist()
        return EachImage(
            tuple(
                FinerWeightedTarget(row[0], [row[place] for place in places], self.alpha)
                for row in order
            )
        )


class RefineCAM(_Wrapper):
    """RefineCAM: the product of the layers' maps, each stretched to [0, 1].

    Args:
        model: as `BaseCAM`.
        target_layers: as `BaseCAM`.
        reshape_transform: as `BaseCAM`.
        base_method: the class that explains each layer.
        **kwargs: its further arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers,
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAMPlusPlus,
        **kwargs: Any,
    ) -> None:
        super().__init__(base_method(model, target_layers, reshape_transform, **kwargs))

    def forward(
        self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False
    ) -> Array:
        """Return the maps (N, *size) in [0, 1]; arguments as `BaseCAM`."""
        return self.base_cam._explain(input_tensor, targets, eigen_smooth, "product")

"""Extractors that read gradients of the scores, and those made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import draw_seed
from torchsaliency.compat.torchcam.methods.core import (
    ClassIndex,
    Extractor,
    Targets,
    require_cams,
)
from torchsaliency.core.layer import LayerLike
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.target import Scores, Target, class_indices
from torchsaliency.errors import OptionError, TargetError

__all__ = [
    "FinerCAM",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "RefineCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
]

Layers = LayerLike | Sequence[LayerLike] | None
References = int | Sequence[int] | Sequence[Sequence[int]] | None


class GradCAM(Extractor):
    """Grad-CAM, `gradcam`: channels weighted by their mean gradient."""

    method_name = "gradcam"


class GradCAMpp(Extractor):
    """Grad-CAM++, `gradcam++`, with the normalisation that the other library loses."""

    method_name = "gradcam++"


class SmoothGradCAMpp(Extractor):
    """Smooth Grad-CAM++, `smoothgradcam++`: Grad-CAM++ averaged over noisy copies of the images.

    Args:
        model: as `Extractor`.
        target_layer: as `Extractor`.
        num_samples: copies of each image.
        std: of the noise, in the images' units.
        input_shape: as `Extractor`.
        **kwargs: as `Extractor`.
    """

    method_name, reads_scores = "smoothgradcam++", False

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        num_samples: int = 4,
        std: float = 0.3,
        input_shape: Sequence[int] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def _options(self) -> Mapping[str, Any]:
        return {
            "samples": self.num_samples,
            "spread": self.std,
            "unit": "absolute",
            "seed": draw_seed(),
        }

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, num_samples={self.num_samples}, std={self.std}"


class XGradCAM(Extractor):
    """XGrad-CAM, `xgradcam`: gradients weighted by the activations' share."""

    method_name = "xgradcam"


class LayerCAM(Extractor):
    """LayerCAM, `layercam`: positive gradient times activation at every position.

    Several layers' maps pass tanh(2 S) before the maximum, as in the paper (Eq. 9).
    """

    method_name = "layercam"

    @staticmethod
    def _scale(cam: Tensor) -> Tensor:
        return torch.tanh(2 * cam)


C = TypeVar("C", bound="_Wrapper")


class _Wrapper:
    """An extractor made of another."""

    def __init__(self, base: Extractor) -> None:
        self.base_cam = base

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.base_cam.model

    @property
    def target_names(self) -> list[str]:
        """The layers' names."""
        return self.base_cam.target_names

    def enable_hooks(self) -> None:
        """Watch the passes that come."""
        self.base_cam.enable_hooks()

    def disable_hooks(self) -> None:
        """Let passes go by."""
        self.base_cam.disable_hooks()

    def reset_hooks(self) -> None:
        """Forget the last pass."""
        self.base_cam.reset_hooks()

    def remove_hooks(self) -> None:
        """Watch the network no longer."""
        self.base_cam.remove_hooks()

    def _hooks_off(self) -> AbstractContextManager[None]:
        return self.base_cam._hooks_off()

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *error: object) -> None:
        self.base_cam.__exit__(*error)


class RefineCAM(_Wrapper):
    """RefineCAM: the product of the layers' maps, each stretched to [0, 1].

    Args:
        model: as `Extractor`.
        target_layer: two layers at least.
        input_shape: as `Extractor`.
        base_method: the extractor of each layer's map.
        **base_kwargs: its further arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: Sequence[LayerLike],
        input_shape: Sequence[int] = (3, 224, 224),
        *,
        base_method: type[Extractor] = GradCAMpp,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(target_layer, list | tuple) or len(target_layer) < 2:  # noqa: PLR2004
            raise OptionError("RefineCAM is of at least two target layers; give a list of them.")
        if not isinstance(base_method, type) or not issubclass(base_method, Extractor):
            raise TypeError(f"base_method must be a CAM extractor class, not {base_method!r}.")
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: ClassIndex = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: Sequence[int] | None = None,
        *,
        targets: Targets = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Return one map (N, *grid) in a list; arguments as `Extractor` and `fuse_cams`."""
        cams = self.base_cam(class_idx, scores, targets=targets, **kwargs)
        return [self.fuse_cams(cams, target_shape, normalized)]

    compute_cams = __call__

    @staticmethod
    def fuse_cams(
        cams: list[Tensor], target_shape: Sequence[int] | None = None, normalized: bool = True
    ) -> Tensor:
        """Return the product of the layers' maps, stretched, then resized linearly.

        Args:
            cams: maps (N, *grid) of each layer.
            target_shape: the size; that of the largest map by default.
            normalized: whether the product is stretched, too.

        Raises:
            TypeError: these are no maps.
            InputError: there are none.
        """
        size = require_cams(cams, target_shape)
        product = torch.stack([upsample(minmax(cam), size) for cam in cams]).prod(0)
        return minmax(product) if normalized else product

    def __repr__(self) -> str:
        base = type(self.base_cam).__name__
        return f"RefineCAM(base_method={base}, target_layer={self.target_names})"


@final
@dataclass(frozen=True, eq=False)
class Contrast(Target):
    """A class against others: y_c - γ mean_j y_j.

    Attributes:
        labels: c of each image (N,).
        references: the classes j of each image (N, J).
        gamma: γ.
    """

    labels: Tensor
    references: Tensor
    gamma: float

    def __call__(self, output: Any) -> Scores:
        """Return the difference for each row."""
        own = output.gather(1, self.labels.to(output.device)[:, None])[:, 0]
        others = output.gather(1, self.references.to(output.device)).mean(1)
        difference: Tensor = own - self.gamma * others
        return difference

    def describe(self) -> dict[str, Any]:
        """Return the classes."""
        return {
            "kind": "Contrast",
            "labels": self.labels.tolist(),
            "references": self.references.tolist(),
            "gamma": self.gamma,
        }


class FinerCAM(_Wrapper):
    """Finer-CAM: what distinguishes a class from those with the nearest scores.

    Source: Zhang et al., CVPR 2025.

    Args:
        model: as `Extractor`.
        target_layer: as `Extractor`.
        input_shape: as `Extractor`.
        base_method: `GradCAM`, `GradCAMpp` or `LayerCAM`.
        gamma: how much the others count.
        num_references: how many are taken, the nearest first.
        **base_kwargs: further arguments of the base method.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        input_shape: Sequence[int] = (3, 224, 224),
        *,
        base_method: type[Extractor] = GradCAM,
        gamma: float | int = 0.6,
        num_references: int = 3,
        **base_kwargs: Any,
    ) -> None:
        if base_method not in (GradCAM, GradCAMpp, LayerCAM):
            raise TypeError("base_method must be GradCAM, GradCAMpp, or LayerCAM.")
        if isinstance(gamma, bool) or not isinstance(gamma, int | float):
            raise TypeError(f"gamma is a real number, and {gamma!r} was given.")
        if not math.isfinite(gamma) or gamma < 0:
            raise OptionError(f"gamma must be finite and non-negative, and {gamma} was given.")
        if isinstance(num_references, bool) or not isinstance(num_references, int):
            raise TypeError(f"num_references is an integer, and {num_references!r} was given.")
        if num_references < 1:
            raise OptionError(f"num_references must be positive, and {num_references} was given.")
        self.gamma, self.num_references = float(gamma), num_references
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: int | Sequence[int],
        scores: Tensor | None = None,
        comparison_idx: References = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Return the maps (N, *grid) of each layer.

        Args:
            class_idx: a class, or one for each image.
            scores: (N, K) of the pass.
            comparison_idx: the other classes: one, several, or several for each image; the nearest
                by default.
            normalized: as `Extractor`.
            **kwargs: as `Extractor`, but no targets.

        Raises:
            TargetError: classes and scores do not fit.
        """
        if kwargs.pop("targets", None) is not None:
            raise TargetError("FinerCAM does not support targets; give class_idx.")
        if scores is None:
            raise TargetError("FinerCAM compares classes: the network's scores is required.")
        if not isinstance(scores, Tensor):
            raise TypeError(f"scores must be a tensor (N, K), not a {type(scores).__name__}.")
        return self.base_cam._maps(
            scores, self._contrast(class_idx, scores, comparison_idx), normalized
        )

    compute_cams = __call__

    def _contrast(
        self, class_idx: int | Sequence[int], scores: Tensor, others: References
    ) -> Contrast:
        if scores.ndim != 2 or scores.shape[1] < 2:  # noqa: PLR2004
            raise TargetError(
                f"Scores of shape {tuple(scores.shape)} were given; FinerCAM needs (N, K) with at "
                "least one comparison class."
            )
        count, classes = scores.shape
        labels = class_indices(class_idx).expand(count) if _is_one(class_idx) else None
        if labels is None:
            labels = class_indices(class_idx)
        _check_classes("class_idx", labels, (count,), classes)
        if others is None:
            plain = scores.detach().cpu()
            distances = (plain - plain.gather(1, labels[:, None])).abs()
            distances.scatter_(1, labels[:, None], torch.inf)
            nearest = min(self.num_references, classes - 1)
            return Contrast(labels, distances.argsort(dim=1, stable=True)[:, :nearest], self.gamma)
        rows = torch.as_tensor(others) if _is_regular(others) else None
        if rows is None or rows.is_floating_point() or rows.dtype == torch.bool or not rows.numel():
            raise TargetError(
                "comparison_idx is a class, a list of classes, or a list of as many for each image."
            )
        references = rows.reshape(1, -1).expand(count, -1) if rows.ndim < 2 else rows  # noqa: PLR2004
        _check_classes("comparison_idx", references, (count, references.shape[1]), classes)
        if bool((references == labels[:, None]).any()):
            raise TargetError("comparison_idx contains the target class of an image.")
        if any(len(set(row)) < len(row) for row in references.tolist()):
            raise TargetError("comparison_idx contains duplicates; give each class once.")
        return Contrast(labels, references, self.gamma)

    def fuse_cams(self, cams: list[Tensor], target_shape: Sequence[int] | None = None) -> Tensor:
        """Fuse the layers' maps as the base method does."""
        return self.base_cam.fuse_cams(cams, target_shape)

    def __repr__(self) -> str:
        return (
            f"FinerCAM(base_method={type(self.base_cam).__name__}, "
            f"target_layer={self.target_names}, gamma={self.gamma}, "
            f"num_references={self.num_references})"
        )


def _is_one(index: Any) -> bool:
    return class_indices(index).ndim == 0


def _is_regular(others: Any) -> bool:
    """Whether classes are one, a list, or a list of lists of the same length, all whole numbers."""
    if isinstance(others, int) and not isinstance(others, bool):
        return True
    if not isinstance(others, list):
        return False
    if all(isinstance(row, list) for row in others):
        return len({len(row) for row in others}) == 1 and all(map(_is_flat, others))
    return _is_flat(others)


def _is_flat(row: list[Any]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) for one in row)


def _check_classes(name: str, found: Tensor, shape: tuple[int, ...], classes: int) -> None:
    if tuple(found.shape) != shape:
        raise TargetError(
            f"{name} is of shape {tuple(found.shape)}, and the batch size asks for {shape}."
        )
    if bool(((found < 0) | (found >= classes)).any()):
        raise TargetError(f"{name} holds an out-of-range class; give 0 to {classes - 1}.")

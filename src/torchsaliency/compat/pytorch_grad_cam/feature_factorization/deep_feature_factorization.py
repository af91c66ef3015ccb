"""Deep feature factorisation: concepts, what a classifier says of them, and pictures of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from torchsaliency.compat._shared import Array, ReshapeTransform, to_numpy
from torchsaliency.compat.pytorch_grad_cam.base_cam import BaseCAM
from torchsaliency.compat.pytorch_grad_cam.utils.image import (
    create_labels_legend,
    scale_cam_image,
    show_factorization_on_image,
)
from torchsaliency.concepts.factorisation import factorise_features
from torchsaliency.concepts.passes import at_cells

Classifier = Callable[[Tensor], Tensor]


def dff(activations: Array, n_components: int = 5) -> tuple[Array, Array]:
    """Return concepts (K, R) and their maps (N, R, *grid) of features (N, K, *grid)."""
    features = torch.from_numpy(np.nan_to_num(activations, posinf=np.inf, neginf=-np.inf))
    least = features.transpose(0, 1).flatten(1).amin(1)  # subtracted behind a ReLU, too
    lifted = features - at_cells(least[None], features)
    concepts, maps = factorise_features(lifted, n_components, seed=0)
    return to_numpy((concepts + least).mT), to_numpy(maps)


C = TypeVar("C", bound="DeepFeatureFactorization")


class DeepFeatureFactorization:
    """Concepts of a layer's features, each with a map an image.

    Args:
        model: any network.
        target_layer: the submodule whose features are factorised.
        reshape_transform: as `BaseCAM`.
        computation_on_concepts: what is computed of the concepts (R, K), such as the network's
            classifier.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str,
        reshape_transform: ReshapeTransform | None = None,
        computation_on_concepts: Classifier | None = None,
    ) -> None:
        self.model, self.computation_on_concepts = model, computation_on_concepts
        self._features = _Features(model, [target_layer], reshape_transform, uses_gradients=False)

    def __call__(self, input_tensor: Tensor, n_components: int = 16) -> tuple[Any, ...]:
        """Return concepts (K, R), a list of maps (R, *size) in [0, 1], and what was computed.

        Args:
            input_tensor: images (N, C, *size), factorised together.
            n_components: R, how many concepts.
        """
        self._features.forward(input_tensor)
        concepts, maps = dff(self._features.found, n_components)
        size = tuple(reversed(input_tensor.shape[2:]))
        pictures = [scale_cam_image(one, size) for one in maps]
        if self.computation_on_concepts is None:
            return concepts, pictures
        with torch.no_grad():
            rows = torch.from_numpy(np.ascontiguousarray(concepts.T)).to(input_tensor.device)
            computed = to_numpy(self.computation_on_concepts(rows))
        return concepts, pictures, computed

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no hook outlives a call, and no error is hidden."""


class _Features(BaseCAM):
    """Keeps a layer's features."""

    found: Array

    def get_cam_image(self, *args: Any, **kwargs: Any) -> Array:  # noqa: ARG002
        self.found = args[3]
        return self.found.mean(1)


def run_dff_on_image(  # noqa: PLR0913, PLR0917 (the other library's)
    model: Any,
    target_layer: nn.Module | str,
    classifier: Classifier,
    img_pil: Image.Image,
    img_tensor: Tensor,
    reshape_transform: ReshapeTransform | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> Array:
    """Return a photograph beside its concepts, with the classes of each, in one picture.

    Args:
        model: a network whose `config.id2label` names the classes.
        target_layer: as `DeepFeatureFactorization`.
        classifier: of the concepts (R, K).
        img_pil: the photograph, of the size of the network's input.
        img_tensor: the same (C, H, W), preprocessed.
        reshape_transform: as `BaseCAM`.
        n_components: how many concepts.
        top_k: how many classes are written of each.
    """
    factorise = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, maps, outputs = factorise(img_tensor[None], n_components)
    scores = to_numpy(torch.from_numpy(outputs).softmax(-1))
    legend = create_labels_legend(scores, labels=model.config.id2label, top_k=top_k)
    photo = np.asarray(img_pil.convert("RGB"))
    drawn = show_factorization_on_image(photo, maps[0], image_weight=0.3, concept_labels=legend)
    return np.hstack([photo, drawn])

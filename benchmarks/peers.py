"""What the peers do, where no package does it: written here from the papers' own descriptions.

The Tucker saliency paper prints its maps as subclasses of pytorch-grad-cam's `BaseCAM` that call
tensorly for every image; Opti-CAM's code is a loop of Adam around the whole network. Both are
written anew, so that their work, not their code, is what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorly
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.base_cam import BaseCAM
from tensorly.decomposition import tucker
from torch import Tensor, nn
from torch.nn import functional as F

Maps = NDArray[np.float32]
Reshape = Callable[[Tensor], Tensor] | None


def tucker_maps(features: Maps, *, several: bool) -> Maps:
    """Return TSM, or MTSM, of features (N, K, h, w), one image after another, by tensorly.

    Full-rank HOOI, F = C x1 A1 x2 A2 x3 A3. TSM is |Σ_k A1_k1 F_k|; MTSM averages
    (σ_i/σ_1) |Σ_k A1_ki F_k| over i = 1 … min(K, hw), σ_i the norm of the core's i-th slice. The
    listing takes rows of A1 where the paper's formula has columns: the same work, and the columns
    are used here.
    """
    maps = []
    for one in features:
        with tensorly.backend_context("numpy", local_threadsafe=True):
            core, factors = tucker(one, rank=list(one.shape))
        columns = factors[0]
        if not several:
            maps.append(np.abs(np.einsum("k,khw->hw", columns[:, 0], one)))
            continue
        norms = np.linalg.norm(core.reshape(len(core), -1), axis=1)
        count = min(len(one), one[0].size)
        projected = np.abs(np.einsum("ki,khw->ihw", columns[:, :count], one))
        maps.append(np.einsum("i,ihw->hw", norms[:count] / norms[0], projected) / count)
    return np.stack(maps)


def multivec_maps(features: Maps) -> Maps:
    """Return Multivec-EigenCAM of features (N, K, h, w): numpy's full SVD, image by image."""
    maps = []
    for one in features:
        matrix = one.reshape(len(one), -1).T
        matrix = matrix - matrix.mean(0)
        _, values, right = np.linalg.svd(matrix, full_matrices=True)
        projected = np.abs(matrix @ right[: len(values)].T)
        maps.append((projected * (values / values[0])).mean(1).reshape(one.shape[1:]))
    return np.stack(maps)


class ListedCAM(BaseCAM):
    """A map of the Tucker saliency paper, as its appendix puts them into pytorch-grad-cam."""

    def __init__(
        self,
        kind: str,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape = None,
    ) -> None:
        super().__init__(model, list(target_layers), reshape_transform, uses_gradients=False)
        self.kind = kind

    def get_cam_image(
        self,
        input_tensor: Tensor,  # noqa: ARG002 (pytorch-grad-cam's signature)
        target_layer: nn.Module,  # noqa: ARG002
        targets: Any,  # noqa: ARG002
        activations: Maps,
        grads: Any,  # noqa: ARG002
        eigen_smooth: bool = False,  # noqa: ARG002
    ) -> Maps:
        """Return the map (N, h, w) of activations (N, K, h, w)."""
        if self.kind == "multivec-eigencam":
            return multivec_maps(activations)
        return tucker_maps(activations, several=self.kind == "mtsm")


@dataclass(frozen=True)
class OptiCAMRun:
    """What the official procedure found.

    Attributes:
        maps: (N, h, w) of the last weights whose objective was seen.
        objective: (N, iterations) the class logit of the masked image.
    """

    maps: Tensor
    objective: Tensor


def official_opticam(
    net: nn.Module,
    x: Tensor,
    labels: Tensor,
    features: Tensor,
    baseline: Tensor,
    *,
    iterations: int = 100,
    rate: float = 0.1,
) -> OptiCAMRun:
    """Run the official Opti-CAM's procedure, without its early stop.

    u = 0.5 for every channel, Adam on u; the loss is Σ f(x)_c - f(x ⊙ n(up(S)))_c over the batch,
    in pixel space (black shows through). The network's parameters keep `requires_grad`, so each
    backward pass also makes the gradients of all its weights, as the official code leaves them.

    Args:
        net: the network in evaluation mode.
        x: images (N, C, H, W), normalised.
        labels: (N,) classes.
        features: (N, K, h, w) of the clean images.
        baseline: what a black pixel is in normalised space, broadcastable to x.
        iterations: of Adam.
        rate: its learning rate.
    """
    features = features.detach().relu()
    weights = x.new_full((*features.shape[:2], 1, 1), 0.5, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=rate)
    own = labels.to(x.device)[:, None]
    with torch.no_grad():
        clean = net(x).gather(1, own)[:, 0]
    history = []
    maps = features.mean(1)
    for _ in range(iterations):
        maps = (weights.softmax(1) * features).sum(1)
        masks = F.interpolate(maps[:, None], x.shape[2:], mode="bilinear", align_corners=False)
        low, high = masks.amin((1, 2, 3), keepdim=True), masks.amax((1, 2, 3), keepdim=True)
        masks = (masks - low) / (high - low)
        score = net(baseline + masks * (x - baseline)).gather(1, own)[:, 0]
        adam.zero_grad()
        (clean - score).sum().backward()
        adam.step()
        history.append(score.detach())
    for parameter in net.parameters():
        parameter.grad = None  # what the procedure left behind is not the next side's affair
    return OptiCAMRun(maps.detach(), torch.stack(history, 1))

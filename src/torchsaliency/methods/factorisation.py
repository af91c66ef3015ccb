"""Deep feature factorisation: concepts that several images share, and where each of them is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.maps import to_float64
from torchsaliency.core.method import require_positive
from torchsaliency.errors import InputError


def factorise_features(
    features: Float[Tensor, "n k *grid"], concepts: int = 5, *, seed: int = 0
) -> tuple[Float[Tensor, "r k"], Float[Tensor, "n r *grid"]]:
    """Return concepts and their maps: A_k(u) ≈ o_k + Σ_r W_rk H_r(u), W and H not negative.

    o_k is the channel's least value in all images, 0 behind a ReLU; each concept is o + W_r. All
    images are factorised together, so that a concept is the same in all of them.

    Source: Collins et al., ECCV 2018. The channels' least values as in pytorch-grad-cam; the
    factorisation is scikit-learn's NMF from a random start.

    Args:
        features: A (N, K, *grid), finite.
        concepts: R, how many.
        seed: of the start.

    Raises:
        InputError: features that are not finite.
        OptionError: less than one concept.

    Example:
        >>> found, maps = factorise_features(torch.rand(2, 6, 4, 4), 3)
        >>> found.shape, maps.shape
        (torch.Size([3, 6]), torch.Size([2, 3, 4, 4]))
    """
    from sklearn.decomposition import NMF  # noqa: PLC0415 (slow to import)

    require_positive("factorise_features", concepts=concepts)
    if not bool(features.isfinite().all()):
        raise InputError("The features hold NaN or infinite values; check the network.")
    channels = to_float64(features).transpose(0, 1)
    rows = channels.flatten(1)
    least = rows.amin(1, keepdim=True)
    model = NMF(n_components=concepts, init="random", random_state=seed, max_iter=1000)
    weights = torch.from_numpy(model.fit_transform((rows - least).cpu().numpy()))
    shares = torch.from_numpy(model.components_).unflatten(1, channels.shape[1:])
    found = (weights.to(least.device) + least).mT
    return found.to(features), shares.transpose(0, 1).to(features)

"""How the outputs of transformers and feature pyramids become feature maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.core.layer import Tokens


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Return the patch tokens behind one class token as feature maps (N, C, height, width)."""
    return Tokens(prefix=1, grid=(height, width)).to_maps(tensor)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:  # noqa: N802
    """Return tokens without a prefix as feature maps (N, C, height, width)."""
    return Tokens(prefix=0, grid=(height, width)).to_maps(tensor)


def fasterrcnn_reshape_transform(x: Mapping[str, Tensor]) -> Tensor:
    """Return the levels of a feature pyramid, absolute, at the size of the coarsest, joined."""
    size = x["pool"].shape[-2:]
    return torch.cat(
        [F.interpolate(level.abs(), size, mode="bilinear") for level in x.values()], dim=1
    )

"""Tiny networks trained on the shapes data by `scripts/train_tiny.py`, under 1 MB each.

`shapes_cnn_permuted` has learned permuted labels by heart, for the randomisation test of labels
(Adebayo et al., 2018). Its weights are stored in half precision.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torchsaliency.data.shapes import CLASSES, shape_labels

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parent

HEADS = ("fc.weight", "head.weight")
"""Names of the classifiers' weights."""

TRAINED = 1
"""Seed of the images that all were trained on."""

PERMUTED = 1000
"""How many of them `shapes_cnn_permuted` knows."""

MEAN, STD, SIDE = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 64
"""Preprocessing of all."""

_WIDTHS = (24, 32, 64, 96, 128)


def shapes_cnn(num_classes: int = 8) -> nn.Module:
    """Return five convolutions with 128 maps of 8x8 at the end, pooled, and one linear layer."""
    from torch import nn

    layers: list[tuple[str, nn.Module]] = []
    before = 3
    for number, width in enumerate(_WIDTHS, 1):
        stride = 2 if number in (2, 3, 4) else 1
        block = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(before, width, 3, stride, 1, bias=False),
                norm=nn.BatchNorm2d(width),
                relu=nn.ReLU(),
            )
        )
        layers.append((f"block{number}", block))
        before = width
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    if num_classes:
        layers.append(("fc", nn.Linear(before, num_classes)))
    return nn.Sequential(OrderedDict(layers))


def permuted_labels() -> Tensor:
    """Return the labels (1000,) that `shapes_cnn_permuted` was taught: those of other images."""
    import torch

    labels = torch.tensor(shape_labels(PERMUTED, seed=TRAINED))
    return labels[torch.randperm(PERMUTED, generator=torch.Generator().manual_seed(0))]


def shapes_ssl(num_classes: int = 0) -> nn.Module:
    """Return the same convolutions without a classifier: 128 numbers an image."""
    return shapes_cnn(num_classes)


def shapes_vit(num_classes: int = 8) -> nn.Module:
    """Return a vision transformer of four blocks over 8x8 patches, class token first."""
    from timm.models.vision_transformer import VisionTransformer

    net: nn.Module = VisionTransformer(
        img_size=SIDE,
        patch_size=8,
        embed_dim=80,
        depth=4,
        num_heads=4,
        mlp_ratio=2,
        num_classes=num_classes,
    )
    return net


BUILDERS: dict[str, tuple[Callable[[int], nn.Module], str, int]] = {
    "shapes_cnn": (shapes_cnn, "block5", len(CLASSES)),
    "shapes_cnn_permuted": (shapes_cnn, "block5", len(CLASSES)),
    "shapes_ssl": (shapes_ssl, "block5", 0),
    "shapes_vit": (shapes_vit, "blocks.3.norm1", len(CLASSES)),
}
"""How each is built, the layer at which its maps are read, and how many classes it knows."""

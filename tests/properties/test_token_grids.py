"""Token grids: registers, NaFlex, text-and-image networks, sides that differ or leave a rest."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import torchsaliency as ts
from torchsaliency.core.layer import Tokens, infer_reshape
from torchsaliency.zoo.sources.huggingface import feed_images

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

METHODS = [
    "gradcam",
    "mtsm",
    "raw-attention",
    "attention-rollout",
    "generic-attention",
    "tibav",
    "legrad",
]


def by_timm(name, **options):
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    return timm.create_model(name, **small, **options)


def by_transformers(name, **options):
    sizes = dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2)
    config = {"hidden_size": 16, "intermediate_size": 32, "patch_size": 8, **sizes, **options}
    kind = getattr(transformers, name)
    return feed_images(kind(kind.config_class(**config)))


NETS = {
    "ViT": (lambda: by_timm("vit_tiny_patch16_224", img_size=(64, 96)), (64, 96), (4, 6)),
    "padded ViT": (
        lambda: by_timm(
            "vit_tiny_patch16_224", img_size=64, dynamic_img_size=True, dynamic_img_pad=True
        ),
        (50, 70),
        (4, 5),
    ),
    "patch dropout": (
        lambda: by_timm("vit_tiny_patch16_224", img_size=64, patch_drop_rate=0.25),
        (64, 64),
        (4, 4),
    ),
    "DINOv2": (
        lambda: by_timm("vit_small_patch14_reg4_dinov2", img_size=(42, 70)),
        (42, 70),
        (3, 5),
    ),
    "DINOv3": (
        lambda: by_timm("vit_small_patch16_dinov3", dynamic_img_size=True),
        (48, 80),
        (3, 5),
    ),
    "NaFlex": (lambda: by_timm("naflexvit_base_patch16_gap"), (48, 80), (3, 5)),
    "NaFlex, pooled": (lambda: by_timm("naflexvit_base_patch16_siglip"), (64, 64), (4, 4)),
    "HF DINOv2": (
        lambda: by_transformers("Dinov2WithRegistersForImageClassification", image_size=64),
        (40, 64),
        (5, 8),
    ),
    "HF DINOv2 with a rest": (
        lambda: by_transformers("Dinov2WithRegistersForImageClassification", image_size=64),
        (45, 67),
        (5, 8),
    ),
    "CLIP": (
        lambda: by_transformers("CLIPVisionModelWithProjection", image_size=64),
        (64, 64),
        (8, 8),
    ),
    "SigLIP": (lambda: by_transformers("SiglipVisionModel", image_size=64), (64, 64), (8, 8)),
    "SigLIP 2": (
        lambda: by_transformers("Siglip2VisionModel", num_patches=64),
        (40, 64),
        (5, 8),
    ),
}


@pytest.mark.parametrize("kind", NETS)
def test_every_method_reads_the_grid_of_patches(kind):
    build, size, grid = NETS[kind]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the sources are theirs
        net = build().eval()
        for parameter in net.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
        x = torch.randn(2, 3, *size)
        found = ts.explain(net, x, METHODS)
    for name, explanation in found.items():
        assert tuple(explanation.raw.shape) == (2, *grid), name
        assert explanation.map.shape == (2, *size)


def test_prefixes_of_images_that_are_not_square():
    assert infer_reshape((1, 20, 8), (42, 70)) == Tokens(5, (3, 5))
    assert infer_reshape((1, 45, 8), (40, 64)) == Tokens(5, (5, 8))
    assert infer_reshape((1, 45, 8), (45, 67), {(5, 8)}) == Tokens(5, (5, 8))
    assert infer_reshape((1, 13, 8), (50, 70)) == Tokens(1, (3, 4))
    assert infer_reshape((1, 197, 8), (224, 224)) == Tokens(1, (14, 14))

"""Volumes: the same maps as pytorch-grad-cam's and MONAI's, one volume at a time.

pytorch-grad-cam resizes volumes by scipy's cubic splines, ours trilinearly, so a layer of the
volume's own size is compared. MONAI mixes the classes of a batch, so one volume at a time is.
"""

import numpy as np
import pytest
import pytorch_grad_cam as peers
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from nets import convnet_of, volumes
from torchsaliency import (
    GradCAM,
    GradCAMPlusPlus,
    Grid,
    HiResCAM,
    LayerCAM,
    Tokens,
    XGradCAM,
    explain,
)
from torchsaliency.core.maps import minmax

PAIRS = [
    (GradCAM(), peers.GradCAM),
    (GradCAMPlusPlus(eps_scale="absolute"), peers.GradCAMPlusPlus),
    (XGradCAM(), peers.XGradCAM),
    (HiResCAM(), peers.HiResCAM),
    (LayerCAM(), peers.LayerCAM),
]


@pytest.fixture(scope="module")
def fresh():
    return convnet_of(3), volumes(8, 12, 16)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[ours.name for ours, _ in PAIRS])
def test_pytorch_grad_cam(fresh, ours, theirs):
    net, x = fresh
    made = ours(net, x, [1, 3], "conv1").map
    for image, label in enumerate([1, 3]):
        with theirs(net, [net.conv1]) as peer:
            given = x[image : image + 1].requires_grad_()
            found = peer(given, [ClassifierOutputTarget(label)])
        np.testing.assert_allclose(found[0], made[image], atol=1e-3)


def test_monai(fresh):
    visualise = pytest.importorskip("monai.visualize")
    net, x = fresh
    made = GradCAM()(net, x, [1, 3], "relu2").map
    for image, label in enumerate([1, 3]):
        peer = visualise.GradCAM(net, target_layers="relu2", postprocessing=minmax_of)
        found = peer(x[image : image + 1], class_idx=label)[0]
        torch.testing.assert_close(found, made[image : image + 1], atol=1e-5, rtol=0)


NETWORKS = {
    "resnet": ("layer4", Grid(), (2, 2, 2)),
    "densenet": ("features.transition3.conv", Grid(), (2, 2, 2)),
    "vit": ("blocks.1.norm1", Tokens(1, (2, 4, 4)), (2, 4, 4)),
}
"""MONAI's networks, with the layer that is found in them on 32 (ViT: 16) slices of 32 x 32."""


@pytest.mark.parametrize("name", NETWORKS)
def test_monais_networks_need_no_layer(name):
    nets = pytest.importorskip("monai.networks.nets")
    layer, layout, grid = NETWORKS[name]
    size = (16, 32, 32) if name == "vit" else (32, 32, 32)
    torch.manual_seed(0)
    if name == "resnet":
        net = nets.ResNet("basic", [1] * 4, [8, 16, 32, 64], n_input_channels=1, num_classes=2)
    elif name == "densenet":
        net = nets.DenseNet(3, 1, 2, 16, 8, (2, 2, 2, 2))
    else:
        pytest.importorskip("einops")
        shape = {"hidden_size": 48, "mlp_dim": 64, "num_heads": 4, "num_layers": 2}
        net = nets.ViT(1, size, (8, 8, 8), **shape, classification=True, num_classes=2)
    found = explain(net.eval(), torch.rand(1, 1, *size), ["gradcam", "mtsm"], 1)
    for made in found.values():
        assert (made.layers, made.reshapes) == ((layer,), (layout,))
        assert made.raw.shape[1:] == grid
        assert made.map.shape[1:] == size


def minmax_of(maps):
    return minmax(maps[:, 0])[:, None]

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
from torchsaliency import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from torchsaliency.core.maps import minmax

PAIRS = [
    (GradCAM(), peers.GradCAM),
    (GradCAMPlusPlus(), peers.GradCAMPlusPlus),
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


def minmax_of(maps):
    return minmax(maps[:, 0])[:, None]

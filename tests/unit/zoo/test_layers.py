"""The papers' layers, by architecture."""

# ruff: noqa: PLC0415 (model libraries load only in the tests that need them)

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from nets import images, tiny_detector
from torchsaliency import Box, Grid, Layer, explain
from torchsaliency.zoo import paper_layer

TORCHVISION = {
    "resnet18": "layer4.1",
    "resnet50": "layer4.2",
    "vgg16": "features.29",
    "vgg16_bn": "features.42",
    "convnext_tiny": "features",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    "mobilenet_v2": None,
}
TIMM = {
    "resnet18": "layer4.1",
    "vgg16": "features.29",
    "convnext_atto": "stages",
    "vit_tiny_patch16_224": "blocks.11.norm1",
    "deit_tiny_patch16_224": "blocks.11.norm1",
    "deit_tiny_distilled_patch16_224": "blocks.11.norm1",
    "swin_tiny_patch4_window7_224": None,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    from torchvision.models import get_model

    with torch.device("meta"):
        layer = paper_layer(get_model(name, weights=None))
    assert (layer and layer.name) == TORCHVISION[name]


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    import timm

    layer = paper_layer(timm.create_model(name, pretrained=False))
    assert (layer and layer.name) == TIMM[name]


@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_hugging_face(kind):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    layer = paper_layer(getattr(transformers, f"{kind}ForImageClassification")(config))
    assert layer is not None
    assert layer.name.endswith("1.layernorm_before")


def test_a_namesake_is_not_taken_for_the_architecture():
    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer4 = nn.Sequential(nn.Identity())

    assert paper_layer(ResNet()) is None


def test_an_architecture_whose_layer_is_gone_has_none():
    from torchvision.models import resnet18

    model = resnet18()
    model.layer4 = nn.Identity()
    assert paper_layer(model) is None


DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_fpn": "backbone.body.16",
    "maskrcnn_resnet50_fpn": "backbone.body.layer4",
    "retinanet_resnet50_fpn": "backbone.body.layer4",
    "fcos_resnet50_fpn": "backbone.body.layer4",
    "keypointrcnn_resnet50_fpn": "backbone.body.layer4",
    "ssd300_vgg16": "backbone.features",
    "ssdlite320_mobilenet_v3_large": "backbone.features.0",
    "deeplabv3_resnet50": "backbone.layer4",
    "fcn_resnet50": "backbone.layer4",
    "lraspp_mobilenet_v3_large": "backbone.16",
}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_layer_of_detectors_and_segmenters(name):
    with torch.device("meta"):
        net = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    assert paper_layer(net) == Layer(DETECTORS[name], Grid())


def test_an_ssd_squashes_images_of_any_shape():
    net = tiny_detector("ssd")
    made = explain(net, images(2, 48, 96), ["gradcam", "scorecam"], Box(least=0.05))
    assert all(one.map.shape == (2, 48, 96) for one in made.values())
    assert made["gradcam"].status == ("ok", "ok")

"""Hugging Face's detectors and segmenters, built from small configurations."""

import pytest
import torch
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    YolosConfig,
    YolosForObjectDetection,
)

from nets import images, quick, settle
from torchsaliency import Box, LayerError, Segment, default_layer, explain

WIDTHS = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "num_labels": 4}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
FEEDFORWARD = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}


def detr(config, model):
    backbone = ResNetConfig(**WIDTHS, out_features=["stage4"], layer_type="basic")
    how = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    # as many queries as a grid of 4 x 4 cells has: they are no map of the image
    sizes = {**SMALL, **HEADS, **FEEDFORWARD, "num_queries": 16}
    return model(config(backbone_config=backbone, **how, **sizes))


def rt_detr():
    stages = ["stage2", "stage3", "stage4"]
    backbone = RTDetrResNetConfig(**WIDTHS, layer_type="basic", out_features=stages)
    sizes = {"encoder_hidden_dim": 16, "encoder_in_channels": [8, 8, 16], "num_queries": 16}
    more = {"decoder_in_channels": [16, 16, 16], "num_denoising": 0}
    return RTDetrForObjectDetection(
        RTDetrConfig(backbone_config=backbone, **SMALL, **HEADS, **FEEDFORWARD, **sizes, **more)
    )


DETECTORS = {
    "DETR": (lambda: detr(DetrConfig, DetrForObjectDetection), "model.encoder"),
    "Conditional DETR": (
        lambda: detr(ConditionalDetrConfig, ConditionalDetrForObjectDetection),
        "model.encoder",
    ),
    "RT-DETR": (rt_detr, "model.decoder_input_proj.2"),
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_detectors_of_queries(kind):
    torch.manual_seed(0)
    build, layer = DETECTORS[kind]
    net, x = settle(build()), images(2, 64, 64)
    assert default_layer(net, x).name == layer
    methods = {name: quick(name) for name in ("saliency", "gradcam", "d-rise")}
    both = explain(net, x, methods, Box(least=0.0))
    with torch.no_grad():
        plain = net(x)
    softmax = kind == "DETR"  # the others have no "no object"
    classes = plain.logits.softmax(2)[..., :4] if softmax else plain.logits.sigmoid()
    for name, made in both.items():
        torch.testing.assert_close(made.score, classes.amax((1, 2)), atol=1e-4, rtol=0, msg=name)
        assert set(made.status) <= {"ok", "no positive evidence"}
    assert "ok" in both["d-rise"].status
    alone = explain(net, x[1:], methods["d-rise"], Box(least=0.0))["d-rise"]
    torch.testing.assert_close(both["d-rise"].raw[1:], alone.raw, atol=1e-4, rtol=0)


def test_the_cosine_of_class_probabilities():
    torch.manual_seed(0)
    net, x = detr(DetrConfig, DetrForObjectDetection).eval(), images(1, 64, 64)
    made = explain(net, x, quick("d-rise"), Box(least=0.0, form="cosine"))["d-rise"]
    assert made.score.tolist() == [pytest.approx(1.0, abs=1e-5)]
    assert made.status == ("ok",)


def test_tokens_behind_the_patches_are_no_map():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = YolosConfig(
        **sizes, intermediate_size=16, image_size=[64, 64], num_detection_tokens=9, num_labels=4
    )
    net, x = YolosForObjectDetection(config).eval(), images(1, 64, 64)
    with pytest.raises(LayerError, match="name one"):
        default_layer(net, x)
    assert explain(net, x, "saliency", Box(least=0.0))["saliency"].status == ("ok",)


def test_a_segmenter_with_logits_at_a_quarter_size():
    torch.manual_seed(0)
    config = SegformerConfig(
        **{key: WIDTHS[key] for key in ("hidden_sizes", "depths")},
        num_attention_heads=[1, 1, 1, 2],
        decoder_hidden_size=16,
        num_labels=5,
    )
    net, x = SegformerForSemanticSegmentation(config).eval(), images(2, 64, 64)
    methods = {name: quick(name) for name in ("saliency", "gradcam", "rise")}
    first = explain(net, x, methods, Segment())
    for name, made in first.items():
        assert made.output.shape == (2, 5, 16, 16)
        assert made.map.shape == (2, 64, 64)
        assert "ok" in made.status, name
    # transformers installs hooks in the first pass; they are not there twice in the second
    torch.testing.assert_close(
        explain(net, x, "saliency", Segment())["saliency"].map, first["saliency"].map
    )

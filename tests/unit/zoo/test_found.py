"""Hugging Face's detectors and segmenters in folders: their preprocessing, names and maps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)
from transformers.models.detr.image_processing_detr import DetrImageProcessor

from torchsaliency import Box, Segment, explain, preprocess
from torchsaliency.zoo import from_hf, load_model
from torchsaliency.zoo.preprocessing import Preprocessing

NAMES = {0: "cat", 1: "dog", 2: "cup", 3: "horse"}
PROCESSOR = {
    "image_processor_type": "DetrImageProcessor",
    "size": {"shortest_edge": 64, "longest_edge": 96},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=6,
        id2label=NAMES,
        label2id={name: index for index, name in NAMES.items()},
    )
    folder = tmp_path_factory.mktemp("detr")
    DetrForObjectDetection(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def test_a_detector_in_a_folder(detector, tmp_path):
    net = load_model(str(detector))
    assert net.classes == tuple(NAMES.values())
    assert net.class_index("horse") == 3
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)).save(photo)
    x = preprocess(photo, net)
    assert x.shape == (1, 3, 64, 80)
    made = explain(net, x, "gradcam", Box(least=0.0))["gradcam"]
    assert made.layers == ("model.encoder",)
    assert int(made.target.labels) in NAMES
    assert made.status == ("ok",)


@pytest.mark.parametrize(
    "size", [(80, 100), (100, 80), (80, 200), (200, 80), (33, 77), (64, 96), (50, 50)]
)
def test_sizes_are_those_of_its_processor(size):
    ours = from_hf(PROCESSOR, whole=True)
    assert Preprocessing.from_dict(ours.to_dict()) == ours
    processor = DetrImageProcessor(
        **{k: v for k, v in PROCESSOR.items() if k != "image_processor_type"}
    )
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    theirs = processor(photo, return_tensors="pt", do_pad=False)["pixel_values"][0]
    assert ours(photo).shape == theirs.shape
    assert ours.input_size(size) == tuple(theirs.shape[1:])
    assert float((ours(photo) - theirs).abs().mean()) < 0.02  # it resizes tensors, ours pictures


def test_a_segmenter_in_a_folder(tmp_path):
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 2],
        decoder_hidden_size=16,
        id2label=NAMES,
        label2id={name: index for index, name in NAMES.items()},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    processor = {**PROCESSOR, "size": {"height": 64, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    net = load_model(str(tmp_path))
    assert net.classes == tuple(NAMES.values())
    assert net.preprocessing.size == (64, 64)
    made = explain(net, torch.randn(1, 3, 64, 64), "saliency", Segment())["saliency"]
    assert made.status == ("ok",)

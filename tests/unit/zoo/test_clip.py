"""CLIP: the image encoder by folder, texts as targets; and encoders of timm."""

from __future__ import annotations

import json

import pytest
import torch

import torchsaliency
from torchsaliency.errors import CheckpointError, InputError
from torchsaliency.zoo import load_model, similarity_to_text

transformers = pytest.importorskip("transformers")

WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    "d",
    "o",
    "g",
    "g</w>",
    "do",
    "dog</w>",
    "c",
    "a",
    "t</w>",
]
MERGES = ["d o", "do g</w>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP in the published layout: both encoders, the tokenizer, the processor."""
    place = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 12,
            "eos_token_id": 1,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "projection_dim": 8,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 8,
        },
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(place)
    (place / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(WORDS)}))
    (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    facts = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12}
    (place / "tokenizer_config.json").write_text(json.dumps(facts))
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
    }
    (place / "preprocessor_config.json").write_text(json.dumps(processor))
    return place


def test_the_image_encoder_is_that_of_the_whole(folder):
    network = load_model(f"hf/{folder}")
    whole = transformers.CLIPModel.from_pretrained(folder).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = whole.visual_projection(whole.vision_model(x).pooler_output)
        torch.testing.assert_close(network(x), expected)
    assert network.encoder
    assert network.layer.name.endswith("layers.1.layer_norm1")


def test_a_text_is_a_target(folder):
    network = load_model(f"hf/{folder}")
    whole = transformers.CLIPModel.from_pretrained(folder).eval()
    x = torch.randn(2, 3, 32, 32)
    target = similarity_to_text(network, "dog")
    made = torchsaliency.explain(network, x, ["gradcam", "layercam", "attention-rollout"], target)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(["dog"], return_tensors="pt")
    with torch.no_grad():
        logits = whole(pixel_values=x, **tokens).logits_per_image[:, 0]
    cosine = logits / whole.logit_scale.exp()
    torch.testing.assert_close(made["gradcam"].score, cosine, atol=1e-5, rtol=1e-4)
    assert made["layercam"].map.shape == (2, 32, 32)
    other = torchsaliency.explain(network, x, "layercam", similarity_to_text(network, "cat"))
    assert not torch.allclose(made["layercam"].map, other["layercam"].map, atol=1e-3)


def test_what_has_no_texts(folder):
    with pytest.raises(CheckpointError, match="no text encoder"):
        similarity_to_text(load_model("builtin/shapes_ssl"), "dog")
    with pytest.raises(InputError, match="some words"):
        similarity_to_text(load_model(f"hf/{folder}"), " ")


def test_timm_networks_without_a_classifier_are_encoders():
    network = load_model("timm/test_vit.r160_in1k", pretrained=False, num_classes=0)
    assert network.encoder
    x = torch.randn(1, 3, 160, 160)
    made = torchsaliency.explain(network, x, ["gradcam", "tsm"])
    assert made["gradcam"].target.describe()["kind"] == "EmbeddingSimilarity(dot)"

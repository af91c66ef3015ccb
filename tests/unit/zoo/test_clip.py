"""CLIP: the image encoder by folder, texts as targets; and encoders of timm."""

from __future__ import annotations

import pytest
import torch
import transformers

import torchsaliency
from tiny_clip import write_clip
from torchsaliency.errors import CheckpointError, InputError
from torchsaliency.zoo import load_model, similarity_to_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    write_clip(place)
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

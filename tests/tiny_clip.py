"""A tiny CLIP in the published layout: both encoders, the tokenizer, the processor."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

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


def write_clip(place: Path) -> None:
    """Write the files of a CLIP with random weights that knows "dog" and "cat"."""
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

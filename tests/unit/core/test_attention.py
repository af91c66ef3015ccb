"""Attention that is recorded, against what torch's own layer returns."""

import pytest
import torch
from torch import nn

from torchsaliency.core.attention import record_attention

IMAGES, HEADS, TOKENS = 2, 3, 5


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return nn.MultiheadAttention(6, HEADS, batch_first=True).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(IMAGES, TOKENS, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("fused", [False, True])
def test_a_block_is_seen_by_image_and_head(layer, x, fused):
    with torch.no_grad():
        expected = layer(x, x, x, average_attn_weights=False)[1]
    with record_attention(IMAGES) as blocks:
        layer(x, x, x, need_weights=not fused, average_attn_weights=False)
    (block,) = blocks
    assert block.weights.shape == (IMAGES, HEADS, TOKENS, TOKENS)
    torch.testing.assert_close(block.weights, expected)
    assert (block.value is not None) == fused


def test_nothing_is_recorded_unless_it_is_wanted(layer, x):
    with record_attention(IMAGES, wanted=False) as blocks:
        layer(x, x, x)
    assert blocks == []


def test_what_is_no_square_for_each_image_is_no_attention(x):
    with record_attention(IMAGES) as blocks:
        x.softmax(-1)
        torch.rand(IMAGES, 1, 1).softmax(-1)
        torch.rand(TOKENS, TOKENS).softmax(-1)
    assert blocks == []

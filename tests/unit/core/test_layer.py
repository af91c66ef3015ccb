"""Layouts there and back, and how they are guessed from a shape."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nets import ChannelsLastNet, convnet
from torchsaliency import ChannelsLast, Grid, Layer, LayerError, Tokens
from torchsaliency.core.layer import infer_reshape

sides = st.integers(1, 5)


@given(prefix=st.integers(0, 5), h=sides, w=sides, channels=sides, count=st.integers(1, 3))
def test_tokens_there_and_back(prefix, h, w, channels, count):
    output = torch.randn(count, prefix + h * w, channels)
    layout = Tokens(prefix, (h, w))
    maps = layout.to_maps(output)
    assert maps.shape == (count, channels, h, w)
    for row in range(h):
        for column in range(w):
            assert torch.equal(maps[:, :, row, column], output[:, prefix + row * w + column])
    assert torch.equal(layout.from_maps(maps, output), output)


def test_tokens_keep_their_prefix_for_every_replacement():
    output = torch.randn(1, 1 + 4, 3)
    replaced = Tokens(1).from_maps(torch.zeros(6, 3, 2, 2), output)
    assert replaced.shape == (6, 5, 3)
    assert torch.equal(replaced[:, 0], output[:, 0].expand(6, -1))
    assert replaced[:, 1:].count_nonzero() == 0


def test_tokens_find_a_square_and_refuse_the_rest():
    assert Tokens(1).to_maps(torch.randn(2, 10, 3)).shape == (2, 3, 3, 3)
    with pytest.raises(LayerError, match="do not fill a 3x3 grid"):
        Tokens(0).to_maps(torch.randn(2, 10, 3))


@given(h=sides, w=sides, channels=sides)
def test_channels_last_there_and_back(h, w, channels):
    output = torch.randn(2, h, w, channels)
    maps = ChannelsLast().to_maps(output)
    assert maps.shape == (2, channels, h, w)
    assert torch.equal(ChannelsLast().from_maps(maps, output), output)


def test_a_grid_is_left_alone():
    output = torch.randn(2, 3, 4, 5)
    assert Grid().to_maps(output) is output
    assert Grid().from_maps(output, output) is output


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        pytest.param((1, 197, 768), (224, 224), Tokens(1, (14, 14)), id="ViT-B/16"),
        pytest.param((1, 198, 768), (224, 224), Tokens(2, (14, 14)), id="DeiT distilled"),
        pytest.param((1, 261, 384), (224, 224), Tokens(5, (16, 16)), id="DINOv2 registers"),
        pytest.param((1, 257, 384), (224, 224), Tokens(1, (16, 16)), id="DINOv2"),
        pytest.param((1, 50, 768), (224, 224), Tokens(1, (7, 7)), id="ViT-B/32"),
        pytest.param((1, 196, 768), (224, 224), Tokens(0, (14, 14)), id="no class token"),
        pytest.param((1, 49, 768), (224, 224), Tokens(0, (7, 7)), id="Swin v1 tokens"),
        pytest.param((1, 1 + 14 * 28, 768), (224, 448), Tokens(1, (14, 28)), id="wide ViT"),
        pytest.param((1, 5 + 32 * 16, 768), (512, 256), Tokens(5, (32, 16)), id="tall registers"),
        pytest.param((1, 7, 7, 768), (224, 224), ChannelsLast(), id="Swin"),
        pytest.param((1, 14, 7, 768), (224, 112), ChannelsLast(), id="tall Swin"),
        pytest.param((1, 2048, 7, 7), (224, 224), Grid(), id="ResNet"),
        pytest.param((1, 3, 7, 7), (224, 224), Grid(), id="few channels"),
        pytest.param((1, 7, 7, 7), (224, 224), Grid(), id="as many channels as cells"),
        pytest.param((1, 512, 14, 7), (448, 224), Grid(), id="tall"),
        pytest.param((1, 512, 8, 10), (250, 300), Grid(), id="rounded at the border"),
        pytest.param((1, 1000), (224, 224), None, id="logits"),
        pytest.param((1, 3, 8, 7, 7), (224, 224), None, id="video"),
        pytest.param((1, 12, 197, 197), (224, 224), Grid(), id="attention weights"),
        pytest.param((1, 12, 197, 64), (224, 224), None, id="heads"),
        pytest.param((1, 12, 65, 64), (128, 128), None, id="heads of nearly as many tokens"),
    ],
)
def test_guessing(shape, size, expected):
    assert infer_reshape(shape, size) == expected


def test_naming():
    net = convnet()
    assert Layer.of("relu3", net) == Layer("relu3")
    assert Layer.of(net.relu3, net) == Layer("relu3")
    assert Layer.of(Layer("relu3", Grid()), net) == Layer("relu3", Grid())
    assert Layer("relu3").module_of(net) is net.relu3
    assert Layer("input").module_of(net) is None
    with pytest.raises(LayerError, match=r"close names are relu\d"):
        Layer.of("relu", net)
    with pytest.raises(LayerError, match="not a submodule"):
        Layer.of(torch.nn.ReLU(), net)


def test_resolving():
    net = ChannelsLastNet()
    made = Layer("norm").fill_layout(torch.randn(1, 3, 4, 8), (12, 16))
    assert made == Layer("norm", ChannelsLast())
    assert made.fill_layout(torch.randn(1, 9), (1, 1)) is made
    with pytest.raises(LayerError, match="no spatial map"):
        Layer("fc").fill_layout(net.fc(torch.randn(1, 8)), (12, 16))

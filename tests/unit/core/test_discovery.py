"""The layer that is read when nobody says."""

import pytest
import torch
from torch import nn

from nets import CLASSES, ChannelsLastNet, Joins, convnet, images, settle, tiny_vit, two_layer_head
from torchsaliency import LayerError, TargetError, default_layer, explain
from torchsaliency.core import discovery
from torchsaliency.core.layer import ChannelsLast, Grid, Layer, Tokens
from torchsaliency.core.network import NetworkWrapper


@pytest.fixture(autouse=True)
def nobody_knows_a_layer(monkeypatch):
    """Without the papers' layers, so that what is tested is the traced pass."""
    monkeypatch.setattr(discovery, "_resolvers", [])


def test_the_last_map_of_a_convolutional_network():
    assert default_layer(convnet(), images(1)) == Layer("relu3", Grid())
    assert default_layer(two_layer_head(), images(1, 20, 20)).name == "pool"


@pytest.mark.parametrize(
    ("options", "prefix"),
    [({}, 1), ({"reg_tokens": 4}, 5), ({"class_token": False, "global_pool": "avg"}, 0)],
)
def test_a_transformer(options, prefix):
    net, x = tiny_vit(**options), images(1, 32, 32)
    found = default_layer(net, x)
    assert found.reshape == Tokens(prefix, (4, 4))
    assert "patch_embed" not in found.name
    if prefix:
        # After the last block's attention, patch tokens reach a class-token head no more.
        assert found.name == "blocks.1.norm1"
    assert explain(net, x, "gradcam", 1)["gradcam"].map.amax() == 1


def test_channels_last_and_joined_maps():
    assert default_layer(settle(ChannelsLastNet()), images(1, 12, 16)).reshape == ChannelsLast()
    assert default_layer(settle(Joins()), images(1)).name == "head"


def test_a_patch_embedding_is_never_chosen():
    net = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    with pytest.raises(LayerError, match='layer="input"'):
        default_layer(net, images(1))


def test_a_network_without_maps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    with pytest.raises(LayerError, match='layer="input"'):
        default_layer(net, images(1))
    assert explain(net, images(1), "gradcam", 0, "input")["gradcam"].layers == ("input",)


def test_a_detector_needs_a_layer_named():
    class Detector(nn.Module):
        def forward(self, x):
            return [{"boxes": x} for _ in x]

    with pytest.raises(TargetError, match="name one"):
        default_layer(Detector(), images(1))


def test_a_module_that_runs_twice_is_passed_over():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.act = nn.ReLU()
            self.fc = nn.Linear(3, CLASSES)

        def forward(self, x):
            return self.fc(self.act(self.conv(self.act(x))).mean((2, 3)))

    assert default_layer(settle(Shared()), images(1)).name == "conv"


def test_it_is_remembered_for_the_network_and_size():
    net = convnet()
    calls = []
    net.conv1.register_forward_pre_hook(lambda *_: calls.append(1))
    assert default_layer(net, images(1)) == default_layer(net, images(1, seed=2))
    assert len(calls) == 1
    default_layer(net, images(1, 24, 24))
    assert len(calls) == 2
    net.add_module("more", nn.Identity())
    default_layer(net, images(1))
    assert len(calls) == 3


def test_a_wrapper_may_know_its_layer():
    class Named(NetworkWrapper):
        def __init__(self, net):
            super().__init__()
            self.module, self.layer = net, Layer("relu2")

    assert explain(Named(convnet()), images(1), "gradcam", 1)["gradcam"].layers == ("relu2",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_in_other_precisions(dtype):
    assert default_layer(convnet().to(dtype), images(1)).name == "relu3"


class ReadsAPart(nn.Module):
    """Reads a crop of its feature map alone."""

    def __init__(self, part):
        super().__init__()
        self.conv, self.fc, self.part = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), part

    def forward(self, x):
        return self.fc(self.part(self.conv(x).relu()).mean((2, 3)))


class Corner(nn.Module):
    def forward(self, z):
        return z[:, :, :2, :3]


@pytest.mark.parametrize("part", [lambda z: z[:, :, 4:9, 4:9], lambda z: z[:, :, ::3, ::3]])
def test_a_layer_of_which_a_part_is_read_is_a_layer(part):
    net, x = ReadsAPart(part).eval(), images(2)
    assert default_layer(net, x).name == "conv"


def test_of_one_cell_no_map_is_made_but_of_two():
    assert default_layer(ReadsAPart(lambda z: z[:, :, :1, :2]).eval(), images(1)).name == "conv"
    with pytest.raises(LayerError, match="No layer"):
        default_layer(ReadsAPart(lambda z: z[:, :, :1, :1]).eval(), images(1))


def test_of_layers_read_in_part_the_one_of_which_most_is_read():
    net = ReadsAPart(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), Corner())).eval()
    assert default_layer(net, images(1)).name == "conv"  # 3 x 4 cells of it, and 2 x 3 of the next


def test_methods_that_read_no_layer_need_none():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).eval()
    made = explain(net, images(2), ["saliency", "occlusion"], [0, 1])
    assert made["saliency"].map.shape == (2, 16, 16)
    with pytest.raises(LayerError, match="No layer"):
        explain(net, images(2), "gradcam", [0, 1])


class PoolsInside(nn.Module):
    """Gives its features and what it pooled of them, of which only the latter is read."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())

    def forward(self, x):
        features = self.encoder(x)
        return {"last_hidden_state": features, "pooler_output": features.mean((2, 3))}


class ReadsPooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = PoolsInside()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.backbone(x)["pooler_output"])


def test_features_beside_the_pooled_ones_that_are_read():
    """As Hugging Face's ResNet gives them: the module inside is on the way to the output."""
    torch.manual_seed(0)
    net = ReadsPooled().eval()
    x = torch.randn(2, 3, 16, 16)
    assert default_layer(net, x).name == "backbone.encoder"
    found = explain(net, x, "gradcam")["gradcam"]
    expected = explain(net, x, "gradcam", layer="backbone.encoder.1")["gradcam"]
    assert torch.equal(found.raw, expected.raw)

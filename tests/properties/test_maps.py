"""Every method, any size: maps of the right shape in [0, 1], finite, with a status."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torchsaliency
from nets import (
    NAMES,
    ChannelsLastNet,
    assert_good_map,
    convnet,
    images,
    insist_it_is_undefined_here,
    quick,
    settle,
    tiny_vit,
    two_layer_head,
)
from torchsaliency import FakeCAM, LayerError
from torchsaliency.core.method import Needs, methods

sizes = st.integers(8, 24)


@pytest.mark.parametrize("name", NAMES)
@given(count=st.integers(1, 3), height=sizes, width=sizes, seed=st.integers(0, 99))
def test_shape_range_and_status(name, count, height, width, seed):
    x = images(count, height, width, seed)
    made = quick(name)(convnet(seed=seed), x, layer="relu3")
    assert_good_map(made, count, (height, width))
    assert made.layers == ("relu3",)
    assert made.method.name == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("net", "size"),
    [
        pytest.param(two_layer_head(), (20, 12), id="two-layer-head"),
        pytest.param(tiny_vit(), (32, 32), id="vit"),
        pytest.param(settle(ChannelsLastNet()), (12, 16), id="channels-last"),
    ],
)
def test_other_kinds_of_network(name, net, size):
    x = images(2, *size)
    try:
        made = quick(name)(net, x)
    except LayerError as error:
        insist_it_is_undefined_here(name, error)
        return
    assert_good_map(made, 2, size)


@pytest.mark.parametrize("name", NAMES)
def test_a_well_behaved_network_has_evidence(name):
    made = quick(name)(convnet(seed=3), images(2, seed=1), layer="relu3")
    assert made.map.amax((1, 2)).tolist() == pytest.approx([1, 1])
    assert set(made.status) == {"ok"}


def constant_features() -> nn.Module:
    """All features equal at all positions: zero weights, constant biases."""
    net = convnet()
    with torch.no_grad():
        net.conv3.weight.zero_()
        net.bn3.bias.fill_(1.0)
    return net


def dead_features() -> nn.Module:
    net = convnet()
    with torch.no_grad():
        net.bn3.weight.zero_()
        net.bn3.bias.fill_(-1.0)
    return net


# A control that looks at nothing has a map in any case.
LOOKING = [name for name in NAMES if methods()[name].needs != Needs.NOTHING]


@pytest.mark.parametrize("name", LOOKING)
@pytest.mark.parametrize("net", [constant_features(), dead_features()], ids=["constant", "dead"])
def test_nothing_to_see_gives_zeros_and_says_so(name, net):
    made = quick(name)(net, images(2), layer="relu3")
    assert_good_map(made, 2, (16, 16))
    assert made.map.count_nonzero() == 0
    assert "ok" not in made.status


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_blank_image_never_gives_nan(name, value):
    made = quick(name)(convnet(), torch.full((2, 3, 16, 16), value))
    assert_good_map(made, 2, (16, 16))


@pytest.mark.parametrize("name", NAMES)
def test_some_dead_channels_are_harmless(name):
    net = convnet()
    with torch.no_grad():
        net.bn3.weight[::2] = 0
        net.bn3.bias[::2] = -1
    assert_good_map(quick(name)(net, images(2), layer="relu3"), 2, (16, 16))


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_gradient_is_no_evidence_not_an_error(name):
    net = convnet()
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.zero_()
    assert_good_map(quick(name)(net, images(2), layer="relu3"), 2, (16, 16))


def test_a_fake_map_needs_no_network():
    made = FakeCAM()(convnet(), images(1))
    expected = torch.ones(1, 16, 16)
    expected[:, 0, 0] = 0
    assert torch.equal(made.map, expected)


def test_all_methods_in_one_call_equal_each_alone():
    net, x = convnet(seed=5), images(2, seed=5)
    together = torchsaliency.explain(net, x, [quick(name) for name in NAMES], layer="relu3")
    assert list(together) == NAMES
    for name in NAMES:
        alone = quick(name)(net, x, layer="relu3")
        torch.testing.assert_close(together[name].map, alone.map, atol=1e-5, rtol=0)

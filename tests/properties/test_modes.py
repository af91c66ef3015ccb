"""Whatever mode the user's network and torch are in, the map is the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nets import (
    CLASSES,
    NAMES,
    WRAPPINGS,
    ChannelsLastNet,
    Wraps,
    assert_good_map,
    convnet,
    images,
    insist_it_is_undefined_here,
    quick,
    settle,
    tiny_vit,
)
from torchsaliency import ChannelsLast, Layer, LayerError, explain
from torchsaliency.core.method import Needs, methods

EXACT = {"atol": 1e-5, "rtol": 0}
# In double precision, so that what is compared is the method, not the order in which some
# processor's convolution adds: a difference of scores can lose half of float32's digits.


@pytest.fixture(scope="module")
def expected():
    net, x = fresh()
    return {n: quick(n)(net, x, [0, 1, 2], "relu3").map for n in NAMES}


def fresh():
    return convnet(seed=3).double(), images(3, seed=1).double()


@pytest.mark.parametrize("name", NAMES)
def test_grad_modes(name, expected):
    net, x = fresh()
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            made = quick(name)(net, x, [0, 1, 2], "relu3")
            assert not torch.is_grad_enabled() or mode is torch.enable_grad
        torch.testing.assert_close(made.map, expected[name], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_images_made_in_inference_mode(name, expected):
    net, _ = fresh()
    with torch.inference_mode():
        x = images(3, seed=1).double()
    made = quick(name)(net, x, [0, 1, 2], "relu3")
    torch.testing.assert_close(made.map, expected[name], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_network_in_training_mode_and_images_with_gradients(name, expected):
    net, x = fresh()
    net.requires_grad_(False).train()
    made = quick(name)(net, x.requires_grad_(), [0, 1, 2], "relu3")
    torch.testing.assert_close(made.map, expected[name], **EXACT)
    assert not made.images.requires_grad
    assert not made.score.requires_grad
    assert not made.output.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_images_that_belong_to_a_graph_and_memory_formats(name, expected):
    net, x = fresh()
    weight = torch.ones(1, requires_grad=True)
    made = quick(name)(
        net, (x * weight).contiguous(memory_format=torch.channels_last), [0, 1, 2], "relu3"
    )
    torch.testing.assert_close(made.map, expected[name], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_autocast(name, expected):
    net, x = fresh()
    with torch.autocast("cpu", torch.bfloat16):
        made = quick(name)(net, x, [0, 1, 2], "relu3")
    assert_good_map(made, 3, (16, 16))
    if name != "eigencam":  # bfloat16 may turn its sign
        assert (made.map - expected[name]).abs().mean() < 0.05


@pytest.mark.parametrize("name", NAMES)
@given(
    count=st.integers(2, 4),
    size=st.sampled_from([(8, 8), (12, 17), (16, 16)]),
    seed=st.integers(0, 50),
)
def test_an_images_map_does_not_depend_on_its_batch_mates(name, count, size, seed):
    net, x = convnet(seed=seed).double(), images(count, *size, seed).double()
    labels = [index % CLASSES for index in range(count)]
    together = quick(name)(net, x, labels, "relu3")
    for index in range(count):
        alone = quick(name)(net, x[index : index + 1], labels[index], "relu3")
        torch.testing.assert_close(together.map[index], alone.map[0], **EXACT)
        assert together.status[index] == alone.status[0]


@pytest.mark.parametrize("name", NAMES)
def test_batch_mates_in_other_networks(name):
    for net, x in (
        (tiny_vit(), images(3, 32, 32)),
        (settle(ChannelsLastNet()), images(3, 12, 16)),
    ):
        net, x = net.double(), x.double()
        try:
            together = quick(name)(net, x, [0, 1, 2])
        except LayerError as error:
            insist_it_is_undefined_here(name, error)
            continue
        alone = quick(name)(net, x[1:2], 1)
        torch.testing.assert_close(together.map[1], alone.map[0], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_the_chunk_is_only_about_memory(name, expected):
    net, x = fresh()
    for chunk in (1, 3, 32):
        made = quick(name)(net, x, [0, 1, 2], "relu3", chunk=chunk)
        torch.testing.assert_close(made.map, expected[name], **EXACT)


LABEL_FREE = [name for name in NAMES if Needs.TARGET not in methods()[name].needs]


@pytest.mark.parametrize("name", LABEL_FREE)
def test_label_independent_methods_ignore_the_target(name, expected):
    net, x = fresh()
    for target in (None, 4, [2, 2, 0], lambda output: output.sum(1)):
        made = quick(name)(net, x, target, "relu3")
        torch.testing.assert_close(made.map, expected[name], **EXACT)


# before pooling and a linear layer, the norm of an outer product does not depend on the class
SPECIFIC = [name for name in NAMES if name not in {*LABEL_FREE, "normgrad"}]


@pytest.mark.parametrize("name", SPECIFIC)
def test_the_others_do_not(name, expected):
    net, x = fresh()
    assert (quick(name)(net, x, 4, "relu3").map - expected[name]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_relu_in_place_or_not(name):
    x = images(2, seed=1).double()
    for layer in ["relu3"] if name == "cam" else ["bn3", "relu3"]:
        changed, kept = (
            quick(name)(convnet(inplace=inplace, seed=3).double(), x, 1, layer)
            for inplace in (True, False)
        )
        torch.testing.assert_close(changed.map, kept.map, **EXACT)
        torch.testing.assert_close(changed.raw, kept.raw, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_wrapped_outputs(name, expected):
    net, x = fresh()
    for kind in WRAPPINGS:
        made = quick(name)(Wraps(net, kind), x, [0, 1, 2], "net.relu3")
        torch.testing.assert_close(made.map, expected[name], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_layers_by_name_module_and_object(name, expected):
    net, x = fresh()
    for layer in (net.relu3, Layer("relu3"), ["relu3"], (net.relu3,)):
        made = quick(name)(net, x, [0, 1, 2], layer)
        assert made.layers == ("relu3",)
        torch.testing.assert_close(made.map, expected[name], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_data_parallel_and_compiled_wrappers_are_looked_through(name, expected):
    net, x = fresh()
    compiled = torch.compile(net)  # never run: the original is explained
    for wrapper in (nn.DataParallel(net), compiled, nn.DataParallel(nn.DataParallel(net))):
        for layer in ("relu3", net.relu3):
            made = quick(name)(wrapper, x, [0, 1, 2], layer)
            torch.testing.assert_close(made.map, expected[name], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_several_layers_at_once(name):
    net, x = fresh()
    for layers in (["relu2", "relu3"], ["relu1", "relu3"], ["bn1", "bn2", "bn3"]):
        try:
            made = quick(name)(net, x, 1, layers)
        except LayerError as error:
            insist_it_is_undefined_here(name, error)
            continue
        assert_good_map(made, 3, (16, 16))
        assert made.layers == tuple(layers)
        # The order is a list's, the map is not.
        turned = quick(name)(net, x, 1, layers[::-1])
        torch.testing.assert_close(made.map, turned.map, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_image_itself_is_a_layer(name):
    net, x = fresh()
    try:
        made = quick(name)(net, x, 1, "input")
    except LayerError as error:
        insist_it_is_undefined_here(name, error)
        return
    assert_good_map(made, 3, (16, 16))
    assert made.layers == ("input",)
    assert made.raw.shape == (3, 16, 16)


def test_a_layout_of_ones_own():
    net, x = settle(ChannelsLastNet()), images(2, 12, 16)
    inferred = explain(net, x, "gradcam", 0, "norm")["gradcam"]
    named = explain(net, x, "gradcam", 0, Layer("norm", ChannelsLast()))["gradcam"]
    assert inferred.raw.shape == (2, 3, 4)
    assert torch.equal(inferred.map, named.map)

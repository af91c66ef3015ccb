"""The user's network, images and random state are the same afterwards, on success and on error."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from nets import (
    CLASSES,
    NAMES,
    NEEDS_A_LINEAR_HEAD,
    Fails,
    InPlaceInput,
    assert_same_state,
    convnet,
    images,
    quick,
    state_of,
    tiny_vit,
)
from torchsaliency import LayerError, TargetError, TorchSaliencyError


def lived_in(net: nn.Module) -> nn.Module:
    """A network in the middle of somebody's work: mixed flags, frozen parts, gradients, hooks."""
    net.train()
    for index, module in enumerate(net.modules()):
        module.training = index % 3 != 0
    for index, parameter in enumerate(net.parameters()):
        parameter.requires_grad = index % 2 == 0
        if index % 4 == 0:
            parameter.grad = torch.full_like(parameter, index)
    next(net.children()).register_forward_hook(lambda *_: None)
    return net


@contextmanager
def unchanged(net: nn.Module, x: torch.Tensor) -> Iterator[None]:
    torch.manual_seed(1234)
    before, pixels, flag = state_of(net), x.detach().clone(), x.requires_grad
    yield
    assert_same_state(before, state_of(net))
    assert torch.equal(x, pixels)
    assert x.requires_grad == flag
    assert x.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_on_success(name):
    for layer in ("relu3", None):
        net, x = lived_in(convnet()), images(3).requires_grad_()
        with unchanged(net, x):
            quick(name)(net, x, layer=layer, chunk=2)


@pytest.mark.parametrize("name", NAMES)
def test_when_the_network_breaks_in_mid_forward(name):
    for at in (1, 2):
        net = convnet()
        net.pool = nn.Sequential(Fails(at), net.pool)
        lived_in(net)
        x = images(2)
        with unchanged(net, x):
            try:
                quick(name)(net, x, layer="conv2", target=0)
            except RuntimeError as error:
                assert "the network broke" in str(error)
            except TorchSaliencyError:
                assert name == "cam"  # refuses conv2 before, or after its own second pass
            else:
                assert at == 2


MISTAKES = (
    ({"target": CLASSES}, TargetError),
    ({"target": [0]}, TargetError),
    ({"layer": "relu9"}, LayerError),
    ({"layer": "fc"}, LayerError),
    ({"layer": ["relu2", "flatten"]}, LayerError),
)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_users_mistake(name):
    for wrong, kind in MISTAKES:
        net, x = lived_in(convnet()), images(2)
        with unchanged(net, x), pytest.raises(kind):
            quick(name)(net, x, **{"layer": "relu3", **wrong})


def test_when_a_target_breaks_in_the_middle_of_the_search():
    calls = []

    def target(output: torch.Tensor) -> torch.Tensor:
        calls.append(len(output))
        if len(calls) > 2:
            raise KeyError("the target broke")
        return output[:, 0]

    net, x = lived_in(convnet()), images(2)
    with unchanged(net, x), pytest.raises(KeyError, match="the target broke"):
        quick("opticam")(net, x, target=target, layer="relu3")


def test_when_the_default_layer_is_sought_in_a_broken_network():
    net = convnet()
    net.pool = Fails()
    lived_in(net)
    x = images(1)
    with unchanged(net, x), pytest.raises(RuntimeError, match="the network broke"):
        quick("gradcam")(net, x)


def test_a_vision_transformer_is_untouched():
    net, x = lived_in(tiny_vit()), images(1, 32, 32)
    with unchanged(net, x):
        for name in ("gradcam", "opticam", "ablationcam", "mtsm"):
            quick(name)(net, x)


READ_A_BASELINE = {
    "group-cam",
    "iscam",
    "sscam",
    "blur-ig",
    "fullgrad",
    "scorecam",
    "opticam",
    "rise",
    "occlusion",
    "extremal-perturbation",
    "deeplift",
    "deepshap",
    "feature-ablation",
    "gradientshap",
    "input-x-gradient",
    "integrated-gradients",
    "kernelshap",
    "lime",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_works_in_place_on_its_input(name):
    """Such a network must change neither the user's images nor those of later passes."""
    plain, x = convnet(), images(2)
    net = InPlaceInput(plain)
    for layer in (None,) if name in NEEDS_A_LINEAR_HEAD else (None, "input"):
        with unchanged(net, x):
            quick(name)(net, x, layer=layer)
    with unchanged(net, x):
        made = quick(name)(net, x, layer="net.relu3")
    if name not in READ_A_BASELINE:  # which the network shifts, too
        same = quick(name)(plain, (x - 0.25) * 2, layer="relu3")
        torch.testing.assert_close(made.map, same.map, atol=1e-5, rtol=0)


class Installs(nn.Module):
    """Installs a hook in its first pass and notes that, as transformers does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "installed"):
            self.net.register_forward_hook(lambda module, inputs, output: output + 1)
            self.installed = True
        return self.net(x)


def test_a_hook_that_a_pass_installs_is_there_once():
    net, x = Installs(convnet()), images(1)
    expected = convnet()(x) + 1
    for _ in range(2):
        made = quick("gradcam")(net, x, layer="net.relu3")
        torch.testing.assert_close(made.output, expected)
    assert not hasattr(net, "installed")
    assert not net.net._forward_hooks


def test_random_networks_draw_the_same_numbers_as_if_nothing_had_happened():
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0 * torch.rand_like(x)

    net = convnet()
    net.bn1 = nn.Sequential(net.bn1, Noisy())
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    quick("opticam")(net, images(1), layer="relu3")
    assert torch.equal(torch.rand(4), expected)

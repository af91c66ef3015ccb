"""A copy of the network is never trusted blindly: every method, every mode, every change."""

import copy
import gc
import shutil
import weakref

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import torchsaliency
from nets import (
    ATTENTION_NAMES,
    NAMES,
    convnet,
    images,
    quick,
    run_accelerated,
    settle,
    tiny_vit,
)
from torchsaliency import TorchSaliencyError, explain
from torchsaliency.core.acceleration import ENGINES, auto, cache, copy_network
from torchsaliency.measures import masked_scores, noisy_maps

MODES = [name for name in ENGINES.names() if name != "off"]
LOOSE = {"bf16": 0.2}

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++")


@pytest.fixture(scope="module")
def networks():
    return convnet(seed=3), tiny_vit()


@pytest.fixture(scope="module")
def plain(networks):
    net, vit = networks
    found = {name: quick(name)(net, images(2, seed=1), 1, "relu3") for name in NAMES}
    return found | {name: quick(name)(vit, images(2, 32, 32), 1) for name in ATTENTION_NAMES}


@needs_a_compiler
@pytest.mark.parametrize("mode", MODES)
def test_every_method_gives_its_map_in_every_mode(networks, plain, mode, tally):
    held = 0
    for name, expected in plain.items():
        attends = name in ATTENTION_NAMES
        net, x = (networks[1], images(2, 32, 32)) if attends else (networks[0], images(2, seed=1))
        made = explain(net, x, quick(name), 1, None if attends else "relu3", accelerate=mode)[name]
        near = LOOSE.get(mode, 1e-2)  # a hundred times the tolerance of a score: maps divide
        off = (made.map - expected.map).abs().mean()
        assert off < near, (name, mode, float(off))
        assert made.status == expected.status or mode == "bf16", (name, made.status)
        held += 1
    tally("copies", "registered methods × modes of acceleration", held, held, "the plain map")


def test_a_mode_that_watches_functions_is_never_left_to_a_copy():
    class Watches(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen += func is nn.functional.conv2d
            return func(*args, **(kwargs or {}))

    net, x = convnet(), images(2)
    with torchsaliency.accelerated("channels-last"), torch.no_grad():
        run_accelerated(net, x)
        with Watches() as watching:
            run_accelerated(net, x)
        with torch.device("cpu"):  # a default device is no watcher
            assert not cache.is_watched(net)
    assert watching.seen == 3


# --- stale copies ---------------------------------------------------------------------------------


class Options(nn.Module):
    """Weights, buffers, plain tensors, options and functions that all decide the numbers."""

    def __init__(self):
        super().__init__()
        self.body = convnet(seed=5)
        self.slope, self.table = 0.5, [1.0, {"shift": 0.0}]
        self.scale = torch.tensor(1.0)
        self.function = torch.tanh
        self.passes = 0
        self.register_buffer("offset", torch.zeros(5))

    def forward(self, x):
        self.passes += 1
        self.features = self.body[:9](x)
        y = self.body[9:](self.features) * self.scale + self.offset
        y = torch.where(y > 0, y, self.slope * y) * self.table[0] + self.table[1]["shift"]
        return y + self.function(y)


def data_written(net):
    for one in net.parameters():
        one.data.copy_(one.data.flip(0))


def one_weight(net):
    net.body.conv2.weight.data.view(-1)[17] += 10


def filters_exchanged(net):
    weight = net.body.fc.weight.data
    weight[[0, 1]] = weight[[1, 0]]


def state_loaded(net):
    net.load_state_dict(Options().body.state_dict(prefix="body."), strict=False)
    data_written(net)


def module_replaced(net):
    net.body.relu3 = nn.Tanh()


CHANGES = {
    "weights through .data": data_written,
    "one weight through .data": one_weight,
    "two filters exchanged": filters_exchanged,
    "load_state_dict": state_loaded,
    "a module replaced": module_replaced,
    "a weight replaced": lambda net: setattr(
        net.body.fc, "weight", nn.Parameter(-net.body.fc.weight.detach())
    ),
    "an option": lambda net: setattr(net, "slope", 2.0),
    "an option of a module": lambda net: setattr(net.body.conv1, "padding", (0, 0)),
    "a plain tensor": lambda net: setattr(net, "scale", torch.tensor(-3.0)),
    "a plain tensor in place": lambda net: net.scale.mul_(-3.0),
    "a list": lambda net: net.table.__setitem__(0, -2.0),
    "a dict in a list": lambda net: net.table[1].update(shift=7.0),
    "a function": lambda net: setattr(net, "function", torch.exp),
    "a buffer": lambda net: net.offset.data.add_(torch.arange(5.0)),
    "forward of one module": lambda net: setattr(net.body.fc, "forward", lambda x: x[:, :5] * 3),
}


def reversed_bias(net):
    net.body.fc.bias.data = net.body.fc.bias.data.flip(0) + 3


CHANGES["new storage of a weight"] = reversed_bias


@pytest.mark.parametrize("mode", ["channels-last", "onnx", "auto"])
def test_a_stale_copy_never_answers(mode, tally):
    x, base = images(4, seed=2), Options().eval()
    maps = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0))
    held = 0
    # an export takes seconds
    chosen = list(CHANGES.items())[:: 4 if mode == "onnx" else 1]
    for change, apply in chosen:
        net = copy.deepcopy(base)
        with torchsaliency.accelerated(mode):
            masked_scores(net, x, maps, 1)
            apply(net)
            found = masked_scores(net, x, maps, 1).masked_logit
        expected = masked_scores(net, x, maps, 1).masked_logit
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3, msg=change)
        held += 1
    tally("copies", "changes of a network after an accelerated call", held, held, "seen: new copy")


def test_what_a_pass_itself_writes_makes_no_copy_stale():
    net, x = Options().eval(), images(2)
    with torchsaliency.accelerated("channels-last"):
        masked_scores(net, x, torch.rand(2, 16, 16))
        (first,) = cache._kept[net].values()
        masked_scores(net, x, torch.rand(2, 16, 16))
        assert list(cache._kept[net].values()) == [first]
    assert first.faithful


def test_few_copies_are_kept_and_all_go_with_their_network():
    net = convnet()
    with torchsaliency.accelerated("channels-last"), torch.no_grad():
        for size in (8, 10, 12, 14, 16, 18):
            run_accelerated(net, images(1, size, size))
        copies = [weakref.ref(one.copy) for one in cache._kept[net].values()]
    assert len(copies) == cache._MOST_KEPT
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    assert [one() for one in copies] == [None] * len(copies)


def test_auto_compares_warm_passes(monkeypatch):
    """The first pass of both is slow; the network's later ones are as fast as the copy's."""
    seconds = iter([0.0, 10.0, 20.0, 21.0, 30.0])  # network warm: 10; copy warm: 1 -> the copy

    class Clock:
        def __call__(self, device):  # noqa: ARG002
            return next(seconds)

    monkeypatch.setattr(auto, "seconds_now", Clock())
    net = convnet()
    with torchsaliency.accelerated("auto"), torch.no_grad():
        run_accelerated(net, images(1))
    (made,) = cache._kept[net].values()
    assert made.faithful
    assert next(seconds) == 30  # two readings each, of warm passes alone


# --- networks that keep tensors of a graph --------------------------------------------------------


class Keeps(nn.Module):
    """Leaves its features, and a list of them, on itself, as many networks do."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        self.cache = {"all": []}

    def forward(self, x):
        self.features = self.conv(x).relu()
        self.cache["all"] = [self.features]
        return self.fc(self.features.mean((2, 3)))


@pytest.mark.parametrize("methods", [["gradcam", "scorecam"], ["saliency", "rise"], ["lrp"]])
def test_a_network_that_keeps_its_features_can_be_copied(methods):
    net, x = settle(Keeps()), images(2)
    chosen = {name: quick(name) for name in methods}
    for mode in ("channels-last", "onnx", "auto"):
        made = explain(net, x, chosen, 1, "conv", accelerate=mode)
        assert set(made) == set(methods)
    assert not hasattr(net, "features")
    copy.deepcopy(net)


def test_what_a_user_left_behind_is_given_back_and_does_not_matter():
    net, x = settle(Keeps()), images(2)
    net(x).sum().backward()
    kept = net.features
    made = explain(net, x, "gradcam", 1, "conv", accelerate="channels-last")["gradcam"]
    assert net.features is kept
    with torchsaliency.accelerated("channels-last"):
        noisy_maps(net, made, samples=2)
    copied = copy_network(net)
    torch.testing.assert_close(copied(x), net(x))
    assert copied.features.is_leaf is False  # of its own pass
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)


def test_old_weight_norm_can_be_copied():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())
    torch.testing.assert_close(copy_network(net)(images(1)), net(images(1)))
    with pytest.warns(FutureWarning):
        old = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())
    old(images(1)).sum().backward()
    torch.testing.assert_close(copy_network(old)(images(1)), old(images(1)))


def test_a_mode_that_is_not_there_is_a_sentence():
    with pytest.raises(TorchSaliencyError, match="There is no engine 'warp'"):
        explain(convnet(), images(1), "gradcam", accelerate="warp")


OUTSIDE = {"scale": 1.0}


class ReadsOutside(nn.Module):
    """Its scores depend on something that is no part of it."""

    def __init__(self):
        super().__init__()
        self.net = convnet()
        self.scale = lambda scores: scores * OUTSIDE["scale"]

    def forward(self, x):
        return self.scale(self.net(x))


@pytest.mark.parametrize("mode", ["onnx", "channels-last", "compile"])
def test_what_a_network_reads_outside_of_itself_is_not_baked(mode, monkeypatch, tally):
    """Copies that were exported are compared with the network on an image of every call."""
    net, x = settle(ReadsOutside()), images(2)
    for name in ("occlusion", "scorecam"):
        explain(net, x, quick(name), [1, 2], "net.relu3", accelerate=mode)
        monkeypatch.setitem(OUTSIDE, "scale", -3.0)
        quickly = explain(net, x, quick(name), [1, 2], "net.relu3", accelerate=mode)[name].map
        plain = explain(net, x, quick(name), [1, 2], "net.relu3")[name].map
        monkeypatch.setitem(OUTSIDE, "scale", 1.0)
        torch.testing.assert_close(quickly, plain, atol=1e-3, rtol=0)
    tally("copies", "values outside of the network that changed", 2, 2, "seen: new copy")

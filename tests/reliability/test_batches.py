"""No empty batch ever reaches a network, and no batch mixes what must be alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import ATTENTION_NAMES, NAMES, convnet, images, quick, settle, tiny_vit
from torchsaliency import LayerError, embeddings, explain, tracing
from torchsaliency.core import session
from torchsaliency.evaluation import score
from torchsaliency.metrics import create_metric

CLASSES = 5


class Strict(nn.Module):
    """Reshapes by the number of images, as networks of old do: an empty batch is an error."""

    def __init__(self, inner=None):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 7, 3, padding=1)
        self.inner = inner or nn.Identity()
        self.fc = nn.Linear(7 * 16, CLASSES)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        y = F.max_pool2d(self.conv1(x).relu(), 2)
        y = F.max_pool2d(self.inner(self.conv2(y)).relu(), 2)
        return self.fc(y.view(y.size(0), -1))


@pytest.fixture
def sizes(monkeypatch):
    """Collects the sizes of all batches that any network of the test saw."""
    seen = []
    whole = Strict.forward
    monkeypatch.setattr(Strict, "forward", lambda self, x: (seen.append(len(x)), whole(self, x))[1])
    return seen


@pytest.mark.parametrize("kind", ["live", "some dead", "all dead", "blank image"])
def test_no_network_sees_an_empty_batch(kind, sizes, tally):
    net, x = settle(Strict()), images(2)
    with torch.no_grad():
        if kind == "some dead":
            net.conv2.bias[::2] = -100
        if kind == "all dead":
            net.conv2.weight.zero_()
            net.conv2.bias.zero_()
        if kind == "blank image":
            x[1] = 0
    held = 0
    for name in NAMES:
        try:
            made = quick(name)(net, x, 1, "conv2")
        except LayerError as error:
            assert name in ("cam",), error
        else:
            assert len(made) == 2
        held += 1
    made = explain(net, x, "gradcam", 1, "conv2")["gradcam"]
    metrics = ["ad", "ai", "ag", "insertion", "deletion", "road", "max-sensitivity", "infidelity"]
    score(net, made, metrics)
    assert min(sizes) > 0
    tally(
        "batches",
        "methods and metrics on live, dead and blank features",
        held,
        held,
        "no empty batch",
    )


def test_an_empty_batch_is_a_sentence():
    with pytest.raises(ValueError, match="No image was given"):
        session.call_network(settle(Strict()), images(1)[:0])


# --- networks that mix a batch --------------------------------------------------------------------


class BatchMean(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True) + x.mean((0, 2, 3), keepdim=True)


class OneByOne(nn.Module):
    """Was traced for one image, and runs no other number."""

    def forward(self, x):
        if len(x) != 1:
            raise RuntimeError(f"shape '[1, 7]' is invalid for {len(x)} images")
        return x


MIXING = {
    "batch norm without running statistics": lambda: nn.BatchNorm2d(7, track_running_stats=False),
    "mean over the batch": BatchMean,
    "a batch of one only": OneByOne,
}


@pytest.mark.parametrize("kind", MIXING)
def test_networks_that_mix_a_batch_run_one_by_one(kind, tally):
    net = settle(Strict(MIXING[kind]())).double()
    session._mixing.pop(net)  # the library is to find it out
    x = images(3).double()
    held = 0
    for name in NAMES:
        if name == "cam":
            continue
        together = quick(name)(net, x, [0, 1, 2], "conv1")
        for index in range(3):
            alone = quick(name)(net, x[index : index + 1], index, "conv1", chunk=1)
            torch.testing.assert_close(
                together.map[index],
                alone.map[0],
                atol=1e-6,
                rtol=0,
                msg=lambda m, n=name: f"{n} {m}",
            )
            assert together.status[index] == alone.status[0]
        held += 1
    assert session.mixes_images(net, x)
    tally("batches", "methods on networks that mix a batch", held, held, "images run one by one")


@pytest.mark.parametrize("kind", MIXING)
def test_measures_and_embeddings_of_such_networks(kind):
    net, x = settle(Strict(MIXING[kind]())).double(), images(3).double()
    session._mixing.pop(net)
    names = ["ad", "ag", "insertion", "deletion", "aopc", "road", "infidelity", "max-sensitivity"]
    names += ["coherency"]
    found = score(net, explain(net, x, "gradcam", 1, "conv1")["gradcam"], _small(names))
    for index in range(3):
        own = explain(net, x[index : index + 1], "gradcam", 1, "conv1", chunk=1)["gradcam"]
        for name, metric in score(net, own, _small(names), chunk=1).items():
            torch.testing.assert_close(
                found[name].per_image[index], metric.per_image[0], equal_nan=True, msg=name
            )
    whole = embeddings(net, x)
    torch.testing.assert_close(whole[1:2], embeddings(net, x[1:2]))


def _small(names):
    options = {"aopc": {"patch": 4, "regions": 3}}
    return [create_metric(name, options.get(name, {})) for name in names]


def test_attention_of_a_network_that_mixes():
    vit = tiny_vit()
    vit.norm = nn.Sequential(vit.norm, BatchMeanTokens())
    x = images(2, 32, 32)
    for name in ATTENTION_NAMES:
        together = quick(name)(vit, x, 1)
        alone = quick(name)(vit, x[:1], 1)
        torch.testing.assert_close(together.raw[:1], alone.raw, atol=1e-5, rtol=1e-4)


class BatchMeanTokens(nn.Module):
    def forward(self, x):
        return x + x.mean(0, keepdim=True)


def test_it_is_looked_at_once_and_by_few_passes():
    net, x = settle(Strict()), images(4)
    session._mixing.pop(net)
    explain(net, x, "gradcam", 1, "conv1")
    first = list(net.sizes)
    explain(net, x, "gradcam", 1, "conv1")
    assert first == [1, 2, 4] or net.sizes == []  # lists of a network are given back, too


def test_one_image_and_one_pass_need_no_look():
    net = settle(Strict())
    session._mixing.pop(net)
    with tracing(net, images(1), 1, ["conv1"]):
        assert net.sizes == [1]


@pytest.mark.parametrize(("low", "high", "rectifies"), [(0, 6, True), (-1, 1, False), (0, 1, True)])
def test_guided_backprop_reads_a_hardtanhs_bounds_not_the_batch(low, high, rectifies):
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 3), nn.Hardtanh(low, high)
            self.relu, self.fc = nn.ReLU(), nn.Linear(4, CLASSES)

        def forward(self, x):
            return self.fc(self.relu(self.act(self.conv(x))).mean((2, 3)))

    net = settle(Bounded()).double()
    bright, dark = images(1).double().abs(), -images(1).double().abs()
    alone = quick("guided-backprop")(net, bright, 0, "conv").raw
    both = quick("guided-backprop")(net, torch.cat([bright, dark]), 0, "conv").raw[:1]
    torch.testing.assert_close(alone, both)
    del rectifies


def test_convnet_is_as_before():
    net, x = convnet(), images(2)
    session._mixing.pop(net)
    with tracing(net, x, 1, ["relu3"]) as trace:
        assert not trace.session.mixes_images

"""Neurons as targets: closed forms, and what every part of the library makes of them."""

import pytest
import torch
from torch import nn

from nets import convnet, images
from torchsaliency import Neuron, explain
from torchsaliency.core.target import parse_target
from torchsaliency.errors import LayerError, TargetError
from torchsaliency.evaluation import score
from torchsaliency.measures.perturbation import perturbation_curve

X = images(2, 8, 8, seed=1)


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3))


def test_the_gradient_of_a_neuron_is_its_kernel():
    net = linear()
    found = explain(net, X, "saliency", Neuron("0", (2, 4, 5)))["saliency"]
    expected = torch.zeros_like(X)
    expected[..., 3:6, 4:7] = net[0].weight[2].detach()
    torch.testing.assert_close(found.attributions, expected)
    torch.testing.assert_close(found.score, net[0](X)[:, 2, 4, 5].detach())


def test_a_channel_is_the_mean_of_its_neurons():
    net = linear()
    found = explain(net, X, "input-x-gradient", Neuron("0", (1,)))["input-x-gradient"]
    torch.testing.assert_close(found.score, net[0](X)[:, 1].mean((1, 2)).detach())
    bias = net[0].bias[1].detach()
    shares = found.attributions.flatten(1).sum(1)
    torch.testing.assert_close(shares, found.score - bias)  # linear, up to the bias


@pytest.mark.parametrize("method", ["integrated-gradients", "deeplift", "lrp", "occlusion"])
def test_methods_explain_a_neuron_as_they_do_a_network_that_ends_there(method):
    net = convnet(seed=3)
    neuron = Neuron("relu2", (1, 2, 3))
    ends = nn.Sequential(*[*net.children()][: [*net._modules].index("relu2") + 1])
    made = explain(net, X, method, neuron)[method]
    alone = explain(ends, X, method, Neuron("", (1, 2, 3)))[method]
    torch.testing.assert_close(made.raw, alone.raw)


def test_a_cam_reads_a_layer_before_the_neuron():
    net = convnet(seed=3)
    found = explain(net, X, "gradcam", Neuron("relu3", (1,)), "relu2")["gradcam"]
    assert found.status == ("ok", "ok")
    with pytest.raises(LayerError, match="does not depend differentiably on layer"):
        explain(net, X, "gradcam", Neuron("relu2", (1,)), "relu3")


def test_the_judge_of_an_explained_neuron_gives_the_neuron():
    net, neuron = convnet(seed=3), Neuron("relu3", (1,))
    found = explain(net, X, "integrated-gradients", neuron)["integrated-gradients"]
    scores = score(net, found, ["completeness"])
    assert float(scores["completeness"].compute()) < 1
    with pytest.raises(TargetError, match="The judge gives its own output"):
        perturbation_curve(net, X, found.map, neuron)


def test_words_name_a_neuron():
    assert parse_target("neuron:layer4.1,index=3", int) == Neuron("layer4.1", 3)
    assert parse_target("neuron:relu2,index=1,2,3", int) == Neuron("relu2", (1, 2, 3))


def test_what_is_no_neuron_is_refused():
    net = convnet()
    with pytest.raises(LayerError, match="relu9"):
        explain(net, X, "saliency", Neuron("relu9"))
    for index in ((99,), (0, 0, 0, 0), ()):
        with pytest.raises(TargetError, match="give a place in it"):
            explain(net, X, "saliency", Neuron("relu3", index))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x)).mean((2, 3))

    with pytest.raises(LayerError, match="ran 2 times in one pass"):
        explain(Twice(), X, "saliency", Neuron("conv"))

"""What each method costs, counted by hooks on the network."""

import pytest
import torch

from nets import Counter, convnet, images
from torchsaliency import OptiCAM, explain

SHARED = [
    "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam",
    "eigencam", "multivec-eigencam", "tsm", "mtsm",
]  # fmt: skip


class BackwardCounter:
    """Counts the backward passes that reach a module."""

    def __init__(self, module):
        self.calls = 0
        self._handle = module.register_full_backward_pre_hook(self._count)

    def _count(self, module, gradients):
        del module, gradients
        self.calls += 1


@pytest.mark.parametrize("count", [1, 5])
def test_all_gradient_and_decomposition_cams_cost_one_pass(count):
    net = convnet()
    whole, head, tail = Counter(net), Counter(net.conv1), BackwardCounter(net.fc)
    before = [BackwardCounter(net.get_submodule(name)) for name in ("conv1", "bn2", "conv3")]
    made = explain(net, images(count), SHARED, layer="relu3")
    assert list(made) == SHARED
    assert (whole.calls, whole.images) == (1, count)
    assert (head.calls, head.images) == (1, count)
    assert tail.calls == 1
    assert [counter.calls for counter in before] == [0, 0, 0]


def test_several_layers_still_cost_one_pass():
    net = convnet()
    whole, tail, before = Counter(net), BackwardCounter(net.fc), BackwardCounter(net.conv1)
    explain(net, images(2), SHARED, layer=["relu2", "relu3"])
    assert (whole.calls, tail.calls, before.calls) == (1, 1, 0)


@pytest.mark.parametrize("names", [["tsm"], ["mtsm"], ["tsm", "mtsm", "eigencam"], ["fakecam"]])
def test_decompositions_cost_no_gradient_at_all(names):
    net = convnet()
    whole, tail = Counter(net), Counter(net.fc)
    backward = BackwardCounter(net.fc)
    with torch.enable_grad():
        explain(net, images(2), names, layer="relu3")
    assert (whole.calls, whole.with_gradients) == (1, 0)
    assert (tail.calls, tail.with_gradients) == (1, 0)
    assert backward.calls == 0


@pytest.mark.parametrize("iterations", [1, 7])
@pytest.mark.parametrize("objective", ["mask", "diff"])
@pytest.mark.parametrize("solver", ["adam", "trust-region", "surrogate"])
def test_opticam_costs_its_iterations_and_one(iterations, objective, solver):
    net = convnet()
    whole = Counter(net)
    method = OptiCAM(iterations=iterations, objective=objective, solver=solver, tolerance=0.0)
    explain(net, images(3), method, layer="relu3")
    assert (whole.calls, whole.images) == (iterations + 1, 3 * (iterations + 1))


@pytest.mark.parametrize("objective", ["iomask", "iodiff"])
def test_the_inside_outside_objectives_look_at_two_images(objective):
    net = convnet()
    whole = Counter(net)
    explain(
        net, images(3), OptiCAM(iterations=4, objective=objective, tolerance=0.0), layer="relu3"
    )
    assert (whole.calls, whole.images) == (5, 3 + 3 * 2 * 4)


def test_opticam_keeps_no_gradient_of_the_head():
    """What lies before the layer is differentiated too (the image is masked), and only there."""
    net = convnet()
    whole = Counter(net)
    explain(net, images(1), OptiCAM(iterations=4, tolerance=0.0), layer="relu3")
    assert whole.with_gradients == 4


def test_scorecam_costs_its_live_channels():
    net = convnet()
    with torch.no_grad():
        net.bn3.weight[:3], net.bn3.bias[:3] = 0, -1
    whole = Counter(net)
    explain(net, images(2), "scorecam", layer="relu3", chunk=4)
    # 5 live channels of 8 an image, and one pass that stands for the dead ones.
    assert whole.images == 2 + 2 * 5 + 2
    assert whole.calls == 1 + 3 + 1


def test_ablation_grows_at_the_layer():
    net = convnet()
    head, tail = Counter(net.conv1), Counter(net.fc)
    explain(net, images(2), "ablationcam", layer="relu3")
    assert head.images == 2 + 1 + 2  # the batch, one probe of the tail, once an image
    assert tail.images == 2 + 2 + 2 * 8


def test_memory_of_one_pass_is_bounded_by_the_chunk():
    net = convnet()
    largest = []
    net.register_forward_pre_hook(lambda _, inputs: largest.append(len(inputs[0])))
    explain(net, images(2), ["scorecam", "opticam"], layer="relu3", chunk=2)
    assert max(largest) == 2

"""Test-time augmentation and eigen-smoothing, around any method."""

import numpy as np
import pytest
import torch

from nets import NAMES, Counter, assert_good_map, convnet, images, quick
from torchsaliency import (
    Augmented,
    EigenSmoothed,
    GradCAM,
    HiResCAM,
    LayerCAM,
    OptionError,
    explain,
    tracing,
)
from torchsaliency.core.maps import minmax, upsample


@pytest.mark.parametrize("wrapper", [Augmented, EigenSmoothed])
@pytest.mark.parametrize("name", NAMES)
def test_around_every_method(name, wrapper):
    made = wrapper(quick(name))(convnet(seed=3), images(2, seed=1), [1, 3], "relu3")
    assert_good_map(made, 2, (16, 16))
    assert made.method.name.startswith(name + "+")
    assert made.method.entry.family == quick(name).entry.family


def test_augmentation_is_the_mean_of_six():
    net, x, labels = convnet(seed=3), images(2, seed=1), [1, 3]
    expected = torch.zeros(2, 16, 16)
    for factor in (0.9, 1.0, 1.1):
        expected += GradCAM()(net, x * factor, labels, "relu3").map / 6
        expected += GradCAM()(net, x.flip(3) * factor, labels, "relu3").map.flip(2) / 6
    made = Augmented(GradCAM())(net, x, labels, "relu3")
    torch.testing.assert_close(made.raw, expected, atol=1e-5, rtol=0)


def test_the_target_is_that_of_the_clean_image():
    net, x = convnet(seed=3), images(3, seed=1)
    predicted = net(x).argmax(1)
    made = Augmented(GradCAM(), factors=(-5.0, 5.0))(net, x, None, "relu3")
    assert made.target.labels.tolist() == predicted.tolist()
    fixed = Augmented(GradCAM(), factors=(-5.0, 5.0))(net, x, predicted, "relu3")
    assert torch.equal(made.map, fixed.map)


def test_one_unchanged_copy_changes_nothing():
    net, x = convnet(seed=3), images(2, seed=1)
    plain = explain(net, x, {"a": GradCAM(), "b": Augmented(GradCAM(), (1.0,), mirrored=False)}, 1)
    torch.testing.assert_close(plain["a"].map, plain["b"].map, atol=1e-5, rtol=0)


def test_a_mirrored_image_has_the_mirrored_map():
    net, x = convnet(seed=3), images(2, seed=1)
    one = Augmented(GradCAM())(net, x, 1, "relu3").map
    two = Augmented(GradCAM())(net, x.flip(3), 1, "relu3").map
    torch.testing.assert_close(one, two.flip(2), atol=1e-5, rtol=0)


def test_augmentation_costs_six_more_passes():
    net = convnet()
    counter = Counter(net)
    Augmented(GradCAM())(net, images(2), 1, "relu3")
    assert counter.calls == 1 + 6
    with pytest.raises(OptionError, match="at least one factor"):
        Augmented(GradCAM(), factors=())


@pytest.mark.parametrize("method", [GradCAM(), HiResCAM(), LayerCAM()])
def test_eigen_smoothing_is_the_first_component_of_the_contributions(method):
    net, x = convnet(seed=3), images(2, seed=1)
    with tracing(net, x, [1, 3], ["relu3"]) as trace:
        parts = method.contributions(trace["relu3"]).double()
    made = EigenSmoothed(method)(net, x, [1, 3], "relu3")
    for index, one in enumerate(parts):
        matrix = one.flatten(1).numpy()
        matrix = matrix - matrix.mean(1, keepdims=True)
        component = (np.linalg.svd(matrix)[0][:, 0] @ matrix).reshape(8, 8)
        component = component if component.max() >= -component.min() else -component
        np.testing.assert_allclose(made.raw[index], component.clip(0), atol=1e-5)


def test_a_sum_of_contributions_is_the_map():
    net, x = convnet(seed=3), images(2, seed=1)
    with tracing(net, x, [1, 3], ["relu3"]) as trace:
        for method in (GradCAM(), HiResCAM(), LayerCAM()):
            view = trace["relu3"]
            summed = method.contributions(view).sum(1).relu()
            torch.testing.assert_close(method.saliency(view).raw, summed)


def test_wrappers_can_be_nested():
    both = Augmented(EigenSmoothed(GradCAM()), factors=(1.0,))
    made = both(convnet(seed=3), images(2, seed=1), 1, "relu3")
    assert made.method.name == "gradcam+eigen+augmented"
    assert_good_map(made, 2, (16, 16))


def test_a_label_independent_method_stays_so_and_asks_for_no_gradient():
    net, x = convnet(seed=3), images(2, seed=1)
    counter = Counter(net)
    one = Augmented(quick("mtsm"))(net, x, 0, "relu3")
    two = Augmented(quick("mtsm"))(net, x, 1, "relu3")
    assert torch.equal(one.map, two.map)
    assert counter.with_gradients == 0
    grown = minmax(upsample(one.raw, (16, 16)))
    torch.testing.assert_close(one.map, grown)

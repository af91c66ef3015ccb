"""Test-time augmentation and eigen-smoothing, around any method."""

from functools import partial

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
    NoiseTunnel,
    OptionError,
    explain,
    tracing,
)
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.method import create
from torchsaliency.methods.attribution.gradient import draw_noise


@pytest.mark.parametrize("wrapper", [Augmented, EigenSmoothed, partial(NoiseTunnel, samples=2)])
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


KINDS = {"mean": "smoothgrad", "squares": "smoothgrad-squared", "variance": "vargrad"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_noise_tunnel_around_gradients_is_smoothgrad_and_its_kin(kind):
    net, x = convnet(seed=3).double(), images(2, seed=1).double()
    gradient = create("saliency", {"channels": "abs-sum", "smooth": 1})
    made = NoiseTunnel(gradient, samples=5, spread=0.3, kind=kind, seed=2)(net, x, [1, 3])
    options = {"samples": 5, "spread": 0.3, "seed": 2, "smooth": 1}
    expected = create(KINDS[kind], options)(net, x, [1, 3])
    torch.testing.assert_close(made.attributions, expected.attributions)
    torch.testing.assert_close(made.raw, expected.raw)
    assert made.method.entry.signed == (kind == "mean")


@pytest.mark.parametrize("kind", KINDS)
def test_a_noise_tunnel_around_a_map(kind):
    net, x = convnet(seed=3).double(), images(2, seed=1).double()
    noise = draw_noise(x, 4, 0.15, 0)
    copies = [x + noise(torch.full((2,), draw), torch.arange(2)) for draw in range(4)]
    raws = torch.stack([GradCAM()(net, copy, [1, 3], "relu3").raw for copy in copies])
    moments = {"mean": raws.mean(0), "squares": raws.square().mean(0)}
    moments["variance"] = raws.var(0, correction=0)
    made = NoiseTunnel(GradCAM(), samples=4, kind=kind)(net, x, [1, 3], "relu3")
    torch.testing.assert_close(made.raw, moments[kind])


@pytest.mark.parametrize("options", [{"samples": 0}, {"spread": 0}])
def test_a_noise_tunnel_refuses_what_it_cannot_draw(options):
    with pytest.raises(OptionError, match="above 0"):
        NoiseTunnel(GradCAM(), **options)


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

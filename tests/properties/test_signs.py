"""Signed values: which methods have them, what they add up to, and that nothing loses them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import torchsaliency
from nets import ATTENTION_NAMES, NAMES, convnet, images, quick, tiny_vit, two_layer_head
from torchsaliency import OptionError, Preprocessing, explain
from torchsaliency.core.maps import minmax, normalise_signed, upsample
from torchsaliency.core.method import create, methods
from torchsaliency.methods.attribution import Attribution
from torchsaliency.methods.attribution.segments import SegmentAttribution
from torchsaliency.methods.smoothing import Augmented, EigenSmoothed, NoiseTunnel

SIGNED = sorted(name for name, entry in methods().items() if entry.signed)
OF_NUMBERS = sorted(
    name
    for name, entry in methods().items()
    if issubclass(entry.factory, Attribution) and not issubclass(entry.factory, SegmentAttribution)
)


def network_of(name):
    """A network that the method is defined on, images, and a layer."""
    if name in ATTENTION_NAMES:
        return tiny_vit(), images(2, 32, 32), None
    return convnet(seed=3), images(2, 16, 20, seed=1), "relu3"


def assert_signs(made, name, *, signed):
    size = made.images.shape[2:]
    assert (made.signed is not None) == signed == made.method.entry.signed
    assert (made.attributions is not None) == (name in OF_NUMBERS)
    if signed:
        assert made.signed.shape == (2, *size)
        assert not made.signed.requires_grad
    if name in OF_NUMBERS:
        assert made.attributions.shape == made.images.shape
        assert not made.attributions.requires_grad
        if signed:
            torch.testing.assert_close(made.signed, made.attributions.sum(1))


def test_the_methods_with_signs():
    assert {
        "ablationcam", "attention-gradcam", "cam", "deconvnet", "deeplift", "deepshap",
        "blur-ig", "feature-ablation", "finercam", "gradcam", "gradientshap", "guided-backprop",
        "guided-gradcam", "hirescam",
        "input-x-gradient", "integrated-gradients", "kernelshap", "lime", "lrp", "occlusion",
        "relevance-cam", "saliency", "shapleycam", "smoothgrad", "xgradcam",
    } == set(SIGNED)  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, *ATTENTION_NAMES])
def test_signs_are_there_as_the_entry_says(name):
    net, x, layer = network_of(name)
    made = quick(name)(net, x, 1, layer)
    assert_signs(made, name, signed=name in SIGNED)


@pytest.mark.parametrize("name", SIGNED)
def test_signs_survive_augmentation_as_a_mean(name):
    net, x, layer = network_of(name)
    made = Augmented(quick(name), factors=(1.0,), mirrored=True)(net, x, 1, layer)
    assert_signs(made, name, signed=True)
    plain, mirrored = (quick(name)(net, images, 1, layer) for images in (x, x.flip(-1)))
    expected = (plain.signed + mirrored.signed.flip(-1)) / 2
    torch.testing.assert_close(made.signed, expected, atol=1e-5, rtol=1e-4)
    if name in OF_NUMBERS:
        expected = (plain.attributions + mirrored.attributions.flip(-1)) / 2
        torch.testing.assert_close(made.attributions, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gradcam", "occlusion", "lrp"])
def test_a_principal_component_has_no_sign(name):
    made = EigenSmoothed(quick(name))(convnet(seed=3), images(2, seed=1), 1, "relu3")
    assert made.signed is None
    assert made.attributions is None
    assert not made.method.entry.signed


@pytest.mark.parametrize("kind", ["squares", "variance"])
def test_squares_have_no_sign(kind):
    squared = NoiseTunnel(create("saliency"), samples=3, kind=kind)
    made = squared(convnet(seed=3), images(2, seed=1), 1)
    assert made.signed is None
    assert made.attributions.min() >= 0
    assert not squared.entry.signed
    assert create("saliency").entry.signed


def test_several_layers_have_the_mean_of_their_signed_values():
    net, x = convnet(seed=3), images(2, seed=1)
    layers = ["relu2", "relu3"]
    each = [quick("gradcam")(net, x, 1, layer) for layer in layers]
    both = quick("gradcam")(net, x, 1, layers)
    assert torch.equal(both.signed, (each[0].signed + each[1].signed) / 2)
    joint = quick("input-x-gradient")(net, x, 1, layers)
    assert torch.equal(joint.signed, quick("input-x-gradient")(net, x, 1).signed)


# --- closed forms -------------------------------------------------------------------------------


def test_cams_before_relu_are_the_sum_of_weighted_maps():
    net, x = convnet(seed=3), images(2, seed=1)
    made = explain(net, x, ["cam", "gradcam", "hirescam", "xgradcam"], 3, "relu3")
    cam = made["cam"].signed / 64  # the number of positions
    assert cam.min() < 0 < cam.max()
    for name in ("gradcam", "hirescam", "xgradcam"):
        torch.testing.assert_close(made[name].signed, cam, atol=1e-5, rtol=1e-3)
        below = upsample(made[name].raw, (16, 16)) - made[name].signed
        assert below.min() >= -1e-6, "ReLU only takes away what speaks against the class"
    assert torch.equal(made["cam"].map, minmax(made["cam"].signed))


class Linear(nn.Module):
    """y_c = Σ w_c ⊙ x + b_c, with both signs."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 3, 8, 8, generator=draw))
        self.bias = nn.Parameter(torch.tensor([0.5, -0.25, 0.0]))

    def forward(self, x):
        return torch.nn.functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)


@pytest.mark.parametrize(
    "name", ["input-x-gradient", "integrated-gradients", "deeplift", "gradientshap"]
)
def test_shares_of_a_linear_network_are_weight_times_pixel(name):
    net, x = Linear().eval(), images(2, 8, 8)
    noiseless = {"noise": 0} if name == "gradientshap" else {}
    made = quick(name, **noiseless)(net, x, 2)
    torch.testing.assert_close(made.attributions, net.weight[2] * x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made.signed, (net.weight[2] * x).sum(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["saliency", "smoothgrad"])
def test_gradients_of_a_linear_network_are_its_weights(name):
    net = Linear().eval()
    made = quick(name)(net, images(2, 8, 8), 1)
    expected = net.weight[1].sum(0).expand(2, 8, 8)
    torch.testing.assert_close(made.signed, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("net", [convnet(seed=3), two_layer_head(seed=1), Linear().eval()])
@pytest.mark.parametrize(
    ("method", "tolerance"), [("deeplift", 1e-4), ("integrated-gradients", 1e-2)]
)
def test_signed_values_add_up_to_the_rise_of_the_score(net, method, tolerance):
    side = 8 if isinstance(net, Linear) else 16
    x = images(3, side, side, seed=1)
    made = create(method)(net, x, [0, 1, 2])
    blank = net(torch.zeros_like(x))[torch.arange(3), [0, 1, 2]]
    rise = (made.score - blank).detach()
    torch.testing.assert_close(made.signed.sum((1, 2)), rise, atol=tolerance, rtol=tolerance)
    assert made.signed.min() < 0 < made.signed.max()


def test_shapley_values_add_up_to_the_rise_of_the_score():
    net, x = convnet(seed=3), images(2, 16, 20, seed=1)
    made = create("kernelshap", {"segments": 4, "passes": 20})(net, x, 1)
    rise = (made.score - net(torch.zeros_like(x))[:, 1]).detach()
    for one, expected in zip(made.signed, rise, strict=True):
        torch.testing.assert_close(one.unique().sum(), expected, atol=1e-4, rtol=1e-4)


SCALED = {"ablationcam", "lrp"}
"""Methods that multiply by the score or divide by it, so that its sign does not show."""

RECTIFYING = {"guided-backprop", "deconvnet", "guided-gradcam", "relevance-cam"}
"""Methods that let only positive gradients or contributions pass, from the score on."""

OF_CLASSES = {"finercam"}
"""Methods that explain no other score."""


@pytest.mark.parametrize(
    "name", [name for name in SIGNED if name not in SCALED | RECTIFYING | OF_CLASSES]
)
def test_what_speaks_for_a_score_speaks_against_its_negative(name):
    net, x, layer = network_of(name)
    made = [
        quick(name)(net, x, lambda output, sign=sign: sign * output[:, 1], layer).signed
        for sign in (1, -1)
    ]
    assert made[0].abs().max() > 0
    torch.testing.assert_close(made[0], -made[1], atol=1e-5, rtol=1e-4)


# --- taken apart, written and drawn -------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return explain(convnet(seed=3), images(3, seed=1), ["input-x-gradient", "mtsm"], 1, "relu3")


@pytest.mark.parametrize("index", [0, -1, slice(1, None)])
def test_indexing_takes_signed_values_and_attributions_along(made, index):
    whole = made["input-x-gradient"]
    part = whole[index]
    where = torch.arange(3)[[index] if isinstance(index, int) else index]
    assert torch.equal(part.signed, whole.signed[where])
    assert torch.equal(part.attributions, whole.attributions[where])
    assert made["mtsm"][index].signed is None
    assert made["mtsm"][index].attributions is None


def test_saving_writes_signed_values(made, tmp_path):
    names = {path.name for path in made["input-x-gradient"].save(tmp_path, ["a", "b", "c"])}
    assert "b.input-x-gradient.signed.npy" in names
    saved = np.load(tmp_path / "b.input-x-gradient.signed.npy")
    np.testing.assert_array_equal(saved, made["input-x-gradient"].signed[1].numpy())
    again = {path.name for path in made["input-x-gradient"].save(tmp_path, ["a", "b", "c"])}
    assert again == names, "the same explanation replaces itself"
    assert not [path for path in made["mtsm"].save(tmp_path) if "signed" in path.name]


def test_scaling_cuts_the_peaks_of_one_pixel_in_a_hundred():
    maps = torch.arange(-99.0, 101).view(1, 10, 20)
    scaled = normalise_signed(maps)
    expected = (maps / maps.abs().flatten().sort().values[197]).clamp(-1, 1)
    assert torch.equal(scaled, expected)
    assert (scaled.abs() == 1).sum() == 3
    lone = torch.zeros(1, 10, 20)
    lone[0, 3, 4] = -0.1
    assert normalise_signed(lone).min() == -1, "where fewer are not zero, the largest counts"


def test_scaling_keeps_zero_and_the_signs():
    maps = torch.tensor([[[-4.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    scaled = normalise_signed(maps)
    assert torch.equal(scaled[0], torch.tensor([[-1.0, 0.0], [0.25, 0.5]]))
    assert torch.equal(scaled[1], torch.zeros(2, 2))
    assert torch.equal(normalise_signed(torch.full((1, 2, 2), torch.nan)), torch.zeros(1, 2, 2))


def test_the_overlay_of_an_explanation(made):
    photo = Image.new("RGB", (16, 16), "white")
    whole = Preprocessing(size=(16, 16), resize=(16, 16))
    drawn = torchsaliency.overlay(
        photo, made["input-x-gradient"], whole, index=1, alpha=1.0, signed=True
    )
    red, _, blue = np.moveaxis(np.asarray(drawn).astype(int), -1, 0)
    scaled = normalise_signed(made["input-x-gradient"].signed)[1].numpy()
    assert (red - blue)[scaled > 0.05].min() > 0
    assert (red - blue)[scaled < -0.05].max() < 0
    with pytest.raises(OptionError, match=r"mtsm gives no signed values.*gradcam.*lrp"):
        torchsaliency.overlay(photo, made["mtsm"], whole, signed=True)

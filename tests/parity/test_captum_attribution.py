"""Attribution methods against captum's own output, closed forms, and rules applied by hand."""

import math

import pytest
import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnRidge
from torch import nn
from torch.nn import functional as F

from nets import assert_same_state, convnet, images, settle, state_of
from torchsaliency import BlackPixel, OptionError, create, explain, tracing
from torchsaliency.core.method import methods
from torchsaliency.methods.attribution.coalitions import (
    coalitions,
    lime_samples,
    ridge,
    shapley,
)
from torchsaliency.methods.attribution.reduction import clip_maps
from torchsaliency.methods.attribution.segments import superpixels
from torchsaliency.methods.passes import baseline

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks"),
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy"),
]

LABELS = [0, 3, 2]
TIGHT = {"atol": 2e-6, "rtol": 1e-4}
BLACK = BlackPixel()
FAMILY = sorted(name for name, entry in methods().items() if entry.family == "attribution")
PIXELS = [
    name
    for name in FAMILY
    # no attributions of colours; or a product with what they do not reach
    if name not in {"fullgrad", "guided-gradcam", "normgrad", "xrai"}
]


def plain() -> nn.Sequential:
    """What captum can take: no module in place or used twice; no rule after a rule."""
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 64, 5),
        )
    )


def linear() -> nn.Sequential:
    return settle(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5)))


class Reused(nn.Module):
    """One ReLU for three places, optionally in place, the last time as a plain function."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.first(x))
        y = self.act(self.second(y) + y)
        y = torch.relu_(y - 0.1) if self.act.inplace else F.relu(y - 0.1)
        return self.fc(y.mean((2, 3)))


class Apart(Reused):
    """The same with a module of its own at every place."""

    def __init__(self) -> None:
        super().__init__(inplace=False)
        self.other, self.last = nn.ReLU(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.first(x))
        y = self.other(self.second(y) + y)
        return self.fc(self.last(y - 0.1).mean((2, 3)))


def shares(name, net, x, labels=None, masking=None, chunk=32, **options):
    layers = ["input"]
    with tracing(net, x, labels, layers, masking=masking, chunk=chunk) as trace:
        found = create(name, options).attributions(trace[layers])
        return getattr(found, "raw", found), trace.score


def captums(kind, net, x, labels, **options):
    x = x.clone().requires_grad_()
    return kind(net).attribute(x, target=torch.tensor(labels), **options).detach()


@pytest.mark.parametrize("chunk", [1, 2, 32])
@pytest.mark.parametrize(
    ("name", "kind", "options", "theirs"),
    [
        ("saliency", attr.Saliency, {}, {"abs": False}),
        ("input-x-gradient", attr.InputXGradient, {}, {}),
        ("integrated-gradients", attr.IntegratedGradients, {"steps": 7}, {"n_steps": 7}),
        ("deeplift", attr.DeepLift, {}, {}),
    ],
)
def test_equal_to_captum(name, kind, options, theirs, chunk):
    net, x = plain().double(), images(3).double()
    found, _ = shares(name, net, x, LABELS, chunk=chunk, **options)
    torch.testing.assert_close(found, captums(kind, net, x, LABELS, **theirs), **TIGHT)


@pytest.mark.parametrize(
    ("name", "kind"), [("guided-backprop", attr.GuidedBackprop), ("deconvnet", attr.Deconvolution)]
)
def test_relu_rules_equal_captums(name, kind):
    net, x = plain(), images(3)
    found, _ = shares(name, net, x, LABELS)
    torch.testing.assert_close(found, captums(kind, net, x, LABELS), **TIGHT)


def test_guided_gradcam_equals_captums():
    net, x = settle(Apart()), images(3)
    found = explain(net, x, "guided-gradcam", LABELS, "second")["guided-gradcam"].attributions
    theirs = attr.GuidedGradCam(net, net.second).attribute(
        x.clone().requires_grad_(), torch.tensor(LABELS), interpolate_mode="bilinear"
    )
    torch.testing.assert_close(found, theirs.detach(), **TIGHT)


@pytest.mark.parametrize("name", ["integrated-gradients", "deeplift"])
def test_another_baseline_equals_captums(name):
    net, x = plain().double(), images(2).double()  # the way passes corners of max-pooling
    kind = attr.IntegratedGradients if name == "integrated-gradients" else attr.DeepLift
    base = BLACK.baseline(x).expand_as(x)
    found, _ = shares(name, net, x, [1, 2], BLACK)
    torch.testing.assert_close(found, captums(kind, net, x, [1, 2], baselines=base), **TIGHT)


def test_smoothgrad_is_the_mean_of_captums_gradients_at_its_own_noise():
    net, x = plain(), images(2)
    found, _ = shares("smoothgrad", net, x, [1, 2], samples=3, seed=5)
    noise = torch.randn(3, *x.shape[1:], generator=torch.Generator().manual_seed(5))
    sigma = 0.15 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
    each = [captums(attr.Saliency, net, x + sigma * one, [1, 2], abs=False) for one in noise]
    torch.testing.assert_close(found, torch.stack(each).mean(0), **TIGHT)
    squared, _ = shares("smoothgrad-squared", net, x, [1, 2], samples=3, seed=5)
    torch.testing.assert_close(squared, torch.stack(each).square().mean(0), **TIGHT)
    variance, _ = shares("vargrad", net, x, [1, 2], samples=3, seed=5)
    torch.testing.assert_close(variance, torch.stack(each).var(0, correction=0), **TIGHT)


def test_deepshap_equals_captum_for_the_same_baselines():
    net, x = plain(), images(1)
    found, _ = shares("deepshap", net, x, [1], samples=4, seed=2)
    noise = torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    base = 0.1 * (x.max() - x.min()) * noise
    theirs = captums(attr.DeepLiftShap, net, x, [1], baselines=base)
    torch.testing.assert_close(found, theirs, **TIGHT)


def test_gradientshap_approaches_captums():
    net, x = plain(), images(1)
    found, _ = shares("gradientshap", net, x, [1], samples=400)
    torch.manual_seed(0)
    theirs = captums(
        attr.GradientShap, net, x, [1], baselines=torch.zeros_like(x), n_samples=400, stdevs=1e-4
    )
    assert (found - theirs).norm() < 0.05 * theirs.norm()
    exact = captums(attr.IntegratedGradients, net, x, [1])
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_gradientshap_of_a_linear_network_is_weight_times_difference():
    net, x = linear(), images(2)
    weight = net[1].weight[[1, 4]].view_as(x).detach()
    found, _ = shares("gradientshap", net, x, [1, 4], BLACK, samples=3, noise=0)
    torch.testing.assert_close(found, (x - BLACK.baseline(x)) * weight, **TIGHT)
    halved, _ = shares(
        "gradientshap", net, x, [1, 4], samples=1000, noise=0, baselines="masking-and-image"
    )
    torch.testing.assert_close(halved, 0.5 * x * weight, atol=1e-4, rtol=0.1)


@pytest.mark.parametrize(
    "net", [plain(), convnet(), settle(Reused(inplace=True))], ids=["plain", "conv", "reused"]
)
@pytest.mark.parametrize(
    ("name", "options", "loose"),
    [("integrated-gradients", {"steps": 200}, 2e-2), ("deeplift", {}, 1e-4)],
)
@pytest.mark.parametrize("masking", [None, BLACK], ids=["mean", "black"])
def test_completeness(net, name, options, loose, masking):
    x = images(3)
    found, score = shares(name, net, x, LABELS, masking, **options)
    with torch.no_grad():
        base = (masking.baseline(x) if masking else torch.zeros(())).expand_as(x)
        start = net(base.clone())[range(3), LABELS]
    torch.testing.assert_close(found.sum((1, 2, 3)), score - start, atol=loose, rtol=loose)


@pytest.mark.parametrize("fault", ["overlap", "after ReLU"])
def test_deeplift_is_complete_at_max_pooling_where_captums_is_not(fault):
    net = plain()
    if fault == "overlap":
        net[3] = nn.MaxPool2d(3, 2, 1)
    else:
        net[3] = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    x = images(2)
    base = BLACK.baseline(x).expand_as(x)
    found, score = shares("deeplift", net, x, [1, 2], BLACK)
    gap = score - net(base).detach()[range(2), [1, 2]]
    torch.testing.assert_close(found.sum((1, 2, 3)), gap, atol=1e-5, rtol=1e-4)
    theirs = captums(attr.DeepLift, net, x, [1, 2], baselines=base).sum((1, 2, 3))
    assert not torch.allclose(theirs, gap, atol=1e-3)


def test_deeplift_for_all_activations_is_complete_on_gelu():
    net = plain()
    net[1], net[5], net[7] = nn.GELU(), nn.SiLU(), nn.Hardswish(inplace=True)
    x = images(2)
    found, score = shares("deeplift", net, x, [1, 2], rescaled="all")
    gap = score - net(torch.zeros_like(x)).detach()[range(2), [1, 2]]
    torch.testing.assert_close(found.sum((1, 2, 3)), gap, atol=1e-5, rtol=1e-4)
    plainly, _ = shares("deeplift", net, x, [1, 2], rescaled="captum")
    assert not torch.allclose(plainly.sum((1, 2, 3)), gap, atol=1e-3)


def test_deeplift_says_when_the_network_takes_two_ways():
    class Wavers(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.relu() if x.abs().sum() > 0 else x
            return y.mean((2, 3))

    with pytest.raises(ValueError, match="another way for the baseline"):
        shares("deeplift", Wavers(), images(1), [0])


def two_layers() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """x of two pixels, two hidden units; the second one is negative on the image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    hidden = torch.tensor([[1.0, 2.0], [-1.0, -1.0], [3.0, -1.0]])
    out = torch.tensor([[1.0, 5.0, -2.0]])
    with torch.no_grad():
        net[1].weight.copy_(hidden)
        net[3].weight.copy_(out)
        net[1].bias.zero_()
        net[3].bias.zero_()
    net.scores = "regression"
    return net, hidden, out


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_rules_by_hand(inplace):
    net, hidden, _ = two_layers()
    net[2].inplace = inplace
    x = torch.tensor([1.0, 1.0]).view(1, 1, 1, 2)  # hidden: 3, -2, 2; gradients there: 1, 5, -2
    plainly, _ = shares("saliency", net, x, [0])
    guided, _ = shares("guided-backprop", net, x, [0])
    deconvolved, _ = shares("deconvnet", net, x, [0])
    assert plainly.flatten().tolist() == (hidden[0] - 2 * hidden[2]).tolist()
    assert guided.flatten().tolist() == hidden[0].tolist()
    assert deconvolved.flatten().tolist() == (hidden[0] + 5 * hidden[1]).tolist()


def test_deeplift_by_hand():
    net, hidden, out = two_layers()
    net[1].bias.data.copy_(torch.tensor([-1.0, 1.0, 0.0]))
    x = torch.tensor([1.0, 1.0]).view(1, 1, 1, 2)  # hidden: -1, 1, 0 at zero; 2, -1, 2 at x
    slopes = torch.tensor([2 / 3, (0 - 1) / (-1 - 1), 1.0])
    found, _ = shares("deeplift", net, x, [0])
    torch.testing.assert_close(found.flatten(), (out[0] * slopes) @ hidden)


@pytest.mark.parametrize("name", FAMILY)
def test_relu_in_place_or_used_twice_changes_nothing(name):
    x, nets = images(2, seed=1), [Apart(), Reused(inplace=False), Reused(inplace=True)]
    made = [explain(settle(net), x, name, 1, "second")[name].raw for net in nets]
    torch.testing.assert_close(made[0], made[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(made[0], made[2], atol=1e-6, rtol=1e-5)
    assert made[0].amax() > 0


@pytest.mark.parametrize("name", FAMILY)
def test_the_network_is_untouched(name):
    net, x = settle(Reused(inplace=True)), images(2)
    torch.manual_seed(3)
    before, pixels = state_of(net), x.clone()
    explain(net, x, name, 1, "second", chunk=1)
    assert_same_state(before, state_of(net))
    assert torch.equal(x, pixels)


def test_a_later_change_in_place_does_not_reach_what_was_recorded():
    class Adds(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            z = y.relu()
            y += 1  # works on what ReLU was given
            return (y + z).mean((2, 3))

    x = images(1)
    guided, _ = shares("guided-backprop", Adds(), x, [0])
    lifted, score = shares("deeplift", Adds(), x, [0])
    torch.testing.assert_close(guided[0, 0], (2 + 2 * (x[0, 0] > 0)) / 256)
    torch.testing.assert_close(lifted.sum((1, 2, 3)) + 1, score)


# --- superpixels ---------------------------------------------------------------------------------


def test_superpixels_cover_the_image_and_are_numbered_from_zero():
    for kind in ("slic", "quickshift"):
        for colours in (1, 3, 4):
            labels = superpixels(images(2, 48, 40).repeat(1, 2, 1, 1)[0, :colours], kind, 20)
            assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
            assert labels.shape == (48, 40)
            assert len(labels.unique()) > 1


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_feature_ablation_equals_captum(chunk):
    net, x = plain(), images(2)
    found, _ = shares("feature-ablation", net, x, [1, 2], BLACK, chunk=chunk)
    base = BLACK.baseline(x).expand_as(x)
    for i in range(2):
        labels = superpixels(x[i], "slic", 50)
        theirs = attr.FeatureAblation(net).attribute(
            x[i : i + 1], base[i : i + 1], target=[1, 2][i], feature_mask=labels[None, None]
        )
        torch.testing.assert_close(found[i, 0], theirs[0, 0], **TIGHT)


def test_kernelshap_of_a_linear_network_is_each_superpixels_own_share():
    net, x = linear(), images(2)
    weight = net[1].weight[[1, 4]].view_as(x).detach()
    own = ((x - BLACK.baseline(x)) * weight).sum(1)
    for passes, segments in ((500, 50), (500, 5)):  # drawn; and all of them tried
        options = {"passes": passes, "segments": segments}
        found, _ = shares("kernelshap", net, x, [1, 4], BLACK, **options)
        for i in range(2):
            labels = superpixels(x[i], "slic", segments).flatten()
            sums = torch.zeros(int(labels.max()) + 1).index_add_(0, labels, own[i].flatten())
            torch.testing.assert_close(found[i, 0].flatten(), sums[labels], atol=1e-4, rtol=1e-4)


def test_kernelshap_of_all_coalitions_is_the_shapley_value():
    net, x = plain(), images(1)
    labels = superpixels(x[0], "slic", 5)
    count = int(labels.max()) + 1
    assert 2 < count < 8
    found, _ = shares("kernelshap", net, x, [1], segments=5)
    theirs = attr.ShapleyValues(net).attribute(x, target=1, feature_mask=labels[None, None])
    torch.testing.assert_close(found[0, 0], theirs[0, 0], atol=1e-5, rtol=1e-3)


def test_kernelshap_adds_up_however_few_the_passes():
    net, x = plain(), images(1)
    labels = superpixels(x[0], "slic", 50)
    found, score = shares("kernelshap", net, x, [1], passes=4)
    firsts = [int((labels.flatten() == i).nonzero()[0]) for i in range(int(labels.max()) + 1)]
    gap = score[0] - net(torch.zeros_like(x)).detach()[0, 1]
    torch.testing.assert_close(found[0, 0].flatten()[firsts].sum(), gap, atol=1e-5, rtol=1e-4)


def test_coalitions_and_their_weights():
    shown, weights = coalitions(4, 100, 0)
    assert len(shown.unique(dim=0)) == len(shown) == 14
    size = shown.sum(1).long().tolist()
    expected = [3 / (math.comb(4, s) * s * (4 - s)) for s in size]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))
    drawn, even = coalitions(30, 11, 0)
    assert drawn.shape == (11, 30)
    assert (even == 1).all()
    assert 1 <= drawn.sum(1).min() <= drawn.sum(1).max() <= 29
    assert torch.equal(drawn[0], 1 - drawn[1])
    one = shapley(
        torch.zeros(0, 1).double(),
        torch.zeros(0).double(),
        torch.tensor(2.0).double(),
        torch.zeros(0).double(),
    )
    assert one.tolist() == [2.0]


def test_limes_regression_equals_scikit_learns_in_captum():
    z = lime_samples(40, 6, 0).double()
    y = torch.randn(40, generator=torch.Generator().manual_seed(0)).double()
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    model = SkLearnRidge(alpha=1.0)
    data = torch.utils.data.TensorDataset(z, y[:, None], weights)
    model.fit(torch.utils.data.DataLoader(data, batch_size=40))
    theirs = model.representation().flatten().double()
    torch.testing.assert_close(ridge(z, y, weights, 1.0), theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("hidden", ["masking", "segment-mean"])
def test_lime_ranks_superpixels_of_a_linear_network_by_their_share(hidden):
    net, x = linear(), images(1)
    options = {"explains": "target", "hidden": hidden, "alpha": 1e-6, "width": 100.0}
    found, _ = shares("lime", net, x, [1], **options)
    labels = superpixels(x[0], "slic", 50)
    behind = torch.zeros_like(x[0])
    if hidden == "segment-mean":
        for i in range(int(labels.max()) + 1):
            behind[:, labels == i] = x[0][:, labels == i].mean(1, keepdim=True)
    own = ((x[0] - behind) * net[1].weight[1].view_as(x[0])).sum(0).detach()
    sums = torch.zeros(int(labels.max()) + 1).index_add_(0, labels.flatten(), own.flatten())
    torch.testing.assert_close(found[0, 0], sums[labels], atol=1e-4, rtol=1e-3)


# --- the reduction --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIXELS)
def test_colours_smoothing_and_clipping_are_options_of_all(name):
    net, x = convnet(seed=3), images(1, seed=1)
    few = {key: 5 for key in ("steps", "samples", "passes") if key in methods()[name].options}
    signed, _ = shares(name, net, x, [1], **few)
    by = {
        "abs-sum": signed.abs().sum(1),
        "sum-positive": signed.sum(1).relu(),
        "max-abs": signed.abs().amax(1),
    }
    for channels, expected in by.items():
        made = explain(net, x, create(name, {"channels": channels, **few}), 1, "relu3")[name]
        torch.testing.assert_close(made.raw, expected, **TIGHT)
    options = {"channels": "abs-sum", "clip": 90, **few}
    cut = explain(net, x, create(name, options), 1, "relu3")[name].raw
    assert cut.max() <= by["abs-sum"].quantile(0.9) + 1e-6
    soft = explain(net, x, create(name, {**options, "clip": 100, "smooth": 2}), 1, "relu3")[name]
    assert soft.raw.std() < by["abs-sum"].std()


def test_a_percentile_is_each_images_own():
    maps = torch.arange(200.0).view(2, 10, 10)
    cut = clip_maps(maps, 50.0)
    torch.testing.assert_close(cut.amax((1, 2)), torch.tensor([49.5, 149.5]))


@pytest.mark.parametrize("name", FAMILY)
def test_options_out_of_range_are_refused(name):
    wrong = {"channels": "mean", "smooth": -1, "clip": 0, "steps": 0, "samples": 0, "passes": 0}
    for key, value in {**wrong, "segments": 0, "virtual": "conv5x5"}.items():
        if key in methods()[name].options:
            with pytest.raises(OptionError, match=key):
                create(name, {key: value})


def test_the_baseline_is_the_maskings():
    x = images(1)
    with tracing(convnet(), x, 1, ["input"], masking=BLACK) as trace:
        torch.testing.assert_close(baseline(trace[["input"]]), BLACK.baseline(x).expand_as(x))

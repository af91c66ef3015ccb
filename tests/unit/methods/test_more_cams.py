"""The CAMs of pytorch-grad-cam, torchcam and others against loops and closed forms."""

import pytest
import torch
from sklearn.decomposition import KernelPCA
from torch import nn
from torch.nn import functional as F

from nets import convnet, images, settle, tiny_vit, two_layer_head
from torchsaliency import (
    FEM,
    ISCAM,
    KPCACAM,
    LRP,
    SSCAM,
    Contrast,
    Edges,
    EigenCAM,
    EigenGradCAM,
    EigenSmoothed,
    Finer,
    FinerCAM,
    GradCAM,
    GradCAMElementwise,
    GradCAMPlusPlus,
    GroupCAM,
    HiResCAM,
    LayerCAM,
    LayerError,
    OptionError,
    RandomCAM,
    RefineCAM,
    RelevanceCAM,
    ResidualSoftmax,
    ScoreCAM,
    SegEigenCAM,
    ShapleyCAM,
    SmoothGradCAMPlusPlus,
    TargetError,
    explain,
    tracing,
)
from torchsaliency.core.maps import fuse, minmax, require_fusion, upsample
from torchsaliency.core.target import parse_target
from torchsaliency.methods.attribution.gradient import normal_draws


def view_of(net, x, label, layer):
    """Features and gradients of a layer."""
    with tracing(net, x, label, [layer]) as trace:
        return trace[layer].activations, trace[layer].gradients


# --- gradients ------------------------------------------------------------------------------------


def test_elementwise_is_the_positive_part_of_each_product():
    net, x = two_layer_head(), images(2, 12, 12)
    a, g = view_of(net, x, [1, 3], "conv")  # features of either sign
    made = GradCAMElementwise()(net, x, [1, 3], "conv")
    torch.testing.assert_close(made.raw, (a * g).relu().sum(1))
    made = explain(net, x, ["gradcam-elementwise", "layercam"], [1, 3], "relu")
    torch.testing.assert_close(made["gradcam-elementwise"].raw, made["layercam"].raw)


def test_smooth_gradcam_plus_plus_averages_powers_of_gradients():
    net, x = two_layer_head().double(), images(2, 12, 12).double()
    method = SmoothGradCAMPlusPlus(samples=3, spread=0.2, eps_scale="absolute", seed=5)
    sigma = 0.2 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))
    noise = normal_draws(x, 3, 5)
    slopes = [
        view_of(net, x + sigma[:, None, None, None] * one, [1, 3], "relu")[1] for one in noise
    ]
    d1, d2, d3 = (torch.stack([g**p for g in slopes]).mean(0) for p in (1, 2, 3))
    a = view_of(net, x, [1, 3], "relu")[0]
    alpha = d2 / (2 * d2 + a.sum((2, 3), keepdim=True) * d3 + 1e-6)
    expected = ((alpha * d1.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()
    made = method(net, x, [1, 3], "relu")
    torch.testing.assert_close(made.raw, expected)
    assert made.passes == 2 * (1 + 3)


def test_without_noise_it_is_gradcam_plus_plus():
    net, x = two_layer_head(), images(2, 12, 12)
    smooth = SmoothGradCAMPlusPlus(samples=2, spread=1e-7)(net, x, 1, "relu")
    torch.testing.assert_close(smooth.raw, GradCAMPlusPlus()(net, x, 1, "relu").raw)


@pytest.mark.parametrize("kind", [GradCAMPlusPlus, SmoothGradCAMPlusPlus])
def test_a_relative_eps_knows_no_scale(kind):
    """Features times c and the layer after them by 1/c: the same network, and the same map."""
    net, scaled = two_layer_head(), two_layer_head()
    with torch.no_grad():
        scaled.conv.weight.mul_(100), scaled.conv.bias.mul_(100)
        scaled.hidden.weight.div_(100)
    x = images(2, 12, 12)
    for scale, same in (("relative", True), ("absolute", False)):
        maps = [kind(eps=1e-3, eps_scale=scale)(one, x, 1, "relu").map for one in (net, scaled)]
        assert torch.allclose(*maps, atol=1e-4) == same


def smooth_tail():
    """A score that is quadratic in the pooled features: its Hessian is known."""

    class Square(nn.Module):
        def forward(self, x):
            return torch.cat([x.square(), x], 1)

    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Square(),
        nn.Linear(8, 5),
    )  # fmt: skip
    return settle(net)


def test_shapleycam_of_a_quadratic_score():
    """y = Σ q_k m_k² + l_k m_k of means m: g - ½ H A = (2 q_k m_k + l_k) / P - q_k m_k / P."""
    net, x = smooth_tail(), images(2)
    features = net[1](net[0](x)).detach()
    means, area = features.mean((2, 3)), features[0, 0].numel()
    square, linear = net[5].weight.detach()[1].chunk(2)
    weights = (square * means + linear) / area
    with tracing(net, x, 1, ["1"]) as trace:
        torch.testing.assert_close(ShapleyCAM().weights(trace["1"]), weights)
    made = explain(net, x, ["shapleycam", "gradcam"], 1, "1")
    assert made["shapleycam"].passes == made["gradcam"].passes + 2


def test_shapleycam_is_gradcam_where_the_score_is_linear_and_bends_with_rest():
    net, x = convnet(seed=3), images(2, seed=1)
    made = explain(net, x, ["shapleycam", "gradcam"], 1, "relu3")
    torch.testing.assert_close(made["shapleycam"].raw, made["gradcam"].raw)
    bent = explain(net, x, ["shapleycam", "gradcam"], ResidualSoftmax(1), "relu3")
    assert (bent["shapleycam"].map - bent["gradcam"].map).abs().max() > 1e-3


def test_shapleycam_differentiates_fused_attention_twice():
    made = ShapleyCAM()(tiny_vit(), images(1, 32, 32), 1, "blocks.0")
    assert made.map.isfinite().all()


def test_shapleycam_refuses_what_has_no_second_derivative():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    class Layer(nn.Module):
        def forward(self, x):
            return Once.apply(x)

    net = smooth_tail()
    net[4] = nn.Sequential(Layer(), nn.Linear(4, 8))
    with pytest.raises(LayerError, match="differentiated twice"):
        ShapleyCAM()(settle(net), images(1), 1, "1")


# --- components -----------------------------------------------------------------------------------


def test_eigengradcam_is_eigen_smoothed_hirescam():
    net, x = two_layer_head(), images(2, 12, 12)
    smoothed = EigenSmoothed(HiResCAM())(net, x, 1, "relu")
    torch.testing.assert_close(EigenGradCAM()(net, x, 1, "relu").raw, smoothed.raw)


def test_where_gradients_are_alike_seg_eigencam_is_eigencam():
    net, x = convnet(seed=3), images(2, seed=1)
    with torch.no_grad():
        net.fc.weight[2] = torch.tensor([0.3, -0.3] * 4)
    made = explain(net, x, [SegEigenCAM(), EigenCAM()], 2, "relu3")
    torch.testing.assert_close(made["seg-eigencam"].map, made["eigencam"].map)


def test_kpca_of_a_linear_kernel_is_eigencam():
    net, x = convnet(seed=3), images(2, seed=1)
    made = explain(net, x, [KPCACAM(kernel="linear"), EigenCAM()], None, "relu3")
    torch.testing.assert_close(made["kpcacam"].raw, made["eigencam"].raw, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "poly", "cosine"])
def test_kernels_are_scikit_learns(kernel):
    net, x = convnet(seed=3).double(), images(2, seed=1).double()
    a, _ = view_of(net, x, 0, "relu3")
    made = KPCACAM(kernel=kernel, gamma=0.3)(net, x, 0, "relu3")
    for one, raw in zip(a, made.raw, strict=True):
        rows = one.flatten(1).T
        rows = (rows - rows.mean(0)).numpy()
        kpca = KernelPCA(1, kernel=kernel, gamma=None if kernel == "cosine" else 0.3)
        expected = torch.from_numpy(kpca.fit_transform(rows)).view_as(raw)
        torch.testing.assert_close(raw, expected.relu())


# --- features and controls ------------------------------------------------------------------------


def test_fem_binarises_and_weighs_by_the_mean():
    net, x = convnet(seed=3), images(2, seed=1)
    a, _ = view_of(net, x, 0, "relu3")
    expected = torch.zeros(2, 8, 8)
    for n, k in torch.cartesian_prod(torch.arange(2), torch.arange(8)).tolist():
        channel = a[n, k]
        strong = channel > channel.mean() + 1.5 * channel.std(correction=0)
        expected[n] += channel.mean() * strong
    torch.testing.assert_close(FEM(deviations=1.5)(net, x, None, "relu3").raw, expected)


def test_random_weights_lie_in_their_range_and_change_with_the_seed():
    net, x = convnet(seed=3), images(2, seed=1)
    with tracing(net, x, 0, ["relu3"], gradients=False) as trace:
        one, other = (RandomCAM(seed=seed).weights(trace["relu3"]) for seed in (0, 1))
    assert one.abs().max() <= 1
    assert (one < 0).any()
    assert torch.equal(one[0], one[1])
    assert not torch.equal(one, other)


def test_edges_of_a_step_and_a_slope():
    x = torch.zeros(1, 3, 6, 8)
    x[..., 4:] = 1
    raw = Edges()(convnet(), x).raw
    assert raw[0, :, 3:5].unique().tolist() == [2.0]  # (1 + 2 + 1) · 1 / 2 sides
    assert raw.count_nonzero() == 12
    slope = torch.arange(5.0).expand(1, 3, 5, 5)
    assert Edges()(convnet(), slope).raw[0, 1:-1, 1:-1].unique().tolist() == [4.0]


# --- scores ---------------------------------------------------------------------------------------


def masked_scores(net, x, label, a, edit):
    """f(x ⊙ edit(n(up(A_k)))) of one image for each channel."""
    grown = minmax(upsample(a[0], x.shape[2:]))
    with torch.no_grad():
        return torch.stack([net(x * edit(mask))[0, label] for mask in grown])


def test_iscam_is_the_mean_over_growing_masks():
    net, x = convnet(seed=3), images(1, seed=1)
    a, _ = view_of(net, x, 1, "relu3")
    scores = [masked_scores(net, x, 1, a, lambda m, i=i: m * i / 4) for i in range(1, 5)]
    weights = torch.stack(scores).mean(0).softmax(0)
    made = ISCAM(steps=4)(net, x, 1, "relu3", chunk=3)
    expected = torch.einsum("k,khw->hw", weights, a[0]).relu()
    torch.testing.assert_close(made.raw[0], expected, atol=1e-5, rtol=1e-4)
    one = ISCAM(steps=1, align_corners=True)(net, x, 1, "relu3")
    torch.testing.assert_close(one.raw, ScoreCAM()(net, x, 1, "relu3").raw)


@pytest.mark.parametrize("noise", ["masks", "image"])
def test_sscam_is_the_mean_over_noise(noise):
    net, x = convnet(seed=3), images(1, seed=1)
    a, _ = view_of(net, x, 1, "relu3")
    method = SSCAM(samples=3, spread=0.5, noise=noise, seed=4)
    drawn = 0.5 * normal_draws(x if noise == "image" else x[:, 0], 3, 4)
    if noise == "image":
        scores = [masked_scores(net, x + one, 1, a, lambda m: m) for one in drawn]
    else:
        scores = [masked_scores(net, x, 1, a, lambda m, one=one: m + one) for one in drawn]
    weights = torch.stack(scores).mean(0).softmax(0)
    expected = torch.einsum("k,khw->hw", weights, a[0]).relu()
    made = method(net, x, 1, "relu3", chunk=3)
    torch.testing.assert_close(made.raw[0], expected, atol=1e-5, rtol=1e-4)


def test_group_cam():
    net, x = two_layer_head(), images(1, 20, 20)
    a, g = view_of(net, x, 1, "relu")
    parts = (g.mean((2, 3), keepdim=True) * a)[0]
    expected = torch.zeros(20, 20)
    with torch.no_grad():
        hidden = net(torch.zeros_like(x)).softmax(1)[0, 1]
        for channels in (parts[:3], parts[3:6], parts[6:]):  # as torch.chunk(3) cuts eight
            group = channels.sum(0).relu()
            group = torch.where(group > group.quantile(0.6), group, 0)
            grown = F.interpolate(group[None, None], (20, 20), mode="bilinear")[0, 0]
            mask = minmax(grown[None])[0]
            expected += (net(x * mask).softmax(1)[0, 1] - hidden) * mask
    made = GroupCAM(groups=3, quantile=0.6)(net, x, 1, "relu")
    torch.testing.assert_close(made.raw[0], expected.relu(), atol=1e-5, rtol=1e-4)
    assert made.passes <= 1 + 3 + 1


# --- contrast, relevance, several layers ----------------------------------------------------------


def test_finer_compares_with_the_nearest_classes_of_the_clean_image():
    output = torch.tensor([[3.0, 1.0, 2.9, -5.0, 3.4], [0.0, 1.0, 2.0, 3.0, 4.0]])
    target = Finer([0, 4], alpha=0.5, nearest=2).resolve(output)
    assert isinstance(target, Contrast)
    assert target.others.tolist() == [[2, 4], [3, 2]]
    weights = torch.tensor([2.9, 3.4]).softmax(0)
    first = (weights * (3.0 - 0.5 * torch.tensor([2.9, 3.4]))).sum()
    torch.testing.assert_close(target(output)[0], first)
    moved = target.take(torch.tensor([1]))(output[1:] + torch.tensor([0, 9.0, 0, 0, 0]))
    torch.testing.assert_close(moved, target(output)[1:])
    assert Finer().resolve(output).labels.tolist() == [4, 4]
    named = parse_target("finer:2,alpha=0.6", int)
    assert isinstance(named, Finer)
    assert (int(named.labels), named.alpha) == (2, 0.6)


def test_finercam_is_gradcam_of_that_target():
    net, x = convnet(seed=3), images(2, seed=1)
    made = FinerCAM(alpha=0.6, nearest=2)(net, x, [1, 3], "relu3")
    target = Finer([1, 3], alpha=0.6, nearest=2)
    torch.testing.assert_close(made.raw, GradCAM()(net, x, target, "relu3").raw)
    assert made.signed is not None
    plain = FinerCAM(base="layercam", alpha=0.0)(net, x, [1, 3], "relu3")
    torch.testing.assert_close(plain.raw, LayerCAM()(net, x, [1, 3], "relu3").raw)
    assert plain.signed is None


def test_finercam_says_what_it_cannot_compare():
    net, x = convnet(), images(1)
    with pytest.raises(TargetError, match="in place of RowWise"):
        FinerCAM()(net, x, lambda y: y[:, 0], "relu3")
    with pytest.raises(TargetError, match="one number an image"):
        Finer(0).resolve(torch.ones(2, 1))
    with pytest.raises(OptionError, match="at least 1"):
        FinerCAM(nearest=0)


def test_relevance_of_pooling_and_a_linear_layer():
    """R_k(u) = A_k(u) / Σ_v A_k(v) · Σ_c s_c m_k w_kc⁺ / Σ_j m_j w_jc⁺, s the contrastive start."""
    net, x = convnet(seed=3), images(2, seed=1)
    a, _ = view_of(net, x, 1, "relu3")
    means = a.mean((2, 3))
    up = net.fc.weight.detach().clamp_min(0)
    shares = means[:, None] * up / (means @ up.T)[..., None]
    start = torch.full((5,), -1 / 5)
    start[1] = 1
    expected = torch.einsum("c,nck->nk", start, shares) / a[0, 0].numel()
    with tracing(net, x, 1, ["relu3"]) as trace:
        made = RelevanceCAM().weights(trace["relu3"])
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-4)


def test_relevance_at_the_input_is_lrps():
    net, x = convnet(seed=3), images(2, seed=1)
    target = lambda y: y[:, 1]  # noqa: E731 (no class: nothing to contrast)
    with tracing(net, x, target, ["input"]) as trace:
        weights = RelevanceCAM().weights(trace["input"])
    relevance = LRP(rule="alpha-beta")(net, x, target).attributions
    score = net(x).detach()[:, 1]
    torch.testing.assert_close(
        weights * score[:, None], relevance.mean((2, 3)), atol=1e-5, rtol=1e-3
    )


def test_refinecam_is_the_product_of_stretched_maps():
    net, x = convnet(seed=3), images(2, 32, 32, seed=1)
    made = RefineCAM()(net, x, 1, ["relu1", "relu3"])
    one, other = (GradCAMPlusPlus()(net, x, 1, layer).map for layer in ("relu1", "relu3"))
    torch.testing.assert_close(made.map, minmax(one * other))


def test_refinecam_finds_the_last_layer_of_each_finer_grid():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    )  # fmt: skip
    x = images(1, 36, 36)
    settle(net)
    found = RefineCAM()(net, x, 1, "5")
    torch.testing.assert_close(found.map, RefineCAM()(net, x, 1, ["3", "5"]).map)
    assert found.passes == 1 + 1 + 1  # shared, to find layers, to read them
    torch.testing.assert_close(
        RefineCAM()(net, x, 1, "3").map, GradCAMPlusPlus()(net, x, 1, "3").map
    )
    transformer = RefineCAM(base="gradcam")(tiny_vit(), images(1, 32, 32), 1)
    torch.testing.assert_close(transformer.map, GradCAM()(tiny_vit(), images(1, 32, 32), 1).map)


def test_ways_to_fuse():
    raws = [torch.rand(2, 4, 4), torch.rand(2, 8, 8)]
    size = (16, 16)
    after = [minmax(upsample(raw, size)) for raw in raws]
    before = [upsample(minmax(raw), size) for raw in raws]
    for prefix, maps in (("", after), ("grid-", before)):
        expected = {
            "mean": maps[0] + maps[1],
            "max": torch.maximum(*maps),
            "product": maps[0] * maps[1],
        }
        for way, made in expected.items():
            torch.testing.assert_close(fuse(raws, size, prefix + way), minmax(made))
    with pytest.raises(OptionError, match="choose one of mean, max"):
        require_fusion("median")

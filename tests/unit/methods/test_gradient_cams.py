"""CAM and the gradient CAMs on networks where their weights are known in closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nets import convnet, images, settle, tiny_vit, two_layer_head
from torchsaliency import (
    CAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    LayerError,
    LogProbability,
    XGradCAM,
    explain,
    tracing,
)

seeds = st.integers(0, 99)


def features_of(net, x, layer="relu3"):
    with torch.no_grad():
        for name, module in net.named_children():
            x = module(x)
            if name == layer:
                return x.clone()
    raise AssertionError(layer)


@given(seed=seeds, label=st.integers(0, 4), height=st.integers(8, 20), width=st.integers(8, 20))
def test_pooling_and_a_linear_layer(seed, label, height, width):
    """∂y_c/∂A_k(u) = w_kc/(hw), so Grad-CAM, HiResCAM and XGrad-CAM are one map."""
    net, x = convnet(seed=seed), images(2, height, width, seed)
    features, weights = features_of(net, x), net.fc.weight.detach()[label]
    area = features[0, 0].numel()
    summed = torch.einsum("k,nkhw->nhw", weights, features)
    made = explain(net, x, ["cam", "gradcam", "hirescam", "xgradcam"], label, "relu3")
    torch.testing.assert_close(made["cam"].raw, summed, atol=1e-4, rtol=1e-4)
    for name in ("gradcam", "hirescam", "xgradcam"):
        torch.testing.assert_close(made[name].raw, summed.relu() / area, atol=1e-5, rtol=1e-3)
    with tracing(net, x, label, ["relu3"]) as trace:
        view = trace["relu3"]
        torch.testing.assert_close(GradCAM().weights(view), (weights / area).expand(2, -1))
        torch.testing.assert_close(CAM().weights(view), weights.expand(2, -1))
        torch.testing.assert_close(
            LayerCAM().saliency(view).raw,
            torch.einsum("k,nkhw->nhw", weights.relu() / area, features),
        )


def test_formulas_where_gradients_vary_over_positions():
    net, x = two_layer_head(), images(2, 20, 20)
    with tracing(net, x, [1, 3], ["relu"]) as trace:
        view = trace["relu"]
        a, g = view.activations, view.gradients
        assert g.std((2, 3)).max() > 1e-4
        for method, expected in (
            (GradCAM(), (g.mean((2, 3), keepdim=True) * a).sum(1).relu()),
            (HiResCAM(), (g * a).sum(1).relu()),
            (LayerCAM(), (g.clamp_min(0) * a).sum(1).relu()),
        ):
            torch.testing.assert_close(method.saliency(view).raw, expected)


def loop_plus_plus(a, g, eps):
    """Grad-CAM++'s weights, number by number."""
    weights = torch.zeros(a.shape[:2], dtype=torch.float64)
    for n, k, i, j in torch.cartesian_prod(*(torch.arange(s) for s in a.shape)).tolist():
        slope = float(g[n, k, i, j])
        if slope > 0:
            total = float(a[n, k].sum())
            alpha = slope**2 / (2 * slope**2 + total * slope**3 + eps)
            weights[n, k] += alpha * slope
    return weights


@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_gradcam_plus_plus(eps):
    net, x = two_layer_head().double(), images(2, 12, 12)
    with tracing(net, x, [1, 3], ["relu"]) as trace:
        view = trace["relu"]
        expected = loop_plus_plus(view.activations, view.gradients, eps)
        method = GradCAMPlusPlus(eps=eps, eps_scale="absolute")
        torch.testing.assert_close(method.weights(view), expected)


def test_xgradcam_with_signed_channels():
    """Σ A near zero and of either sign meets no zero denominator."""
    net, x = two_layer_head().double(), images(2, 12, 12)
    with tracing(net, x, [1, 3], ["conv"]) as trace:
        view = trace["conv"]
        a, g = view.activations, view.gradients
        total = a.sum((2, 3))
        assert (total < 0).any()
        assert (total > 0).any()
        expected = (g * a).sum((2, 3)) / (total + 1e-7 * total.sign())
        torch.testing.assert_close(XGradCAM().weights(view), expected)


def test_a_zero_channel_gets_finite_weights():
    net = convnet()
    with torch.no_grad():
        net.bn3.weight[0], net.bn3.bias[0] = 0, -1
    with tracing(net, images(1), 1, ["relu3"]) as trace:
        for method in (GradCAM(), GradCAMPlusPlus(), XGradCAM()):
            assert method.weights(trace["relu3"]).isfinite().all()


def log_probability(x):
    return LogProbability(torch.zeros(len(x), dtype=torch.int64))


def smooth_head():
    """Pooling, then a hidden layer: the gradient is constant over positions, but it bends."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 5),
    )  # fmt: skip
    return settle(net)


def faint_head():
    """The same with scores near zero, as of a network that is not trained."""
    net = smooth_head()
    with torch.no_grad():
        net[-1].weight.mul_(1e-3)
    return net


@pytest.mark.parametrize(
    ("net", "layer", "target", "size"),
    [
        pytest.param(two_layer_head(), "relu", 1, 20, id="hidden layer"),
        pytest.param(smooth_head(), "1", 1, 16, id="pooled hidden layer"),
        pytest.param(faint_head(), "1", 1, 16, id="faint hidden layer"),
        pytest.param(convnet(), "relu2", 1, 16, id="earlier layer"),
        pytest.param(convnet(), "relu3", log_probability, 16, id="log probability"),
        pytest.param(tiny_vit(), "blocks.1.norm1", 1, 32, id="transformer"),
    ],
)
def test_cam_refuses_what_is_no_linear_head(net, layer, target, size):
    x = images(2, size, size)
    with pytest.raises(LayerError, match="global average pooling and one linear layer"):
        CAM()(net, x, target(x) if callable(target) else target, layer)


def test_cam_needs_no_names():
    """The same head written with other modules: the mean over positions, a 1x1 convolution."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
            self.classes = nn.Conv2d(8, 5, 1)

        def forward(self, x):
            return self.classes(self.body(x)).mean((2, 3))

    net, x = settle(Head()), images(2)
    summed = torch.einsum("k,nkhw->nhw", net.classes.weight[3, :, 0, 0], net.body(x)).detach()
    torch.testing.assert_close(CAM()(net, x, 3, "body").raw, summed, atol=1e-4, rtol=1e-4)

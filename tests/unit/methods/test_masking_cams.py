"""Score-CAM and Ablation-CAM against loops over channels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from nets import Joins, convnet, images, settle, two_layer_head
from torchsaliency import AblationCAM, BlackPixel, Blur, ScoreCAM, explain, tracing


def features_of(net, x, layer):
    with tracing(net, x, 0, [layer], gradients=False) as trace:
        return trace[layer].activations


def scorecam_loop(net, x, label, layer, align):
    features = features_of(net, x, layer)
    maps = []
    with torch.no_grad():
        for image, channels in zip(x, features, strict=True):
            scores = []
            for channel in channels:
                grown = F.interpolate(
                    channel[None, None], x.shape[2:], mode="bilinear", align_corners=align
                )[0, 0]
                span = grown.max() - grown.min()
                mask = (grown - grown.min()) / span if span > 0 else torch.zeros_like(grown)
                scores.append(net((image * mask)[None])[0, label])
            weights = torch.stack(scores).softmax(0)
            maps.append(torch.einsum("k,khw->hw", weights, channels).relu())
    return torch.stack(maps)


@given(seed=st.integers(0, 50), align=st.booleans(), dead=st.integers(0, 8))
def test_scorecam(seed, align, dead):
    net, x = convnet(seed=seed), images(2, seed=seed)
    with torch.no_grad():
        net.bn3.weight[:dead], net.bn3.bias[:dead] = 0, -1
    expected = scorecam_loop(net, x, 3, "relu3", align)
    made = ScoreCAM(align_corners=align)(net, x, 3, "relu3", chunk=5)
    torch.testing.assert_close(made.raw, expected, atol=1e-5, rtol=1e-4)


def test_scorecams_baseline_score_vanishes_in_the_softmax():
    """What is subtracted from all channels changes nothing; what hides the image does."""
    net, x = convnet(), images(2)
    maps = [ScoreCAM()(net, x, 1, "relu3", masking=m).raw for m in (None, BlackPixel(), Blur(3.0))]
    shifted = ScoreCAM()(net, x, lambda y: y[:, 1] + 100, "relu3").raw
    torch.testing.assert_close(shifted, maps[0], atol=1e-3, rtol=1e-3)
    assert (maps[0] - maps[1]).abs().max() > 1e-3


def ablation_loop(net, x, label, layer, replacement):
    features = features_of(net, x, layer)
    module = net.get_submodule(layer)
    maps = []
    with torch.no_grad():
        for image, channels in zip(x, features, strict=True):
            score = net(image[None])[0, label]
            weights = []
            for k in range(len(channels)):
                edited = channels.clone()
                edited[k] = channels.min() if replacement == "min" else 0
                handle = module.register_forward_hook(lambda *_, edited=edited: edited[None])
                weights.append(score - net(image[None])[0, label])
                handle.remove()
            drops = torch.stack(weights)
            drops = drops / score if score > 0 else drops
            maps.append(torch.einsum("k,khw->hw", drops, channels).relu())
    return torch.stack(maps)


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        pytest.param(convnet(), "relu3", id="last"),
        pytest.param(convnet(), "conv2", id="signed"),
        pytest.param(two_layer_head(), "relu", id="hidden layer"),
        pytest.param(settle(Joins()), "late", id="joins earlier features"),
    ],
)
@pytest.mark.parametrize("replacement", ["zero", "min"])
@pytest.mark.parametrize("chunk", [3, 32])
@pytest.mark.parametrize("label", range(3))
def test_ablationcam(net, layer, replacement, chunk, label):
    x = images(2, seed=2)
    expected = ablation_loop(net, x, label, layer, replacement)
    made = AblationCAM(replacement=replacement)(net, x, label, layer, chunk=chunk)
    torch.testing.assert_close(made.raw, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("level", [-50.0, 0.0, 50.0])
def test_ablation_below_zero_uses_the_difference(level):
    """The ratio would turn the sign of the map: (y - y')/y for a negative y."""
    net, x = convnet(), images(2)
    with torch.no_grad():
        net.fc.bias.zero_()
        net.fc.bias[1] = level - net(x)[0, 1] if level == 0 else level
        score = net(x)[:, 1]
    with tracing(net, x, 1, ["relu3"], gradients=False) as trace:
        weights = AblationCAM().weights(trace["relu3"])
        # Taking channel k out takes its part of the mean away: w_k mean_u A_k(u).
        drops = net.fc.weight[1] * trace["relu3"].activations.mean((2, 3))
    positive = score[:, None] > 0
    expected = torch.where(positive, drops / score[:, None], drops)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights, expected.detach(), atol=1e-4, rtol=1e-3)


def test_where_the_head_is_linear_ablation_is_gradcam_times_activation():
    net, x = convnet(seed=3), images(1, seed=1)
    made = explain(net, x, ["ablationcam", "gradcam"], None, "relu3")
    # w_k = w_kc mean(A_k) / y against w_kc / hw: the same signs.
    with tracing(net, x, None, ["relu3"]) as trace:
        view = trace["relu3"]
        signs = view.gradients.mean((2, 3)).sign() * (view.activations.mean((2, 3)) > 0)
        assert trace.score.item() > 0
        assert torch.equal(AblationCAM().weights(view).sign(), signs)
    assert made["ablationcam"].status == ("ok",)

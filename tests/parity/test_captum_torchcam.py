"""Grad-CAM against captum's, CAM and the smoothed CAMs against torchcam's.

torchcam's Smooth Grad-CAM++ and IS-CAM differ on purpose (errata L15, L16).
"""

import pytest
import torch
import torchcam.methods
import torchvision
from captum.attr import LayerGradCam
from torchcam.methods import CAM as TheirCAM

from nets import convnet, images
from torchsaliency import CAM, ISCAM, SSCAM, GradCAM, SmoothGradCAMPlusPlus, explain, tracing
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.methods.attribution.gradient import normal_draws


@pytest.mark.parametrize("layer", ["relu2", "relu3"])
def test_gradcam_is_captums(layer):
    # captum's hooks cannot be put on an in-place ReLU's output, so this net works out of place.
    net, x, labels = convnet(inplace=False, seed=3), images(3, seed=1), torch.tensor([1, 3, 0])
    theirs = LayerGradCam(net, net.get_submodule(layer)).attribute(
        x, target=labels, relu_attributions=True
    )
    made = GradCAM()(net, x, labels, layer)
    torch.testing.assert_close(made.raw, theirs[:, 0].detach(), atol=1e-5, rtol=1e-4)
    expected = minmax(upsample(theirs[:, 0].detach(), (16, 16)))
    torch.testing.assert_close(made.map, expected, atol=1e-3, rtol=0)


def test_gradcam_is_captums_on_resnet18():
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=10).eval()
    x = images(2, 64, 64)
    theirs = LayerGradCam(net, net.layer3).attribute(x, target=4, relu_attributions=True)
    made = GradCAM()(net, x, 4, "layer3")
    torch.testing.assert_close(made.raw, theirs[:, 0].detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("label", [0, 2, 4])
def test_cam_is_torchcams(label):
    net, x = convnet(seed=3), images(1, seed=1)
    with TheirCAM(net, target_layer="relu3", fc_layer="fc", input_shape=(3, 16, 16)) as extractor:
        theirs = extractor(label, net(x), normalized=False)[0]
    made = CAM()(net, x, label, "relu3")
    torch.testing.assert_close(made.raw, theirs.detach().reshape(1, 8, 8), atol=1e-5, rtol=1e-4)


def their_map(kind, net, x, label, layer="relu3", draws=(), **options):
    """Explain by torchcam, (1, h, w), not normalised; what it draws is given."""
    with getattr(torchcam.methods, kind)(net, target_layer=layer, **options) as extractor:
        rest = iter(draws)
        extractor._distrib = type(
            "Drawn", (), {"sample": lambda _, size: next(rest).expand(size)}
        )()
        return extractor(label, net(x), normalized=False)[0].detach()


def test_sscam_is_torchcams():
    """With the same noise for all channels, on a grid as fine as the image: theirs stretches first.

    Like Score-CAM's, our masks are stretched after they are resized.
    """
    net, x = convnet(seed=3), images(1, seed=1)
    noise = 0.5 * normal_draws(x[:, 0], 3, 0)
    theirs = their_map("SSCAM", net, x, 2, "relu1", draws=noise[:, None], num_samples=3)
    made = SSCAM(samples=3, spread=0.5)(net, x, 2, "relu1")
    torch.testing.assert_close(made.raw, theirs, atol=1e-5, rtol=1e-4)


def test_smooth_gradcam_plus_plus_has_torchcams_weights_for_one_copy_and_even_gradients():
    """Their weights are of the clean image's features; their map is of the last copy's (L15)."""
    net, x = convnet(seed=3), images(1, seed=1)
    noise = 0.1 * (x.amax() - x.amin()) * normal_draws(x, 1, 0)
    theirs = their_map("SmoothGradCAMpp", net, x, 2, draws=noise[:, None], num_samples=1)
    method = SmoothGradCAMPlusPlus(samples=1, spread=0.1, eps=1e-8, eps_scale="absolute")
    with tracing(net, x, 2, ["relu3"]) as clean, tracing(net, x + noise, 2, ["relu3"]) as noisy:
        weights = method.weights(clean["relu3"])
        features = noisy["relu3"].activations
    expected = torch.einsum("nk,nkhw->nhw", weights, features).relu()
    torch.testing.assert_close(expected, theirs.relu(), atol=1e-5, rtol=1e-3)
    made = method(net, x, 2, "relu3")
    assert (minmax(made.raw) - minmax(theirs.relu())).abs().max() > 1e-2


def test_iscam_differs_for_torchcams_masks_grow_beyond_one():
    net, x = convnet(seed=3), images(1, seed=1)
    theirs = their_map("ISCAM", net, x, 2, "relu1", num_samples=1)
    made = ISCAM(steps=1)(net, x, 2, "relu1")
    torch.testing.assert_close(made.raw, theirs, atol=1e-5, rtol=1e-4)
    factors = torch.arange(1, 5).cumsum(0) / 4
    assert factors[-1] == 2.5
    with tracing(net, x, 2, ["relu1"]) as trace:
        view = trace["relu1"]
        scores = [view.rescore(view.activations, edit=lambda m, by=by: m * by) for by in factors]
        weights = torch.stack(scores).mean(0).softmax(1)
        running = torch.einsum("nk,nkhw->nhw", weights, view.activations).relu()
    theirs = their_map("ISCAM", net, x, 2, "relu1", num_samples=4)
    torch.testing.assert_close(theirs, running, atol=1e-5, rtol=1e-3)
    made = ISCAM(steps=4)(net, x, 2, "relu1")
    assert (made.raw - running).abs().max() > 1e-3


def test_layers_are_fused_as_torchcam_does():
    """The maximum of maps that are stretched before they are resized, here to the image."""
    net, x = convnet(seed=3), images(1, seed=1)
    with torchcam.methods.GradCAM(net, target_layer=["relu1", "relu3"]) as extractor:
        maps = extractor(2, net(x))
        theirs = extractor.fuse_cams(maps, (16, 16))
    made = explain(net, x, "gradcam", 2, ["relu1", "relu3"], fuse="grid-max")["gradcam"]
    torch.testing.assert_close(made.map, minmax(theirs.detach()), atol=1e-4, rtol=0)

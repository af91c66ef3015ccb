"""Grad-CAM against captum's, CAM against torchcam's."""

import pytest
import torch
import torchvision
from captum.attr import LayerGradCam
from torchcam.methods import CAM as TheirCAM

from nets import convnet, images
from torchsaliency import CAM, GradCAM
from torchsaliency.core.maps import minmax, upsample


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

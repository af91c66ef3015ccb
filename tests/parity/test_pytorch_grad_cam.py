"""Against pytorch-grad-cam: the same maps to 1e-3, and what is deliberately different.

Different on purpose, each with a test below:
- Ablation-CAM: it replaces a channel by 0 only if the batch's least feature is exactly 0, else by
  minus 10⁷ and more (erratum L2); ours replaces by 0 (the paper) or by the image's minimum. Where
  the score is not positive, its ratio turns the sign of the map and ours is the plain difference.
- Eigen-CAM: its sign is whatever numpy's LAPACK gives; ours is fixed. Either sign is accepted, also
  from `sign="raw"`, because torch may bring another LAPACK.
- Several layers: it stretches each layer's map before resizing, which is our fuse="grid-mean".
- FEM: it weights features that are not binarised (erratum L17). Eigen-Grad-CAM: the sign question.
- Grad-CAM++: our eps is relative by default, theirs absolute.
- XGrad-CAM: our eps keeps the sign of the denominator; the same for features after a ReLU.
- Eigen-smoothing: the same sign question.
- Augmentation: its mean of six maps is not stretched to [0, 1] again.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import pytorch_grad_cam as peers
import torch
import torchvision
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.sobel_cam import sobel_cam
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputTarget,
    FasterRCNNBoxScoreTarget,
    FinerWeightedTarget,
    SemanticSegmentationTarget,
)
from torch import Tensor, nn

from nets import TinySegmenter, convnet, images, tiny_detector, two_layer_head
from torchsaliency import (
    FEM,
    KPCACAM,
    AblationCAM,
    Augmented,
    DetectionScore,
    Edges,
    EigenCAM,
    EigenGradCAM,
    EigenSmoothed,
    Finer,
    FinerCAM,
    FullGrad,
    GradCAM,
    GradCAMElementwise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RefineCAM,
    ScoreCAM,
    SegEigenCAM,
    Segment,
    ShapleyCAM,
    XGradCAM,
    explain,
    tracing,
)
from torchsaliency.core.maps import minmax, upsample

PAIRS = [
    (GradCAM(), peers.GradCAM),
    (GradCAMPlusPlus(eps_scale="absolute"), peers.GradCAMPlusPlus),
    (XGradCAM(), peers.XGradCAM),
    (HiResCAM(), peers.HiResCAM),
    (LayerCAM(), peers.LayerCAM),
    (AblationCAM(), peers.AblationCAM),
    (ScoreCAM(), peers.ScoreCAM),
    (GradCAMElementwise(), peers.GradCAMElementWise),
    (ShapleyCAM(), peers.ShapleyCAM),
    (SegEigenCAM(), peers.SegEigenCAM),
    (KPCACAM(), peers.KPCA_CAM),
    (FinerCAM(), peers.FinerCAM),
]
IDS = [ours.name for ours, _ in PAIRS]


def grad_cam(
    kind: Callable[..., BaseCAM],
    net: nn.Module,
    x: Tensor,
    layers: Sequence[nn.Module],
    labels: Sequence[int],
    **smooth: bool,
) -> Tensor:
    """Explain by pytorch-grad-cam, (N, H, W)."""
    targets = [ClassifierOutputTarget(label) for label in labels]
    if kind is peers.FinerCAM:  # it compares the predicted class if no target is given
        targets = None
    cam = kind(net, list(layers))
    made = torch.from_numpy(np.asarray(cam(x, targets, **smooth))).float()
    for part in getattr(cam, "base_cam_per_layer", [getattr(cam, "base_cam", cam)]):
        part.activations_and_grads.release()
    return made


NETS = {
    "convnet": (convnet(seed=3), "relu3", images(2, seed=1)),
    "hidden head": (two_layer_head(seed=2), "relu", images(2, 20, 20, seed=1)),
}


def predicted(net: nn.Module, x: Tensor) -> list[int]:
    with torch.no_grad():
        best = net(x).max(1)
    assert (best.values > 0).all(), "Ablation-CAM differs on purpose for scores that are not"
    return best.indices.tolist()


def same(made: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(made, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("ours", "peer"), PAIRS, ids=IDS)
@pytest.mark.parametrize("name", NETS)
def test_small_networks(name, ours, peer):
    net, layer, x = NETS[name]
    labels = predicted(net, x)
    theirs = grad_cam(peer, net, x, [net.get_submodule(layer)], labels)
    same(ours(net, x, labels, layer).map, theirs)


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10).eval()


@pytest.mark.parametrize(("ours", "peer"), PAIRS, ids=IDS)
def test_resnet18(resnet18, ours, peer):
    masked = ours.name in ("scorecam", "ablationcam")  # hundreds of passes: fewer channels
    x = images(1 if masked else 2, 64, 64, seed=4)
    layer = "layer1.0" if masked else "layer3.1"
    labels = predicted(resnet18, x)
    theirs = grad_cam(peer, resnet18, x, [resnet18.get_submodule(layer)], labels)
    same(ours(resnet18, x, labels, layer).map, theirs)


def test_several_layers_are_fused_in_the_same_way():
    net, x, labels = convnet(seed=3), images(2, seed=1), [1, 3]
    theirs = grad_cam(peers.GradCAM, net, x, [net.relu1, net.relu3], labels)
    made = explain(net, x, "gradcam", labels, ["relu1", "relu3"], fuse="grid-mean")["gradcam"]
    # their eps of 1e-7 is no small share of these small maps' maximum
    torch.testing.assert_close(made.map, theirs, atol=3e-3, rtol=0)
    ours = GradCAM()(net, x, labels, ["relu1", "relu3"])
    assert (ours.map - theirs).abs().max() > 6e-3
    assert made.manifest()["fuse"] == "grid-mean"


def test_several_layers_are_multiplied_in_the_same_way():
    """Theirs are stretched before and after they are resized, which is the same as after."""
    net, x, labels = convnet(seed=3), images(2, seed=1), [1, 3]
    kind = partial(peers.RefineCAM, base_method=peers.LayerCAM)
    theirs = grad_cam(kind, net, x, [net.relu1, net.relu3], labels)
    made = RefineCAM(base="layercam")(net, x, labels, ["relu1", "relu3"])
    torch.testing.assert_close(made.map, theirs, atol=3e-3, rtol=0)


def test_finercam_differs_where_the_network_is_sure():
    """Their 1e-9 is as large as the probabilities of the classes that are compared (L18)."""
    net, x = convnet(seed=3), images(1, seed=1)
    with torch.no_grad():
        net.fc.bias[1] += 30
    target = [FinerWeightedTarget(1, Finer(1).resolve(net(x)).others[0].tolist(), 1.0)]
    with peers.GradCAM(net, [net.relu3]) as cam:
        theirs = torch.from_numpy(np.asarray(cam(x, target)))
    made = FinerCAM()(net, x, 1, "relu3").map
    with torch.no_grad():
        net.fc.bias[1] -= 30
    same(FinerCAM()(net, x, 1, "relu3").map, made)  # a bias of the class changes no contrast
    assert (made - theirs).abs().max() > 1e-2


def test_fem_differs_for_it_does_not_binarise():
    net, x = convnet(seed=3), images(1, seed=1)
    theirs = grad_cam(peers.FEM, net, x, [net.relu3], [0])
    assert (FEM()(net, x, 0, "relu3").map - theirs).abs().max() > 0.1


def test_edges_are_their_sobel_filter():
    grey = (images(1, 20, 24)[0, 0] * 20 + 100).round()
    theirs = sobel_cam(grey.byte()[..., None].expand(-1, -1, 3).numpy().copy())
    made = 255 * Edges()(convnet(), (grey / 255).expand(1, 3, -1, -1)).raw[0]
    inner = (slice(1, -1), slice(1, -1))
    difference = made[inner] - torch.from_numpy(theirs).float()[inner]
    assert difference.abs().max() <= 1  # theirs is rounded to bytes


@pytest.mark.parametrize(
    ("ours", "peer"),
    [(GradCAM(), peers.GradCAM), (HiResCAM(), peers.HiResCAM), (ScoreCAM(), peers.ScoreCAM)],
)
def test_augmentation(ours, peer):
    net, x, labels = convnet(seed=3), images(2, seed=1), [1, 3]
    theirs = grad_cam(peer, net, x, [net.relu3], labels, aug_smooth=True)
    same(Augmented(ours)(net, x, labels, "relu3").map, minmax(theirs))


def signed_component(features: Tensor) -> Tensor:
    """The first principal component (N, h, w) by numpy, with a sign of its own."""
    found = []
    for one in features.double().numpy():
        matrix = one.reshape(len(one), -1).T
        matrix = matrix - matrix.mean(0)
        right = np.linalg.svd(matrix, full_matrices=False)[2]
        found.append((matrix @ right[0]).reshape(one.shape[1:]))
    return torch.from_numpy(np.stack(found)).float()


def of_either_sign(component: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The maps of a component, and of its opposite."""
    plus, minus = (minmax(upsample(c.relu(), size)) for c in (component, -component))
    return plus, minus


def check_up_to_the_sign(component: Tensor, made: Tensor, theirs: Tensor) -> None:
    plus, minus = of_either_sign(component, (made.shape[1], made.shape[2]))
    for index, one in enumerate(component):
        either = (plus[index], minus[index])
        assert min(float((map_ - theirs[index]).abs().max()) for map_ in either) < 1e-3
        same(made[index], either[0] if one.max() >= -one.min() else either[1])


@pytest.mark.parametrize(
    ("ours", "peer"),
    [(GradCAM(), peers.GradCAM), (AblationCAM(), peers.AblationCAM), (ScoreCAM(), peers.ScoreCAM)],
)
def test_eigen_smoothing_up_to_its_sign(ours, peer):
    net, x = convnet(seed=3), images(3, seed=1)
    labels = predicted(net, x)
    theirs = grad_cam(peer, net, x, [net.relu3], labels, eigen_smooth=True)
    with tracing(net, x, labels, ["relu3"]) as trace:
        component = signed_component(ours.contributions(trace["relu3"]))
    made = EigenSmoothed(ours)(net, x, labels, "relu3")
    check_up_to_the_sign(component, made.map, theirs)


def test_eigengradcam_up_to_its_sign(resnet18):
    x = images(3, 64, 64, seed=2)
    theirs = grad_cam(peers.EigenGradCAM, resnet18, x, [resnet18.layer3], [0] * 3)
    with tracing(resnet18, x, 0, ["layer3"]) as trace:
        component = signed_component(trace["layer3"].gradients * trace["layer3"].activations)
    check_up_to_the_sign(component, EigenGradCAM()(resnet18, x, 0, "layer3").map, theirs)


@pytest.mark.parametrize(("small", "layer"), [(True, "relu3"), (False, "layer3.1")])
def test_eigencam_up_to_its_sign(resnet18, small, layer):
    net = convnet(seed=3) if small else resnet18
    x = images(3, 16 if small else 64, 16 if small else 64, seed=2)
    theirs = grad_cam(peers.EigenCAM, net, x, [net.get_submodule(layer)], [0] * 3)
    made = explain(net, x, {"raw": EigenCAM(sign="raw"), "max": EigenCAM()}, 0, layer)
    with tracing(net, x, 0, [layer], gradients=False) as trace:
        component = signed_component(trace[layer].activations)
    check_up_to_the_sign(component, made["max"].map, theirs)
    for index, either in enumerate(zip(*of_either_sign(component, x.shape[2:]), strict=True)):
        raw = made["raw"].map[index]
        assert min(float((one - raw).abs().max()) for one in either) < 1e-3


def test_ablation_differs_where_features_are_signed():
    """Their value is -10⁷ and less there, which no tail has ever seen."""
    net, x = convnet(inplace=False, seed=3), images(1, seed=1)
    labels = predicted(net, x)
    theirs = grad_cam(peers.AblationCAM, net, x, [net.conv2], labels)
    made = AblationCAM()(net, x, labels, "conv2")
    assert made.status == ("ok",)
    assert (made.map - theirs).abs().max() > 1e-2


def test_ablation_differs_where_the_score_is_negative():
    """A channel that raises a negative score gets a negative weight there, a positive one here."""
    net, x = convnet(seed=3), images(1, seed=1)
    with torch.no_grad():
        net.fc.bias.sub_(100)
    theirs = grad_cam(peers.AblationCAM, net, x, [net.relu3], [1])
    ours = AblationCAM()(net, x, 1, "relu3")
    with torch.no_grad():
        net.fc.bias.add_(200)
    raised = AblationCAM()(net, x, 1, "relu3")
    same(ours.map, raised.map)
    assert (theirs - ours.map).abs().max() > 0.5


# --- detectors and segmenters ---------------------------------------------------------------------


def best_box_score(net: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], FasterRCNNBoxScoreTarget]:
    """Return what the detector finds in an image, and their target of two of the boxes."""
    with torch.no_grad():
        (clean,) = net(x)
    boxes, labels = clean["boxes"][[0, 2]].numpy(), clean["labels"][[0, 2]].tolist()
    return clean, FasterRCNNBoxScoreTarget(labels, boxes)


@pytest.mark.parametrize("kind", ["fasterrcnn", "fpn", "ssd"])
def test_box_scores_are_theirs(kind):
    net, x = tiny_detector(kind, seed=1), images(2, 64, 64, seed=3)
    clean, theirs = best_box_score(net, x[:1])
    ours = DetectionScore(
        clean["boxes"][None, [0, 2]], clean["labels"][None, [0, 2]], overlap=0.5, form="sum"
    )
    with torch.no_grad():
        for shift in (0.0, 0.1, 0.5):
            output = net(x[:1] + shift * x[1:])
            torch.testing.assert_close(ours(output), theirs(output[0]))


def test_the_map_of_boxes_is_theirs():
    net, x = tiny_detector("fasterrcnn", seed=1), images(1, 64, 64, seed=3)
    clean, target = best_box_score(net, x)
    with peers.GradCAM(net, [net.backbone]) as cam:
        theirs = torch.from_numpy(np.asarray(cam(x, [target]))).float()
    ours = DetectionScore(
        clean["boxes"][None, [0, 2]], clean["labels"][None, [0, 2]], overlap=0.5, form="sum"
    )
    made = explain(net, x, "gradcam", ours)["gradcam"]
    assert made.layers == ("backbone",)
    assert made.status == ("ok",)
    torch.testing.assert_close(made.map, theirs, atol=1e-3, rtol=0)


def test_the_map_of_a_segment_is_theirs():
    """Theirs is the sum over the region and ours the mean, which the map does not show."""
    net, x = TinySegmenter(), images(1, 32, 32)
    made = explain(net, x, "gradcam", Segment())["gradcam"]
    category, mask = int(made.target.category), made.target.masks[0]
    target = SemanticSegmentationTarget(category, mask.numpy())
    torch.testing.assert_close(made.score[0] * mask.sum(), target(made.output[0]))
    with peers.GradCAM(OfKey(net), [net.coarse]) as cam:
        theirs = torch.from_numpy(np.asarray(cam(x, [target]))).float()
    torch.testing.assert_close(made.map, theirs, atol=1e-3, rtol=0)


class OfKey(nn.Module):
    """What their tutorial wraps a segmenter in."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)["out"]


def test_fullgrad_of_channels_apart():
    net, x, label = convnet(inplace=False, seed=3), images(1, 16, 20, seed=1), 2
    with peers.FullGrad(net, []) as cam:
        theirs = cam(x.clone(), [ClassifierOutputTarget(label)])
    made = explain(net, x, FullGrad(rescaled="channel"), label)["fullgrad"]
    np.testing.assert_allclose(made.map, theirs, atol=1e-3)

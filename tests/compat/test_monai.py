"""Programs written for MONAI's visualisation, with nothing but the import line changed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nets import convnet_of, images, settle, volumes
from torchsaliency.compat import monai as ours
from torchsaliency.errors import InputError, LayerError, OptionError, TargetError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Full backward hook"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence"),
]
theirs = pytest.importorskip("monai.visualize")

FLAT, DEEP = images(1, 12, 16, seed=1), volumes(6, 8, 10, count=1)


def make_net(sides: int, classes: int = 3) -> nn.Sequential:
    """Convolutions, global average pooling, one linear layer: MONAI's formulas all hold."""
    conv, pool = ((nn.Conv2d, nn.AdaptiveAvgPool2d), (nn.Conv3d, nn.AdaptiveAvgPool3d))[sides - 2]
    net = nn.Sequential()
    net.add_module("first", conv(3 if sides == 2 else 1, 4, 3, stride=2))
    net.add_module("relu", nn.ReLU())
    net.add_module("pool", nn.Sequential(pool(1), nn.Flatten()))
    net.add_module("fc", nn.Linear(4, classes))
    return settle(net)


CASES = [(2, FLAT), (3, DEEP)]


def run_both(program: Callable[[Any], Any], **options: float) -> Any:
    """Run a program with either package, and compare all that it returns."""
    made = program(ours)
    for one, other in zip(made, program(theirs), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        other = torch.as_tensor(other).detach()  # MetaTensor
        torch.testing.assert_close(one, other, **{"atol": 1e-4, "rtol": 1e-3, **options})
    return made


@pytest.mark.parametrize(("sides", "x"), CASES, ids=["2d", "3d"])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMpp", "CAM"])
def test_maps_of_one_image_are_theirs(name, sides, x):
    if x.shape[1] != (3 if sides == 2 else 1):
        x = x[:, :1]

    def program(use: Any) -> Any:
        net = make_net(sides)
        more = {"fc_layers": "fc"} if name == "CAM" else {}
        cam = getattr(use, name)(nn_module=net, target_layers="relu", **more)
        labels = (torch.tensor([2]),) if name == "CAM" else (2,)
        raw = getattr(use, name)(net, ["first", "relu"], postprocessing=lambda maps: maps, **more)
        maps = cam(x=x), cam(x, *labels)
        if name == "GradCAMpp":  # theirs are exp(y) times as large
            return maps
        return *maps, cam.compute_map(x, *labels), raw(x, layer_idx=0)

    made = run_both(program, atol=2e-3 if name == "GradCAMpp" else 1e-4)
    assert made[0].shape == (1, 1, *x.shape[2:])
    shape = getattr(ours, name)(make_net(sides), "relu").feature_map_size(tuple(x.shape))
    assert shape == ((1, 1, 5, 7) if sides == 2 else (1, 1, 2, 3, 4))


def test_grad_cam_of_a_deeper_layer_is_theirs():
    def program(use: Any) -> Any:
        net = convnet_of(3)
        x = volumes(8, 12, 16)[:1]
        return (use.GradCAM(net, target_layers="relu2")(x, class_idx=1),)

    run_both(program)


@pytest.mark.parametrize("mode", ["gaussian", "mean_img", 0.25])
def test_occlusion_is_theirs(mode):
    def program(use: Any) -> Any:
        occlude = use.OcclusionSensitivity(
            make_net(2), mask_size=(5, 4), n_batch=7, verbose=False, mode=mode, overlap=0.5
        )
        return [*occlude(FLAT), *occlude(FLAT, b_box=[2, 9, -1, -1])]

    made = run_both(program)
    assert made[0].shape == (1, 3, 12, 16)
    assert made[0].std() > 0


def test_occlusion_of_volumes_is_theirs():
    def program(use: Any) -> Any:
        kind = use.OcclusionSensitivity
        occlude = kind(make_net(3), mask_size=3, verbose=False, activate=False)
        other = kind(make_net(3), mask_size=4, verbose=False, activate=lambda out: out.softmax(1))
        return [*occlude(DEEP[:, :1]), *other(DEEP[:, :1], b_box=[1, 3, -1, -1, -1, -1])]

    run_both(program)


# --- what is different on purpose ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["GradCAM", "GradCAMpp"])
def test_a_batch_is_its_images_which_is_not_so_in_theirs(name):
    """MONAI sums y of every image's class over every image, so maps mix classes."""
    net, x = make_net(2), images(4, 12, 12, seed=3)
    labels = torch.tensor([0, 1, 2, 0])

    def program(use: Any) -> tuple[torch.Tensor, torch.Tensor]:
        cam = getattr(use, name)(net, "relu")
        each = [cam(x[[i]], labels[[i]]) for i in range(4)]
        try:
            return cam(x, labels), torch.cat(each)
        except RuntimeError:  # exp of (N, N) scores does not fit the gradients
            return torch.zeros(4), torch.cat(each)

    together, each = program(ours)
    torch.testing.assert_close(together, each)
    mixed, apart = program(theirs)
    torch.testing.assert_close(apart, each, atol=2e-3, rtol=0)  # eps of Grad-CAM++
    assert mixed.shape != apart.shape or (mixed - apart).abs().max() > 0.1


def test_classes_of_a_grey_image_have_a_softmax():
    """MONAI asks the image's channels, not the outputs, and takes sigmoids here."""
    grey = DEEP[:, :1]
    made, _ = ours.OcclusionSensitivity(make_net(3), mask_size=4)(grey)
    torch.testing.assert_close(made.sum(1), torch.ones_like(made[:, 0]))
    other, _ = theirs.OcclusionSensitivity(make_net(3), mask_size=4, verbose=False)(grey)
    assert (torch.as_tensor(other).sum(1) - 1).abs().max() > 0.1


def test_the_mean_of_a_patch_hides_it_and_functions_work():
    """MONAI takes the sum for the factor, and multiplies the patch by its mean."""

    def occlude(use: Any, mode: Any) -> torch.Tensor:
        kind = use.OcclusionSensitivity(make_net(2), (5, 4), verbose=False, mode=mode, overlap=0.5)
        return torch.as_tensor(kind(FLAT)[0])

    made = occlude(ours, "mean_patch")
    torch.testing.assert_close(made, occlude(ours, lambda _, part: part.mean().expand_as(part)))
    multiplied = occlude(ours, lambda _, part: part * part.mean())
    torch.testing.assert_close(multiplied, occlude(theirs, "mean_patch"), atol=1e-4, rtol=1e-3)
    assert (made - multiplied).abs().max() > 0.01
    with pytest.raises(RuntimeError, match="gone wrong"):
        occlude(theirs, lambda _, part: part)


def test_a_map_of_nothing_says_that_nothing_is_important():
    net = make_net(2)
    net.fc.weight.data.zero_()
    assert (ours.GradCAM(net, "relu")(FLAT, 1) == 1).all()


def test_what_does_not_fit_is_refused():
    net = make_net(2)
    for refused, kind in (
        (lambda: ours.OcclusionSensitivity(net, mode="median"), OptionError),
        (lambda: ours.OcclusionSensitivity(net, overlap=1.0), OptionError),
        (lambda: ours.OcclusionSensitivity(net)(FLAT), InputError),
        (lambda: ours.OcclusionSensitivity(net, 3)(images(2)), InputError),
        (lambda: ours.OcclusionSensitivity(net, 3)(FLAT, b_box=[1, 2]), InputError),
        (lambda: ours.OcclusionSensitivity(net[0], 3)(FLAT), TargetError),
        (lambda: ours.CAM(net, "relu", "head")(FLAT), LayerError),
        (lambda: ours.CAM(net, "pool", "first")(FLAT), LayerError),
        (lambda: ours.GradCAM(net, "layer4")(FLAT), LayerError),
        (lambda: ours.GradCAM(net, "relu")(FLAT, 7), TargetError),
    ):
        with pytest.raises(kind):
            refused()

"""Programs written for pytorch-grad-cam, with nothing but the import lines changed.

Each program takes `use`, which imports a module of either package, and must give the same numbers;
what is different on purpose has a test of its own below. Its signs of singular vectors are
LAPACK's (erratum L1), so what reads them is compared up to the sign.
"""

import copy
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nets import TinySegmenter, convnet, images, tiny_detector, tiny_vit
from torchsaliency import Augmented, EigenSmoothed, GradCAM, create, explain
from torchsaliency.compat import pytorch_grad_cam as ours
from torchsaliency.compat._shared import Transformed
from torchsaliency.compat.pytorch_grad_cam._levels import _Levels
from torchsaliency.compat.pytorch_grad_cam.utils.image import show_cam_on_image
from torchsaliency.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchsaliency.core.maps import minmax
from torchsaliency.errors import InputError, LayerError, OptionError, TargetError

Use = Callable[[str], Any]


def use_ours(name: str = "") -> Any:
    return importlib.import_module(f"torchsaliency.compat.pytorch_grad_cam{name}")


def use_theirs(name: str = "") -> Any:
    return importlib.import_module(f"pytorch_grad_cam{name}")


def run_both(program: Callable[..., Any], *args: Any, atol: float = 1e-3) -> Any:
    """Run a program with either package, and compare what it returns."""
    made, theirs = program(use_ours, *args), program(use_theirs, *args)
    np.testing.assert_allclose(made, np.asarray(theirs), atol=atol, rtol=1e-4)
    return made


# --- README --------------------------------------------------------------------------------------


class OfKey(nn.Module):
    """What their tutorial wraps a segmenter in."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)["out"]


def classify(
    use: Use, name: str, layers: list[str], labels: list[int] | None, **options: Any
) -> Any:
    net, x = convnet(seed=3), images(2, seed=1)
    targets = use(".utils.model_targets")
    chosen = labels and [targets.ClassifierOutputTarget(label) for label in labels]
    with getattr(use(), name)(
        model=net, target_layers=[net.get_submodule(one) for one in layers]
    ) as cam:
        cam.batch_size = 5
        maps = cam(input_tensor=x, targets=chosen, **options)
        if not options:  # theirs keeps the output of the last augmented copy
            np.testing.assert_allclose(cam.outputs.detach(), net(x).detach(), rtol=1e-5)
    assert isinstance(maps, np.ndarray)
    assert maps.shape == (2, 16, 16)
    return maps


GRADIENT = ["GradCAM", "HiResCAM", "XGradCAM", "LayerCAM", "GradCAMElementWise", "ShapleyCAM"]


@pytest.mark.parametrize("layers", [["relu3"], ["relu2", "relu3"]], ids=["one", "two"])
@pytest.mark.parametrize("name", [*GRADIENT, "ScoreCAM", "AblationCAM"])
def test_maps_are_theirs(name, layers):
    run_both(classify, name, layers, None)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM"])
def test_targets_and_augmentation_are_theirs(name):
    run_both(classify, name, ["relu2", "relu3"], [1, 3])
    run_both(lambda use: classify(use, name, ["relu3"], [1, 3], aug_smooth=True))


def test_smoothing_is_the_librarys():
    net, x = convnet(seed=3), images(2, seed=1)
    targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
    with ours.GradCAM(net, ["relu3"]) as cam:
        smooth = cam(x, targets, eigen_smooth=True)
        both = cam(x, targets, aug_smooth=True, eigen_smooth=True)
    by_hand = EigenSmoothed(GradCAM())(net, x, [1, 3], "relu3").map
    np.testing.assert_allclose(smooth, by_hand, atol=1e-5)
    by_hand = Augmented(EigenSmoothed(GradCAM()))(net, x, [1, 3], "relu3").map
    np.testing.assert_allclose(minmax(torch.from_numpy(both)), by_hand, atol=1e-4)


def full_grad(use: Use, layers: list[nn.Module]) -> Any:
    net, x = convnet(inplace=False, seed=3), images(2, 16, 20, seed=1)
    targets = [use(".utils.model_targets").ClassifierOutputTarget(label) for label in (1, 3)]
    with use(".fullgrad_cam").FullGrad(model=net, target_layers=layers) as cam:
        return cam(input_tensor=x, targets=targets)


def test_full_grad_is_theirs_whatever_layers_are_given():
    made = run_both(full_grad, [])
    net = convnet(inplace=False, seed=3)
    np.testing.assert_array_equal(full_grad(use_ours, [net.relu2]), made)
    with ours.FullGrad(net) as cam, pytest.raises(OptionError, match="leave all but one component"):
        cam(images(1), eigen_smooth=True)


def finer(use: Use, **options: Any) -> Any:
    net = convnet(seed=3)
    with use().FinerCAM(net, [net.relu3], base_method=use().GradCAM) as cam:
        return cam(input_tensor=images(2, seed=1), targets=None, **options)


def test_finer_cam_is_theirs():
    run_both(finer)
    run_both(lambda use: finer(use, alpha=0.6, comparison_categories=[1, 2], target_idx=3))


def test_refine_cam_is_theirs():
    def program(use: Use) -> Any:
        net = convnet(seed=3)
        cam = use(".refine_cam").RefineCAM(net, [net.relu2, net.relu3], base_method=use().LayerCAM)
        return cam(input_tensor=images(2, seed=1), targets=None)

    run_both(program)


def test_guided_backpropagation_is_theirs():
    def program(use: Use) -> Any:
        net = copy.deepcopy(convnet(inplace=False, seed=3))
        return use().GuidedBackpropReLUModel(model=net, device="cpu")(
            images(1, seed=1), target_category=None
        )

    assert run_both(program, atol=1e-6).shape == (16, 16, 3)


# --- tutorials ------------------------------------------------------------------------------------


def test_vision_transformers():
    def program(use: Use, name: str) -> Any:
        net = tiny_vit()

        def reshape(tokens: Any) -> Any:
            return use(".utils.reshape_transforms").vit_reshape_transform(tokens, 4, 4)

        options = {}
        if name == "AblationCAM":
            options = {"ablation_layer": use(".ablation_layer").AblationLayerVit()}
        cam = getattr(use(), name)(net, [net.blocks[-1].norm1], reshape, **options)
        return cam(images(1, 32, 32, seed=1), None)

    run_both(program, "GradCAM")
    assert program(use_ours, "AblationCAM").max() == 1  # theirs removes by -10⁷ (erratum L2)


def test_semantic_segmentation():
    def program(use: Use) -> Any:
        net, x = OfKey(TinySegmenter()), images(1, 32, 32)
        target = use(".utils.model_targets").SemanticSegmentationTarget
        mask = np.float32(net(x)[0].argmax(0) == 1)
        with use().GradCAM(net, [net.net.coarse]) as cam:
            return cam(x, [target(1, mask)])

    run_both(program)


def test_object_detection_on_a_pyramid():
    net, x = tiny_detector("fpn", seed=1), images(1, 64, 64, seed=3)
    with torch.no_grad():
        (found,) = net(x)
    keys = list(net.backbone(x))

    def reshape(levels: Any) -> Any:
        size = levels[keys[-1]].shape[-2:]
        resized = [
            nn.functional.interpolate(one.abs(), size, mode="bilinear") for one in levels.values()
        ]
        return torch.cat(resized, 1)

    def program(use: Use, name: str) -> Any:
        target = use(".utils.model_targets").FasterRCNNBoxScoreTarget(
            labels=found["labels"].tolist(), bounding_boxes=found["boxes"].numpy()
        )
        with getattr(use(), name)(net, [net.backbone], reshape_transform=reshape) as cam:
            return cam(x, targets=[target])

    made, theirs = program(use_ours, "EigenCAM"), program(use_theirs, "EigenCAM")
    levels: list[Any] = []
    handle = net.backbone.register_forward_hook(lambda *given: levels.append(given[2]))
    with torch.no_grad():
        net(x)
    handle.remove()
    features = reshape(levels[0])
    plain = use_ours(".utils.svd_on_activations").get_2d_projection(features.numpy())
    scale = use_ours(".utils.image").scale_cam_image
    signs = [scale(scale(np.maximum(sign * plain, 0), (64, 64))) for sign in (1, -1)]
    np.testing.assert_allclose(made, signs[0], atol=1e-4)
    assert min(np.abs(one - theirs).max() for one in signs) < 1e-3
    ablated = program(use_ours, "AblationCAM")  # theirs removes by -1000
    assert ablated.max() == 1


def test_a_pyramids_channels_are_taken_away_whatever_rounding_does():
    """A batch of copies is rounded by its largest number, of which the others may be tiny."""
    levels = _Levels(Transformed(lambda given: given["p"]), {"p": (2, 2, 2)})
    output = torch.tensor([100.0, 1, 1, 1, 1e-4, 1, 1, 1])[None]
    maps = levels.to_maps(output) * torch.tensor([1.0, 0])[:, None, None]
    maps[0, 0, 1, 1] += 1e-3
    assert levels.from_maps(maps, output).tolist() == [[100, 1, 1, 1, 0, 0, 0, 0]]
    with pytest.raises(LayerError, match="only whole channels"):
        levels.from_maps(maps * 2, output)


def test_embeddings():
    def program(use: Use) -> Any:
        net, x = convnet(seed=3), images(3, seed=1)
        features = nn.Sequential(*list(net.children())[:-1])
        concept = features(x[2:]).detach()[0]

        def similarity(output: Any) -> Any:
            return nn.functional.cosine_similarity(output, concept, dim=0)

        with use().GradCAM(features, [net.relu3]) as cam:
            return cam(x[:2], [similarity, similarity])

    run_both(program)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of theirs
@pytest.mark.parametrize(
    "name", ["ROADMostRelevantFirst", "ROADLeastRelevantFirst", "ROADCombined", "DropInConfidence"]
)
def test_metrics(name):
    net, x = convnet(seed=3), images(2, seed=1)
    maps = ours.GradCAM(net, ["relu3"])(x)

    def program(use: Use) -> Any:
        metrics = use(".metrics.road" if "ROAD" in name else ".metrics.cam_mult_image")
        target = use(".utils.model_targets").ClassifierOutputSoftmaxTarget(1)
        torch.manual_seed(0)
        options = {"percentiles": [20, 60]} if name == "ROADCombined" else {}
        return getattr(metrics, name)(**options)(x, maps, [target] * 2, net)

    run_both(program, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of theirs
def test_arcc():
    def program(use: Use) -> Any:
        net, x = convnet(seed=3), images(2, seed=1)
        targets = [use(".utils.model_targets").ClassifierOutputSoftmaxTarget(1)] * 2
        cam = use().GradCAM(net, [net.relu3])
        torch.manual_seed(0)
        return use(".metrics.arcc").ARCC(cam, [20, 60])(x, cam(x, targets), targets, net)

    run_both(program)


def test_deep_feature_factorisation():
    def program(use: Use) -> Any:
        net, x = convnet(seed=3), images(2, seed=1)
        dff = use().DeepFeatureFactorization(net, net.relu3, computation_on_concepts=net.fc)
        concepts, maps, scores = dff(x, 3)
        assert concepts.shape == (8, 3)
        assert scores.shape == (3, 5)
        return np.concatenate([np.asarray(maps).ravel(), concepts.ravel(), scores.ravel()])

    run_both(program, atol=3e-2)  # theirs stops after 200 steps, and ten times as far away


@pytest.mark.parametrize(
    ("name", "arguments", "output"),
    [
        ("ClassifierOutputTarget", (2,), (4,)),
        ("ClassifierOutputSoftmaxTarget", (2,), (4,)),
        ("ClassifierOutputReST", (2,), (4,)),
        ("ClassifierOutputReST", (2,), (3, 4)),
        ("BinaryClassifierOutputTarget", (0,), (1,)),
        ("RawScoresOutputTarget", (), (1,)),
        ("SoftmaxOutputTarget", (), (3,)),
        ("FinerWeightedTarget", (0, [1, 3], 0.5), (3, 4)),
    ],
)
def test_model_targets(name, arguments, output):
    values = torch.randn(output, generator=torch.Generator().manual_seed(0))
    run_both(lambda use: getattr(use(".utils.model_targets"), name)(*arguments)(values), atol=1e-6)


def test_pictures():
    draw = np.random.default_rng(0)
    photo, mask = draw.random((16, 12, 3), np.float32), draw.random((16, 12), np.float32)

    def program(use: Use) -> Any:
        image = use(".utils.image")
        shown = [
            image.show_cam_on_image(photo, mask, rgb, colormap, 0.3)
            for rgb in (False, True)
            for colormap in (0, 2, 16, 20)
        ]
        made = [*shown, image.deprocess_image(photo), 100 * image.preprocess_image(photo)]
        made.append(200 * image.scale_cam_image(mask[None], (20, 30)))
        return np.concatenate([np.asarray(one, np.float32).ravel() for one in made])

    run_both(program, atol=2)
    levels = np.uint8(255 * photo)
    assert np.array_equal(
        show_cam_on_image(levels, mask), show_cam_on_image(levels / np.float32(255), mask)
    )
    grey = show_cam_on_image(levels[..., 0], mask, use_rgb=True)
    assert np.array_equal(grey, show_cam_on_image(levels[..., [0, 0, 0]], mask, use_rgb=True))
    for wrong, error in ((photo * 255, InputError), (photo[:, :5], InputError)):
        with pytest.raises(error):
            show_cam_on_image(wrong, mask)
    with pytest.raises(OptionError, match="matplotlib"):
        show_cam_on_image(photo, mask, colormap=4)


def test_concepts_are_drawn():
    image = use_ours(".utils.image")
    maps = np.zeros((2, 6, 8), np.float32)
    maps[0, :, :4], maps[1, :, 4:] = 1, 0.5
    drawn = image.show_factorization_on_image(np.zeros((6, 8, 3)), maps, image_weight=0)
    colours = image.show_factorization_on_image(
        np.zeros((6, 8, 3)), maps, [np.array([1.0, 0, 0]), np.array([0, 1.0, 0])], 0
    )
    assert drawn.shape == (6, 8, 3)
    assert colours[0, 0].tolist() == [255, 0, 0]
    assert colours[0, 7].tolist() == [0, 127, 0]
    legend = image.create_labels_legend(np.array([[0.1, 0.7, 0.2]]), {0: "a", 1: "b, c", 2: "d"})
    assert legend == ["b, c:0.70\nd:0.20"]
    beside = image.show_factorization_on_image(np.zeros((6, 8, 3)), maps, concept_labels=["x", "y"])
    assert beside.shape == (6, 16, 3)


def test_find_layers():
    def program(use: Use) -> Any:
        net = convnet(seed=3)
        found = use(".utils.find_layers").find_layer_types_recursive(net, [nn.ReLU, nn.Conv2d])
        return [list(net.modules()).index(one) for one in found]

    run_both(program)


@pytest.mark.parametrize("image", [False, True])
def test_a_subclass_writes_a_method_in_numpy(image):
    def program(use: Use) -> Any:
        class Peak(use().GradCAM):
            def get_cam_weights(self, *given):  # input, layer, targets, activations, gradients
                return given[4].max(axis=(2, 3))

        class Own(use(".base_cam").BaseCAM):
            def get_cam_image(self, *given):
                return (given[4] * given[3]).max(axis=1)

        net = convnet(seed=3)
        with (Own if image else Peak)(net, [net.relu3]) as cam:
            return cam(images(2, seed=1), None)

    run_both(program)


# --- what is corrected ----------------------------------------------------------------------------


def test_an_in_place_operation_behind_the_layer_changes_nothing():
    """Their hook keeps the tensor that the ReLU overwrites: features are read behind it."""
    x, maps = images(1, seed=1), {}
    for inplace in (False, True):
        net = convnet(inplace=inplace, seed=3)
        maps[inplace] = [use().GradCAM(net, [net.bn3])(x, None) for use in (use_ours, use_theirs)]
    np.testing.assert_allclose(maps[True][0], maps[False][0], atol=1e-5)
    np.testing.assert_allclose(maps[False][0], maps[False][1], atol=1e-3)
    assert np.abs(maps[True][1] - maps[False][1]).max() > 0.01


def test_the_network_stays_as_it_was():
    net = convnet(seed=3).train()
    before = copy.deepcopy(net.state_dict())
    ours.GradCAM(net, ["relu3"])(images(1, seed=1))
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_errors_are_not_hidden():
    net, x = convnet(seed=3), images(2, seed=1)
    with pytest.raises(TargetError, match="for 2 images"), ours.GradCAM(net, ["relu3"]) as cam:
        cam(x, [ClassifierOutputTarget(1)])
    with pytest.raises(TargetError, match="counted from 0"), ours.GradCAM(net, ["relu3"]) as cam:
        cam(x, [ClassifierOutputTarget(99)] * 2)
    with pytest.raises(InputError, match=r"an array \(2, 3"):
        cam(x.numpy())
    with pytest.raises(OptionError, match="a list of layers"):
        ours.GradCAM(net, net.relu3)
    with pytest.raises(TargetError, match="single number"):
        cam(x, [use_ours(".utils.model_targets").RawScoresOutputTarget()] * 2)
    with pytest.raises(OptionError, match="differentiable=True"):
        ours.GradCAM(net, ["relu3"], detach=False)
    with pytest.raises(OptionError, match="each once"):
        ours.GradCAM(net, [net.relu3, net.relu3])
    with pytest.raises(OptionError, match="get_cam_weights"):
        ours.BaseCAM(net, ["relu3"])(x)
    with pytest.raises(LayerError, match="computes new numbers"):
        ours.AblationCAM(net, ["relu3"], reshape_transform=torch.exp)(x)


def test_eps_of_gradcampp_is_small_beside_small_gradients():
    """Their eps of 1e-6 is not: channels are weighted by cubes of gradients (erratum L3)."""
    net, x = convnet(seed=3), images(1, seed=1)

    def small(output):
        return 1e-4 * output[..., 1]

    made, theirs = (
        use().GradCAMPlusPlus(net, [net.relu3])(x, [small]) for use in (use_ours, use_theirs)
    )
    without = create("gradcam++", {"eps": 1e-12})(net, x, small, "relu3").map
    np.testing.assert_allclose(made, without, atol=1e-2)
    assert np.abs(theirs - without.numpy()).max() > 0.05


@pytest.mark.parametrize("name", ["EigenGradCAM", "SegEigenCAM", "KPCA_CAM", "FEM", "RandomCAM"])
def test_other_classes_are_the_librarys(name):
    net, x = convnet(seed=3), images(2, seed=1)
    kind = getattr(ours, name)
    torch.manual_seed(0)
    made = kind(net, [net.relu3])(x, [ClassifierOutputTarget(1)] * 2, eigen_smooth=name == "FEM")
    options = {"deviations": 2} if name == "FEM" else {}
    torch.manual_seed(0)
    if name == "RandomCAM":
        options = {"seed": int(torch.randint(2**31, ()))}
    method = create(kind.method_name, options)
    np.testing.assert_allclose(made, method(net, x, 1, "relu3").map, atol=1e-5)


def test_kernel_projection_is_theirs():
    draw = np.random.default_rng(0).random((1, 4, 5, 5), np.float32)

    def program(use: Use) -> Any:
        found = use(".utils.svd_on_activations").get_2d_projection_kernel(draw, "rbf", 0.5)
        return np.abs(found)

    run_both(program)


def test_otsus_threshold_removes_the_most_relevant():
    """Theirs keeps what lies above it, though a percentile keeps what lies below."""
    metrics = use_ours(".metrics.perturbation_confidence")
    kept = metrics.RemoveMostRelevantFirst("auto", lambda image, mask: image * mask)(
        torch.ones(1, 2, 4), torch.tensor([[0.1, 0.1, 0.9, 0.8], [0.0, 0.2, 1.0, 0.9]])
    )
    assert kept[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_explanations_are_the_librarys():
    net, x = convnet(seed=3), images(2, seed=1)
    made = ours.GradCAM(net, ["relu3"])(x, [ClassifierOutputTarget(1)] * 2)
    np.testing.assert_allclose(
        made, explain(net, x, "gradcam", 1, "relu3")["gradcam"].map, atol=1e-6
    )

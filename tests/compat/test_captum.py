"""Programs written for captum, with nothing but the import line changed.

Each program takes `use`, which imports a module of either package, and must give the same numbers;
what is different on purpose has a test of its own below.
"""

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

from nets import convnet, images, settle
from torchsaliency.compat.captum import attr, metrics
from torchsaliency.errors import InputError, LayerError, OptionError, TargetError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks"),
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy"),
    pytest.mark.filterwarnings("ignore:.*requires_grad"),
    pytest.mark.filterwarnings("ignore:Input Tensor"),
]

Use = Callable[[str], Any]
X = images(2, 8, 8, seed=1)
BASES = 0.3 * images(2, 8, 8, seed=2)
MASK = (torch.arange(64).view(1, 1, 8, 8) // 16).clone()


def use_ours(name: str) -> Any:
    return importlib.import_module(f"torchsaliency.compat.captum.{name}")


def use_theirs(name: str) -> Any:
    return importlib.import_module(f"captum.{name}")


def net() -> nn.Sequential:
    """What captum can take: no module in place or used twice; no rule after a rule."""
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(96, 4),
        )
    )


def run_both(
    program: Callable[..., Any], *args: Any, atol: float = 2e-5, rtol: float = 1e-3
) -> Any:
    """Run a program with either package, and compare all that it returns."""
    torch.manual_seed(0)
    made = program(use_ours, *args)
    torch.manual_seed(0)
    theirs = program(use_theirs, *args)
    made, theirs = (one if isinstance(one, tuple) else (one,) for one in (made, theirs))
    assert len(made) == len(theirs)
    for one, other in zip(made, theirs, strict=True):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.detach(), other.detach(), atol=atol, rtol=rtol)
    return made


TARGETS = [1, torch.tensor([1, 3]), [2, 0], torch.tensor(3)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Saliency", {}),
        ("Saliency", {"abs": False}),
        ("InputXGradient", {}),
        ("GuidedBackprop", {}),
        ("Deconvolution", {}),
        ("IntegratedGradients", {"return_convergence_delta": True, "n_steps": 20}),
        ("IntegratedGradients", {"baselines": BASES, "n_steps": 9, "internal_batch_size": 2}),
        ("DeepLift", {"baselines": 0.25, "return_convergence_delta": True}),
        ("DeepLift", {"baselines": BASES[:1]}),
        ("DeepLiftShap", {"baselines": torch.cat([BASES, X]), "return_convergence_delta": True}),
        ("FeatureAblation", {"feature_mask": MASK, "baselines": BASES}),
        ("FeatureAblation", {"feature_mask": torch.cat([MASK, 3 - MASK])}),
        ("Occlusion", {"sliding_window_shapes": (3, 3, 4), "strides": (3, 2, 3)}),
        ("Occlusion", {"sliding_window_shapes": (2, 5, 5), "strides": 2, "baselines": BASES}),
        ("Occlusion", {"sliding_window_shapes": (3, 4, 8), "strides": 4}),
    ],
)
def test_attributions_are_theirs(name, options):
    def program(use: Use, target: Any) -> Any:
        return getattr(use("attr"), name)(net()).attribute(X.clone(), target=target, **options)

    for target in TARGETS[:2]:
        run_both(program, target)


@pytest.mark.parametrize("target", [*TARGETS, None])
def test_targets_are_theirs(target):
    def program(use: Use) -> Any:
        model = net() if target is not None else nn.Sequential(net(), nn.Linear(4, 1))
        return use("attr").IntegratedGradients(settle(model)).attribute((X,), target=target)[0]

    run_both(program)


def test_targets_of_a_segmenter_are_theirs():
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()))

    def program(use: Use, target: Any) -> Any:
        return use("attr").InputXGradient(model).attribute(X.clone(), target=target)

    run_both(program, (1, 2, 3))
    run_both(program, [(1, 2, 3), (0, 5, 5)])


def test_a_function_with_more_arguments():
    model = net()

    def forward(x: torch.Tensor, weight: torch.Tensor, power: int) -> torch.Tensor:
        return (model(x) * weight).pow(power)

    def program(use: Use) -> Any:
        ig = use("attr").IntegratedGradients(forward)
        given = {"additional_forward_args": (torch.tensor([[1.0], [2.0]]), 2), "n_steps": 8}
        found, delta = ig.attribute(
            X.clone(), BASES, [1, 2], return_convergence_delta=True, **given
        )
        again = ig.compute_convergence_delta(
            found, BASES, X, [1, 2], given["additional_forward_args"]
        )
        return found, delta, again

    run_both(program)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_is_theirs(kind):
    def program(use: Use, batch: int | None) -> Any:
        tunnel = use("attr").NoiseTunnel(use("attr").IntegratedGradients(net()))
        return tunnel.attribute(
            X.clone(),
            nt_type=kind,
            nt_samples=4,
            nt_samples_batch_size=batch,
            stdevs=0.2,
            target=[1, 2],
            baselines=BASES,
            n_steps=6,
            return_convergence_delta=True,
        )

    run_both(program, None)
    # in batches, theirs gives what is lacking batch by batch, ours image by image
    _, delta = run_both(lambda use: _by_batch(program(use, 2), use is use_ours))
    assert delta.std() > 0


def _by_batch(found: tuple[torch.Tensor, torch.Tensor], ours: bool) -> Any:
    shares, delta = found
    return shares, delta.view(2, 2, 2).transpose(0, 1).flatten() if ours else delta


def test_lrp_is_theirs():
    first = nn.Conv2d(3, 5, 3, bias=False)
    model = settle(nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3)))
    targets = [(1, 0, 0), (2, 0, 0)]

    def program(use: Use) -> Any:
        return use("attr").LRP(model).attribute(X.clone(), targets, return_convergence_delta=True)

    run_both(program, atol=1e-4)
    model[0].rule = object()
    with pytest.raises(OptionError, match="give a LayerRule"):
        attr.LRP(model).attribute(X, targets)


def test_grad_cam_is_theirs():
    def program(use: Use) -> Any:
        model, kinds = convnet(inplace=False, seed=3), use("attr")
        x = images(2, seed=1)
        cam = kinds.LayerGradCam(model, model.relu3)
        found = cam.attribute(x, target=[1, 3])
        parts = cam.attribute(x, 2, attr_dim_summation=False, relu_attributions=True)
        large = kinds.LayerAttribution.interpolate(found, (16, 16))
        smooth = kinds.LayerAttribution.interpolate(found, (16, 16), interpolate_mode="bilinear")
        guided = kinds.GuidedGradCam(model, model.relu3).attribute(x, target=1)
        return found, parts, large, smooth, guided

    assert run_both(program)[0].min() < 0


def test_gradient_shap_approaches_theirs():
    def program(use: Use) -> Any:
        shap = use("attr").GradientShap(net())
        return shap.attribute(X.clone(), BASES, n_samples=400, stdevs=0.01, target=1)

    torch.manual_seed(0)
    made, theirs = program(use_ours), program(use_theirs)
    assert (made - theirs).norm() < 0.12 * theirs.norm()
    _, delta = attr.GradientShap(net()).attribute(
        X, torch.zeros_like(X[:1]), 300, target=1, return_convergence_delta=True
    )
    assert delta.shape == (2,)  # theirs: one of each draw, whose mean it is
    assert delta.abs().max() < 0.05


def test_kernel_shap_is_exact_where_theirs_converges():
    expected = (
        use_theirs("attr").ShapleyValues(net()).attribute(X, BASES, [1, 2], feature_mask=MASK)
    )
    found = attr.KernelShap(net()).attribute(X, BASES, [1, 2], feature_mask=MASK, n_samples=20)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_lime_orders_features_as_feature_ablation_of_a_linear_network():
    model = settle(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    ablation = attr.FeatureAblation(model).attribute(X, target=1, feature_mask=MASK)
    lime = attr.Lime(model)
    found = lime.attribute(X, target=1, feature_mask=MASK, n_samples=400)
    table = lime.attribute(X, target=1, feature_mask=MASK, n_samples=400, return_input_shape=False)
    assert table.shape == (2, 4)
    for shown, dropped, row in zip(found, ablation, table, strict=True):
        one = torch.stack([shown[0, ::2, 0], dropped[0, ::2, 0]])
        assert torch.corrcoef(one)[0, 1] > 0.999
        assert torch.equal(shown[0, ::2, 0].argsort(), row.argsort())


def test_infidelity_and_sensitivity_are_theirs():
    def program(use: Use, normalize: bool) -> Any:
        model, found = net(), use("metrics")
        ig = use("attr").IntegratedGradients(model)
        shares = ig.attribute(X, target=[1, 2], n_steps=6)

        @found.infidelity_perturb_func_decorator(False)
        def perturb(inputs: torch.Tensor) -> torch.Tensor:
            return inputs - 0.1 * inputs.flip(-1).sign()

        def scale(inputs: torch.Tensor, base: torch.Tensor) -> Any:
            return 0.1 * (inputs - base), inputs - 0.1 * (inputs - base)

        first = found.infidelity(
            model, perturb, X, shares, target=[1, 2], n_perturb_samples=3, normalize=normalize
        )
        second = found.infidelity(
            model, scale, X, shares, BASES, None, [1, 2], 4, max_examples_per_batch=4
        )
        torch.manual_seed(1)
        third = found.sensitivity_max(
            ig.attribute, X[:1], target=1, n_steps=5, n_perturb_samples=3, perturb_radius=0.1
        )
        return first, second, third

    for normalize in (False, True):
        run_both(program, normalize, rtol=2e-3)


SIGNS = ("positive", "negative", "absolute_value")
PICTURES = [
    *itertools.product(("heat_map", "blended_heat_map", "original_image"), ("all", *SIGNS)),
    *itertools.product(("masked_image", "alpha_scaling"), SIGNS),  # neither draws both signs so
]


@pytest.mark.parametrize(("method", "sign"), PICTURES)
def test_pictures_are_theirs(method, sign):
    values = np.random.default_rng(0).normal(size=(6, 7, 3))
    photo = np.random.default_rng(1).random((6, 7, 3))

    def draw(use: Use) -> list[np.ndarray]:
        _, axis = use("attr").visualization.visualize_image_attr(
            values, photo, method, sign, outlier_perc=5, use_pyplot=False, show_colorbar=True
        )
        return [
            np.asarray(image.to_rgba(image.get_array()))
            if image.get_array().ndim == 2
            else np.asarray(image.get_array(), dtype=float) / 255
            for image in axis.get_images()
        ]

    mpl.use("agg")
    for one, other in zip(draw(use_ours), draw(use_theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=0.011)


def test_several_pictures():
    mpl.use("agg")
    figure, axes = attr.visualization.visualize_image_attr_multiple(
        np.ones((4, 4, 3)),
        np.ones((4, 4, 3)),
        ["original_image", "heat_map"],
        ["all", "positive"],
        use_pyplot=False,
    )
    assert len(axes) == 2
    assert figure.axes[0].get_images()[0].get_array().shape == (4, 4, 3)


# --- what is different on purpose ---------------------------------------------------------------


def test_deep_lift_adds_up_where_theirs_does_not():
    """After a ReLU, captum loses max-pooling's rule; GELU has none there."""
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 5, 3),
            nn.ReLU(),
            nn.MaxPool2d(3, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(80, 4),
        )
    )

    def program(use: Use) -> Any:
        return (
            use("attr")
            .DeepLift(model)
            .attribute(X.clone(), BASES, [1, 2], return_convergence_delta=True)[1]
        )

    assert program(use_ours).abs().max() < 1e-5
    assert program(use_theirs).abs().max() > 1e-3


def test_what_has_no_equal_is_refused():
    model = net()
    for refused in (
        lambda: attr.IntegratedGradients(model, multiply_by_inputs=False),
        lambda: attr.IntegratedGradients(model).attribute(X, target=1, method="riemann_left"),
        lambda: attr.Lime(model, interpretable_model=object()),
        lambda: attr.DeepLift(model, eps=1e-3),
        lambda: attr.DeepLiftShap(model).attribute(X, target=1),
        lambda: attr.IntegratedGradients(model).attribute(X, X[:, :1], 1),
        lambda: attr.Occlusion(model).attribute(X, (2, 2, 2), strides=3, target=1),
        lambda: attr.FeatureAblation(model).attribute(X, target=1, feature_mask=MASK[..., :3]),
        lambda: attr.LayerGradCam(model, model[0]).attribute(X, 1, attribute_to_layer_input=True),
        lambda: attr.NoiseTunnel(attr.Saliency(model)).attribute(X, "median", target=1),
        lambda: attr.visualization.visualize_image_attr(np.zeros((2, 2, 3)), use_pyplot=False),
    ):
        with pytest.raises(OptionError):
            refused()
    with pytest.raises(InputError, match="one input at a time"):
        attr.Saliency(model).attribute((X, X), target=1)
    with pytest.raises(TargetError, match="3 targets were given for 2 images"):
        attr.Saliency(model).attribute(X, target=[1, 2, 3])
    with pytest.raises(TargetError, match=r"left out, and an image's output is \(4,\)"):
        attr.Saliency(model).attribute(X)
    with pytest.raises(LayerError, match="no layer 'five'"):
        attr.LayerGradCam(model, "five")
    named, given = attr.LayerGradCam(model, "0"), attr.LayerGradCam(model, model[0])
    assert torch.equal(named.attribute(X, 1), given.attribute(X, 1))
    with pytest.raises(TargetError, match="counted from 0"):
        attr.Saliency(model).attribute(X, target=4)
    with pytest.raises(InputError, match="a str"):
        attr.Saliency("net")
    assert metrics.infidelity.__doc__


# --- layers and neurons --------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 3, 7])
def test_layers_are_theirs(place):
    def program(use: Use, name: str, **options: Any) -> Any:
        model = net()
        found = getattr(use("attr"), name)(model, model[place])
        return found.attribute(X, **options)

    run_both(program, "LayerActivation")
    for name in ("LayerGradientXActivation", "LayerGradCam"):
        run_both(lambda use, name=name: program(use, name, target=[2, 0]))
    path = {"baselines": BASES, "target": [2, 0], "return_convergence_delta": True}
    run_both(lambda use: program(use, "LayerIntegratedGradients", **path, n_steps=64), atol=1e-4)


def test_conductance_is_what_theirs_approaches():
    """Theirs leaves out both ends, and takes the slope at each step's beginning."""
    model = net().double()
    x, base = X.double(), BASES.double()
    options = {"baselines": base, "target": [2, 0]}
    made = attr.LayerConductance(model, model[3]).attribute(x, **options, n_steps=400)
    layer = use_theirs("attr").LayerConductance(model, model[3])
    errors = []
    for steps in (50, 400):
        theirs = layer.attribute(x, **options, n_steps=steps)
        errors.append(float((theirs - made).abs().amax() / made.abs().amax()))
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 4
    _, delta = attr.LayerConductance(model, model[3]).attribute(
        x, **options, n_steps=400, return_convergence_delta=True
    )
    assert float(delta.abs().max()) < 1e-3


SELECTORS = [(1, 2, 3), (1, slice(0, 2), 3), lambda features: features[:, 1].amax((1, 2))]


@pytest.mark.parametrize("selector", SELECTORS, ids=["place", "slice", "function"])
def test_neurons_are_theirs(selector):
    def program(use: Use, name: str, **options: Any) -> Any:
        model = net()
        return getattr(use("attr"), name)(model, model[2]).attribute(X, selector, **options)

    for name in ("NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvolution"):
        run_both(program, name)
    options = {"baselines": BASES, "n_steps": 64}
    run_both(lambda use: program(use, "NeuronIntegratedGradients", **options))


def test_vectors_are_explained_too():
    def program(use: Use, name: str, **options: Any) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
        return getattr(use("attr"), name)(model).attribute(x, target=[0, 2, 1, 0], **options)

    for name in ("Saliency", "InputXGradient", "FeatureAblation"):
        run_both(program, name)
    window = {"sliding_window_shapes": (2,), "baselines": 0.5, "strides": (2,)}
    run_both(lambda use: program(use, "Occlusion", **window))
    path = {"baselines": torch.full((1, 6), 0.2), "return_convergence_delta": True}
    run_both(lambda use: program(use, "IntegratedGradients", **path))


def test_numbers_are_explained_too():
    def program(use: Use) -> Any:
        x = torch.tensor([1.0, 2.0, 3.0])
        return use("attr").IntegratedGradients(lambda x: x.square()).attribute(x, torch.ones(3))

    made = run_both(program)
    torch.testing.assert_close(made[0], torch.tensor([0.0, 3.0, 8.0]))


def test_several_inputs_are_refused_by_all():
    """And never is the first of them taken alone."""
    two = (X, X)
    for refused in (
        lambda: attr.Saliency(net()).attribute(two, target=1),
        lambda: attr.NoiseTunnel(attr.Saliency(net())).attribute(two, target=1),
        lambda: metrics.infidelity(net(), lambda x: (x, x), X, two, target=1),
        lambda: metrics.sensitivity_max(lambda x: x, two),
    ):
        with pytest.raises(InputError, match="one input at a time has attributions"):
            refused()


def test_infidelity_of_vectors_is_theirs():
    def program(use: Use) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
        shares = use("attr").Saliency(model).attribute(x, target=1)
        options = {"target": 1, "n_perturb_samples": 3}
        return use("metrics").infidelity(model, halve, x, shares, **options)

    def halve(inputs: torch.Tensor) -> Any:
        assert inputs.shape[1:] == (6,)
        return inputs / 2, inputs / 2

    run_both(program)


def test_infidelity_from_a_baseline_is_theirs():
    """What was taken away is a share of the way from the baseline, not from 0."""

    def program(use: Use) -> Any:
        model = net()
        shares = use("attr").IntegratedGradients(model).attribute(X, BASES, target=1)
        half = use("metrics").infidelity_perturb_func_decorator(True)(
            lambda inputs, baselines: (inputs + baselines) / 2
        )
        options = {"baselines": BASES, "target": 1, "n_perturb_samples": 3}
        return use("metrics").infidelity(model, half, X, shares, **options)

    run_both(program)


def test_coefficients_of_vectors_are_theirs():
    def program(use: Use) -> Any:
        model = nn.Linear(4, 1)
        nn.init.constant_(model.weight, 2)
        mask, x = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1.0, 2, 3, 4]])
        options = {"n_samples": 50, "return_input_shape": False}
        return use("attr").KernelShap(model).attribute(x, feature_mask=mask, target=0, **options)

    made = run_both(program, atol=0.05)
    torch.testing.assert_close(made[0], torch.tensor([[6.0, 14.0]]))


def test_a_layer_of_several_tensors_is_refused():
    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, 2 * x

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = Both()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(self.both(x)).mean((2, 3))

    model = Sum()
    for kind in (attr.LayerActivation, attr.LayerGradCam):
        with pytest.raises(LayerError, match="gives several tensors"):
            kind(model, model.both).attribute(X)


def test_who_multiplies_by_the_inputs():
    model = net()
    bases = ("Attribution", "LayerAttribution", "NeuronAttribution", "visualization")
    for name in [name for name in attr.__all__ if name not in bases]:
        layered = name.startswith(("Layer", "Neuron", "GuidedGradCam"))
        made, theirs = (
            getattr(use("attr"), name)(
                use("attr").InputXGradient(model) if name == "NoiseTunnel" else model,
                *[model[2]] * layered,
            )
            for use in (use_ours, use_theirs)
        )
        assert made.multiplies_by_inputs == theirs.multiplies_by_inputs, name
    for kind in (attr.IntegratedGradients, attr.LayerIntegratedGradients):
        arguments = [model, model[2]][: 1 + (kind is attr.LayerIntegratedGradients)]
        with pytest.raises(OptionError, match="so that they add up"):
            kind(*arguments, multiply_by_inputs=False)


# --- rules of LRP --------------------------------------------------------------------------------


def without_tanh(use: Use) -> nn.Sequential:
    """What captum's LRP can take: its tables know neither Tanh nor Flatten."""
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1), nn.ReLU()]
    model = settle(nn.Sequential(*layers, nn.Flatten(), nn.Linear(180, 4)))
    model[4].rule = use("attr._utils.lrp_rules").EpsilonRule()
    return model


RULES = [("EpsilonRule", {"epsilon": 0.3}), ("GammaRule", {}), ("GammaRule", {"gamma": 1.0})]


@pytest.mark.parametrize(
    ("name", "options"), [*RULES, ("GammaRule", {"set_bias_to_zero": True})], ids=str
)
@pytest.mark.parametrize("place", [2, 5])
def test_rules_on_modules_are_theirs(name, options, place):
    def program(use: Use) -> Any:
        model = without_tanh(use)
        model[place].rule = getattr(use("attr._utils.lrp_rules"), name)(**options)
        return use("attr").LRP(model).attribute(X, target=[2, 0])

    run_both(program, atol=1e-4)


def test_positive_and_identity_rules_are_theirs():
    def program(use: Use, relu: bool = False) -> Any:
        rules = use("attr._utils.lrp_rules")
        layers = [nn.Conv2d(3, 5, 3), *[nn.ReLU()] * relu, nn.Conv2d(5, 5, 3, padding=1)]
        model = settle(nn.Sequential(*layers, nn.Flatten(), nn.Linear(180, 4, bias=False)))
        model[-3].rule, model[-2].rule = rules.IdentityRule(), rules.EpsilonRule()
        model[-1].rule = rules.Alpha1_Beta0_Rule(set_bias_to_zero=True)
        nn.init.zeros_(model[0].bias)
        return use("attr").LRP(model).attribute(X, target=[2, 0], return_convergence_delta=True)

    run_both(program, atol=1e-4)
    _, delta = program(use_ours, relu=True)
    torch.testing.assert_close(delta, torch.zeros(2), atol=1e-4, rtol=0)
    _, lost = program(use_theirs, relu=True)
    assert float(lost.abs().max()) > 0.5  # behind a ReLU, theirs adds relevance

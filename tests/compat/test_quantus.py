"""Programs written for Quantus, with nothing but the import line changed.

Maps are in [0, 1] with a largest value of 1, as Quantus makes them by itself.
"""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from nets import convnet, images
from torchsaliency import create, explain
from torchsaliency.compat import quantus as ours
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures import noisy_maps

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus as theirs

N, H, W = 3, 12, 16
X = images(N, H, W, seed=1).numpy()
Y = np.array([3, 1, 4])
MAPS = np.random.default_rng(0).random((N, 1, H, W), dtype=np.float32)
MAPS /= MAPS.max((2, 3), keepdims=True)
MASKS = np.random.default_rng(1).random((N, 1, H, W)) > 0.7
QUIET = {"disable_warnings": True, "display_progressbar": False}


def ask(use: Any, name: str, call: dict[str, Any], maps: Any = MAPS, **options: Any) -> np.ndarray:
    """Run the program of Quantus' README with a package."""
    with warnings.catch_warnings():
        if use is theirs:
            warnings.simplefilter("ignore")
        metric = getattr(use, name)(**{**QUIET, **options})
        scores = metric(
            model=convnet(seed=3),
            x_batch=X.copy(),
            y_batch=Y.copy(),
            a_batch=maps.copy(),
            **{"s_batch": MASKS.copy(), "device": "cpu", **call},
        )
    assert isinstance(scores, list)
    return np.asarray(scores, dtype=float)


@pytest.mark.parametrize(
    ("name", "options", "call"),
    [
        ("Sparseness", {}, {}),
        ("Complexity", {}, {}),
        ("EffectiveComplexity", {"eps": 0.5}, {}),
        ("RelevanceRankAccuracy", {}, {}),
        ("RelevanceMassAccuracy", {}, {}),
        ("AttributionLocalisation", {}, {}),
        ("TopKIntersection", {"k": 30}, {}),
        ("TopKIntersection", {"k": 9, "concept_influence": True}, {}),
        ("AUC", {}, {}),
        ("PointingGame", {}, {}),
        ("RegionPerturbation", {"patch_size": 4, "regions_evaluation": 6}, {"softmax": True}),
        ("RegionPerturbation", {"patch_size": 4, "order": "lerf"}, {"softmax": True}),
    ],
)
def test_numbers_are_theirs(name, options, call):
    found = ask(ours, name, call, **options)
    np.testing.assert_allclose(found, ask(theirs, name, call, **options), atol=1e-5, rtol=1e-3)
    assert found.std() > 0


def test_pixel_flipping_is_theirs():
    """Of maps given three times over, whose order in each pixel is known."""
    each = np.concatenate(
        [3 * MAPS.argsort(axis=None).argsort().reshape(MAPS.shape) + c for c in range(3)], 1
    )
    options = {"features_in_step": 3 * W, "perturb_baseline": 0.0, "normalise": False}
    expected = ask(theirs, "PixelFlipping", {"softmax": True}, each.astype(float), **options)
    ranks = each[:, :1].astype(float)
    found = ask(ours, "PixelFlipping", {"softmax": True}, ranks, **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    areas = ask(ours, "PixelFlipping", {}, ranks, return_auc_per_sample=True, **options)
    np.testing.assert_allclose(areas, np.trapezoid(expected, axis=1), rtol=1e-4)


def explained(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    return ours.explain(model, inputs, targets, method="gradcam", layer="relu3")


@pytest.mark.parametrize("name", ["MaxSensitivity", "AvgSensitivity"])
def test_a_users_function_explains_noisy_images(name):
    """The library's noise is replayed to Quantus."""
    net, samples = convnet(seed=3), 3
    maps = explained(net, X, Y)
    call = {"explain_func": explained, "batch_size": N}
    found = ask(ours, name, call, maps, nr_samples=samples, lower_bound=0.3)
    draw = torch.Generator().manual_seed(0)
    noise = (torch.rand((samples, 3, H, W), generator=draw) * 2 - 1) * 0.3
    replay = iter(noise.flatten(1).numpy())
    options = {"nr_samples": samples, "perturb_func": lambda arr, indices, **_: arr + next(replay)}
    expected = ask(theirs, name, call, maps, normalise=True, **options)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-3)
    made = explain(net, torch.from_numpy(X), "gradcam", torch.from_numpy(Y), "relu3")["gradcam"]
    assert noisy_maps(net, made, radius=0.3, samples=samples).maps.shape == (N, H, W)


@pytest.mark.parametrize("name", sorted(ours.METRICS))
def test_every_metric_gives_a_number_an_image(name):
    few = {"nr_samples": 2, "n_perturb_samples": 20, "nr_runs": 9, "nr_steps": 4}
    known = ours.METRICS[name]._spec.options
    options = {key: value for key, value in few.items() if key in known}
    if "features_in_step" in known:
        options["features_in_step"] = 48
    if name == "TopKIntersection":
        options["k"] = 20
    layer = {"layer_names": ["relu3"]} if name == "RelativeRepresentationStability" else {}
    metric = ours.METRICS[name](**options, **layer)
    # Grad-CAM of a random network may be 0 everywhere, which has no ranks
    function = ours.explain if name in ("MPRT", "SmoothMPRT") else explained
    call = {"explain_func": function, "s_batch": MASKS}
    if name == "Focus":
        call["custom_batch"] = [(1, 0, 0, 1)] * N
    scores = metric(convnet(seed=3), X, Y, function(convnet(seed=3), X, Y), **call)
    assert len(scores) == N
    assert metric.evaluation_scores is scores
    if name != "Sufficiency":  # of three images none has a neighbour
        assert np.isfinite(np.asarray(scores)).all()


def test_our_maps_serve_the_real_quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = theirs.MaxSensitivity(nr_samples=2, **QUIET)
        arguments = {"method": "gradcam", "layer": "relu3"}
        scores = metric(
            model=convnet(seed=3),
            x_batch=X,
            y_batch=Y,
            a_batch=None,
            explain_func=ours.explain,
            explain_func_kwargs=arguments,
        )
    assert np.isfinite(scores).all()
    assert np.mean(scores) > 0
    signed = ours.explain(convnet(seed=3), X, Y, method="IntegratedGradients", signed=True, steps=5)
    own = create("integrated-gradients", {"steps": 5})
    expected = own(convnet(seed=3), torch.from_numpy(X), torch.from_numpy(Y)).signed
    np.testing.assert_allclose(signed[:, 0], expected, rtol=1e-5)
    assert signed.min() < 0


def test_evaluate_is_theirs():
    def program(use: Any) -> Any:
        return use.evaluate(
            metrics={
                "sparse": use.Sparseness(**QUIET),
                "mass": use.RelevanceMassAccuracy(return_aggregate=True, **QUIET),
            },
            xai_methods={"random": MAPS, "function": explained},
            model=convnet(seed=3),
            x_batch=X,
            y_batch=Y,
            s_batch=MASKS,
            agg_func=np.mean,
            explain_func_kwargs={},
            return_as_df=True,
        )

    made = program(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = program(theirs)
    assert list(made) == ["random", "function"]
    np.testing.assert_allclose(made.values, expected.values, rtol=1e-4)
    named = ours.evaluate(
        {"sparse": ours.Sparseness()},
        {"gradcam": {"layer": "relu3"}},
        convnet(seed=3),
        X,
        Y,
        call_kwargs={"one": {}, "two": {"batch_size": 2}},
    )
    one, two = named["gradcam"]["sparse"].values()
    np.testing.assert_allclose(one, two)


def test_what_has_no_equal_is_refused():
    net = convnet(seed=3)
    for refused in (
        lambda: ours.Sparseness(similarity_func=np.dot),
        lambda: ours.ROAD(perturb_baseline="uniform"),
        lambda: ours.Sparseness()(net, X, Y),
        lambda: ours.Sparseness(abs=False)(net, X, Y, MAPS - 0.5),
        lambda: ours.MaxSensitivity()(net, X, Y, MAPS),
        lambda: ours.Sparseness()(net, X, Y, MAPS, channel_first=False),
        lambda: ours.PixelFlipping()(net, X, Y, MAPS, softmax=False),
        lambda: ours.RegionPerturbation(order="random")(net, X, Y, MAPS),
        lambda: ours.evaluate({}, {"one": 3}, net, X, Y),
    ):
        with pytest.raises(OptionError):
            refused()
    for refused in (
        lambda: ours.Sparseness()(net, X, Y, X),
        lambda: ours.PointingGame()(net, X, Y, MAPS),
        lambda: ours.AUC()(net, X, Y, MAPS),
    ):
        with pytest.raises(InputError):
            refused()
    with pytest.raises(AttributeError, match="Blur"):
        _ = ours.Blur
    with pytest.raises(AttributeError, match="leave the option out"):
        _ = ours.norm_func


def test_focus_is_theirs():
    tiles = np.array([(1, 0, 0, 1), (0, 1, 1, 0), (1, 1, 0, 0)])[np.arange(len(MAPS)) % 3]
    maps = MAPS - 0.3  # only what is above 0 counts there
    found = ask(theirs, "Focus", {"custom_batch": tiles}, maps)
    made = ask(ours, "Focus", {"custom_batch": tiles}, maps)
    np.testing.assert_allclose(made, found, atol=1e-5)
    assert found.std() > 0
    with pytest.raises(OptionError, match="four numbers a mosaic"):
        ask(ours, "Focus", {})


def test_compactness_has_quantus_name():
    """By the published formula; Quantus 0.6 is older than it."""
    square = np.zeros((1, 1, *MAPS.shape[2:]))
    square[..., 2:6, 3:7] = 0.5
    metric = ours.MSTC(threshold=50.0)
    (found,) = metric(model=convnet(), x_batch=X[:1], y_batch=Y[:1], a_batch=square)
    assert found == pytest.approx(100 * np.hypot(*MAPS.shape[2:]) / 3 * 16 / 15)


@pytest.mark.parametrize("name", ["Sparseness", "Complexity", "AUC", "PointingGame", "Focus"])
def test_metrics_of_maps_alone_need_no_network(name):
    """Nor images that a network would take."""
    more = {"custom_batch": [(1, 0, 0, 1)] * N} if name == "Focus" else {}
    found = ask(ours, name, more)
    metric = getattr(ours, name)(**QUIET)
    wide = np.repeat(X, 2, axis=1)
    alone = metric(model=None, x_batch=wide, y_batch=None, a_batch=MAPS, s_batch=MASKS, **more)
    np.testing.assert_array_equal(alone, found)


def test_signals_have_masks_too():
    maps, masks = MAPS[:, :, 0], np.asarray(MASKS)[:, :, 0]
    found = ours.AUC(**QUIET)(None, X[:, :, 0], Y, maps, masks)
    assert np.isfinite(found).all()

"""Opti-CAM: what the optimisation promises, whatever the solver."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nets import assert_good_map, convnet, images, tiny_vit, two_layer_head
from torchsaliency import (
    BlackPixel,
    LogProbability,
    Margin,
    OptiCAM,
    OptionError,
    Probability,
    TargetError,
    explain,
    tracing,
)
from torchsaliency.core.maps import minmax, normalise, upsample
from torchsaliency.methods.cam.solvers import Adam, combine

SOLVERS = ["adam", "trust-region", "surrogate"]
OBJECTIVES = ["mask", "diff", "iomask", "iodiff"]
NORMALISATIONS = ["range", "max", "sigmoid"]
SELECTORS = ["target", "logit", "probability", "log-probability", "margin"]
EXACT = {"atol": 1e-5, "rtol": 0}


def fresh(count=3):
    return convnet(seed=3), images(count, seed=1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("selector", SELECTORS)
def test_every_combination_runs(solver, objective, normalisation, selector):
    net, x = fresh(2)
    made = OptiCAM(
        iterations=3,
        solver=solver,
        objective=objective,
        normalisation=normalisation,
        selector=selector,
    )(net, x, [1, 3], "relu3")
    assert_good_map(made, 2, (16, 16))
    assert made.details["objective"].shape == (2, 3)
    assert made.details["objective"].isfinite().all()


def by_hand(net, x, label, iterations, objective, normalisation):
    """The paper's Algorithm with torch's own Adam, for one image."""
    with tracing(net, x, label, ["relu3"], gradients=False) as trace:
        features = trace["relu3"].activations.relu()
    weights = features.new_zeros((1, features.shape[1])).requires_grad_()
    adam = torch.optim.Adam([weights], lr=0.1)
    history = []
    with torch.no_grad():
        clean = net(x)[0, label]
    for _ in range(iterations):
        adam.zero_grad()
        mask = normalise(upsample(combine(weights, features), (16, 16)), normalisation)
        inside = net(x * mask[:, None])[0, label]
        outside = net(x * (1 - mask)[:, None])[0, label]
        value = {
            "mask": inside,
            "diff": -(clean - inside).abs(),
            "iomask": inside - outside,
            "iodiff": (clean - outside).abs() - (clean - inside).abs(),
        }[objective]
        history.append(value.item())
        (-value).backward()
        adam.step()
    return history, combine(weights, features).detach()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_papers_algorithm_step_by_step(objective, normalisation):
    net, x = fresh(1)
    net, x = net.double(), x.double()
    net.requires_grad_(False)
    history, raw = by_hand(net, x, 2, 12, objective, normalisation)
    made = OptiCAM(iterations=12, objective=objective, normalisation=normalisation)(
        net, x, 2, "relu3"
    )
    assert made.details["objective"][0].tolist() == pytest.approx(history, abs=1e-8)
    torch.testing.assert_close(made.raw, raw, atol=1e-8, rtol=0)


@pytest.mark.parametrize("constant", [0.5, -7.3])
def test_a_constant_start_makes_no_difference(constant):
    """Softmax forgets a constant: 0, 0.5 and -7.3 give the same map (reference sheet 2.13)."""
    features = fresh()[0]
    with tracing(features.double(), images(2).double(), 1, ["relu3"], gradients=False) as trace:
        maps = trace["relu3"].activations
    found = []
    for start in (torch.zeros(2, 8, dtype=torch.float64), torch.full((2, 8), constant).double()):
        solver = Adam(maps, start, 0.1, "range")
        live = torch.arange(2)
        for _ in range(30):
            with torch.enable_grad():
                leaf, masks = solver.propose(live, (16, 16))
                value = (masks * torch.linspace(-1, 1, 16)).sum((1, 2))
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            solver.update(live, slope, value.detach())
        found.append(combine(solver.logits, maps))
    torch.testing.assert_close(found[0], found[1], atol=1e-7, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
@given(seed=st.integers(0, 40))
def test_the_objective_rises(solver, seed):
    net, x = convnet(seed=seed), images(2, seed=seed)
    made = OptiCAM(iterations=12, solver=solver, keep="best")(net, x, None, "relu3")
    history = made.details["objective"]
    for row, best in zip(history, made.details["best"], strict=True):
        known = row[~row.isnan()]
        assert best == known.max()
        assert best >= known[0]
    # The returned map's own score is the best one met.
    masked = net(x * made.map[:, None])[range(2), made.target.labels]
    torch.testing.assert_close(masked, made.details["best"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_its_iterations_raise_every_image(solver):
    net, x = fresh()
    made = OptiCAM(solver=solver, iterations=100 if solver == "adam" else 25)(
        net, x, [0, 1, 2], "relu3"
    )
    history = made.details["objective"]
    last = history.nan_to_num(-torch.inf).amax(1)
    assert (last > history[:, 0]).all()


def test_the_last_map_is_the_last_weights():
    net, x = fresh(2)
    made = OptiCAM(iterations=6)(net, x, 1, "relu3")
    weights = made.details["weights"]
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    with tracing(net, x, 1, ["relu3"], gradients=False) as trace:
        features = trace["relu3"].activations
    torch.testing.assert_close(made.raw, torch.einsum("nk,nkhw->nhw", weights, features))
    # The weights after six steps are those that a seventh pass would score.
    longer = OptiCAM(iterations=7)(net, x, 1, "relu3")
    masked = net(x * made.map[:, None])[:, 1]
    torch.testing.assert_close(longer.details["objective"][:, 6], masked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_an_image_is_a_problem_of_its_own(solver, chunk):
    net, x = fresh(4)
    net, x = net.double(), x.double()  # a search makes much of rounding
    labels = [0, 1, 2, 3]
    # So large a tolerance lets images stop at different times.
    method = OptiCAM(iterations=20, solver=solver, tolerance=3e-3)
    together = method(net, x, labels, "relu3", chunk=chunk)
    for index in range(4):
        alone = method(net, x[index : index + 1], labels[index], "relu3")
        torch.testing.assert_close(together.map[index], alone.map[0], **EXACT)
        assert together.details["iterations"][index] == alone.details["iterations"][0]
    assert len(set(together.details["iterations"].tolist())) > 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_large_tolerance_stops_after_two_passes(solver):
    net, x = fresh()
    made = OptiCAM(iterations=50, solver=solver, tolerance=1e9)(net, x, 1, "relu3")
    assert made.details["iterations"].tolist() == [2, 2, 2]
    assert made.details["objective"][:, 2:].isnan().all()
    assert made.details["objective"].shape == (3, 50)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_ranges_of_the_maps(normalisation):
    net, x = fresh()
    made = OptiCAM(iterations=5, normalisation=normalisation)(net, x, 1, "relu3")
    grown = upsample(made.raw, (16, 16))
    if normalisation == "range":
        assert made.map.amin((1, 2)).tolist() == [0, 0, 0]
        assert made.map.amax((1, 2)).tolist() == [1, 1, 1]
        torch.testing.assert_close(made.map, minmax(grown))
    elif normalisation == "max":
        assert made.map.amax((1, 2)).tolist() == [1, 1, 1]
        torch.testing.assert_close(made.map, grown / grown.amax((1, 2), keepdim=True))
    else:
        assert made.map.min() >= 0.5
        assert made.map.max() < 1
        torch.testing.assert_close(made.map, grown.sigmoid())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("start", ["gradcam", "layercam", "cam", "scorecam", "ablationcam"])
def test_starting_from_another_cam(start, solver):
    net, x = fresh()
    method = OptiCAM(iterations=2, start=start, solver=solver, learning_rate=1e-6)
    made = method(net, x, [0, 1, 2], "relu3")
    assert_good_map(made, 3, (16, 16))
    other = explain(net, x, start, [0, 1, 2], "relu3")[start]
    with tracing(net, x, [0, 1, 2], ["relu3"]) as trace:
        weights = other.method.weights(trace["relu3"]).relu()
    weights = weights.mean((2, 3)) if weights.ndim == 4 else weights
    share = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    expected = (share + 0.1 / 8) / (share + 0.1 / 8).sum(1, keepdim=True)
    torch.testing.assert_close(made.details["weights"], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_layers_make_one_map(solver):
    (net, x), layers = fresh(), ["relu2", "relu3"]
    made = OptiCAM(iterations=5, solver=solver)(net, x, 1, layers)
    assert_good_map(made, 3, (16, 16))
    assert made.details["weights"].shape == (3, 8 + 8)
    assert made.raw.shape == (3, 8, 8)
    with pytest.raises(OptionError, match="single layer"):
        OptiCAM(start="gradcam")(net, x, 1, layers)


@pytest.mark.parametrize(
    ("selector", "kind"),
    [("probability", Probability), ("log-probability", LogProbability), ("margin", Margin)],
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_selector_is_a_target(selector, kind, objective):
    """Asking the method for another score is asking for another target."""
    net, x = fresh()
    labels = torch.tensor([0, 1, 2])
    one = OptiCAM(iterations=5, selector=selector, objective=objective)(net, x, labels, "relu3")
    two = OptiCAM(iterations=5, objective=objective)(net, x, kind(labels), "relu3")
    torch.testing.assert_close(one.map, two.map, **EXACT)
    assert one.target.describe()["kind"] == "Logit"
    with pytest.raises(TargetError, match="selector=target"):
        OptiCAM(selector=selector)(net, x, lambda y: y.sum(1), "relu3")


def test_signed_features_pass_a_relu_unless_told_otherwise():
    net, x = tiny_vit(), images(2, 32, 32)
    rectified = OptiCAM(iterations=3)(net, x, 1, "blocks.1.norm1")
    signed = OptiCAM(iterations=3, rectified=False)(net, x, 1, "blocks.1.norm1")
    assert rectified.raw.min() >= 0
    assert signed.raw.min() < 0


def test_the_masking_is_the_traces():
    net, x = fresh()
    grey = OptiCAM(iterations=5, keep="best")(net, x, 1, "relu3")
    black = OptiCAM(iterations=5, keep="best")(net, x, 1, "relu3", masking=BlackPixel())
    assert (grey.map - black.map).abs().max() > 1e-4
    with torch.no_grad():
        scores = net(BlackPixel()(x, black.map))[:, 1]
    torch.testing.assert_close(scores, black.details["best"], atol=1e-4, rtol=1e-4)


def test_a_blank_start_can_be_left():
    """All features dead in one image: its map is zero, its mates' maps are as ever."""
    net = two_layer_head()
    x = images(2, 20, 20)
    expected = OptiCAM(iterations=5)(net, x[1:], 1, "relu")
    with torch.no_grad():
        x[0] = 0
        net.conv.bias.clamp_(max=-1e-3)
    made = OptiCAM(iterations=5)(net, x, 1, "relu")
    assert made.map[0].count_nonzero() == 0
    assert made.status[0] == "no positive evidence"
    assert made.map.isfinite().all()
    assert made.map[1].max() == 1
    assert expected.map.shape == (1, 20, 20)

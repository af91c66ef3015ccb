"""Curves that end once their number is known: what they find, what they say, what they cost."""

import pandas as pd
import pytest
import torch

from nets import convnet, images
from torchsaliency import InputError, MeanColour, OptionError
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.scoring import score
from torchsaliency.measures import perturbation_curve, refine_curves, region_curve
from torchsaliency.methods.cam import GradCAM
from torchsaliency.metrics import create_metric, functional, metrics
from torchsaliency.metrics.refined import RefinedMetric
from torchsaliency.report.results import table

STEPS = 192
PLACES = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)

N, H, W = 3, 40, 12
X = images(N, H, W, seed=1)
MAPS = torch.rand(N, H, W, generator=torch.Generator().manual_seed(0))

REFINED = sorted(name for name, entry in metrics().items() if "error" in entry.options)


def refine(curves, error):
    """Refine curves that are known, but for their last node; return areas off, and what is said."""
    known = torch.full_like(curves, torch.nan)
    known[:, -1] = curves[:, -1]
    places = torch.linspace(0, 1, curves.shape[1], dtype=torch.float64)
    found, about = refine_curves(
        known,
        lambda image, node: curves[image, node],
        places,
        points=100 * float(places[1]),
        error=error,
    )
    wrong = 100 * torch.trapezoid(found - curves, places, dim=1).abs()
    return found, wrong, about


def test_a_line_is_known_from_few_points():
    _, wrong, about = refine(torch.stack([PLACES, 1 - PLACES / 2, 0 * PLACES + 0.3]), 1.0)
    assert wrong.amax() < 1e-10
    assert about.passes.amax() < STEPS / 6
    assert about.passes[2] == 8  # the first round, without the node that is known
    assert about.steps.tolist() == [STEPS] * 3
    assert (about.errors <= 1).all()


@pytest.mark.parametrize("error", [1.0, 0.3])
def test_a_step_is_found_wherever_it_is(error):
    steps = (PLACES[1:, None] <= PLACES).double()
    _, wrong, about = refine(steps, error)
    assert (wrong <= about.errors).all()
    assert (about.errors <= error).all()
    assert about.passes.mean() < STEPS / 6


@pytest.mark.parametrize("error", [2.0, 1.0, 0.5])
def test_the_bound_holds_for_random_walks(error):
    """99 of 100 walks at least: of 300, three may be further off."""
    draw = torch.Generator().manual_seed(0)
    steps = torch.randn(300, STEPS + 1, generator=draw, dtype=torch.float64)
    walks = 0.02 * torch.rand(300, 1, generator=draw) * steps.cumsum(1)
    _, wrong, about = refine(walks, error)
    assert int((wrong > about.errors).sum()) <= 3
    assert (about.errors <= error).all()
    assert about.passes.mean() < STEPS / 2


def test_points_that_were_evaluated_stay_and_others_lie_between():
    curve = torch.linspace(0, 1, 9, dtype=torch.float64)[None] ** 2
    found, _, about = refine(curve, 20.0)
    evaluated = (found == curve)[0]
    assert 4 <= about.passes.item() < 8
    assert int(evaluated.sum()) == about.passes.item() + 1
    assert evaluated[[0, 2, 4, 6, 8]].all()  # the first round


@pytest.mark.parametrize("nodes", [2, 3, 4, 10])
def test_curves_of_a_few_steps(nodes):
    draw = torch.Generator().manual_seed(nodes)
    curves = torch.rand(4, nodes, generator=draw, dtype=torch.float64)
    found, wrong, about = refine(curves, 1e-6)
    assert torch.equal(found, curves)
    assert wrong.amax() == 0
    assert about.errors.tolist() == [0] * 4
    assert about.passes.tolist() == about.steps.tolist() == [nodes - 1] * 4


def test_scores_that_are_no_numbers_end_a_curve():
    curves = torch.full((1, 20), torch.nan, dtype=torch.float64)
    found, about = refine_curves(
        torch.cat([torch.zeros(1, 1), curves], 1).double(),
        lambda image, node: curves[image, node - 1],
        torch.linspace(0, 1, 21, dtype=torch.float64),
        points=5,
        error=0.1,
    )
    assert found.isnan().any()
    assert about.passes.item() < 20


def test_a_clean_score_that_is_no_number_stays_so():
    def lost(output):
        return torch.where(output[:, 0] > torch.inf, output[:, 0], torch.nan)

    for order in ("insertion", "deletion"):
        found = perturbation_curve(convnet(), X[:1], MAPS[:1], lost, order=order, error=1)
        assert found.probabilities.isnan().any()


# --- measures and metrics -------------------------------------------------------------------------

MEASURES = {
    "insertion": perturbation_curve,
    "deletion": lambda net, x, maps, **how: perturbation_curve(
        net, x, maps, order="deletion", masking=MeanColour(), **how
    ),
    "regions": lambda net, x, maps, **how: region_curve(
        net, x, maps, patch=4, regions=None, placement="grid", **how
    ),
    "target": lambda net, x, maps, **how: perturbation_curve(
        net, x, maps, lambda output: output.softmax(-1)[..., 2], **how
    ),
}


@pytest.fixture(scope="module")
def net():
    """Its probabilities differ enough for curves to bend."""
    return convnet(seed=4).double()


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize("error", [None, 0, 0.05, 1.0, 50.0])
def test_measures_are_as_near_to_the_exact_curve_as_they_say(kind, error, net):
    x, maps = X.double(), MAPS.double()
    exact = MEASURES[kind](net, x, maps).probabilities
    found = MEASURES[kind](net, x, maps, error=error)
    if not error:
        assert torch.equal(found.probabilities, exact)
        assert found.refinement is None
        assert "refinement" not in found.inputs()
        return
    about = found.refinement
    wrong = 100 * (found.probabilities - exact).mean(1).abs()
    assert (wrong <= about.errors + 1e-9).all()
    assert (about.errors <= error).all()
    assert (about.passes <= about.steps).all()
    assert about.steps.tolist() == [exact.shape[1] - 1] * N
    assert found.passes == about.passes.sum() + N
    if error == 50.0:
        assert found.passes < exact.numel() / 2


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_an_image_does_not_depend_on_its_batch_nor_on_the_chunk(kind, chunk, net):
    x, maps = X.double(), MAPS.double()
    together = MEASURES[kind](net, x, maps, error=0.2, chunk=chunk)
    alone = [
        MEASURES[kind](net, x[place, None], maps[place, None], error=0.2) for place in range(N)
    ]
    joined = torch.cat([one.probabilities for one in alone])
    torch.testing.assert_close(together.probabilities, joined, rtol=0, atol=1e-12)
    passes = torch.cat([one.refinement.passes for one in alone])
    assert together.refinement.passes.tolist() == passes.tolist()


@pytest.mark.parametrize("name", REFINED)
def test_metrics_say_what_they_do_not_know(name):
    net, x = convnet(seed=4), images(N, 48, 48, seed=1)
    made = GradCAM()(net, x)
    exact = score(net, made, [name])[name]
    none = score(net, made, [create_metric(name, {"error": 0})])[name]
    found = score(net, made, [create_metric(name, {"error": "0.1"})])[name]
    assert torch.equal(none.rows, exact.rows)
    assert none.describe(none.evaluations(none.rows)) == ""
    assert none.errors.tolist() == [0] * N
    assert none.passes.isnan().all()
    assert isinstance(found, RefinedMetric)
    assert ((found.per_image - exact.per_image).abs() <= found.errors + 1e-6).all()
    assert (found.errors <= 0.1).all()
    assert (found.passes > 0).all()
    assert "0.1 points" in found.describe(found.evaluations(found.rows))
    again = create_metric(name, {"error": 0.1})
    again.restore(found.rows)
    assert torch.equal(again.errors, found.errors)
    assert again.compute() == found.compute()


def test_the_library_has_these_metrics():
    assert REFINED == ["aopc", "deletion", "insertion", "selectivity"]


def test_curves_of_insertion_are_kept_too():
    metric = create_metric("insertion", {"error": 5})
    metric.update(torch.tensor([[0.0, 0.5, 1.0]]), PLACES[[0, 96, 192]], torch.ones(1, 3))
    assert metric.curve.tolist() == pytest.approx(torch.linspace(0, 1, 101).tolist())
    assert metric.compute().item() == pytest.approx(50)


def test_a_metric_with_an_error_wants_to_know_how_curves_were_evaluated():
    with pytest.raises(InputError, match="give refinement="):
        create_metric("aopc", {"error": 1}).update(torch.rand(2, 11))


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_errors_out_of_range(wrong):
    for ask in (
        lambda: create_metric("deletion", {"error": wrong}),
        lambda: perturbation_curve(convnet(), X, MAPS, error=wrong),
        lambda: region_curve(convnet(), X, MAPS, patch=3, regions=4, error=wrong),
    ):
        with pytest.raises(OptionError, match="above 0"):
            ask()


def test_functions_take_refined_curves(net):
    found = MEASURES["regions"](net, X.double(), MAPS.double(), error=1.0)
    area = functional.selectivity(found.probabilities)
    exact = functional.selectivity(
        MEASURES["regions"](net, X.double(), MAPS.double()).probabilities
    )
    assert ((area - exact).abs() <= 1).all()


def test_tables_say_how_far_curves_were_evaluated():
    metric = create_metric("aopc", {"error": 2})
    lines = [
        {"sample": "a", "method": "gradcam", "metric": "curve", "row": row, "value": 1.0}
        for row in ([10.0, 1.5, 4.0, 10.0],)
    ]
    frame = pd.DataFrame([{**line, "seconds": 1.0, "passes": 1.0} for line in lines])
    found = table(Results(frame, {"curve": metric}, ("gradcam",)), timing=False)
    assert found.notes == (
        "aopc is known to 2 points an image (by estimate to 1.5 on average): 4.0 passes an image "
        "in place of 10, at most 4.",
    )

"""What the metrics say on a real network and real photographs, as the papers report it."""

import pytest
import torch

import torchsaliency
from torchsaliency import GradCAM, OptiCAM
from torchsaliency.evaluation import Bench, score
from torchsaliency.measures import network_stages, randomised_maps
from torchsaliency.metrics import compare, create_metric
from torchsaliency.metrics.functional import rank_similarity, ssim_similarity

SHARED = ("ad", "ai", "ag", "adcc")


@pytest.fixture(scope="module")
def scored(studio):
    names = ("opticam", "gradcam", "fakecam")
    return {name: score(studio.net, studio.made[name], SHARED) for name in names}


def test_opticam_beats_gradcam_by_a_wide_margin(scored):
    opticam, gradcam = scored["opticam"], scored["gradcam"]
    assert opticam["ad"].compute() < gradcam["ad"].compute() / 4
    assert opticam["ag"].compute() > 3 * gradcam["ag"].compute()
    assert opticam["ai"].compute() >= gradcam["ai"].compute() + 30
    paired = compare(opticam["ag"].per_image, gradcam["ag"].per_image)
    assert paired.effect > 0.8
    assert paired.low > 0


def test_fakecam_is_near_perfect_on_drop_and_fails_gain(scored):
    found = scored["fakecam"]
    assert found["ad"].compute() < 0.5
    assert found["ag"].compute() < 0.5
    assert found["adcc"].compute() < 5, "it keeps all of the image, so its complexity is the worst"


def test_the_metrics_are_those_of_the_probabilities(studio, scored):
    for name, found in scored.items():
        assert found["ad"].compute() == pytest.approx(studio.average_drop(name), abs=1e-2)
        assert found["ag"].compute() == pytest.approx(studio.average_gain(name), abs=1e-2)


def test_salient_pixels_matter_more_than_any_others(studio):
    """Insertion and deletion tell a map from its own negative."""
    index = studio.names.index("flower")
    made = studio.made["gradcam"][index]
    turned = torchsaliency.Explanation(
        **{**{f: getattr(made, f) for f in made.__dataclass_fields__}, "map": 1 - made.map}
    )
    metrics = [("insertion", 14), ("deletion", 14), ("road", None)]
    for name, budget in metrics:
        options = {"budget": budget} if budget else {"percentages": (20, 50, 80)}
        right = score(studio.net, made, [create_metric(name, options)])[name].compute()
        wrong = score(studio.net, turned, [create_metric(name, options)])[name].compute()
        better = right < wrong if name == "deletion" else right > wrong
        assert better, (name, right, wrong)


@pytest.mark.parametrize(
    "method",
    [GradCAM(), OptiCAM(iterations=6, solver="trust-region")],
    ids=["gradcam", "opticam"],
)
def test_randomised_weights_change_the_map(studio, method):
    """The sanity check of Adebayo et al.: stage by stage, the map loses what was learned."""
    made = torchsaliency.explain(studio.net, studio.images[:4], method, studio.labels[:4])
    (explanation,) = made.values()
    stages = network_stages(studio.net)[:5]
    found = randomised_maps(studio.net, explanation, stages=stages)
    similar = torch.stack(
        [ssim_similarity(explanation.map, one) for one in found.random_maps.unbind(1)]
    ).mean(1)
    ranks = torch.stack(
        [rank_similarity(explanation.map, one) for one in found.random_maps.unbind(1)]
    ).nanmean(1)
    assert similar[-1] < 0.6
    assert ranks[-1] < 0.4
    assert ranks[-1] < ranks[0] + 0.1
    assert float(rank_similarity(explanation.map, explanation.map).mean()) == pytest.approx(1)


def test_one_photograph_costs_what_it_must(studio):
    made = studio.made["gradcam"][0]
    bench = Bench(studio.net, made)
    for name in ("ad", "ai", "ag"):
        bench.inputs(create_metric(name))
    assert bench.passes == 1
    assert made.map.shape[1] == 224

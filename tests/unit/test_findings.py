"""The studies behind docs/findings.md: planted causes, equal areas, groups of metrics."""

import pytest
import torch
from benchmarks import findings, maskings, planted, rankings
from scipy import stats

from torchsaliency.evaluation.plan import make_plan


@pytest.mark.parametrize("rule", planted.RULES)
def test_a_scene_is_repainted_where_its_parts_are(rule):
    scenes = planted.draw_scenes(rule, 4, 0)
    assert int((scenes.cause * scenes.lure).sum()) == 0
    red, green = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    before = scenes.paint(red, red)
    for mask, after in (
        (scenes.cause, scenes.paint(green, red)),
        (scenes.lure, scenes.paint(red, green)),
    ):
        assert torch.equal((after != before).any(1), mask > 0)


def test_colours_of_causes_and_lures_are_independent():
    cause, lure = planted.draw_colours(4000, 0)
    assert abs(float((cause == lure).float().mean()) - 0.5) < 0.03


def test_a_network_that_reads_the_cause_is_known_as_one():
    scenes = planted.draw_scenes("mark", 8, 0)
    cause, lure = planted.draw_colours(8, 0)

    class Mark(torch.nn.Module):
        def forward(self, x):
            colour = (x * scenes.cause[:, None]).sum((2, 3))
            return colour[:, :2]  # red, green

    assert planted.check_rule(Mark(), scenes, cause, lure) == {
        "accuracy": 100.0,
        "follows the cause": 100.0,
        "follows the lure": 0.0,
        "margin moved by the lure": 0.0,
    }


def test_scores_of_the_cause_itself_and_of_a_constant_map():
    scenes = planted.draw_scenes("circle", 3, 0)
    best = planted.score_maps(scenes.cause.float(), scenes)
    share = 100 * scenes.cause.double().mean((1, 2))
    torch.testing.assert_close(best["above chance"].double(), 100 - share)
    assert best["hits"].tolist() == best["auc"].tolist() == [100.0] * 3
    assert best["lured"].tolist() == [0.0] * 3
    constant = planted.score_maps(torch.ones(3, 64, 64), scenes)
    torch.testing.assert_close(
        constant["above chance"].double(), torch.zeros(3).double(), atol=1e-4, rtol=0
    )


def test_intervals_by_hand():
    # t of one degree of freedom: 12.706
    low, high = planted.find_interval(torch.tensor([0.0, 2.0]))
    assert (low, high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-3)
    assert planted.find_wilson(100, 16) == pytest.approx((80.64, 100), abs=0.01)


def test_a_share_of_every_map_is_shown():
    shown = findings.show_area(torch.rand(3, 10, 10), 0.25)
    assert shown.sum((1, 2)).tolist() == [25.0] * 3


def make_scores(values, *labels):
    methods = tuple(f"m{place}" for place in range(values.shape[-1]))
    return rankings.Scores(values, labels, methods)


def test_tau_is_scipys_with_ties():
    scores = torch.tensor([[3.0, 1, 2, 2, 5], [1.0, 1, 4, 2, 6]])
    wanted = stats.kendalltau(*scores.numpy()).statistic
    assert float(rankings.kendall(scores)[0, 1]) == pytest.approx(wanted)
    assert float(rankings.kendall(scores + 1e-9 * torch.rand(2, 5))[0, 0]) == pytest.approx(1)


def test_rankings_that_every_image_shares_have_no_interval():
    one = torch.arange(5.0) + torch.rand(6, 1)  # each image its own level, one order
    found = rankings.measure_tau(
        make_scores(torch.stack([one, -one], 1), "a", "b"), lambda tau: tau[..., 0, 1]
    )
    assert found == [-1.0, -1.0, -1.0]
    halves = rankings.split_halves(make_scores(one[:, None], "a"))
    assert halves == {"a": 1.0}


def test_undefined_images_are_left_out_of_a_methods_mean():
    values = torch.tensor([[[1.0, 2.0]], [[torch.nan, 4.0]]])
    scores = make_scores(values, "a")
    torch.testing.assert_close(
        scores.average(scores.rows.mean(0)), torch.tensor([[1.0, 3.0]]).double()
    )


def test_maskings_are_compared_on_the_same_maps():
    plan = make_plan(
        {
            "data": "shapes:2",
            "model": "builtin/shapes_cnn",
            "methods": ["gradcam", "fakecam"],
            "metrics": ["ad"],
            "workers": 0,
        }
    )
    found = maskings.score_maskings(plan)
    assert {*found} == {*maskings.SCORED, *maskings.CURVES}
    drops = found["ad"].values
    assert drops.shape == (2, 3, 2)
    # a map that hides one pixel keeps the score, whatever is put there
    torch.testing.assert_close(drops[..., 1], torch.zeros(2, 3).double(), atol=1, rtol=0)

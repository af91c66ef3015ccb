"""`recommend`: verdicts of numbers whose answer is known, a real run, and where methods agree."""

import json

import pytest
import torch

from torchsaliency.data import shapes
from torchsaliency.errors import InputError, OptionError
from torchsaliency.evaluation import consensus, recommend
from torchsaliency.evaluation.choosing import PANEL
from torchsaliency.evaluation.verdicts import Question, weigh
from torchsaliency.zoo import load_model

COUNT = 24


def noise(seed, mean=0.0, spread=0.1):
    draw = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(COUNT, generator=draw, dtype=torch.float64)


def weigh_scores(better, controls=(), count=COUNT, lower=(), together=()):
    """Weigh metrics of a question each (those `together` share one), by metric and method."""
    values = {
        metric: {name: noise(place, mean)[:count] for place, (name, mean) in enumerate(of.items())}
        for metric, of in better.items()
    }
    apart = {name: Question(name, {name: {}}, bool(controls)) for name in values}
    questions = apart if not together else {"one": Question("one", {name: {} for name in together})}
    return weigh(values, questions, {name: name not in lower for name in values}, controls=controls)


def test_who_is_better_everywhere_is_recommended():
    found = weigh_scores({"x": {"a": 1, "b": 0}, "y": {"a": -1, "b": 0}}, lower=("y",))
    assert found.recommended == "a"
    assert found.verdict == "recommended"
    assert found.defensible("x") == found.defensible("y") == ("a",)
    mean, low, high = found.scores["x"]["a"]
    assert low < mean < high


def test_a_majority_of_questions_decides():
    found = weigh_scores({"x": {"a": 1, "b": 0}, "y": {"a": 1, "b": 0}, "z": {"a": 0, "b": 1}})
    assert found.recommended == "a"
    assert found.defensible("z") == ("b",)


def test_half_against_half_is_undecided():
    found = weigh_scores({"x": {"a": 1, "b": 0}, "y": {"a": 0, "b": 1}})
    assert found.verdict == "contradictory"
    assert found.recommended is None
    assert found.shortlist == ("a", "b")
    assert "x for a, y for b" in found.reason


def test_a_circle_is_undecided():
    ranks = ({"a": 3, "b": 2, "c": 1}, {"a": 1, "b": 3, "c": 2}, {"a": 2, "b": 1, "c": 3})
    found = weigh_scores(dict(zip("xyz", ranks, strict=True)))
    assert (found.verdict, found.shortlist) == ("contradictory", ())


def test_numbers_that_do_not_differ_are_too_little_evidence():
    found = weigh_scores({"x": {"a": 0, "b": 0}})
    assert found.verdict == "too little evidence"
    assert found.shortlist == found.defensible("x") == ("a", "b")


def test_few_images_are_too_little_evidence():
    found = weigh_scores({"x": {"a": 5, "b": 0}}, count=4)
    assert found.verdict == "too little evidence"
    assert "4 images are too few" in found.reason


def test_what_a_control_does_as_well_is_worth_nothing():
    found = weigh_scores({"x": {"a": 2, "b": 1, "edges": 1}}, controls=("edges",))
    assert found.recommended == "a"
    assert not found.standings["x"]["b"].beats_controls
    none = weigh_scores({"x": {"a": 1, "b": 1, "edges": 3}}, controls=("edges",))
    assert (none.verdict, none.shortlist) == ("too little evidence", ())
    assert none.defensible("x") == ()


def test_two_metrics_of_one_question_that_contradict_each_other_say_nothing():
    found = weigh_scores({"x": {"a": 1, "b": 0}, "y": {"a": 0, "b": 1}}, together=("x", "y"))
    assert found.defensible("one") == ("a", "b")
    assert found.verdict == "too little evidence"


def test_undefined_images_are_left_out():
    values = {"x": {"a": noise(0, 1), "b": noise(1)}}
    values["x"]["b"][:5] = torch.nan
    found = weigh(values, {"x": Question("x", {"x": {}})}, {"x": True})
    assert found.recommended == "a"
    values["x"]["b"][1:] = torch.nan
    found = weigh(values, {"x": Question("x", {"x": {}})}, {"x": True})
    assert found.verdict == "too little evidence"


def test_a_network_and_images_are_enough():
    """Grad-CAM beats a map of nothing's weights on a network that knows the shapes."""
    drawn = shapes(10, seed=3)
    x = (drawn.images - 0.5) / 0.25
    seen = []
    found = recommend(
        load_model("builtin/shapes_cnn"),
        x,
        drawn.labels,
        methods=["gradcam", "eigencam"],
        batch_size=5,
        watch=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (8, 8)  # two batches of two methods and two controls
    assert found.count == 10
    assert set(found.questions) == set(PANEL)
    assert found.costs["gradcam"].passes == 1
    assert found.standings["order"]["gradcam"].beats_controls
    json.dumps(found.to_dict())
    assert found.reason in str(found)
    with pytest.raises(OptionError, match="The question 'beauty' was not asked"):
        found.defensible("beauty")


def test_one_image_is_refused():
    with pytest.raises(InputError, match="1 image was given"):
        recommend(load_model("builtin/shapes_cnn"), torch.zeros(1, 3, 64, 64))


def test_what_does_not_fit_is_left_out_unless_it_was_named():
    x = (shapes(8, seed=3).images - 0.5) / 0.25
    net, quick = load_model("builtin/shapes_cnn"), {"clear": PANEL["clear"]}
    with pytest.raises(Exception, match="attention"):
        recommend(net, x, methods=["attention-rollout"], panel=quick)


# --- where methods agree --------------------------------------------------------------------------


def test_opposite_maps_are_all_doubt_at_their_ends():
    ramp = torch.arange(16.0).reshape(1, 4, 4) / 15
    found = consensus({"up": ramp, "down": 1 - ramp})
    torch.testing.assert_close(found.map, torch.full((1, 4, 4), 0.5))
    assert found.doubt[0, 0, 0] == pytest.approx(1)
    assert found.doubt[0, 3, 3] == pytest.approx(1)
    assert found.agreement[0, 1] == pytest.approx(-1)


def test_only_the_order_of_pixels_counts():
    draw = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    found = consensus({"a": draw, "b": draw**3, "c": draw / 2})
    torch.testing.assert_close(found.doubt, torch.zeros(2, 5, 6))
    torch.testing.assert_close(found.agreement, torch.ones(3, 3))
    assert found.map.amin() == 0
    assert found.map.amax() == 1


def test_a_consensus_needs_two_maps_of_one_shape():
    with pytest.raises(InputError, match="1 maps of the shapes"):
        consensus({"a": torch.rand(1, 4, 4)})
    with pytest.raises(InputError, match="2 maps of the shapes"):
        consensus({"a": torch.rand(1, 4, 4), "b": torch.rand(1, 4, 5)})

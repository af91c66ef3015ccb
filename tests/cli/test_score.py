"""`torchsaliency explain … --score`."""

from __future__ import annotations

import json

import pytest

import torchsaliency
from torchsaliency.evaluation import score
from torchsaliency.zoo import load_model


def newest(place):
    return json.loads((place / "saliency" / "manifest.json").read_text())["runs"][-1]


ALL = "ad,ai,ag,adcc,insertion,deletion"


def test_the_numbers_of_the_maps_just_made(explain, photo, place):
    photo("a.png")
    photo("b.png", size=(40, 60))
    ran = explain("a.png", "b.png", "--method", "gradcam,mtsm", "--score", ALL, "--fit", "own")
    assert (ran.code, ran.err) == (0, ""), ran.err
    run = newest(place)
    rows = {(row["method"], row["metric"]): row for row in run["scores"]}
    assert set(rows) == {(m, n) for m in ("gradcam", "mtsm") for n in ALL.split(",")}
    network = load_model("net.py:factory")
    x = torchsaliency.preprocess([place / "a.png", place / "b.png"], network)
    made = torchsaliency.explain(network, x, ["gradcam", "mtsm"])
    for method, explanation in made.items():
        for name, metric in score(network, explanation, ALL.split(",")).items():
            row = rows[method, name]
            assert row["value"] == pytest.approx(float(metric.compute()), rel=1e-5, abs=1e-5)
            assert row["count"] == 2
            assert row["low"] <= row["value"] + 1e-9
            told = [
                one["scores"][name]
                for entry in run["photos"]
                for one in entry["maps"]
                if one["method"] == method
            ]
            assert told == pytest.approx(metric.per_image.tolist(), rel=1e-5, abs=1e-5)
    for name in ALL.split(","):
        assert name in ran.out


def test_batches_add_up(explain, photo, place):
    for seed in range(3):
        photo(f"{seed}.png", size=(60 + 20 * seed, 40))
    words = ("0.png", "1.png", "2.png", "--method", "gradcam", "--score", "ad,road")
    explain(*words, "--batch-size", "3")
    together = newest(place)["scores"]
    explain(*words, "--batch-size", "2")
    apart = newest(place)["scores"]
    for one, other in zip(together, apart, strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-4, abs=1e-4)
        assert one["count"] == other["count"] == 3


def test_options_of_metrics(explain, photo, place):
    photo("a.png")
    words = ("a.png", "--method", "gradcam", "--score", "insertion")
    explain(*words, "--set", "insertion.step=1024")
    (coarse,) = newest(place)["scores"]
    explain(*words)
    (fine,) = newest(place)["scores"]
    assert coarse["value"] != fine["value"]
    assert coarse["low"] is None  # one map has no interval


def test_curves_that_end_early_say_so(explain, photo, place):
    photo("a.png")
    words = ("a.png", "--method", "gradcam", "--score", "insertion,deletion")
    ran = explain(*words, "--set", "insertion.error=5")
    insertion, deletion = newest(place)["scores"]
    assert "insertion is known to 5 points an image" in insertion["evaluation"]
    assert "passes an image in place of" in insertion["evaluation"]
    assert "evaluation" not in deletion
    assert "gradcam: insertion is known to 5 points" in " ".join(ran.out.split())


def test_without_scores_nothing_is_scored(explain, photo, place):
    photo("a.png")
    explain("a.png", "--method", "gradcam")
    run = newest(place)
    assert run["scores"] == []
    assert run["photos"][0]["maps"][0]["scores"] == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--score", "adx"), "There is no metric 'adx'"),
        (("--score", "ep"), "--score ep needs boxes of the objects"),
        (("--score", "miou"), "--score miou needs masks of the objects"),
        (
            ("--set", "ad.step=3"),
            "ad is neither among the methods nor the metrics (gradcam); add it",
        ),
        (("--score", "ad", "--set", "ad.step=3"), "ad has no option 'step'"),
        (("--score", "aopc", "--set", "aopc.patch=big"), "aopc.patch='big' does not fit"),
    ],
)
def test_mistakes(explain, photo, words, sentence):
    photo("a.png")
    ran = explain("a.png", "--method", "gradcam", *words)
    assert ran.code == 2
    assert sentence in ran.err
    assert ran.err.count("\n") == 1


def test_options_of_several_numbers(explain, photo, place):
    """The words of metrics are read as those of methods are."""
    photo("a.png")
    words = ("a.png", "--method", "gradcam", "--score", "road")
    assert explain(*words, "--set", "road.percentages=20,50").code == 0
    (row,) = newest(place)["scores"]
    assert row["value"] is not None
    wrong = explain(*words, "--set", "road.percentages=20,many")
    assert wrong.code == 2
    assert "road.percentages" in wrong.err

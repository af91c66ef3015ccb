"""Charts, what is found in an evaluation, and the pages that show it."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import torchsaliency
from scans import phantom, write_nifti
from torchsaliency.core.files import json_bytes
from torchsaliency.core.neurons import Neuron
from torchsaliency.core.segmentation import MaskScore
from torchsaliency.core.target import Contrast, Logit, Margin, OwnEmbedding, Regression
from torchsaliency.evaluation import evaluate, load_results, make_plan
from torchsaliency.pages import MapView, PhotoView, evaluations, view_photo
from torchsaliency.pages.charts import Axis, draw_correlations, draw_costs, draw_lines, find_front
from torchsaliency.pages.evaluations import compare_identities, evaluation_report
from torchsaliency.pages.findings import (
    choose_images,
    correlate_methods,
    correlate_metrics,
    rank_methods,
)
from torchsaliency.pages.masked import describe_masked
from torchsaliency.pages.report import About, photos_report
from torchsaliency.pages.words import describe_target
from torchsaliency.viz.curves import Chart, Curve
from unit.evaluation.test_results import results

HOSTILE = "<script>alert('1')</script>"


def test_an_axis_places_its_ends_and_round_ticks():
    axis = Axis(0.0, 100.0, 50.0, 450.0)
    assert [axis.place(v) for v in (0.0, 100.0, 25.0)] == [50, 450, 150]
    assert axis.ticks[0] == (50, "0")
    assert axis.ticks[-1] == (450, "100")
    log = Axis(0.01, 100.0, 0.0, 400.0, log=True)
    assert [log.place(v) for v in (0.01, 1.0, 100.0)] == [0, 200, 400]
    assert (200, "1") in log.ticks


@pytest.mark.parametrize("log", [False, True])
def test_an_axis_of_nothing_has_ticks(log):
    axis = Axis.of([np.nan], 0.0, 100.0, log=log)
    assert all(0 <= place <= 100 for place, _ in axis.ticks)
    assert draw_costs({}, {"a": 1.0}, higher=True, x="s", y="ag")["points"] == []


def test_curves_keep_gaps_out_and_their_values():
    chart = Chart([Curve("a", [0, 1, 2], [0, np.nan, 4], [0, 0, 3], [1, 1, 5])], "x", "y", "t")
    drawn = draw_lines(chart)
    (one,) = drawn["series"]
    assert len(one["line"].split()) == 2
    assert len(one["band"].split()) == 6
    assert drawn["readout"]["lines"] == [["a", ["0", "nan", "4"]]]


def test_the_front_is_what_none_beats():
    points = {"slow": (9.0, 5.0), "best": (3.0, 9.0), "quick": (1.0, 5.0), "same": (1.0, 4.0)}
    assert find_front(points, higher=True) == ["quick", "best"]
    assert find_front(points, higher=False) == ["same"]
    costs = {name: cost for name, (cost, _) in points.items()}
    scores = {name: score for name, (_, score) in points.items()}
    drawn = draw_costs(costs, scores, higher=True, x="s", y="ag")
    assert {p["label"] for p in drawn["points"] if p["front"]} == {"quick", "best"}
    heights = sorted(p["label_y"] for p in drawn["points"])
    assert min(np.diff(heights)) >= 13 - 1e-9


def test_what_correlates_stands_together():
    values = np.array([[1, 0, 0.9], [0, 1, np.nan], [0.9, np.nan, 1]])
    drawn = draw_correlations(["a", "b", "c"], values)
    assert sorted(drawn["labels"]) == ["a", "b", "c"]
    assert abs(drawn["labels"].index("a") - drawn["labels"].index("c")) == 1
    cells = {label: dict(zip(drawn["labels"], [c[0] for c in row], strict=True))
             for label, row in drawn["rows"]}  # fmt: skip
    assert (cells["a"]["c"], cells["b"]["c"], cells["b"]["b"]) == ("0.90", "\N{EN DASH}", "1.00")
    assert len(drawn["branches"]) == 2


@pytest.fixture
def two():
    """Method a is better than b in both metrics; on the last image they differ most."""
    return results(
        {
            "a": {"ad": [0.1, 0.1, 0.2, 0.1], "ag": [0.5, 0.6, 0.4, 0.9]},
            "b": {"ad": [0.2, 0.2, 0.3, 0.9], "ag": [0.4, 0.5, 0.3, 0.1]},
            "control": {"ad": [0.0] * 4, "ag": [0.0] * 4},
        },
        ("ad", "ag"),
        ("control",),
    )


def test_ranks_are_of_contenders(two):
    ranks = rank_methods(two)
    assert ranks["mean"].to_dict() == {"a": 1.0, "b": 2.0}


def test_images_worth_a_look(two):
    found = choose_images(two)
    assert found[0].sample == two.samples[3]
    assert "a and b differ much" in found[0].reasons
    reasons = {reason: one.sample for one in found for reason in one.reasons}
    assert reasons["best ag of a"] == two.samples[3]
    assert reasons["worst ag of a"] == two.samples[2]
    assert len(choose_images(two, 1)) == 1


def test_correlations_are_of_agreement(two):
    names, metrics = correlate_metrics(two)
    assert names == ["ad", "ag"]
    assert np.diag(metrics) == pytest.approx([1, 1])
    names, methods = correlate_methods(two)
    assert np.isnan(methods[names.index("control"), 0])
    same = results({m: {"ad": [0.1, 0.2, 0.3]} for m in ("a", "b")})
    assert correlate_methods(same)[1] == pytest.approx(np.ones((2, 2)))


def addresses(page):
    return re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]{1,20})", page)


def test_a_report_of_photographs_loads_nothing_and_escapes():
    view = PhotoView(HOSTILE, Image.new("RGB", (8, 8)), (MapView(HOSTILE, torch.rand(4, 4)),))
    about = About({HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, [HOSTILE])
    page = photos_report([view], about, title=HOSTILE)
    assert HOSTILE not in page
    assert all(one.startswith(("data:", "#")) for one in addresses(page))
    assert "default-src 'none'" in page
    empty = photos_report([], About({}, {"a.jpg": "is truncated"}))
    assert "No photograph could be explained" in empty
    assert "is truncated" in empty


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    plan = make_plan({"data": "shapes:5?seed=5", "model": "builtin/shapes_cnn", "workers": 0,
                      "methods": ["gradcam", "mtsm", "fakecam"],
                      "metrics": ["ad", "ag", "deletion", "ris"]})  # fmt: skip
    evaluate(plan, folder)
    return folder


def test_a_report_of_an_evaluation(run):
    page = evaluation_report(run, images=2)
    for part in ("results", "ranks", "curves", "costs", "agreement", "images", "metrics", "about"):
        assert f'<section id="{part}"' in page
    assert page.count("<saliency-viewer") == 1
    assert page.count('class="ts-photo"') == 2
    assert "erratum Q1" in page  # how a metric differs from other programs
    assert all(one.startswith(("data:", "#")) for one in addresses(page))
    facts = json.loads((run / "run.json").read_text())
    assert facts["identity"]["weights of the network"] in page


def test_a_report_says_why_it_has_no_pictures(run, monkeypatch):
    def fail(_):
        raise torchsaliency.DataError("The folder is gone.")

    monkeypatch.setattr("torchsaliency.pages.evaluations.make_setting", fail)
    page = evaluation_report(run)
    assert "<saliency-viewer" not in page
    assert "The maps of images could not be made again: The folder is gone." in page


def test_an_image_that_fails_is_missing_alone(run, monkeypatch):
    """Unreadable now, gone, or one on which the network fails: the others are shown."""
    samples = [f.sample for f in choose_images(load_results(run), 4)]
    make, explain = evaluations.make_setting, evaluations._explain_one

    def lose_one(plan):
        setting = make(plan)
        kept = [one.id for one in setting.data.samples if one.id != samples[0]]
        return replace(setting, data=setting.data.subset(ids=kept))

    def fail_on_one(setting, place, values):
        if place is not None and setting.data.samples[place].id == samples[1]:
            raise ZeroDivisionError("a network of one's own")
        return explain(setting, place, values)

    monkeypatch.setattr(evaluations, "make_setting", lose_one)
    monkeypatch.setattr(evaluations, "compare_identities", lambda *_: "")
    monkeypatch.setattr(evaluations, "_explain_one", fail_on_one)
    counted = []
    page = evaluation_report(run, images=4, watch=lambda *far: counted.append(far))
    assert page.count('class="ts-photo"') == len(samples) - 2
    assert f"{samples[0]} is not shown: The data has no image of this name now." in page
    assert f"{samples[1]} is not shown: ZeroDivisionError: a network of one&#39;s own." in page
    assert counted == [(done, len(samples)) for done in range(len(samples) + 1)]


def test_identities_are_compared_in_what_both_tell():
    evaluated = {"weights": "a", "fingerprint": "b", "judge": None}
    assert compare_identities(evaluated, dict(evaluated)) == ""
    # nothing on one side, and not named on the other: the same
    assert compare_identities(evaluated, {"weights": "a", "fingerprint": "b", "text": None}) == ""
    with pytest.raises(torchsaliency.DataError, match="weights is a in the evaluation and c in"):
        compare_identities(evaluated, {**evaluated, "weights": "c"})
    words = compare_identities({"weights": "a", "size": 3}, evaluated)
    assert words.startswith(
        "Another version of torchsaliency wrote this run, and fingerprint, size"
    )


def change_run(run, folder, change):
    """Copy a run as another version of the store would have written it."""
    shutil.copytree(run, folder)
    facts = json.loads((folder / "run.json").read_text())
    facts.pop("sha256")
    change(facts)
    facts["sha256"] = hashlib.sha256(json_bytes(facts, indent=None)).hexdigest()
    (folder / "run.json").write_bytes(json_bytes(facts))
    return folder


def test_what_an_old_run_does_not_tell_is_said(run, tmp_path):
    def forget(facts):
        del facts["identity"]["fingerprint of the data"], facts["sessions"], facts["samples"]
        del facts["skipped"]

    page = evaluation_report(change_run(run, tmp_path / "old", forget), images=2)
    assert page.count('class="ts-photo"') == 2
    assert "and fingerprint of the data cannot be compared with what its plan names now" in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts["plan"].update(colour="red"), "colour"),
        (lambda facts: facts["plan"]["metrics"][0].update(name="applause"), "applause"),
        (lambda facts: facts.pop("methods"), "'methods' is not told"),
        (lambda facts: facts.update(plan=None), "another version of torchsaliency wrote it"),
    ],
)
def test_a_run_of_another_version_is_refused_in_a_sentence(run, tmp_path, change, words):
    folder = change_run(run, tmp_path / "old", change)
    with pytest.raises(torchsaliency.DataError, match=words):
        evaluation_report(folder)


def test_maps_of_another_network_or_other_photographs_are_not_shown(tmp_path):
    (tmp_path / "data").mkdir()
    for name in "ab":
        Image.effect_noise((40, 30), 60).save(tmp_path / "data" / f"{name}.png")
    plan = make_plan({"data": str(tmp_path / "data"), "model": "builtin/shapes_cnn", "workers": 0,
                      "methods": ["gradcam"], "metrics": ["ad"]})  # fmt: skip
    other = torchsaliency.load_model("builtin/shapes_cnn")
    for parameter in other.parameters():
        parameter.data.mul_(-1)
    evaluate(plan, tmp_path / "other", model=other)
    page = evaluation_report(tmp_path / "other")
    assert "<saliency-viewer" not in page
    assert "could not be made again: weights of the network is" in page
    evaluate(plan, tmp_path / "run")
    assert "<saliency-viewer" in evaluation_report(tmp_path / "run")
    (tmp_path / "data" / "a.png").replace(tmp_path / "data" / "c.png")
    page = evaluation_report(tmp_path / "run")
    assert "<saliency-viewer" not in page
    assert "could not be made again: fingerprint of the data is" in page


def test_an_evaluation_of_scans_is_shown_in_cuts(tmp_path):
    (tmp_path / "data").mkdir()
    for name in "ab":
        write_nifti(tmp_path / "data" / f"{name}.nii.gz", phantom())
    (tmp_path / "volumes.py").write_text(_VOLUMES)
    plan = make_plan({"data": str(tmp_path / "data"), "model": f"{tmp_path / 'volumes.py'}:make",
                      "workers": 0, "methods": ["gradcam"], "metrics": ["ad"]})  # fmt: skip
    evaluate(plan, tmp_path / "run")
    page = evaluation_report(tmp_path / "run", images=1)
    assert page.count('class="ts-photo"') == 3
    assert len(re.findall(r">ad [\d.e-]+ %<", page)) == 3


_VOLUMES = """
import torch
from torch import nn

from torchsaliency.zoo.volumes import ScanPreprocessing

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )

make.volumes = ScanPreprocessing(size=(6, 8, 8), intensity="range", channels=1)
"""


def test_masked_probabilities_in_words():
    net = torchsaliency.load_model("builtin/shapes_cnn")
    photo = Image.new("RGB", (64, 64), "orange")
    x = torchsaliency.preprocess(photo, net)
    whole = torchsaliency.explain(net, x, {"a": torchsaliency.GivenMaps(torch.ones(1, 64, 64))})
    words = describe_masked(net, whole["a"])
    before = view_photo(photo, whole, model=net).classes[0][1]
    assert words[0].startswith("masked ")
    assert f"{100 * before:.1f}" in words[0]


WITH_CLASSES = ("cat", "dog", "bird", "cow", "fish")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Logit(torch.tensor([1])), "dog"),
        (Margin(torch.tensor([1])), "margin of dog"),
        (Contrast(torch.tensor([1]), torch.tensor([[2]])), "dog rather than bird"),
        (Regression(3), "output 3, score "),
        (Regression(3, -1.0), "minus output 3, score "),
        (Neuron("0", (2, 5, 5)), "neuron 2, 5, 5 of 0, score "),
        (Neuron("0", 2), "neuron 2 of 0, score "),
        (OwnEmbedding("dot"), "similarity (dot) of the embedding, score "),
        (lambda y: -y.square().sum(1), "RowWise, score −"),
    ],
)
def test_what_is_explained_in_words(target, words):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    found = torchsaliency.explain(net, torch.rand(1, 3, 16, 16), "saliency", target)["saliency"]
    said, _ = describe_target(found, 0, WITH_CLASSES)
    assert said.startswith(words)


def test_a_region_and_its_class_in_words():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    mask = torch.zeros(1, 16, 16)
    mask[:, :4] = 1
    target = MaskScore(mask, 3)
    found = torchsaliency.explain(net, torch.rand(1, 3, 16, 16), "gradcam", target, "0")["gradcam"]
    said, probability = describe_target(found, 0, WITH_CLASSES)
    assert said.startswith("cow over 25.0 % of the image, score ")
    assert probability is None
